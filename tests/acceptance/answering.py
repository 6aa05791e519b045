"""An app whose agents answer: copied into the folder of the test."""

import asyncio
from datetime import timedelta

from reflex.agent.context import AgentContext
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import UntypedEvent
from reflex.core.retry import RetryPolicy


async def add(ctx: AgentContext) -> dict[str, int]:
    """The sum; in the first attempt it may take long, or fail."""
    event = ctx.event
    assert isinstance(event, UntypedEvent)
    asked = event.payload
    if ctx.attempt == 1:
        await asyncio.sleep(asked.get("sleep_s", 0))
    if ctx.attempt <= asked.get("fails", 0):
        raise RuntimeError("told to fail")
    return {"sum": sum(asked["terms"]), "attempt": ctx.attempt}


async def note(ctx: AgentContext) -> None:
    """Says nothing."""


retry = RetryPolicy(max_attempts=2, base=timedelta(milliseconds=50))
Trigger("add", type_filter("sum.asked"), add, retry=retry)
Trigger("note", type_filter("sum.asked", "sum.noted"), note)
Trigger("large", type_filter("sum.asked") & keyword_filter("large", lambda large: bool(large)), note)
