"""Dead letters: listing, retrying and purging them, also when several people do it at once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.dead_letters import (
    DeadLetterFilter,
    execute,
    get_dead_letter,
    list_dead_letters,
    purge_dead_letter,
    purge_dead_letters,
    retry_dead_letter,
    retry_dead_letters,
)
from reflex.core.errors import NotFound
from reflex.core.ids import DeliveryId, new_id
from reflex.core.log import append
from reflex.core.pages import QueryRejected
from reflex.core.reads import get_event
from reflex.core.settlement import Outcome
from tests.queue_fixtures import claim, count, enlisted, new_event, publish, settled, shop


async def die(
    db: AsyncConnection[Any], registered: Any, error: str = "boom", reason: str = "failed"
) -> list[DeliveryId]:
    """Claim whatever is pending and let it die."""
    worker_id = await enlisted(db, registered)
    leases = await claim(db, worker_id, list(registered.trigger_ids.values()), limit=1000)
    settlements = [settled(lease, Outcome.DEAD, error=error, reason=reason) for lease in leases]
    await queue.exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    return [lease.delivery_id for lease in leases]


async def one_dead(db: AsyncConnection[Any]) -> DeliveryId:
    registered = await shop(db)
    await publish(db)
    (dead,) = await die(db, registered)
    return dead


async def notified(listener: AsyncConnection[Any]) -> bool:
    async for _ in listener.notifies(timeout=2, stop_after=1):
        return True
    return False


async def test_dead_letters_come_latest_first_and_a_cursor_continues_among_equals(db: AsyncConnection[Any]) -> None:
    """All of them died in one statement, so at one moment. Fails if the cursor holds died_at alone."""
    registered = await shop(db, {"pack": "order.created", "weigh": "order.created"})
    await publish(db, 5)
    dead = await die(db, registered)
    seen: list[str] = []
    cursor = None
    for _ in range(4):
        page = await list_dead_letters(db, cursor=cursor, limit=3)
        seen += [letter.id for letter in page.rows]
        cursor = page.next_cursor
    assert cursor is None
    assert sorted(seen) == sorted(str(delivery_id) for delivery_id in dead)
    assert len(set(seen)) == len(seen) == 10


async def test_the_latest_death_comes_first(db: AsyncConnection[Any]) -> None:
    """Fails if the order is that of the events."""
    registered = await shop(db)
    await publish(db, 2)
    older, newer = await die(db, registered)
    await db.execute(
        "UPDATE reflex.dead_letter SET died_at = died_at - interval '1 hour' WHERE event_id = %s", (newer.event_id,)
    )
    assert [letter.id for letter in (await list_dead_letters(db)).rows] == [str(older), str(newer)]


async def test_each_filter_narrows(db: AsyncConnection[Any]) -> None:
    """Fails with any one condition of list_dead_letters.sql or find_dead_letters.sql removed."""
    pack = await shop(db)
    weigh = await shop(db, {"weigh": "order.paid"}, app="warehouse")
    await append(db, [new_event(key="A1"), new_event("order.paid", key="A2")])
    (packed,) = await die(db, pack, reason="rejected")
    (weighed,) = await die(db, weigh, reason="failed")
    now = datetime.now(UTC)
    await db.execute(
        "UPDATE reflex.dead_letter SET died_at = %s WHERE event_id = %s", (now - timedelta(hours=2), packed.event_id)
    )
    hour_ago = now - timedelta(hours=1)
    for which in (
        DeadLetterFilter(trigger="pack"),
        DeadLetterFilter(app="shop"),
        DeadLetterFilter(type="order.created"),
        DeadLetterFilter(reason="rejected"),
        DeadLetterFilter(key="A1"),
        DeadLetterFilter(until=hour_ago),
    ):
        assert [letter.id for letter in (await list_dead_letters(db, which)).rows] == [str(packed)]
        async with db.transaction(force_rollback=True):
            assert await retry_dead_letters(db, which) == 1
            assert [letter.id for letter in (await list_dead_letters(db)).rows] == [str(weighed)]
    assert [letter.id for letter in (await list_dead_letters(db, DeadLetterFilter(since=hour_ago))).rows] == [
        str(weighed)
    ]
    assert len((await list_dead_letters(db, DeadLetterFilter(type="order.*"))).rows) == 2
    async with db.transaction(force_rollback=True):
        assert await purge_dead_letters(db, DeadLetterFilter(since=hour_ago)) == 1
    assert await retry_dead_letters(db, DeadLetterFilter(type="order.*", key="A3")) == 0


async def test_a_dead_letter_shows_its_event_its_whole_error_and_every_run(db: AsyncConnection[Any]) -> None:
    """Fails if the error is cut as it is in lists, or if the runs of other deliveries of the event come along."""
    registered = await shop(db, {"pack": "order.created", "weigh": "order.created"})
    await append(db, [new_event(payload='{"order_id": "A1"}', key="A1")])
    worker_id = await enlisted(db, registered)
    pack = registered.trigger_ids["pack"]
    (lease,) = await claim(db, worker_id, [pack])
    first = settled(lease, Outcome.RETRY, error="once", retry_in=timedelta(0))
    await queue.exchange(db, worker_id=worker_id, settlements=[first], trigger_ids=[], limit=0)
    await queue.promote_scheduled(db)
    dead = await die(db, registered, error="x" * 5000)
    shown = await get_dead_letter(db, next(delivery_id for delivery_id in dead if delivery_id.trigger_id == pack))
    assert (shown.trigger, shown.app, shown.attempt, shown.reason) == ("pack", "shop", 2, "failed")
    assert (shown.event.type, shown.event.key, shown.payload.value) == ("order.created", "A1", {"order_id": "A1"})
    assert [(run.attempt, run.outcome) for run in shown.runs] == [(1, "retry"), (2, "dead")]
    assert len(shown.error or "") == 5000
    assert {len(letter.error or "") for letter in (await list_dead_letters(db)).rows} == {2000}


async def test_a_retry_gives_a_new_set_of_attempts_keeps_the_runs_and_wakes_a_worker(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Fails if `attempt` is carried over, if lease_epoch starts again (runs collide), or without the NOTIFY."""
    dead = await one_dead(db)
    await other.execute("LISTEN reflex")
    await retry_dead_letter(db, dead)
    assert await notified(other)
    (delivery,) = (await get_event(db, dead.event_id)).deliveries
    assert (delivery.state, delivery.attempt, len(delivery.runs)) == ("pending", 0, 1)
    worker_id = await enlisted(db, await shop(db))
    (lease,) = await claim(db, worker_id, [dead.trigger_id])
    assert (lease.attempt, lease.lease_epoch) == (1, 2)
    await queue.exchange(db, worker_id=worker_id, settlements=[settled(lease)], trigger_ids=[], limit=0)
    (delivery,) = (await get_event(db, dead.event_id)).deliveries
    assert delivery.state == "succeeded"
    assert [(run.lease_epoch, run.attempt, run.outcome) for run in delivery.runs] == [
        (1, 1, "dead"),
        (2, 1, "succeeded"),
    ]


