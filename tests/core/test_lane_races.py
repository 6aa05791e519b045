"""Order per key when transactions overlap: each test holds one open, and sees what another one does beside it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.lanes import claim_lanes, sweep_lanes
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.reaping import reap
from reflex.core.registration import Registered
from reflex.core.settlement import Claimed, Outcome, Settlement
from tests.processes import eventually
from tests.queue_fixtures import claim_ordered, enlisted, new_event, ordered_shop, settled


@pytest.fixture
async def looking(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Never inside a transaction: what pg_stat_activity says stays the same for the length of one."""
    async with await connect(database_url, name="looking") as conn:
        yield conn


async def publish(conn: AsyncConnection[Any], *keys: str) -> list[UUID]:
    events = [new_event(key=key) for key in keys]
    await append(conn, events)
    return [event.event_id for event in events]


async def settle(conn: AsyncConnection[Any], worker_id: UUID, *settlements: Settlement) -> None:
    done = await exchange(conn, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    assert not done.stale


async def waits_for_a_lock(looking: AsyncConnection[Any], name: str) -> None:
    """Until the connection of that name waits for somebody."""

    async def waiting() -> bool:
        found = await looking.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s "
            "AND wait_event_type = 'Lock'",
            [name],
        )
        return await found.fetchone() == (1,)

    await eventually(waiting, what=f"a lock that {name} waits for")


async def in_order(conn: AsyncConnection[Any], key: str = "a") -> list[UUID]:
    found = await conn.execute("SELECT event_id FROM reflex.ordered WHERE key = %s ORDER BY position, event_id", [key])
    return [row[0] for row in await found.fetchall()]


