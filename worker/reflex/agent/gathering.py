"""`when=`: triggers that do not run for each event, but gather them for a run.

Trigger("digest", type_filter("log.*"), agent, when=every_n(20, max_interval=timedelta(minutes=1)))
Trigger("alarm", type_filter("log.error"), agent, when=error_threshold(10, within=timedelta(minutes=5)))
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from reflex.agent.gates import checked_span
from reflex.agent.paths import By, checked_by, subject_of
from reflex.core.batches import Gathering
from reflex.core.events import Event

__all__ = ["ErrorThreshold", "EveryN", "When", "checked_when", "error_threshold", "every_n"]

MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class EveryN:
    """See `every_n`."""

    n: int
    max_interval: timedelta
    paths: tuple[str, ...]

    def gathering(self, event: Event) -> Gathering:
        return Gathering(subject_of(event, self.paths), self.n, max_interval=self.max_interval)

    def definition(self) -> dict[str, Any]:
        """For people. JSON."""
        return {"every_n": self.n, "max_interval_s": self.max_interval.total_seconds(), "by": list(self.paths)}


@dataclass(frozen=True, slots=True)
class ErrorThreshold:
    """See `error_threshold`."""

    n: int
    within: timedelta
    paths: tuple[str, ...]

    def gathering(self, event: Event) -> Gathering:
        return Gathering(subject_of(event, self.paths), self.n, within=self.within)

    def definition(self) -> dict[str, Any]:
        """For people. JSON."""
        return {"error_threshold": self.n, "within_s": self.within.total_seconds(), "by": list(self.paths)}


When: TypeAlias = EveryN | ErrorThreshold


def every_n(n: int, *, max_interval: timedelta, by: By = "key") -> EveryN:
    """One run for `n` events of one subject, or for as many as there are `max_interval` after the first of them. Each
    event is in one batch.

    Args:
        n: From 2 to 1000.
        by: What makes events one subject: `"key"`, `"source"`, a path such as `"payload.service"`, several of these, or
            None: all events. Those that have nothing there are one subject, too.

    Raises:
        TypeError, ValueError: An argument makes no sense.
    """
    what = "every_n()"
    return EveryN(checked_n(what, n), checked_span(what, "max_interval", max_interval), checked_by(what, by))


def error_threshold(n: int, *, within: timedelta, by: By = "key") -> ErrorThreshold:
    """A run when `n` events of one subject were accepted within the time, with these events. One for each crossing: as
    long as they go on to come that densely, there is no other.

    Args, Raises: As for `every_n`.
    """
    what = "error_threshold()"
    return ErrorThreshold(checked_n(what, n), checked_span(what, "within", within), checked_by(what, by))


def checked_n(what: str, n: Any) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or not 2 <= n <= MOST:
        raise ValueError(f"{what}: n is {n!r}; pass a number of events from 2 to {MOST}")
    return n


def checked_when(name: str, when: Any, *, ordered: bool, cancelled: bool) -> When | None:
    """What the trigger `name` gathers for.

    Raises:
        TypeError: It is neither; the sentence names the trigger.
        ValueError: The trigger is ordered, or its deliveries are cancelled by events.
    """
    if when is None:
        return None
    if not isinstance(when, EveryN | ErrorThreshold):
        raise TypeError(f"trigger {name!r}: when is {when!r}; make one with every_n() or error_threshold()")
    if ordered:
        raise ValueError(
            f"trigger {name!r}: when= gathers events, and ordered=True lets one begin only when the one before it has "
            "ended; leave out ordered: ctx.events is in order anyway"
        )
    if cancelled:
        raise ValueError(
            f"trigger {name!r}: cancel_on ends the deliveries of a key, and with when= a delivery stands for many "
            "events; let an agent look at them instead"
        )
    return when
