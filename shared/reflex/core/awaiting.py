"""Waiting for events: which waiting deliveries await which events, and finding those for which there are new ones.

    a run ends with wait_for ──settle──► awaited ──looked at by itself──► followed ──a new event──► due

Whoever appends knows nothing of it. Workers follow the log while anything is awaited; types and keys are compared in
SQL, and a run that is woken reads the log from where it looked last and decides for itself. So being woken for nothing
does no harm.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LogBounds
from reflex.core.statements import only_row, statement

__all__ = ["AWAIT_CHANNEL", "Awaited", "Found", "begin_awaiting", "find_awaited", "forget_awaited",
           "place_of_event", "sweep_awaited"]  # fmt: skip

AWAIT_CHANNEL: Final = "reflex_await"
# How many appends one look takes at most, and how many waits that are not followed yet.
APPENDS_A_LOOK: Final = 500
WAITS_A_LOOK: Final = 200
SWEPT: Final = 10_000


class Awaited(NamedTuple):
    """Events of these types (patterns), with this key if it is not None, which are behind `position` in the log. Nobody
    looks for them before `quiet` has passed."""

    types: tuple[str, ...]
    key: str | None
    position: int
    quiet: timedelta = timedelta(0)


class Found(NamedTuple):
    """What a look found: deliveries (trigger id, event id) for which there are new events. `more`: look again at once.
    `next_in` is when a wait has to be looked at by itself; `anything` whether any run waits for an event."""

    deliveries: frozenset[tuple[int, UUID]]
    more: bool
    next_in: timedelta | None
    anything: bool


async def begin_awaiting(conn: AsyncConnection[Any], waits: Sequence[tuple[int, UUID, Sequence[Awaited]]]) -> None:
    """Keep for which events deliveries wait, each a trigger id, an event id and what is awaited, in the transaction
    that makes them wait. Workers are told of it by a notification."""
    rows: list[dict[str, Any]] = []
    for trigger_id, event_id, awaited in waits:
        for number, one in enumerate(awaited):
            bounds = LogFilter(types=one.types).parameters()
            rows.append({
                "trigger_id": trigger_id, "event_id": event_id, "number": number, "type_low": bounds["type_low"],
                "type_high": bounds["type_high"], "key": one.key, "position": one.position, "quiet": one.quiet,
            })  # fmt: skip
    async with conn.cursor() as cursor:
        await cursor.executemany(statement("begin_awaiting"), rows)


async def find_awaited(
    conn: AsyncConnection[Any], *, appends: int = APPENDS_A_LOOK, waits: int = WAITS_A_LOOK
) -> Found:
    """Look at what is new in the log for those that wait for it. Finds nothing while somebody else looks. What is found
    and not made due within a second is found again.

    Args:
        conn: Autocommit.
        appends: How many of the log to look at, at most.
        waits: How many that are not followed yet to look at, at most.
    """
    trigger_ids, event_ids, more, next_in, anything = await only_row(
        conn, "find_awaited", {"appends": appends, "waits": waits}
    )
    return Found(frozenset(zip(trigger_ids, event_ids, strict=True)), more, next_in, anything)


async def forget_awaited(conn: AsyncConnection[Any], deliveries: Collection[tuple[int, UUID]]) -> None:
    """Remove what deliveries (trigger id, event id) awaited that were woken."""
    trigger_ids, event_ids = zip(*deliveries, strict=True)
    await conn.execute(statement("forget_awaited"), {"trigger_id": list(trigger_ids), "event_id": list(event_ids)})


async def sweep_awaited(conn: AsyncConnection[Any], *, limit: int = SWEPT) -> int:
    """Remove what nobody waits for any more. Returns how many rows; `limit`: call again."""
    return (await conn.execute(statement("sweep_awaited"), {"limit": limit})).rowcount


async def place_of_event(conn: AsyncConnection[Any], event_id: UUID, bounds: LogBounds) -> Cursor:
    """The cursor behind which stands what came after an event, as far as it is still there: the beginning of the log if
    the event is gone, and its end if the event has no place yet, which it then gets behind it."""
    position, place, is_there = await only_row(conn, "place_of_event", {"event_id": event_id})
    if position is not None:
        return max(bounds.start, Cursor(position, place))
    return bounds.end if is_there else bounds.start
