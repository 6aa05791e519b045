"""The log: append events, with a delivery for every trigger that matches, in one statement and one commit."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.events import NewEvent, candidate_routes
from reflex.core.statements import only_row, statement

__all__ = ["WAKE_CHANNEL", "append"]

WAKE_CHANNEL = "reflex"


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
    row = await only_row(conn, "append_events", parameters)
    ids = {event.event_id: event.event_id for event in events}
    if row[0] < len(events):
        keyed = [event for event in events if event.idempotency_key is not None]
        cursor = await conn.execute(
            statement("first_event_ids"),
            {"source": [e.source for e in keyed], "key": [e.idempotency_key for e in keyed]},
        )
        first = {(source, key): event_id for source, key, event_id in await cursor.fetchall()}
        ids.update({e.event_id: first[use] for e in keyed if (use := (e.source, e.idempotency_key)) in first})
        # Retention may have removed the earlier event, and its key with it, since the statement before.
        if forgotten := [e for e in keyed if (e.source, e.idempotency_key) not in first]:
            ids.update(await append(conn, forgotten))
    return ids
