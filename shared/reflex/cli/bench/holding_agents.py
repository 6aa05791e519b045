"""The app of the takeover benchmark: an agent that holds its delivery until its worker is killed."""

import asyncio
from typing import Literal

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.cli.bench.agents import open_stamps
from reflex.core.events import BaseEvent, EventRegistry

__all__ = ["Held"]

FOREVER_S = 3600


@EventRegistry.register
class Held(BaseEvent):
    type: Literal["bench.held"] = "bench.held"


async def hold(ctx: AgentContext) -> None:
    stamps = open_stamps()
    if stamps is not None:
        stamps.mark()
    if ctx.attempt == 1:
        await asyncio.sleep(FOREVER_S)


Trigger(name="held", filter=type_filter("bench.held"), agent=hold)
