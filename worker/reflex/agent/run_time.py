"""How long a run may go on, its trigger's timeout, and what is to become of it if that is due to a provider."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from reflex.core.waiting import Wait

__all__ = ["RunTime", "run_time"]


@dataclass(slots=True)
class RunTime:
    """The time of one run. `ends_at` is by the clock of the event loop; `wait` is for what the run waits, instead of
    having failed: where its time ends, the error of a model's request gets lost in the cancellation."""

    ends_at: float
    wait: Wait | None = None


run_time: Final[ContextVar[RunTime | None]] = ContextVar("reflex_run_time", default=None)
