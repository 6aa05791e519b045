"""The inbox of a run: what has come into its lane since, taken while it runs.

    ordered ──take_inbox──► leased, behind the run in its lane ──settled with the run──► gone, or back at their places

What was taken is held as if it had been claimed with the lane: a worker that dies loses both, and both are reaped.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.database import STANDSTILL
from reflex.core.events import Event
from reflex.core.journal import LeaseLost, Step, journal_step
from reflex.core.settlement import Claimed
from reflex.core.statements import statement

__all__ = ["LOOKED_AT", "Newer", "Place", "came_meanwhile", "newer_in_lanes", "take_inbox"]

Place = tuple[int, UUID]
# How many of those that wait behind a run are looked at: which of them are for its trigger, its filter knows.
LOOKED_AT: Final = 20
NOT_LOOKED: Final[Mapping[tuple[int, UUID], Place]] = {}


class Newer(NamedTuple):
    """An event that waits behind a run (trigger id, event id), and its place in the lane."""

    run: tuple[int, UUID]
    place: Place
    event: Event


async def take_inbox(
    conn: AsyncConnection[Any],
    running: Claimed,
    *,
    limit: int,
    mates: Sequence[UUID] = (),
    only: Sequence[UUID] | None = None,
    note: Callable[[list[Claimed]], Step] | None = None,
) -> list[Claimed]:
    """Take what stands behind a run in its lane and has never begun.

    Args:
        conn: Autocommit, or in a transaction that has locked no lane.
        running: The run's lease.
        limit: How many to take at most, besides the `mates`.
        mates: The events of leases that were claimed with the lane, or taken before. They come back, too.
        only: Exactly these, and in this order: an earlier attempt has taken them.
        note: A step of the run's journal that says what was taken, kept in the same transaction.

    Returns:
        The leases, in their order; of `only` also what is not here any more, with a `lease_epoch` of 0.

    Raises:
        LeaseLost: The run's lease is gone; nothing was taken.
    """
    parameters = {
        "trigger_id": running.trigger_id,
        "event_id": running.event_id,
        "lease_epoch": running.lease_epoch,
        "limit": limit,
        "mates": list(mates),
        "only": None if only is None else list(only),
    }
    lane = {"trigger_id": running.trigger_id, "lane_key": running.lane_key, "standstill": STANDSTILL}
    async with conn.transaction():
        await conn.execute(statement("lock_lane"), lane)
        rows = await (await conn.execute(statement("take_inbox"), parameters)).fetchall()
        if not rows:
            raise LeaseLost(f"delivery {running.delivery_id} was given to another worker while this one ran it")
        taken = [Claimed(*row[:-2], lane_key=row[-2], position=row[-1]) for row in rows if row[1] is not None]
        if note is not None:
            await journal_step(conn, running.delivery_id, running.lease_epoch, note(taken))
    return taken


async def came_meanwhile(
    conn: AsyncConnection[Any], running: Claimed, *, limit: int, mates: Sequence[UUID] = ()
) -> list[UUID]:
    """Which events behind a run came after it had begun, all its attempts included. A look, of the last `limit` in the
    lane and the `mates`, which were claimed with it."""
    cursor = await conn.execute(
        statement("came_meanwhile"),
        {
            "trigger_id": running.trigger_id,
            "event_id": running.event_id,
            "lease_epoch": running.lease_epoch,
            "limit": limit,
            "mates": list(mates),
        },
    )
    return [event_id for (event_id,) in await cursor.fetchall()]


async def newer_in_lanes(
    conn: AsyncConnection[Any], running: Sequence[Claimed], *, after: Mapping[tuple[int, UUID], Place] = NOT_LOOKED
) -> list[Newer]:
    """What waits behind these runs, the first `LOOKED_AT` of each in their order. A look: nothing is locked or changed.

    Args:
        after: Of runs (trigger id, event id), the place up to which all was looked at before.
    """
    places: list[Place] = [after.get(lease[:2], (lease.position or 0, lease.event_id)) for lease in running]
    cursor = await conn.execute(
        statement("newer_in_lanes"),
        {
            "trigger_id": [lease.trigger_id for lease in running],
            "event_id": [lease.event_id for lease in running],
            "lane_key": [lease.lane_key for lease in running],
            "position": [position for position, _ in places],
            "after_event_id": [event_id for _, event_id in places],
            "limit": LOOKED_AT,
        },
    )
    return [Newer((row[0], row[1]), (row[2], row[3]), Event(*row[3:])) for row in await cursor.fetchall()]
