"""What a run takes of its lane: which deliveries, that they are leases like others, and that they go with it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.inbox import came_meanwhile, newer_in_lanes, take_inbox
from reflex.core.journal import LeaseLost, Step, StepKind, recorded_steps
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.reaping import reap
from reflex.core.settlement import NOT_BEGUN, Claimed, Outcome, Settlement
from reflex.core.states import StateChange
from tests.queue_fixtures import claim_ordered, count, enlisted, new_event, ordered_shop, settled

LANE = "SELECT pending, running FROM reflex.lane WHERE key = 'a'"
RUNS = "SELECT event_id, outcome, attempt FROM reflex.run ORDER BY finished_at, lease_epoch, event_id"


async def come(db: AsyncConnection[Any], number: int = 1, **fields: Any) -> list[UUID]:
    """So many events of the key, appended together."""
    events = [new_event(key="a", **fields) for _ in range(number)]
    await append(db, events)
    return [event.event_id for event in events]


async def take(db: AsyncConnection[Any], running: Claimed, *, limit: int = 100, **rest: Any) -> list[Claimed]:
    return await take_inbox(db, running, limit=limit, **rest)


async def settle(db: AsyncConnection[Any], worker_id: UUID, *settlements: Settlement) -> frozenset[tuple[int, UUID]]:
    done = await exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    return done.stale


async def fetch(db: AsyncConnection[Any], query: str) -> list[Any]:
    return await (await db.execute(query.encode())).fetchall()


def ids(leases: Sequence[Claimed]) -> list[UUID]:
    return [lease.event_id for lease in leases]


async def test_what_came_is_taken_in_its_order_and_is_settled_with_the_run(db: AsyncConnection[Any]) -> None:
    """Fails if the lane's counts do not follow, if the order is not the lane's, or if only the run is settled."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    (first,) = await come(db)
    (running,) = await claim_ordered(db, worker_id, registered)
    came = [*await come(db, 2), *await come(db)]
    taken = await take(db, running)
    assert ids(taken) == came
    assert await fetch(db, LANE) == [(0, 4)]
    assert await claim_ordered(db, await enlisted(db, registered), registered) == []
    with_it = tuple(settled(lease, output='{"taken_by": "x"}') for lease in taken)
    assert not await settle(db, worker_id, settled(running)._replace(with_it=with_it))
    assert await fetch(db, LANE) == [(0, 0)]
    assert {row[0] for row in await fetch(db, RUNS)} == {first, *came}
    assert await count(db, "lease") == 0


async def test_only_what_stands_behind_the_run_and_has_never_begun_is_taken(db: AsyncConnection[Any]) -> None:
    """One has begun before, and one stands in front. Fails without the look at the runs, or at the places."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    await come(db, 3)
    front, tried, running = await claim_ordered(db, worker_id, registered)
    await settle(
        db, worker_id, settled(front, Outcome.RELEASED, reason=NOT_BEGUN),
        settled(tried, Outcome.RELEASED),
    )  # fmt: skip
    new = await come(db)
    # As if the one that was tried stood behind.
    await db.execute("UPDATE reflex.ordered SET position = position + 50 WHERE event_id = %s", [tried.event_id])
    assert ids(await take(db, running)) == new
    assert await fetch(db, LANE) == [(2, 2)]


async def test_not_more_than_the_limit_besides_those_that_were_claimed_with_it(db: AsyncConnection[Any]) -> None:
    """Fails if the mates are left out, or taken from the lane a second time."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    events = await come(db, 6)
    running, *mates = await claim_ordered(db, worker_id, registered, rows=3)
    assert ids(await take(db, running, mates=ids(mates), limit=2)) == events[1:5]
    assert ids(await take(db, running, mates=events[1:5], limit=2)) == events[1:]
    assert await fetch(db, LANE) == [(0, 6)]


async def test_a_later_attempt_takes_the_very_same_and_sees_what_is_gone(db: AsyncConnection[Any]) -> None:
    """Fails if `only` is not what decides, or if an event whose delivery was cancelled is lost to the conversation."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    await come(db)
    (running,) = await claim_ordered(db, worker_id, registered)
    one, gone, two = await come(db, 3)
    await db.execute("DELETE FROM reflex.ordered WHERE event_id = %s", [gone])
    await db.execute("UPDATE reflex.lane SET pending = pending - 1")
    again = await take(db, running, only=[two, gone, one])
    assert ids(again) == [two, gone, one]
    assert [lease.lease_epoch for lease in again] == [1, 0, 1]
    assert await take(db, running, only=[]) == []


async def test_what_was_there_before_the_run_did_not_come_meanwhile(db: AsyncConnection[Any]) -> None:
    """A run that is tried again goes on all the time; one that was dead does not. Fails if the latest attempt counts
    alone, or if all that is pending does."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    _, before = await come(db, 2)
    (running,) = await claim_ordered(db, worker_id, registered, rows=1)
    first = await come(db)
    await settle(db, worker_id, settled(running, Outcome.RETRY, error="x", retry_in=timedelta(0)))
    await db.execute("UPDATE reflex.lane SET available_at = NULL")
    (running,) = await claim_ordered(db, worker_id, registered, rows=1)
    assert running.attempt == 2
    second = await come(db)
    await db.execute(
        "UPDATE reflex.event SET created_at = created_at - interval '1 hour' WHERE event_id = %s", [before]
    )
    assert set(await came_meanwhile(db, running, limit=100)) == {*first, *second}
    assert await came_meanwhile(db, running, limit=1) == second
    assert set(await came_meanwhile(db, running, limit=1, mates=[before, *first])) == {*first, *second}
    await db.execute("UPDATE reflex.run SET outcome = 'dead'")
    assert await came_meanwhile(db, running, limit=100) == second


