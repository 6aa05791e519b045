"""The log: append events, with a delivery for every trigger that matches, in one statement and one commit."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.events import NewEvent, candidate_routes
from reflex.core.statements import only_row, statement

__all__ = ["WAKE_CHANNEL", "append"]

WAKE_CHANNEL = "reflex"
# The patterns whose routes led into lanes when this process last appended an event that they match. Only a hint of
# where to begin: where it is wrong, or another database's, an append takes one statement more or the longer one.
led_into_lanes: Final[set[str]] = set()
MAX_PATTERNS: Final = 10_000


async def append(conn: AsyncConnection[Any], events: Sequence[NewEvent]) -> dict[UUID, UUID]:
    """Append events to the log and make their deliveries; all of them or, on an error, none.

    Args:
        conn: Autocommit, or inside a transaction that then decides.
        events: At least one.

    Returns:
        For each event's own id the id under which the log has it. They differ for an event whose idempotency key
        was used before: nothing was stored for it.

    Raises:
        psycopg.DataError: PostgreSQL refuses a value.
        psycopg.OperationalError: The connection failed; in autocommit it is not known whether the commit happened.
    """
    columns = list(zip(*events, strict=True))
    # A column without any value goes as an empty array, which unnest() pads with NULLs: less to write and to read.
    parameters: dict[str, Any] = {
        name: list(column) if any(value is not None for value in column) else []
        for name, column in zip(NewEvent._fields, columns, strict=True)
    }
    parameters |= candidate_routes(columns[NewEvent._fields.index("type")])
    ids = {event.event_id: event.event_id for event in events}
    if await store(conn, parameters) < len(events):
        keyed = [event for event in events if event.idempotency_key is not None]
        cursor = await conn.execute(
            statement("first_event_ids"),
            {"source": [e.source for e in keyed], "key": [e.idempotency_key for e in keyed]},
        )
        first = {(source, key): event_id for source, key, event_id, _ in await cursor.fetchall()}
        ids.update({e.event_id: first[use] for e in keyed if (use := (e.source, e.idempotency_key)) in first})
        # Retention may have removed the earlier event, and its key with it, since the statement before.
        if forgotten := [e for e in keyed if (e.source, e.idempotency_key) not in first]:
            ids.update(await append(conn, forgotten))
    return ids


async def store(conn: AsyncConnection[Any], parameters: Mapping[str, Any]) -> int:
    """Run the statement that appends: without its lanes, unless some route of the batch leads there.

    Each of the two looks for itself which routes do, in the snapshot in which it makes the deliveries. So it does not
    matter what is registered in between. Returns how many were stored.
    """
    patterns = parameters["route_pattern"]
    if led_into_lanes.isdisjoint(patterns):
        stored, pattern, _ = await only_row(conn, "append_events", parameters, without="lanes")
        if pattern is None:
            return stored
    stored, pattern, *_ = await only_row(conn, "append_events", parameters)
    if pattern is None:
        led_into_lanes.difference_update(patterns)
    elif pattern not in led_into_lanes:
        if len(led_into_lanes) >= MAX_PATTERNS:
            led_into_lanes.clear()
        led_into_lanes.add(pattern)
    return stored
