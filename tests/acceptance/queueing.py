"""The app of the acceptance test of order: each run says when it begins and when it ends."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy

# One line for each begin and end, in the order in which they happened: what, key, event, process.
SAID = Path(__file__).with_name("said.txt")


async def note(ctx: AgentContext) -> None:
    assert ctx.event.meta
    say("begin", ctx)
    try:
        await asyncio.sleep(0.002)
        if ctx.attempt == 1 and ctx.event.meta.payload.get("fail"):
            raise RuntimeError("told to fail")
    finally:
        say("end", ctx)


def say(what: str, ctx: AgentContext) -> None:
    assert ctx.event.meta
    line = f"{what} {ctx.event.meta.payload['chat']['id']} {ctx.event.meta.event_id} {os.getpid()}\n"
    with SAID.open("a") as said:
        said.write(line)


Trigger(
    "answer",
    type_filter("chat.said"),
    note,
    ordered=True,
    key="payload.chat.id",
    retry=RetryPolicy(max_attempts=5, base=timedelta(milliseconds=50), cap=timedelta(milliseconds=200)),
)
