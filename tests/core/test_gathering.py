"""Gathering where deliveries are settled: what is in which batch, whatever happens at the same time."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.batches import Gathering, take_batch
from reflex.core.cancelling import cancel_delivery
from reflex.core.gathering import Nearby, crossed, spans
from reflex.core.ids import DeliveryId, new_id
from reflex.core.log import append
from reflex.core.log_reading import log_bounds
from reflex.core.passing import sweep_gathered
from reflex.core.queue import exchange, promote_scheduled
from reflex.core.reaping import reap
from reflex.core.replaying import Replay, find_trigger, replay_span
from reflex.core.retention import Pruning
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.waiting import end_waits
from tests.core.log_fixtures import place_all
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, new_event, publish, settled, shop

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
OF_THREE = Gathering("s", 3, max_interval=HOUR)
IN_A_MINUTE = Gathering("s", 3, within=MINUTE)


def gathering(lease: Claimed, terms: Gathering = OF_THREE) -> Settlement:
    return settled(lease, Outcome.SKIPPED, gathers=terms)


async def settle(conn: AsyncConnection[Any], worker_id: UUID, settlements: list[Settlement]) -> frozenset[Any]:
    done = await exchange(conn, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    return done.stale


async def claimed(db: AsyncConnection[Any], number: int) -> tuple[UUID, int, list[Claimed]]:
    """So many new events of a shop, claimed by a worker: its id, the trigger's, the leases."""
    registered = await shop(db)
    (trigger_id,) = registered.trigger_ids.values()
    worker_id = await enlisted(db, registered)
    await publish(db, number)
    return worker_id, trigger_id, await claim(db, worker_id, [trigger_id], number)


async def test_the_first_waits_the_rest_is_skipped_and_the_last_makes_it_due(db: AsyncConnection[Any]) -> None:
    """Fails if the delivery that hands over is not due at once, and if what comes next joins a full batch."""
    worker_id, trigger_id, leases = await claimed(db, 4)
    await settle(db, worker_id, [gathering(lease) for lease in leases[:2]])
    assert (await count(db, "scheduled"), await count(db, "waiting"), await count(db, "delivery")) == (1, 1, 0)
    await settle(db, worker_id, [gathering(lease) for lease in leases[2:]])
    assert (await count(db, "scheduled"), await count(db, "waiting"), await count(db, "delivery")) == (1, 1, 1)
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert (holder.event_id, holder.attempt, holder.lease_epoch) == (leases[0].event_id, 1, 2)
    batch = await take_batch(db, holder.delivery_id)
    assert [event.event_id for event in batch or ()] == [lease.event_id for lease in leases[:3]]
    assert await take_batch(db, DeliveryId(trigger_id, leases[1].event_id)) is None
    await settle(db, worker_id, [settled(holder, hands_over=True)])
    assert (await count(db, "batch"), await count(db, "gathered")) == (1, 1)
    assert await count(db, "run WHERE outcome = 'skipped' AND output ? 'gathered_by' AND error LIKE 'gathered%'") == 2


async def test_a_settlement_that_comes_too_late_gathers_nothing(db: AsyncConnection[Any]) -> None:
    """Its event is another worker's by now, which gathers it. Fails if leases are not looked at, or whoever's."""
    worker_id, trigger_id, (lease,) = await claimed(db, 1)
    later = datetime.now(UTC) + HOUR
    assert len(await reap(db, lease_timeout=MINUTE, now=later)) == 1
    assert await settle(db, worker_id, [gathering(lease)]) == {(trigger_id, lease.event_id)}
    successor = await enlisted(db, await shop(db))
    (again,) = await claim(db, successor, [trigger_id])
    assert await settle(db, worker_id, [gathering(lease)]) == {(trigger_id, lease.event_id)}
    assert (await count(db, "gathered"), await count(db, "batch")) == (0, 0)
    assert await settle(db, successor, [gathering(again)]) == frozenset()
    assert (await count(db, "gathered"), await count(db, "batch")) == (1, 1)


async def test_an_answer_that_was_lost_gathers_once(db: AsyncConnection[Any]) -> None:
    worker_id, _, leases = await claimed(db, 2)
    settlements = [gathering(lease) for lease in leases]
    await settle(db, worker_id, settlements)
    assert len(await settle(db, worker_id, settlements)) == 2
    assert await count(db, "batch WHERE events = 2") == await count(db, "batch") == 1
    assert await count(db, "gathered") == 2


