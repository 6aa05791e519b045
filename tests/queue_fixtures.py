"""What the tests of the queue put into a database: an app with triggers, events, a worker."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.lanes import WhenDead
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.registration import EventType, Manifest, Registered, TriggerDefinition, register
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.workers import Incarnation, enlist

__all__ = ["claim", "claim_ordered", "count", "enlisted", "is_quiet", "new_event", "ordered_shop", "publish", "settled",
           "shop"]  # fmt: skip


async def shop(
    conn: AsyncConnection[Any], triggers: dict[str, str] | None = None, *, max_attempts: int = 3, app: str = "shop"
) -> Registered:
    """Register an app: trigger name -> the pattern of its events."""
    triggers = triggers or {"pack": "order.created"}
    types = tuple(EventType(pattern, {}) for pattern in set(triggers.values()) if "*" not in pattern)
    definitions = tuple(TriggerDefinition(name, (pattern,), max_attempts, {}) for name, pattern in triggers.items())
    return await register(conn, Manifest(app, types, definitions))


async def ordered_shop(
    conn: AsyncConnection[Any],
    key_path: str | None = "key",
    *,
    when_dead: WhenDead = WhenDead.CONTINUE,
    max_attempts: int = 3,
) -> Registered:
    """The shop with one trigger, `pack`, which is ordered by what is at the path."""
    pack = TriggerDefinition("pack", ("order.created",), max_attempts, {}, key_path, when_dead)
    return await register(conn, Manifest("shop", (EventType("order.created", {}),), (pack,)))


def new_event(type: str = "order.created", payload: str = "{}", **fields: Any) -> NewEvent:
    return NewEvent(new_id(), type, fields.pop("source", "test"), fields.pop("key", None), None, payload, **fields)


async def publish(conn: AsyncConnection[Any], count: int = 1, type: str = "order.created") -> list[UUID]:
    events = [new_event(type) for _ in range(count)]
    await append(conn, events)
    return [event.event_id for event in events]


async def enlisted(conn: AsyncConnection[Any], registered: Registered) -> UUID:
    """A worker that knows all triggers of the app; its id."""
    worker_id = new_id()
    ids = list(registered.trigger_ids.values())
    await enlist(conn, Incarnation(worker_id, registered.app_id, ids, "host", 1, 10))
    return worker_id


async def claim(
    conn: AsyncConnection[Any], worker_id: UUID, trigger_ids: Sequence[int], limit: int = 10
) -> list[Claimed]:
    done = await exchange(conn, worker_id=worker_id, settlements=[], trigger_ids=trigger_ids, limit=limit)
    return done.claimed


async def claim_ordered(
    conn: AsyncConnection[Any], worker_id: UUID, registered: Registered, *, limit: int = 10, rows: int = 100
) -> list[Claimed]:
    """Claim lanes first and whatever else there is."""
    ids = list(registered.trigger_ids.values())
    done = await exchange(
        conn, worker_id=worker_id, settlements=[], trigger_ids=ids, limit=limit, ordered_ids=ids, rows=rows,
        lanes_first=True,
    )  # fmt: skip
    return done.claimed


def settled(lease: Claimed, outcome: Outcome = Outcome.SUCCEEDED, **rest: Any) -> Settlement:
    return Settlement(lease.trigger_id, lease.event_id, lease.lease_epoch, outcome, lane_key=lease.lane_key, **rest)


async def count(conn: AsyncConnection[Any], table: str) -> int:
    cursor = await conn.execute(f"SELECT count(*) AS n FROM reflex.{table}".encode())
    row = await cursor.fetchone()
    assert row is not None
    return row["n"] if isinstance(row, dict) else row[0]


async def is_quiet(conn: AsyncConnection[Any]) -> bool:
    """Whether nothing is pending, scheduled or running: in one statement, for between two a delivery can move from the
    table that is asked next to the one that was asked before."""
    places = ("delivery", "ordered", "scheduled", "lease")
    anywhere = " UNION ALL ".join(f"(SELECT 1 FROM reflex.{place} LIMIT 1)" for place in places)
    return await (await conn.execute(anywhere.encode())).fetchone() is None
