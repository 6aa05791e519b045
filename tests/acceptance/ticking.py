"""The app of the acceptance test of timers: it ticks every second and every minute, and notes each tick."""

import os
from datetime import timedelta
from pathlib import Path

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.schedules import every, schedule
from reflex.agent.triggers import Trigger

# One line a run: the planned time of the tick, and the process that ran it.
TICKS = Path(__file__).with_name("ticks.txt")


async def note(ctx: AgentContext) -> None:
    assert ctx.event.meta
    with TICKS.open("a") as ticks:
        ticks.write(f"{ctx.event.meta.time.isoformat()} {os.getpid()}\n")


every(timedelta(seconds=1), event="tick", payload={"n": 1}, name="second", missed="all")
schedule("minute", cron="* * * * *", tz="Europe/Stockholm", event="tock")
Trigger("note", type_filter("tick"), note)
