"""What a trigger remembers of a key: a state, and the memory of a conversation. Optimistic: nobody waits for a key.

    load (version) ──run──► hold (is it still that version?) ──settle──► write, with a new version

A run whose version is not the newest one any more does not count: its delivery is given back, and runs again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from reflex.core.database import STANDSTILL
from reflex.core.errors import NotFound
from reflex.core.ids import DeliveryId
from reflex.core.rows import Json, stored_json
from reflex.core.statements import statement

__all__ = [
    "StateChange",
    "StateRow",
    "StoredState",
    "forget_state",
    "get_state",
    "hold_states",
    "load_state",
    "write_states",
]

StateId = tuple[int, str]


class StoredState(NamedTuple):
    """What was there when a run began. `key` is None if the event has none, `version` 0 if nothing was there.

    `data` is the state, as the `schema_version` of the code that wrote it has it. It, the messages of the conversation
    and their usage are JSON text.
    """

    key: str | None
    version: int
    schema_version: int | None
    data: str | None
    messages: str | None
    usage: str | None


class StateChange(NamedTuple):
    """What a run has changed. `version` is that of what it began with. None leaves what is there. `trigger` is its
    name, for people."""

    trigger: str
    key: str
    version: int
    schema_version: int | None = None
    data: str | None = None
    messages: str | None = None
    usage: str | None = None


@dataclass(frozen=True, slots=True)
class StateRow:
    """What a trigger remembers of a key. Each change gives it another, higher version."""

    trigger: str
    app: str
    key: str
    version: int
    schema_version: int | None
    state: Json | None
    messages: Json | None
    usage: Json | None
    updated_at: datetime


async def load_state(conn: AsyncConnection[Any], delivery_id: DeliveryId, key_path: str) -> StoredState:
    """What the delivery's trigger remembers of the key that its event has at the path."""
    cursor = await conn.execute(
        statement("load_state"),
        {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id, "key_path": key_path},
    )
    row = await cursor.fetchone()
    if row is None:
        return StoredState(None, 0, None, None, None, None)
    key, version, *rest = row
    return StoredState(key, version or 0, *rest)


async def hold_states(conn: AsyncConnection[Any], changes: Collection[tuple[int, StateChange]]) -> set[StateId]:
    """Lock what is to be changed, until the end of the transaction.

    Args:
        conn: In a transaction. Before its leases and lanes are locked: states come first, everywhere.
        changes: With their trigger's id; one for each trigger and key.

    Returns:
        Trigger and key of those that nobody has changed since their runs began. They must go to `write_states`.
    """
    cursor = await conn.execute(
        statement("hold_states"),
        {
            "trigger_id": [trigger_id for trigger_id, _ in changes],
            "key": [change.key for _, change in changes],
            "version": [change.version for _, change in changes],
            "standstill": STANDSTILL,
        },
    )
    return {(row[0], row[1]) for row in await cursor.fetchall() if row[0] is not None}


async def write_states(conn: AsyncConnection[Any], changes: Sequence[tuple[int, StateChange, bool]]) -> None:
    """Write what is held; False: not, since the settlement came too late."""
    await conn.execute(
        statement("write_states"),
        {
            "trigger_id": [trigger_id for trigger_id, _, _ in changes],
            "key": [change.key for _, change, _ in changes],
            "holds": [holds for _, _, holds in changes],
            "schema_version": [change.schema_version for _, change, _ in changes],
            "data": [change.data for _, change, _ in changes],
            "messages": [change.messages for _, change, _ in changes],
            "usage": [change.usage for _, change, _ in changes],
        },
    )


async def get_state(conn: AsyncConnection[Any], trigger_id: int, key: str, *, trigger: str, app: str) -> StateRow:
    """What the trigger remembers of the key.

    Raises:
        NotFound: Nothing.
    """
    cursor = await conn.execute(statement("show_state"), {"trigger_id": trigger_id, "key": key})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"trigger {trigger!r} of {app} remembers nothing of the key {key!r}")
    version, schema_version, data, messages, usage, updated_at = row
    return StateRow(
        trigger, app, key, version, schema_version, stored_json(data), stored_json(messages), stored_json(usage),
        updated_at,
    )  # fmt: skip


async def forget_state(conn: AsyncConnection[Any], trigger_id: int, key: str) -> bool:
    """Forget the state and the memory. Returns whether there was anything."""
    cursor = await conn.execute(statement("forget_state"), {"trigger_id": trigger_id, "key": key})
    return await cursor.fetchone() is not None