async def test_two_that_gather_at_once_fill_one_batch(
    db: AsyncConnection[Any], other: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """Two open transactions; fails without lock_subjects: each begins a batch, and one of them fails."""
    worker_id, _, leases = await claimed(db, 4)
    async with db.transaction():
        await settle(db, worker_id, [gathering(lease) for lease in leases[:2]])
        beside = asyncio.create_task(settle(other, worker_id, [gathering(lease) for lease in leases[2:]]))
        await waits_for_lock(three)
    await beside
    assert await count(db, "batch WHERE sealed AND events = 3") == 1
    assert await count(db, "batch WHERE NOT sealed AND events = 1") == 1
    assert await count(db, "gathered") == 4


async def test_who_hands_over_sees_what_is_added_at_that_moment(
    db: AsyncConnection[Any], other: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """Two open transactions; fails without FOR UPDATE of the open batches: the event would be in a batch that was
    handed over without it."""
    worker_id, trigger_id, leases = await claimed(db, 3)
    await settle(db, worker_id, [gathering(leases[0])])
    holder = DeliveryId(trigger_id, leases[0].event_id)
    async with db.transaction():
        await settle(db, worker_id, [gathering(leases[1])])
        taking = asyncio.create_task(take_batch(other, holder))
        await waits_for_lock(three)
    assert [event.event_id for event in await taking or ()] == [lease.event_id for lease in leases[:2]]


async def test_what_comes_while_a_batch_is_taken_begins_another(
    db: AsyncConnection[Any], other: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """The other way round: who adds waits, and then does not."""
    worker_id, trigger_id, leases = await claimed(db, 2)
    await settle(db, worker_id, [gathering(leases[0])])
    holder = DeliveryId(trigger_id, leases[0].event_id)
    async with other.transaction():
        assert len(await take_batch(other, holder) or ()) == 1
        adding = asyncio.create_task(settle(db, worker_id, [gathering(leases[1])]))
        await waits_for_lock(three)
    await adding
    assert len(await take_batch(other, holder) or ()) == 1
    assert await count(db, f"batch WHERE NOT sealed AND event_id = '{leases[1].event_id}'") == 1


async def waits_for_lock(conn: AsyncConnection[Any]) -> None:
    async def somebody() -> bool:
        return await (await conn.execute("SELECT FROM pg_locks WHERE NOT granted LIMIT 1")).fetchone() is not None

    await eventually(somebody, what="a lock that is waited for")


async def test_a_batch_is_due_when_its_time_is_over(db: AsyncConnection[Any]) -> None:
    worker_id, trigger_id, leases = await claimed(db, 2)
    await settle(db, worker_id, [gathering(lease) for lease in leases])
    assert (await promote_scheduled(db))[0] == 0
    assert (await promote_scheduled(db, now=datetime.now(UTC) + HOUR))[0] == 1
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert len(await take_batch(db, holder.delivery_id) or ()) == 2


async def test_after_another_n_the_next_event_fills_the_batch(db: AsyncConnection[Any]) -> None:
    """A deployment between two events. Fails if a batch is full only when it has exactly n."""
    worker_id, trigger_id, leases = await claimed(db, 6)
    many = Gathering("s", 100, max_interval=HOUR)
    await settle(db, worker_id, [gathering(lease, many) for lease in leases[:4]])
    await settle(db, worker_id, [gathering(leases[4])])
    assert await count(db, "batch WHERE sealed AND events = 5") == 1
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert len(await take_batch(db, holder.delivery_id) or ()) == 5


async def test_what_comes_after_a_batch_was_cancelled_begins_another(db: AsyncConnection[Any]) -> None:
    """Fails if a batch is asked for without its delivery: the third event would never be handed over. The sweep drops
    what was cancelled, and nothing else."""
    worker_id, trigger_id, leases = await claimed(db, 3)
    await settle(db, worker_id, [gathering(lease) for lease in leases[:2]])
    await cancel_delivery(db, DeliveryId(trigger_id, leases[0].event_id))
    await settle(db, worker_id, [gathering(leases[2])])
    assert await count(db, f"batch WHERE NOT sealed AND event_id = '{leases[2].event_id}'") == 1
    await db.execute("UPDATE reflex.batch SET due_at = due_at - interval '2 hours'")
    assert await sweep_gathered(db) == (1, 0)
    assert (await count(db, "batch"), await count(db, "gathered"), await count(db, "delivery")) == (1, 1, 0)


async def test_a_batch_that_code_has_run_that_gathers_nothing_is_delivered_again(db: AsyncConnection[Any]) -> None:
    """As a worker of the version before does, or one after `when` was taken away. Fails if what was gathered is
    forgotten with a delivery that did not hand it over, or if the sweep does not look at what is open."""
    worker_id, trigger_id, leases = await claimed(db, 3)
    await settle(db, worker_id, [gathering(lease) for lease in leases])
    await db.execute("UPDATE reflex.batch SET due_at = due_at - interval '2 hours'")
    assert await sweep_gathered(db) == (0, 0)
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert await sweep_gathered(db) == (0, 0)
    await settle(db, worker_id, [settled(holder)])
    assert await sweep_gathered(db) == (1, 2)
    again = await claim(db, worker_id, [trigger_id])
    assert [(lease.event_id, lease.lease_epoch) for lease in again] == [(lease.event_id, 2) for lease in leases[1:]]
    assert (await count(db, "batch"), await count(db, "gathered")) == (0, 0)


async def test_what_is_gathered_is_not_pruned_before_it_was_handed_over(db: AsyncConnection[Any]) -> None:
    """Fails without the look at `gathered` in prune_events."""
    worker_id, trigger_id, leases = await claimed(db, 3)
    await settle(db, worker_id, [gathering(lease) for lease in leases])
    await place_all(db)
    assert await pruned(db) == (0, 3)
    (holder,) = await claim(db, worker_id, [trigger_id])
    await settle(db, worker_id, [settled(holder, hands_over=True)])
    assert await pruned(db) == (3, 0)


async def pruned(db: AsyncConnection[Any]) -> tuple[int, int]:
    pruning = Pruning((await log_bounds(db)).end)
    while await pruning.portion(db):
        pass
    return pruning.done.events, pruning.done.needed


async def test_an_event_that_is_replayed_while_it_is_gathered_is_in_one_batch(db: AsyncConnection[Any]) -> None:
    """Fails if `gathered` is not asked: the second delivery would count it once more."""
    worker_id, trigger_id, leases = await claimed(db, 2)
    await settle(db, worker_id, [gathering(lease) for lease in leases])
    await place_all(db)
    span = await replay_span(db, after=(await log_bounds(db)).start)
    async for done in Replay(db, await find_trigger(db, "pack"), span):
        assert (done.replayed, done.left_alone) == (1, 1)
    (again,) = await claim(db, worker_id, [trigger_id])
    await settle(db, worker_id, [gathering(again)])
    assert await count(db, "batch WHERE events = 2 AND NOT sealed") == 1
    assert await count(db, "run WHERE error LIKE 'gathered before: handed over by delivery%'") == 1


async def test_a_threshold_is_crossed_by_who_settles_last(db: AsyncConnection[Any]) -> None:
    """Not by the last event: workers settle in any order. Fails if only what was accepted before counts."""
    worker_id, trigger_id, leases = await claimed(db, 4)
    for lease in (leases[2], leases[0]):
        await settle(db, worker_id, [gathering(lease, IN_A_MINUTE)])
    assert await count(db, "delivery") == await count(db, "scheduled") == 0
    await settle(db, worker_id, [gathering(leases[1], IN_A_MINUTE)])
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert holder.event_id == leases[1].event_id
    batch = await take_batch(db, holder.delivery_id)
    assert [event.event_id for event in batch or ()] == [lease.event_id for lease in leases[:3]]
    await settle(db, worker_id, [settled(holder, hands_over=True), gathering(leases[3], IN_A_MINUTE)])
    assert await count(db, "delivery") == await count(db, "batch") == 0
    assert await count(db, "gathered WHERE fired AND batch_id IS NULL") == 4


async def test_late_events_and_new_ones_are_settled_together(db: AsyncConnection[Any]) -> None:
    """Of two windows one is crossed by a late event. Fails if only what is about the first, or the last, of an exchange
    is looked at, and if what is found twice counts twice."""
    worker_id, trigger_id, leases = await claimed(db, 6)
    ago = "UPDATE reflex.event SET created_at = now() - interval '2 h' WHERE event_id = ANY(%s)"
    await db.execute(ago, [[lease.event_id for lease in leases[:3]]])
    await settle(db, worker_id, [gathering(lease, IN_A_MINUTE) for lease in (*leases[:2], leases[3])])
    await settle(db, worker_id, [gathering(lease, IN_A_MINUTE) for lease in (leases[4], leases[2])])
    (holder,) = await claim(db, worker_id, [trigger_id])
    batch = await take_batch(db, holder.delivery_id)
    assert [event.event_id for event in batch or ()] == [lease.event_id for lease in leases[:3]]
    await settle(db, worker_id, [gathering(leases[5], IN_A_MINUTE)])
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert holder.event_id == leases[5].event_id


async def test_one_exchange_crosses_once(db: AsyncConnection[Any]) -> None:
    """Fails if what the fourth event says of the third replaces that the third is handed over."""
    worker_id, trigger_id, leases = await claimed(db, 5)
    await settle(db, worker_id, [gathering(lease, IN_A_MINUTE) for lease in leases])
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert len(await take_batch(db, holder.delivery_id) or ()) == 3
    assert await count(db, "gathered WHERE fired") == 5


async def test_two_that_cross_at_once_fire_once(
    db: AsyncConnection[Any], other: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """Two open transactions. Fails without lock_subjects: neither sees the other's event, and nothing fires."""
    worker_id, _, leases = await claimed(db, 4)
    await settle(db, worker_id, [gathering(leases[0], IN_A_MINUTE)])
    async with db.transaction():
        await settle(db, worker_id, [gathering(leases[1], IN_A_MINUTE)])
        beside = asyncio.create_task(
            settle(other, worker_id, [gathering(lease, IN_A_MINUTE) for lease in leases[2:]])
        )  # fmt: skip
        await waits_for_lock(three)
    await beside
    assert await count(db, "batch") == await count(db, "delivery") == 1


async def test_windows_end_and_what_they_need_no_more_is_swept(db: AsyncConnection[Any]) -> None:
    worker_id, _, leases = await claimed(db, 2)
    await settle(db, worker_id, [gathering(lease, IN_A_MINUTE) for lease in leases])
    assert await sweep_gathered(db) == (0, 0)
    await db.execute("UPDATE reflex.gathered SET expires_at = now() - interval '1 second'")
    assert await sweep_gathered(db) == (2, 0)
    assert await count(db, "gathered") == 0


def test_windows_that_hold_enough_are_found_on_both_sides() -> None:
    """Fails with a window that ends at the event, or one that begins there."""

    def at(second: int) -> Nearby:
        return Nearby(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second), new_id())

    nearby = [at(0), at(50), at(100), at(110), at(300)]
    terms: Any = {"count": 3, "within": MINUTE}
    assert crossed(nearby, nearby[1], **terms) == nearby[1:4]
    assert crossed(nearby, nearby[2], **terms) == nearby[1:4]
    assert crossed(nearby, nearby[3], **terms) == nearby[1:4]
    assert crossed(nearby, nearby[0], **terms) == crossed(nearby, nearby[4], **terms) == ()


def test_what_is_between_a_late_event_and_new_ones_is_not_read() -> None:
    """Fails if an exchange is one span: between an event of an hour ago and one of now there may be a million."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    late, new, newer = noon - HOUR, noon, noon + timedelta(seconds=1)
    assert spans([late, new, newer]) == [(late, late), (new, newer)]


async def test_a_wait_that_was_ended_by_hand_hands_over_what_there_is(db: AsyncConnection[Any]) -> None:
    worker_id, trigger_id, leases = await claimed(db, 2)
    await settle(db, worker_id, [gathering(lease) for lease in leases])
    await end_waits(db, [(trigger_id, leases[0].event_id)])
    (holder,) = await claim(db, worker_id, [trigger_id])
    assert len(await take_batch(db, holder.delivery_id) or ()) == 2
    await append(db, [new_event()])
    (next_one,) = await claim(db, worker_id, [trigger_id])
    await settle(db, worker_id, [gathering(next_one)])
    assert await count(db, "batch WHERE NOT sealed AND events = 1") == 1
