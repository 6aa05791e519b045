"""The app that most benchmarks run: one event class, one trigger with a real filter, one agent that does nothing."""

import os
from pathlib import Path
from typing import Final, Literal

from reflex.agent.context import AgentContext
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.cli.bench.stamps import Stamps
from reflex.core.events import BaseEvent, EventRegistry

__all__ = ["STAMPS_FOLDER", "Placed", "open_stamps"]

# Each worker process writes its own file here, named after its pid.
STAMPS_FOLDER: Final = "BENCH_STAMPS_FOLDER"

stamps: Stamps | None = None


@EventRegistry.register
class Placed(BaseEvent):
    """An event of about two hundred bytes. `number` is the place of its stamp; without one the stamps are in order."""

    type: Literal["bench.placed"] = "bench.placed"
    customer: str
    amount: float
    currency: str
    note: str
    number: int | None = None


def open_stamps() -> Stamps | None:
    """This process's stamps; None if nobody asked for them."""
    folder = os.environ.get(STAMPS_FOLDER)
    return Stamps(Path(folder) / f"{os.getpid()}.stamps") if folder else None


async def note_start(ctx: AgentContext) -> None:
    global stamps
    if stamps is None:
        stamps = open_stamps()
    if stamps is not None:
        stamps.mark(getattr(ctx.event, "number", None))


Trigger(
    name="placed",
    filter=type_filter("bench.placed") & keyword_filter("amount", lambda amount: amount > 100),
    agent=note_start,
)
