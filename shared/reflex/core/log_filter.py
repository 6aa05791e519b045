"""What a reader of the log wants to see. The same filter runs in memory, for what is new, and in SQL, for what was."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from reflex.core.events import SYSTEM_PREFIX, pattern_bounds, pattern_matches

__all__ = ["LogFilter", "type_ranges"]

GREATEST: Final = "\U0010ffff"
# `*` leaves out what Reflex writes itself: all types but those between these two.
ANY_BOUNDS: Final = (("", SYSTEM_PREFIX[:-1] + "-" + GREATEST), (SYSTEM_PREFIX + GREATEST, GREATEST))


class Filtered(Protocol):
    """What a filter looks at."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def correlation_id(self) -> str | None: ...
    @property
    def reply_to(self) -> str | None: ...


class LogFilter(NamedTuple):
    """Conditions that all have to hold; one that is empty or None always does.

    `types` are patterns of which one has to match: a type, `order.*`, or `*` for all but Reflex's own. Without any,
    those are included. `reply_to` is a session: what answers its events.
    """

    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    key: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None

    def matches(self, event: Filtered) -> bool:
        return (
            (not self.types or any(pattern_matches(pattern, event.type) for pattern in self.types))
            and (not self.sources or event.source in self.sources)
            and (self.key is None or event.key == self.key)
            and (self.correlation_id is None or event.correlation_id == self.correlation_id)
            and (self.reply_to is None or event.reply_to == self.reply_to)
        )

    def parameters(self) -> dict[str, Any]:
        """The filter as `read_log.sql` takes it."""
        bounds = type_ranges(self.types)
        return {
            "type_low": [low for low, _ in bounds] or None,
            "type_high": [high for _, high in bounds] or None,
            "sources": list(self.sources) or None,
            "key": self.key,
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
        }


def type_ranges(patterns: Iterable[str]) -> list[tuple[str, str]]:
    """The least and the greatest type of each range that one of the patterns means."""
    ranges: list[tuple[str, str]] = []
    for pattern in patterns:
        ranges += ANY_BOUNDS if pattern == "*" else (pattern_bounds(pattern),)
    return ranges