async def test_who_dies_loses_both_and_both_go_back_to_their_places(db: AsyncConnection[Any]) -> None:
    """Fails if what was taken counts as begun: it would lose an attempt, or its place."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    events = await come(db)
    (running,) = await claim_ordered(db, worker_id, registered)
    events += await come(db, 2)
    await take(db, running)
    await db.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
    await reap(db, lease_timeout=timedelta(minutes=1))
    again = await claim_ordered(db, await enlisted(db, registered), registered)
    assert [(lease.event_id, lease.attempt) for lease in again] == list(zip(events, (2, 1, 1), strict=True))
    assert await fetch(db, "SELECT event_id, outcome FROM reflex.run") == [(events[0], "lost")]


async def test_a_run_that_has_lost_its_lease_takes_nothing_and_settles_nothing_with_it(
    db: AsyncConnection[Any],
) -> None:
    """Fails without the fence in take_inbox, and if what was taken is settled although the run's settlement came too
    late: its lease was taken away, theirs were not."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    await come(db)
    (running,) = await claim_ordered(db, worker_id, registered)
    (event_id,) = await come(db)
    (taken,) = await take(db, running)
    with pytest.raises(LeaseLost):
        await take(db, running._replace(lease_epoch=running.lease_epoch - 1))
    await db.execute("DELETE FROM reflex.lease WHERE event_id = %s", [running.event_id])
    await db.execute("UPDATE reflex.lane SET running = running - 1")
    with pytest.raises(LeaseLost):
        await take(db, running)
    ends = settled(running)._replace(with_it=(settled(taken),))
    assert await settle(db, worker_id, ends) == {running[:2]}
    assert await fetch(db, LANE) == [(1, 0)]
    assert await fetch(db, "SELECT event_id, attempt FROM reflex.ordered") == [(event_id, 0)]


async def test_what_was_taken_and_the_step_that_says_so_are_one_commit(db: AsyncConnection[Any]) -> None:
    """Fails if the leases are committed before the step: a run that died in between would be given others."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    await come(db)
    (running,) = await claim_ordered(db, worker_id, registered)
    await come(db)

    def broken(taken: list[Claimed]) -> Step:
        return Step(StepKind.INBOX, b"x", 0, 0, "no JSON")

    def whole(taken: list[Claimed]) -> Step:
        return Step(StepKind.INBOX, b"x", 0, 0, f'["{taken[0].event_id}"]')

    with pytest.raises(psycopg.DataError):
        await take(db, running, note=broken)
    assert await fetch(db, LANE) == [(1, 1)]
    (taken,) = await take(db, running, note=whole)
    (step,) = await recorded_steps(db, running.delivery_id)
    assert (step.kind, step.result) == (StepKind.INBOX, f'["{taken.event_id}"]')


async def test_who_is_newer_is_found_without_touching_anything(db: AsyncConnection[Any]) -> None:
    """Fails if the look finds what stands in front of a run, or waits for a lane that an append has locked."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    await come(db, 2)
    front, running = await claim_ordered(db, worker_id, registered)
    await settle(db, worker_id, settled(front, Outcome.RELEASED))
    assert await newer_in_lanes(db, [running]) == []
    newer = await come(db, 2)
    found = await newer_in_lanes(db, [running])
    assert [(each.run, each.event.event_id) for each in found] == [(running[:2], event_id) for event_id in newer]


async def test_a_run_that_gives_way_gives_back_what_it_took(db: AsyncConnection[Any]) -> None:
    """Another run has changed the state of the key. Fails if what was taken counts as done: the run is done again."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    events = await come(db)
    (running,) = await claim_ordered(db, worker_id, registered)
    events += await come(db)
    (taken,) = await take(db, running)
    change = StateChange("pack", "a", 7, 1, "{}", None, None)
    await settle(db, worker_id, settled(running, state=change, with_it=(settled(taken),)))
    assert await fetch(db, "SELECT event_id, attempt FROM reflex.ordered ORDER BY position") == [
        (event_id, 0) for event_id in events
    ]
    assert [row[:2] for row in await fetch(db, RUNS)] == [(events[0], "released")]
