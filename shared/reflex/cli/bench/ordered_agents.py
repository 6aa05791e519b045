"""The app of the benchmark of lanes: the same agent once with an order and once without, each for its own type."""

from typing import Final

from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.cli.bench.agents import note_start

__all__ = ["ORDERED_TYPE", "UNORDERED_TYPE"]

ORDERED_TYPE: Final = "bench.ordered"
UNORDERED_TYPE: Final = "bench.unordered"

Trigger(name="ordered", filter=type_filter(ORDERED_TYPE), agent=note_start, ordered=True)
Trigger(name="unordered", filter=type_filter(UNORDERED_TYPE), agent=note_start)
