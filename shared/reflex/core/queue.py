"""The queue: settle what finished and claim what is pending, in one round trip; make due what was put off."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.consequences import Settled, carry_out, give_way, have_consequences
from reflex.core.dead_letter_event import dead_letter_event
from reflex.core.gathering import gather
from reflex.core.lanes import LaneId, claim_lanes, settle_lanes
from reflex.core.settlement import Claimed, Outcome, Settlement, as_arrays, settled
from reflex.core.statements import only_row, statement
from reflex.core.waiting import end_waits

__all__ = [
    "Exchanged",
    "dead_settlement",
    "exchange",
    "own_leases",
    "promote_scheduled",
    "route_unrouted",
    "slots_taken",
]


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange brought: new leases, and the settlements that came too late to change anything.

    `conflicts` are settlements whose state another run had changed first; their deliveries were given back.
    `overdue` is the oldest lane that was ready, but locked by somebody; to be handed to the next exchange.
    """

    claimed: list[Claimed]
    stale: frozenset[tuple[int, UUID]]
    overdue: LaneId | None = None
    conflicts: tuple[Settlement, ...] = ()


async def exchange(
    conn: AsyncConnection[Any],
    *,
    worker_id: UUID,
    settlements: Sequence[Settlement],
    trigger_ids: Sequence[int],
    limit: int,
    ordered_ids: Sequence[int] = (),
    rows: int = 0,
    lanes_first: bool = False,
    overdue: LaneId | None = None,
) -> Exchanged:
    """Settle and claim.

    Args:
        conn: Autocommit. A transaction is opened only when a settlement writes a state, appends events or forgets
            steps.
        settlements: At most one for each delivery. Published events and dead letters' events are appended if, and
            only if, the settlement holds.
        trigger_ids: The triggers this worker knows; the first ones are served first.
        limit: How many slots there are to fill: with one delivery each, or with deliveries of one lane. 0 only settles.
        ordered_ids: Those of the triggers that are ordered. Without any, and without settlements of ordered
            deliveries, all of this is one statement.
        rows: How many deliveries of lanes to claim at most, if those are fewer than the slots could take.
        lanes_first: Fill the slots from lanes first, and with other deliveries what is left. To be asked for every
            other time, so that neither kind starves the other.
        overdue: As the last exchange said.

    Returns:
        The leases, oldest event first within a trigger; those of one lane together and in their order.

    Raises:
        psycopg.OperationalError: Nothing is known; call again with the same settlements and then look for
            leases that were claimed without our hearing of it (`own_leases`).
        psycopg.DataError: PostgreSQL refuses a value in one of the settlements. It was not settled; those of ordered
            deliveries may have been, if the value is not one of theirs.
    """
    laned = [settlement for settlement in settlements if settlement.lane_key is not None]
    others = [settlement for settlement in settlements if settlement.lane_key is None] if laned else settlements
    claimed: list[Claimed] = []
    settled = Settled()
    skipped: LaneId | None = None

    async def from_lanes() -> None:
        nonlocal skipped
        if ordered_ids and (left := limit - slots_taken(claimed)) > 0:
            leases, skipped = await claim_lanes(
                conn, worker_id=worker_id, trigger_ids=ordered_ids, lanes=left, rows=rows, overdue=overdue
            )
            claimed.extend(leases)

    if laned:
        settled = await settle_lanes(conn, laned, wake=limit <= 0 or not ordered_ids)
    if lanes_first:
        await from_lanes()
    left = limit - slots_taken(claimed)
    if others or left > 0 or not laned:
        exchanged = await exchange_unordered(conn, worker_id, others, trigger_ids, left)
        claimed.extend(exchanged.claimed)
        settled = Settled(settled.stale | exchanged.stale, settled.conflicts + exchanged.conflicts)
    if not lanes_first:
        await from_lanes()
    # After a lost answer a settlement comes a second time: then it is late, and was in nobody's way.
    conflicts = tuple(conflict for conflict in settled.conflicts if conflict[:2] not in settled.stale)
    return Exchanged(claimed, settled.stale, skipped, conflicts)


def slots_taken(claimed: Sequence[Claimed]) -> int:
    """How many slots these leases take: a lane takes one."""
    return len({(c.trigger_id, c.event_id if c.lane_key is None else c.lane_key) for c in claimed})


async def exchange_unordered(
    conn: AsyncConnection[Any],
    worker_id: UUID,
    settlements: Sequence[Settlement],
    trigger_ids: Sequence[int],
    limit: int,
) -> Exchanged:
    if not have_consequences(settlements):
        return await settle_and_claim(conn, worker_id, settlements, trigger_ids, limit)
    async with conn.transaction():
        settlements, conflicts = await give_way(conn, settlements)
        settlements, full = await gather(conn, settlements)
        exchanged = await settle_and_claim(conn, worker_id, settlements, trigger_ids, limit)
        await carry_out(conn, settlements, exchanged.stale)
        await end_waits(conn, full)
    return replace(exchanged, conflicts=tuple(conflicts))


async def settle_and_claim(
    conn: AsyncConnection[Any],
    worker_id: UUID,
    settlements: Sequence[Settlement],
    trigger_ids: Sequence[int],
    limit: int,
) -> Exchanged:
    parameters = as_arrays(settlements)
    parameters.update(worker_id=worker_id, claim_trigger_id=list(trigger_ids), limit=limit)
    cursor = await conn.execute(statement("settle_and_claim"), parameters)
    claimed: list[Claimed] = []
    stale: set[tuple[int, UUID]] = set()
    for row in await cursor.fetchall():
        if row[3] is None:
            stale.add((row[0], row[1]))
        else:
            claimed.append(Claimed(*row[:-1]))
    return Exchanged(claimed, frozenset(stale))


async def own_leases(conn: AsyncConnection[Any], *, worker_id: UUID) -> list[Claimed]:
    """Every lease of a worker. After a broken connection it may hold leases whose claim it never heard of."""
    cursor = await conn.execute(statement("own_leases"), {"worker_id": worker_id})
    return [Claimed(*row[:-2], lane_key=row[-2], position=row[-1]) for row in await cursor.fetchall()]


async def promote_scheduled(
    conn: AsyncConnection[Any], *, limit: int = 1000, now: datetime | None = None
) -> tuple[int, timedelta | None]:
    """Make due what was put off. Returns how many, and how long until the next is due (None: nothing is waiting)."""
    promoted, next_in, *_ = await only_row(conn, "promote_scheduled", {"limit": limit, "now": now})
    return promoted, next_in


async def route_unrouted(conn: AsyncConnection[Any], *, limit: int = 1000) -> int:
    """Hand unrouted events to triggers that match by now. Returns how many events; `limit` or more: call again."""
    return (await only_row(conn, "route_unrouted", {"limit": limit}))[0]


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
    return settled(
        claimed,
        Outcome.DEAD,
        error=error,
        usage=usage,
        reason=reason,
        trace_id=trace_id,
        published=(event,) if event else (),
    )
