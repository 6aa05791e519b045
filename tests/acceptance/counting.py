"""An app that counts the events of each key; copied into the folder of a test. Every seventh event waits a little in
its first attempt, so that there is somebody to be killed in the middle of a run."""

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy


class Tally(BaseModel):
    count: int = 0
    seen: list[int] = []


async def tally(ctx: AgentContext) -> int:
    assert ctx.event.meta
    number = ctx.event.meta.payload["number"]
    if number % 7 == 0 and ctx.attempt == 1:
        await asyncio.sleep(0.2)
    ctx.state.count += 1
    ctx.state.seen.append(number)
    await ctx.publish("counted", {"number": number})
    return ctx.state.count


Trigger(
    "tally", type_filter("order.created"), tally, state=Tally,
    retry=RetryPolicy(max_attempts=5, base=timedelta(milliseconds=50)),
)  # fmt: skip
