"""Lanes: the deliveries of an ordered trigger that have one key. They run one at a time, in the order of the log.

    ordered ──claim──► leased (a batch of one lane, run one after the other) ──settle──► gone, or back at their place

Whoever makes or removes a row of `ordered`, or the lease of an ordered delivery, has its lane locked and changes the
lane's row. Lanes are locked by trigger and key by all that wait for them (appending, settling, dead letters); claiming,
reaping and the sweeps never wait.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from reflex.core.consequences import Settled, carry_out, give_way, have_consequences
from reflex.core.database import STANDSTILL
from reflex.core.events import NewEvent, candidate_routes
from reflex.core.settlement import Claimed, Settlement, as_arrays, not_begun
from reflex.core.statements import only_row, statement

__all__ = [
    "InLane",
    "LaneId",
    "WhenDead",
    "claim_lanes",
    "leave_lanes",
    "lock_lanes",
    "promote_lanes",
    "settle_lanes",
    "sweep_lanes",
]

Key = tuple[int, UUID]
LaneId = tuple[int, str]
# How long a claim waits for a lane that appends keep locked. Longer than any append takes, shorter than anybody minds.
PATIENCE: Final = "200ms"


class InLane(NamedTuple):
    """A delivery that is not being settled, and its lane, if it has one."""

    trigger_id: int
    lane_key: str | None


class WhenDead(StrEnum):
    """What becomes of a key when a delivery of it has died. Stored; never renamed."""

    CONTINUE = "continue"  # the next one runs
    HOLD = "hold"  # the next one waits until the dead letter is retried or purged


async def claim_lanes(
    conn: AsyncConnection[Any],
    *,
    worker_id: UUID,
    trigger_ids: Sequence[int],
    lanes: int,
    rows: int,
    overdue: LaneId | None = None,
) -> tuple[list[Claimed], LaneId | None]:
    """Claim up to `lanes` lanes whose turn it is, those that have waited longest first.

    Args:
        conn: Autocommit.
        trigger_ids: The first ones are served first.
        rows: How many deliveries to claim at most, about; each lane gives at least one.
        overdue: A lane that the last claim found locked. This one waits for it, for a moment: where appends follow
            closely upon one another, a lane is never found unlocked.

    Returns:
        The leases, those of one lane together and in their order; and the oldest lane that was ready but locked.

    Raises:
        psycopg.OperationalError: Nothing is known; there may be leases that we have not heard of (`own_leases`).
    """
    parameters = {"worker_id": worker_id, "claim_trigger_id": list(trigger_ids), "lanes": lanes, "rows": rows}
    if overdue is not None:
        try:
            async with conn.transaction():
                # With this one lane in hand the claim still waits for nobody.
                trigger_id, key = overdue
                await conn.execute(
                    statement("await_lane"), {"trigger_id": trigger_id, "key": key, "patience": PATIENCE}
                )
                return await claim(conn, parameters)
        except psycopg.errors.LockNotAvailable:
            pass
    return await claim(conn, parameters)


async def claim(conn: AsyncConnection[Any], parameters: dict[str, Any]) -> tuple[list[Claimed], LaneId | None]:
    cursor = await conn.execute(statement("claim_lanes"), parameters)
    claimed: list[Claimed] = []
    skipped: LaneId | None = None
    for *columns, lane_key, position in await cursor.fetchall():
        if columns[1] is None:
            skipped = columns[0], lane_key
        else:
            claimed.append(Claimed(*columns, lane_key=lane_key, position=position))
    return claimed, skipped


async def settle_lanes(conn: AsyncConnection[Any], settlements: Sequence[Settlement], *, wake: bool) -> Settled:
    """Settle ordered deliveries, with what their runs published and what they took of their lanes.

    Args:
        conn: Autocommit.
        wake: Tell other workers of lanes that are ready again.

    Raises:
        psycopg.OperationalError: Nothing is known; call again with the same settlements.
        psycopg.DataError: PostgreSQL refuses a value in one of the settlements. Nothing happened.
    """
    if not have_consequences(settlements):
        return Settled(await settle(conn, settlements, wake=wake))
    async with conn.transaction():
        settlements, conflicts = await give_way(conn, settlements)
        taken = [each for settlement in settlements for each in settlement.with_it]
        if published := [event for settlement in (*settlements, *taken) for event in settlement.published]:
            await lock_lanes(conn, settlements, published)
        stale = await settle(conn, settlements, wake=wake)
        if taken:
            # Of a run that has lost its lease nothing counts, nor does it that it took them.
            taken = [
                not_begun(each) if settlement[:2] in stale else each
                for settlement in settlements
                for each in settlement.with_it
            ]
            stale |= await settle(conn, taken, wake=wake)
        await carry_out(conn, [*settlements, *taken], stale)
    return Settled(stale, tuple(conflicts))


async def settle(conn: AsyncConnection[Any], settlements: Sequence[Settlement], *, wake: bool) -> frozenset[Key]:
    parameters = as_arrays(settlements)
    parameters.update(lane_key=[settlement.lane_key for settlement in settlements], wake=wake, standstill=STANDSTILL)
    cursor = await conn.execute(statement("settle_lanes"), parameters)
    return frozenset((row[0], row[1]) for row in await cursor.fetchall() if row[1] is not None)


async def lock_lanes(
    conn: AsyncConnection[Any], settlements: Sequence[Settlement | InLane], published: Sequence[NewEvent]
) -> None:
    """Lock the lanes of the settlements and those of the events, in one order; nothing if the events have none."""
    await conn.execute(
        statement("lock_lanes"),
        {
            **candidate_routes(new.type for new in published),
            "type": [new.type for new in published],
            "key": [new.key for new in published],
            "source": [new.source for new in published],
            "payload": [new.payload for new in published],
            "trigger_id": [settlement.trigger_id for settlement in settlements],
            "lane_key": [settlement.lane_key for settlement in settlements],
            "standstill": STANDSTILL,
        },
    )


async def promote_lanes(
    conn: AsyncConnection[Any], *, limit: int = 1000, now: datetime | None = None
) -> tuple[int, timedelta | None]:
    """Make lanes ready whose retry is due. Returns how many, and how long until the next (None: none waits)."""
    promoted, next_in, *_ = await only_row(conn, "promote_lanes", {"limit": limit, "now": now})
    return promoted, next_in


async def sweep_lanes(conn: AsyncConnection[Any], *, limit: int = 1000) -> int:
    """Remove lanes that nothing is left of. Returns how many; `limit`: call again."""
    return (await only_row(conn, "sweep_lanes", {"limit": limit}))[0]


async def leave_lanes(conn: AsyncConnection[Any], *, limit: int = 1000) -> int:
    """Take deliveries of triggers that are ordered no more out of their lanes. Returns how many; `limit`: once more."""
    return (await only_row(conn, "leave_lanes", {"limit": limit}))[0]
