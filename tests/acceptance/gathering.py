"""An app that gathers, copied into the folder of a test. Its runs take a moment: somebody is killed in
the middle of one, or about to settle."""

import asyncio
from datetime import timedelta

from reflex.agent.context import AgentContext
from reflex.agent.filters import dedupe_filter, rate_limit_filter, type_filter
from reflex.agent.gathering import every_n
from reflex.agent.triggers import Trigger


async def numbers(ctx: AgentContext) -> list[int]:
    await asyncio.sleep(0.1)
    return [event.meta.payload["number"] for event in ctx.events if event.meta]


Trigger("batches", type_filter("counted"), numbers, when=every_n(7, max_interval=timedelta(seconds=2)))
Trigger(
    "some", type_filter("counted") & rate_limit_filter(10, per=timedelta(hours=1)), numbers,
)  # fmt: skip
Trigger("first", type_filter("counted") & dedupe_filter(within=timedelta(hours=1), by="payload.twin"), numbers)
