"""What a filter asks that has to be known of other events: rate limits and duplicates. Decided in the database, for all
workers at once; see `reflex.core.passing`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from reflex.agent.paths import By, checked_by, subject_of, values_of
from reflex.core.events import Event
from reflex.core.passing import Limit

__all__ = ["Gate", "checked_span", "dedupe_gate", "limits_of", "rate_limit_gate"]

MOST: Final = 10_000
LONGEST: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Gate:
    """At most `most` events of a subject within a time. `refusal` is what the run of one more says.

    With `needs_values` an event that has nothing at one of the paths is let through, and does not count.
    """

    most: int
    within: timedelta
    paths: tuple[str, ...]
    refusal: str
    needs_values: bool = False

    def limit(self, event: Event) -> Limit | None:
        """What this event has to keep to; None if nothing."""
        if self.needs_values and None in values_of(event, self.paths):
            return None
        values = zip(self.paths, values_of(event, self.paths), strict=True)
        about = ", ".join(f"{path} {shown(value)}" for path, value in values)
        reason = f"{self.refusal} ({about})" if about else self.refusal
        return Limit(subject_of(event, self.paths), self.most, self.within, reason)


def rate_limit_gate(limit: Any, per: Any, by: By) -> Gate:
    """Raises TypeError or ValueError; the sentence names the argument."""
    what = "rate_limit_filter()"
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST:
        raise ValueError(f"{what}: limit is {limit!r}; pass a number of events, at least 1 and at most {MOST}")
    span = checked_span(what, "per", per)
    return Gate(limit, span, checked_by(what, by), f"rate limited: {limit} per {span}")


def dedupe_gate(within: Any, by: By) -> Gate:
    """Raises TypeError or ValueError; the sentence names the argument."""
    what = "dedupe_filter()"
    span = checked_span(what, "within", within)
    paths = checked_by(what, by)
    if not paths:
        raise ValueError(f"{what}: by is {by!r}; say what two events have in common that are one, as in 'key'")
    return Gate(1, span, paths, f"duplicate: one like it was let through within {span}", needs_values=True)


def limits_of(gates: Sequence[Gate], event: Event) -> list[Limit]:
    """What the event has to keep to."""
    return [limit for gate in gates if (limit := gate.limit(event)) is not None]


def checked_span(what: str, name: str, span: Any) -> timedelta:
    """Raises TypeError or ValueError if it is no time that can be looked back."""
    if not isinstance(span, timedelta):
        raise TypeError(f"{what}: {name} is {span!r}; pass a timedelta, as in timedelta(minutes=1)")
    if not timedelta(0) < span <= LONGEST:
        raise ValueError(f"{what}: {name} is {span}; it must be longer than nothing and at most {LONGEST.days} days")
    return span


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
