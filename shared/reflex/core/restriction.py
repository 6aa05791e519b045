"""What an API key is bound to: types and sources. Events of others do not exist for it."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from reflex.core.errors import EventRejected
from reflex.core.events import SYSTEM_PREFIX, pattern_matches
from reflex.core.log_filter import type_ranges
from reflex.core.statements import statement

__all__ = ["UNRESTRICTED", "NotAllowed", "Restriction", "SourceNotAllowed", "TypeNotAllowed", "common_types"]


class NotAllowed(EventRejected):
    """The API key is bound to other events. `field` is where the value was in the request."""


class TypeNotAllowed(NotAllowed):
    code: ClassVar[str] = "type_not_allowed"


class SourceNotAllowed(NotAllowed):
    code: ClassVar[str] = "source_not_allowed"


class Restriction(NamedTuple):
    """The events that a key is about: of one of these types, and from one of these sources. Without any, of all.

    `types` are patterns as in filters: a type, `order.*`, or `*` for all but Reflex's own.
    """

    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def own_source(self) -> str | None:
        """The source of events that name none: the only one that the key may use."""
        return self.sources[0] if len(self.sources) == 1 else None

    def allows(self, type: str, source: str) -> bool:
        return self.allows_type(type) and self.allows_source(source)

    def allows_type(self, type: str) -> bool:
        return not self.types or any(pattern_matches(pattern, type) for pattern in self.types)

    def allows_source(self, source: str) -> bool:
        return not self.sources or source in self.sources

    def check(self, type: str, source: str, *, key_id: str, at: str = "") -> None:
        """Whether the key may publish such an event. Raises TypeNotAllowed or SourceNotAllowed.

        Args:
            at: Where the event was in the request, as a JSON Pointer.
        """
        if not self.allows_type(type):
            raise type_not_allowed(self, key_id, [type], field=f"{at}/type")
        if not self.allows_source(source):
            raise source_not_allowed(self, key_id, [source], field=f"{at}/source")

    def narrow(
        self, *, types: Sequence[str] = (), sources: Sequence[str] = (), key_id: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is left of the types and sources that a reader asked for; empty is all, before and after.

        Raises:
            TypeNotAllowed, SourceNotAllowed: Nothing is. An answer without events would look as if there were none.
        """
        seen_types = common_types(types, self.types)
        if types and not seen_types:
            raise type_not_allowed(self, key_id, types, field="type")
        seen_sources = tuple(sources)
        if self.sources:
            seen_sources = tuple([source for source in self.sources if not sources or source in sources])
        if sources and not seen_sources:
            raise source_not_allowed(self, key_id, sources, field="source")
        return seen_types, seen_sources

    async def shows(self, conn: AsyncConnection[Any], event_id: UUID) -> bool:
        """Whether the key may see the event. Without a restriction nobody is asked, and it may not even be there."""
        if self == UNRESTRICTED:
            return True
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statement("event_origin"), {"event_id": event_id})
            row = await cursor.fetchone()
        return row is not None and self.allows(*row)

    def parameters(self) -> dict[str, Any]:
        """As the statements take it that list what is about events."""
        ranges = type_ranges(self.types)
        return {
            "seen_low": [low for low, _ in ranges] or None,
            "seen_high": [high for _, high in ranges] or None,
            "seen_sources": list(self.sources) or None,
        }


UNRESTRICTED: Final = Restriction()


def common_types(asked: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Patterns for the types that both mean; an empty one means all. If neither is, an empty result means none."""
    if not asked or not allowed:
        return tuple(asked or allowed)
    both = {narrower(one, other) for one in asked for other in allowed} - {None}
    return tuple(sorted(pattern for pattern in both if pattern is not None))


def narrower(one: str, other: str) -> str | None:
    """Two patterns mean nothing in common, or one of them is within the other."""
    return other if includes(one, other) else one if includes(other, one) else None


def includes(pattern: str, other: str) -> bool:
    """Whether a pattern means all that the other one means."""
    if pattern == "*":
        return not other.startswith(SYSTEM_PREFIX)
    return pattern == other or (pattern.endswith(".*") and other.startswith(pattern[:-1]))


def type_not_allowed(restriction: Restriction, key_id: str, types: Sequence[str], *, field: str) -> TypeNotAllowed:
    return TypeNotAllowed(
        f"the API key {key_id} has nothing to do with events of type {shown(types)}; it is bound to "
        f"{shown(restriction.types)}",
        field=field,
    )


def source_not_allowed(
    restriction: Restriction, key_id: str, sources: Sequence[str], *, field: str
) -> SourceNotAllowed:
    return SourceNotAllowed(
        f"the API key {key_id} has nothing to do with events from {shown(sources)}; it is bound to the source "
        f"{shown(restriction.sources)}",
        field=field,
    )


def shown(values: Sequence[str]) -> str:
    return ", ".join(repr(value[:60]) for value in values[:5]) + (", …" if len(values) > 5 else "")
