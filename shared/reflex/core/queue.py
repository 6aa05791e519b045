"""The queue: settle what finished and claim what is pending, in one round trip; give back; free what the dead held."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.dead_letter_event import dead_letter_event
from reflex.core.ids import DeliveryId
from reflex.core.journal import forget_steps
from reflex.core.log import append
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.statements import statement

__all__ = [
    "Exchanged",
    "Reaped",
    "dead_settlement",
    "exchange",
    "own_leases",
    "promote_scheduled",
    "reap",
    "route_unrouted",
]

SETTLED_COLUMNS = (
    "trigger_id", "event_id", "lease_epoch", "outcome", "error", "output", "usage", "retry_in", "reason", "trace_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange brought: new leases, and the settlements that came too late to change anything."""

    claimed: list[Claimed]
    stale: frozenset[tuple[int, UUID]]


@dataclass(frozen=True, slots=True)
class Reaped:
    """A delivery that was freed from a worker that is gone."""

    delivery_id: DeliveryId
    worker_id: UUID
    attempt: int
    dead: bool


async def exchange(
    conn: AsyncConnection[Any],
    *,
    worker_id: UUID,
    settlements: Sequence[Settlement],
    trigger_ids: Sequence[int],
    limit: int,
) -> Exchanged:
    """Settle and claim.

    Args:
        conn: Autocommit. A transaction is opened only when a settlement appends events or forgets steps.
        settlements: At most one for each delivery. Published events and dead letters' events are appended if, and
            only if, the settlement holds.
        trigger_ids: The triggers this worker knows; the first ones are served first.
        limit: How many deliveries to claim at most; 0 only settles.

    Returns:
        The leases, oldest event first within a trigger.

    Raises:
        psycopg.OperationalError: Nothing is known; call again with the same settlements and then look for
            leases that were claimed without our hearing of it (`own_leases`).
        psycopg.DataError: PostgreSQL refuses a value in one of the settlements. Nothing happened.
    """
    if any(settlement.published or settlement.forget_steps for settlement in settlements):
        async with conn.transaction():
            exchanged = await settle_and_claim(conn, worker_id, settlements, trigger_ids, limit)
            held = [s for s in settlements if (s.trigger_id, s.event_id) not in exchanged.stale]
            if events := [event for settlement in held for event in settlement.published]:
                await append(conn, events)
            if forgotten := [(s.trigger_id, s.event_id) for s in held if s.forget_steps]:
                await forget_steps(conn, forgotten)
        return exchanged
    return await settle_and_claim(conn, worker_id, settlements, trigger_ids, limit)


async def settle_and_claim(
    conn: AsyncConnection[Any],
    worker_id: UUID,
    settlements: Sequence[Settlement],
    trigger_ids: Sequence[int],
    limit: int,
) -> Exchanged:
    columns = list(zip(*settlements, strict=True)) if settlements else [()] * len(SETTLED_COLUMNS)
    # Columns without any value go as empty arrays, which unnest() pads with NULLs.
    parameters: dict[str, Any] = {
        name: list(column) if any(value is not None for value in column) else []
        for name, column in zip(SETTLED_COLUMNS[4:], columns[4:], strict=False)
    }
    # Numbers, ids and outcomes need no quoting: joined by hand they cost a fifth of psycopg's array dumper.
    settled_ids, event_ids, epochs, outcomes = columns[:4]
    parameters.update(
        trigger_id=array_text(map(str, settled_ids)),
        event_id=array_text([event_id.hex for event_id in event_ids]),
        lease_epoch=array_text(map(str, epochs)),
        outcome=array_text(outcomes),
        worker_id=worker_id,
        claim_trigger_id=list(trigger_ids),
        limit=limit,
    )
    cursor = await conn.execute(statement("settle_and_claim"), parameters)
    claimed: list[Claimed] = []
    stale: set[tuple[int, UUID]] = set()
    for row in await cursor.fetchall():
        if row[3] is None:
            stale.add((row[0], row[1]))
        else:
            claimed.append(Claimed(*row[:-1]))
    return Exchanged(claimed, frozenset(stale))


def array_text(values: Iterable[str]) -> str:
    """A PostgreSQL array of values that need no quoting."""
    return "{" + ",".join(values) + "}"


async def own_leases(conn: AsyncConnection[Any], *, worker_id: UUID) -> list[Claimed]:
    """Every lease of a worker. After a broken connection it may hold leases whose claim it never heard of."""
    cursor = await conn.execute(statement("own_leases"), {"worker_id": worker_id})
    return [Claimed(*row) for row in await cursor.fetchall()]


async def promote_scheduled(
    conn: AsyncConnection[Any], *, limit: int = 1000, now: datetime | None = None
) -> tuple[int, timedelta | None]:
    """Make due what was put off. Returns how many, and how long until the next is due (None: nothing is waiting)."""
    cursor = await conn.execute(statement("promote_scheduled"), {"limit": limit, "now": now})
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


async def route_unrouted(conn: AsyncConnection[Any], *, limit: int = 1000) -> int:
    """Hand unrouted events to triggers that match by now. Returns how many events; `limit` or more: call again."""
    cursor = await conn.execute(statement("route_unrouted"), {"limit": limit})
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def reap(conn: AsyncConnection[Any], *, lease_timeout: timedelta, now: datetime | None = None) -> list[Reaped]:
    """Remove workers whose heartbeat stopped, and free what they held; a lost attempt counts."""
    async with conn.transaction():
        cursor = await conn.execute(statement("reap_workers"), {"lease_timeout": lease_timeout, "now": now})
        rows = await cursor.fetchall()
        reaped: list[Reaped] = []
        events: list[Any] = []
        for (
            trigger_id,
            event_id,
            worker_id,
            attempt,
            dead,
            trigger,
            type,
            key,
            correlation_id,
            depth,
            reply_to,
            _,
        ) in rows:
            delivery_id = DeliveryId(trigger_id, event_id)
            reaped.append(Reaped(delivery_id, worker_id, attempt, dead))
            if dead:
                event = dead_letter_event(
                    trigger=trigger,
                    delivery_id=delivery_id,
                    event_type=type,
                    key=key,
                    correlation_id=correlation_id,
                    depth=depth,
                    attempt=attempt,
                    reason="worker_lost",
                    error="the worker stopped sending heartbeats",
                    reply_to=reply_to,
                )
                events.extend([event] if event else [])
        if events:
            await append(conn, events)
    return reaped


def dead_settlement(
    claimed: Claimed,
    *,
    trigger: str,
    reason: str,
    error: str,
    usage: str | None = None,
    trace_id: str | None = None,
) -> Settlement:
    """The settlement that makes a delivery a dead letter, with the event that says so."""
    event = dead_letter_event(
        trigger=trigger,
        delivery_id=claimed.delivery_id,
        event_type=claimed.type,
        key=claimed.key,
        correlation_id=claimed.correlation_id,
        depth=claimed.depth,
        attempt=claimed.attempt,
        reason=reason,
        error=error,
        reply_to=claimed.reply_to,
    )
    return Settlement(
        claimed.trigger_id,
        claimed.event_id,
        claimed.lease_epoch,
        Outcome.DEAD,
        error=error,
        usage=usage,
        reason=reason,
        trace_id=trace_id,
        published=(event,) if event else (),
    )