@pytest.mark.parametrize("rival", [retry_dead_letter, purge_dead_letter], ids=["retry", "purge"])
async def test_of_two_who_want_the_same_letter_one_waits_and_finds_it_gone(
    db: AsyncConnection[Any], other: AsyncConnection[Any], rival: Any
) -> None:
    """Both transactions are open at once. Fails if the delivery is inserted from a read that took no lock."""
    dead = await one_dead(db)
    async with db.transaction():
        await retry_dead_letter(db, dead)
        second = asyncio.create_task(rival(other, dead))
        await lock_wait(db)
        assert not second.done()
    with pytest.raises(NotFound, match="retried or purged meanwhile"):
        await second
    (delivery,) = (await get_event(db, dead.event_id)).deliveries
    assert delivery.state == "pending"
    assert await count(db, "dead_letter") == 0


async def test_the_second_gets_the_letter_if_the_first_takes_it_back(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Fails with SKIP LOCKED: the second would be told that there is no such letter."""
    dead = await one_dead(db)
    async with db.transaction(force_rollback=True):
        await retry_dead_letter(db, dead)
        second = asyncio.create_task(retry_dead_letter(other, dead))
        await lock_wait(db)
    await second
    assert await count(db, "delivery") == 1


async def lock_wait(db: AsyncConnection[Any]) -> None:
    """Until somebody waits for a lock."""
    async with asyncio.timeout(10):
        while True:
            cursor = await db.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            row = await cursor.fetchone()
            if row and row[0]:
                return
            await asyncio.sleep(0.01)


async def test_a_purged_letter_leaves_its_delivery_cancelled(db: AsyncConnection[Any]) -> None:
    """Fails without the run that a purge writes: the delivery would still look dead, and be nowhere."""
    dead = await one_dead(db)
    await purge_dead_letter(db, dead)
    (delivery,) = (await get_event(db, dead.event_id)).deliveries
    assert delivery.state == "cancelled"
    last = delivery.runs[-1]
    assert (last.outcome, last.lease_epoch, last.worker_id) == ("cancelled", 2, None)
    assert last.error == "purged by a person; it was a dead letter (failed)"
    assert (await list_dead_letters(db)).rows == []


@pytest.mark.parametrize("change", [retry_dead_letters, purge_dead_letters])
async def test_without_a_filter_all_has_to_be_said(db: AsyncConnection[Any], change: Any) -> None:
    """Fails without the check: a forgotten filter would touch everything."""
    await one_dead(db)
    with pytest.raises(QueryRejected) as refused:
        await change(db, DeadLetterFilter())
    assert refused.value.field == "all"
    assert await count(db, "dead_letter") == 1
    assert await change(db, DeadLetterFilter(), all=True) == 1
    assert await count(db, "dead_letter") == 0


async def test_many_are_retried_in_portions_up_to_the_limit(db: AsyncConnection[Any]) -> None:
    """More than one portion. Fails if the loop ends after the first, or forgets the limit."""
    await shop(db)
    await db.execute(
        "WITH e AS (INSERT INTO reflex.event (event_id, type, source, time, payload) "
        "SELECT gen_random_uuid(), 'order.created', 's', now(), '{}' FROM generate_series(1, 1203) RETURNING event_id) "
        "INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason) "
        "SELECT trigger_id, event_id, 3, 3, 'failed' FROM reflex.trigger, e"
    )
    assert await retry_dead_letters(db, DeadLetterFilter(trigger="pack"), limit=501) == 501
    assert await retry_dead_letters(db, DeadLetterFilter(trigger="pack")) == 702
    assert (await count(db, "delivery"), await count(db, "dead_letter")) == (1203, 0)


async def test_letters_that_die_again_meanwhile_are_not_retried_for_ever(db: AsyncConnection[Any]) -> None:
    """A trigger in the database plays a worker that fails at once. Never ends without the bound on died_at."""
    await one_dead(db)
    await db.execute(
        """
        CREATE FUNCTION die_at_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason, died_at)
            VALUES (NEW.trigger_id, gen_random_uuid(), 1, 1, 'failed', clock_timestamp());
            INSERT INTO reflex.event (event_id, type, source, time, payload)
            SELECT event_id, 'order.created', 's', now(), '{}' FROM reflex.dead_letter
            ON CONFLICT DO NOTHING;
            RETURN NEW;
        END $$
        """
    )
    await db.execute("CREATE TRIGGER again AFTER INSERT ON reflex.delivery FOR EACH ROW EXECUTE FUNCTION die_at_once()")
    async with asyncio.timeout(20):
        assert await retry_dead_letters(db, DeadLetterFilter(trigger="pack"), limit=50) == 1
    assert await count(db, "dead_letter") == 1


@pytest.mark.parametrize("change", ["retry_dead_letters", "purge_dead_letters"])
async def test_letters_are_locked_in_the_order_of_their_keys(
    db: AsyncConnection[Any], other: AsyncConnection[Any], change: Any
) -> None:
    """So two who take the same letters wait for each other instead of deadlocking. Fails without ORDER BY: asked for
    them the other way round, a change that waits for the first letter would hold the second one already."""
    registered = await shop(db)
    await publish(db, 2)
    low, high = await die(db, registered)
    lock = "SELECT FROM reflex.dead_letter WHERE event_id = %s FOR UPDATE NOWAIT"
    async with db.transaction():
        await db.execute(lock, (low.event_id,))
        both = asyncio.create_task(execute(other, change, [high, low]))
        await lock_wait(db)
        await db.execute(lock, (high.event_id,))
    assert await both == 2


async def test_two_who_take_everything_at_once_share_the_work(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """More than a portion each. Every letter is retried or purged, and none twice."""
    await shop(db, {"pack": "order.created", "weigh": "order.created"})
    await publish(db, 700)
    await db.execute(
        "WITH gone AS (DELETE FROM reflex.delivery RETURNING *) "
        "INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason) "
        "SELECT trigger_id, event_id, 3, 3, 'failed' FROM gone ORDER BY random()"
    )
    which = DeadLetterFilter(app="shop")
    done = await asyncio.gather(retry_dead_letters(db, which), purge_dead_letters(other, which))
    assert sum(done) == 1400
    assert await count(db, "delivery") + await count(db, "run") == 1400


async def test_what_is_no_dead_letter_is_not_found(db: AsyncConnection[Any]) -> None:
    registered = await shop(db)
    (pending,) = await publish(db)
    alive = DeliveryId(registered.trigger_ids["pack"], pending)
    for delivery_id in (alive, DeliveryId(999, new_id())):
        for call in (get_dead_letter, retry_dead_letter, purge_dead_letter):
            with pytest.raises(NotFound):
                await call(db, delivery_id)
    assert await count(db, "delivery") == 1


@pytest.mark.parametrize("cursor", ["x", "A" * 22, "_" * 38, "____________________________________8A"])
async def test_a_cursor_of_something_else_is_refused(db: AsyncConnection[Any], cursor: str) -> None:
    """Fails if a cursor of the events is taken, or one whose moment no calendar has."""
    with pytest.raises(QueryRejected) as refused:
        await list_dead_letters(db, cursor=cursor)
    assert refused.value.field == "cursor"
