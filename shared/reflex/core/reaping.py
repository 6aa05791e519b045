"""Reaping: what workers held that are gone is freed. A lost attempt counts, and what loses another one comes back apart
from the rest, for one of them may be the reason why the others lost theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection, Rollback

from reflex.core.dead_letter_event import dead_letter_event
from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.log import append
from reflex.core.statements import statement

__all__ = ["LONGEST_APART", "Reaped", "reap"]

LOST = "the worker stopped sending heartbeats"
# Within which all come back that one worker has lost and that are kept apart from one another.
LONGEST_APART: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Reaped:
    """A delivery that was freed from a worker that is gone."""

    delivery_id: DeliveryId
    worker_id: UUID
    attempt: int
    dead: bool


async def reap(conn: AsyncConnection[Any], *, lease_timeout: timedelta, now: datetime | None = None) -> list[Reaped]:
    """Remove workers whose heartbeat stopped, and free what they held; a lost attempt counts.

    Of what was claimed from one lane, the attempt of the first delivery counts, and only that is returned: those behind
    it had not begun.

    Args:
        conn: Autocommit.
    """
    async with conn.transaction():
        parameters = {"lease_timeout": lease_timeout, "longest": LONGEST_APART, "now": now}
        cursor = await conn.execute(statement("reap_workers"), parameters)
        reaped: list[Reaped] = []
        events: list[NewEvent] = []
        for trigger_id, event_id, worker_id, attempt, dead, *facts, _ in await cursor.fetchall():
            reaped.append(Reaped(DeliveryId(trigger_id, event_id), worker_id, attempt, dead))
            if dead:
                events += death(DeliveryId(trigger_id, event_id), attempt, facts)
        if events:
            await append(conn, events)
    return reaped + await reap_lanes(conn)


async def reap_lanes(conn: AsyncConnection[Any]) -> list[Reaped]:
    reaped = await freed(conn, None)
    cursor = await conn.execute(statement("doomed_lanes"))
    for trigger_id, event_id, attempt, *facts in await cursor.fetchall():
        delivery_id = DeliveryId(trigger_id, event_id)
        async with conn.transaction() as transaction:
            # Appending may wait for lanes, so it comes first: reaping, which locks others, never waits.
            if events := death(delivery_id, attempt, facts):
                await append(conn, events)
            dead = await freed(conn, delivery_id)
            if not dead:
                raise Rollback(transaction)  # somebody has the lane; the next round finds it again
            reaped += dead
    return reaped


async def freed(conn: AsyncConnection[Any], doomed: DeliveryId | None) -> list[Reaped]:
    parameters = {
        "trigger_id": doomed.trigger_id if doomed else None,
        "event_id": doomed.event_id if doomed else None,
        "longest": LONGEST_APART,
    }
    cursor = await conn.execute(statement("reap_lanes"), parameters)
    return [
        Reaped(DeliveryId(trigger_id, event_id), worker_id, attempt, dead)
        for trigger_id, event_id, worker_id, attempt, dead, _ in await cursor.fetchall()
    ]


def death(delivery_id: DeliveryId, attempt: int, facts: Sequence[Any]) -> list[NewEvent]:
    """The event that says what died, if there is one."""
    trigger, type, key, correlation_id, depth, reply_to = facts
    event = dead_letter_event(
        trigger=trigger,
        delivery_id=delivery_id,
        event_type=type,
        key=key,
        correlation_id=correlation_id,
        depth=depth,
        attempt=attempt,
        reason="worker_lost",
        error=LOST,
        reply_to=reply_to,
    )
    return [event] if event else []