async def test_positions_follow_the_order_of_the_commits(
    one: AsyncConnection[Any], two: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """The second append begins, and has the lane of `a`, before the first one has drawn its last position in `b`.

    Fails if `keyed` draws the positions: the second append then has its own before it waits. So has it its place in
    the log, if `unplaced` does not ask how many lanes there are.
    """
    await ordered_shop(one)
    async with one.transaction():
        first = await publish(one, "b")
        second = asyncio.create_task(publish(two, "a", "b"))
        await waits_for_a_lock(three, "two")
        first += await publish(one, "b")
    expected = [*first, (await second)[1]]
    assert await in_order(three, "b") == expected
    found = await three.execute("SELECT event_ids FROM reflex.appended ORDER BY append_id")
    log = [event_id for row in await found.fetchall() for event_id in row[0]]
    assert [event_id for event_id in log if event_id in expected] == expected


async def test_appends_to_the_same_keys_in_different_order_do_not_deadlock(
    one: AsyncConnection[Any], two: AsyncConnection[Any], three: AsyncConnection[Any], looking: AsyncConnection[Any]
) -> None:
    """Both wait for the third, which holds the lane that sorts first.

    Fails without the ORDER BY of the upsert (with that of the ids): the second has `b` then while it waits for `a`.
    """
    await ordered_shop(three)
    await publish(three, "a", "b")
    async with three.transaction():
        await three.execute("SELECT FROM reflex.lane WHERE key = 'a' FOR UPDATE")
        first = asyncio.create_task(publish(one, "a", "b"))
        await waits_for_a_lock(looking, "one")
        second = asyncio.create_task(publish(two, "b", "a"))
        await waits_for_a_lock(looking, "two")
    await asyncio.gather(first, second)
    assert len(await in_order(three)) == len(await in_order(three, "b")) == 3


@pytest.mark.parametrize("settling_first", [True, False])
async def test_an_append_while_the_last_delivery_is_settled_does_not_get_stuck(
    one: AsyncConnection[Any], two: AsyncConnection[Any], three: AsyncConnection[Any], settling_first: bool
) -> None:
    """Fails if the settling removes a lane that it believes to be empty, or sets `pending` instead of adding to it."""
    registered = await ordered_shop(one)
    worker_id = await enlisted(one, registered)
    await publish(one, "a")
    (last,) = await claim_ordered(one, worker_id, registered)
    if settling_first:
        async with one.transaction():
            await settle(one, worker_id, settled(last))
            other = asyncio.create_task(publish(two, "a"))
            await waits_for_a_lock(three, "two")
        new = await other
    else:
        async with one.transaction():
            new = await publish(one, "a")
            other = asyncio.create_task(settle(two, worker_id, settled(last)))
            await waits_for_a_lock(three, "two")
        await other
    assert [lease.event_id for lease in await claim_ordered(one, worker_id, registered)] == new


async def test_a_claim_does_not_wait_for_an_append_unless_it_is_told_to(
    one: AsyncConnection[Any], two: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """Fails without SKIP LOCKED (the first claim waits), and without await_lane (the second does not)."""
    registered = await ordered_shop(one)
    worker_id = await enlisted(one, registered)
    ids = list(registered.trigger_ids.values())
    events = await publish(one, "a", "b")

    async def claim(**rest: Any) -> tuple[list[Claimed], Any]:
        return await claim_lanes(two, worker_id=worker_id, trigger_ids=ids, lanes=5, rows=10, **rest)

    async with one.transaction():
        events += await publish(one, "a")
        claimed, overdue = await claim()
        assert [lease.event_id for lease in claimed] == events[1:2]
        assert overdue == (ids[0], "a")
        again = asyncio.create_task(claim(overdue=overdue))
        await waits_for_a_lock(three, "two")
    claimed, overdue = await again
    assert [lease.event_id for lease in claimed] == [events[0], events[2]]
    assert overdue is None


async def test_a_claim_that_waits_for_a_lane_gives_up(one: AsyncConnection[Any], two: AsyncConnection[Any]) -> None:
    """Fails without the lock_timeout of await_lane: a frozen process would stop every worker."""
    registered = await ordered_shop(one)
    worker_id = await enlisted(one, registered)
    ids = list(registered.trigger_ids.values())
    await publish(one, "a", "b")
    async with one.transaction():
        await one.execute("SELECT FROM reflex.lane WHERE key = 'a' FOR UPDATE")
        async with asyncio.timeout(5):
            claimed, _ = await claim_lanes(
                two, worker_id=worker_id, trigger_ids=ids, lanes=5, rows=10, overdue=(ids[0], "a")
            )
        assert [lease.lane_key for lease in claimed] == ["b"]


async def test_a_lane_that_changed_after_the_snapshot_is_not_claimed_by_it(
    one: AsyncConnection[Any], two: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """Between the snapshot and the lock, another worker claims the first delivery and gives it back: a new row, which
    the snapshot does not see, before one that it sees.

    Fails if `seen` is taken from the locked rows themselves: the second delivery would be claimed first.
    """
    registered = await ordered_shop(one)
    slow, quick = await enlisted(one, registered), await enlisted(one, registered)
    events = await publish(one, "a", "a")
    # The claim looks whether its worker is alive after its snapshot was taken, and before it locks any lane.
    await one.execute("ALTER TABLE reflex.worker RENAME TO worker_rows")
    view = (
        "CREATE VIEW reflex.worker AS SELECT * FROM reflex.worker_rows "
        f"WHERE worker_id <> '{slow}' OR pg_advisory_xact_lock_shared(1) IS NOT NULL"
    )
    await one.execute(view.encode())
    async with three.transaction():
        await three.execute("SELECT pg_advisory_xact_lock(1)")
        late = asyncio.create_task(claim_ordered(two, slow, registered))
        await waits_for_a_lock(one, "two")
        (first,) = await claim_ordered(one, quick, registered, rows=1)
        assert first.event_id == events[0]
        await settle(one, quick, settled(first, Outcome.RELEASED))
    assert await late == []
    assert [lease.event_id for lease in await claim_ordered(one, quick, registered)] == events


async def test_workers_that_publish_into_each_others_lanes_do_not_deadlock(
    one: AsyncConnection[Any], two: AsyncConnection[Any], three: AsyncConnection[Any], looking: AsyncConnection[Any]
) -> None:
    """Each settles a delivery of one lane and publishes an event of the other's. Fails without lock_lanes."""
    registered = await ordered_shop(three)
    workers = [await enlisted(three, registered), await enlisted(three, registered)]
    await publish(three, "a", "b")
    leases = [(await claim_ordered(three, worker_id, registered, limit=1))[0] for worker_id in workers]
    assert [lease.lane_key for lease in leases] == ["a", "b"]

    def done(lease: Claimed, publishes: str) -> Settlement:
        return settled(lease, published=(new_event(key=publishes),))

    async with three.transaction():
        await three.execute("SELECT FROM reflex.lane WHERE key = 'a' FOR UPDATE")
        settling = [asyncio.create_task(settle(one, workers[0], done(leases[0], "b")))]
        await waits_for_a_lock(looking, "one")
        settling.append(asyncio.create_task(settle(two, workers[1], done(leases[1], "a"))))
        await waits_for_a_lock(looking, "two")
    await asyncio.gather(*settling)
    assert len(await in_order(three)) == len(await in_order(three, "b")) == 1


async def test_a_lane_that_its_frozen_worker_has_locked_stops_no_reaping(
    one: AsyncConnection[Any], two: AsyncConnection[Any]
) -> None:
    """Fails without SKIP LOCKED in reap_lanes: one frozen process would keep everyone's dead from being reaped."""
    registered: Registered = await ordered_shop(one)
    frozen = await enlisted(one, registered)
    await publish(one, "a", "b")
    a, b = await claim_ordered(one, frozen, registered)
    await one.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
    async with one.transaction():
        await settle(one, frozen, settled(a))
        async with asyncio.timeout(5):
            reaped = await reap(two, lease_timeout=timedelta(minutes=1))
        assert [each.delivery_id for each in reaped] == [b.delivery_id]
    assert await reap(two, lease_timeout=timedelta(minutes=1)) == []


async def test_a_lane_that_is_being_filled_is_not_swept(one: AsyncConnection[Any], two: AsyncConnection[Any]) -> None:
    """Fails without SKIP LOCKED, and if the sweep removes what it saw rather than what is there."""
    registered = await ordered_shop(one)
    worker_id = await enlisted(one, registered)
    await publish(one, "a")
    (last,) = await claim_ordered(one, worker_id, registered)
    await settle(one, worker_id, settled(last))
    async with one.transaction():
        new = await publish(one, "a")
        async with asyncio.timeout(5):
            assert await sweep_lanes(two) == 0
    assert [lease.event_id for lease in await claim_ordered(one, worker_id, registered)] == new


async def test_a_transaction_that_holds_lanes_may_not_stand_still(one: AsyncConnection[Any]) -> None:
    """Fails without the set_config of append_events and settle_lanes: a process that is frozen between two statements
    would stop every append to its lanes, and with them the gateways."""

    async def timeout() -> str:
        row = await (await one.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
        assert row
        return row[0]

    registered = await ordered_shop(one)
    worker_id = await enlisted(one, registered)
    before = await timeout()
    async with one.transaction():
        await publish(one, "a")
        assert await timeout() == "5s"
    assert await timeout() == before
    (lease,) = await claim_ordered(one, worker_id, registered)
    async with one.transaction():
        await settle(one, worker_id, settled(lease))
        assert await timeout() == "5s"
