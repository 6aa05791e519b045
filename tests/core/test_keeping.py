"""A pass of the fleet over what is old: whole partitions go, what is needed stays, and nobody is left out silently.

The tests stand in the present and look from the future: an event of now is old by then.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

import reflex.core.partition_dropping as dropping_module
from reflex.core import queue
from reflex.core.batches import Gathering
from reflex.core.cursors import CursorExpired
from reflex.core.database import connect
from reflex.core.dead_letters import DeadLetterFilter, retry_dead_letters
from reflex.core.keeping import Keeping, Kept, end_of_drops
from reflex.core.log import append
from reflex.core.log_reading import log_bounds
from reflex.core.partitions import Partition, list_partitions
from reflex.core.periods import DAY, Periods
from reflex.core.registration import Registered
from reflex.core.retention import take_turn
from reflex.core.settlement import Claimed, Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.core.log_fixtures import BEGINNING, place_all, read_all
from tests.core.test_partitions import id_at
from tests.processes import eventually
from tests.queue_fixtures import claim_ordered, count, enlisted, new_event, ordered_shop, publish, settled, shop

NOW = datetime.now(UTC)
LATER = NOW + 60 * DAY
MONTH = Periods(events=30 * DAY)


async def keep(db: AsyncConnection[Any], periods: Periods = MONTH, *, now: datetime = LATER, wait: bool = True) -> Kept:
    """A whole pass."""
    keeping = Keeping(periods, now=now)
    while await keeping.portion(db, wait=wait):
        pass
    return keeping.done


async def names(db: AsyncConnection[Any], table: str = "event") -> list[str]:
    return [part.name for part in await list_partitions(db, table)]


async def claim(db: AsyncConnection[Any], registered: Registered, worker_id: UUID) -> list[Claimed]:
    return await claim_ordered(db, worker_id, registered)


async def settle(
    db: AsyncConnection[Any], worker_id: UUID, leases: list[Claimed], outcome: Outcome = Outcome.SUCCEEDED, **rest: Any
) -> None:
    settlements = [settled(lease, outcome, **rest) for lease in leases]
    await queue.exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)


async def run_all(db: AsyncConnection[Any], registered: Registered, outcome: Outcome = Outcome.SUCCEEDED) -> UUID:
    worker_id = await enlisted(db, registered)
    await settle(db, worker_id, await claim(db, registered, worker_id), outcome)
    return worker_id


def event_of(moment: datetime, **fields: Any) -> Any:
    return new_event(**fields)._replace(event_id=id_at(moment))


async def test_a_month_goes_by_dropping_a_table_with_all_that_belonged_to_its_events(db: AsyncConnection[Any]) -> None:
    """Fails if the partition stays, if anything of its events does, or if something of a younger event goes."""
    registered = await shop(db)
    await append(db, [new_event(idempotency_key="A1"), new_event("weather.changed")])
    await place_all(db)
    _, cursor = await read_all(db)
    await run_all(db, registered)
    await keep(db, now=NOW + 28 * DAY)
    assert await count(db, "event") == 2
    young = event_of(NOW + 28 * DAY, idempotency_key="A2")
    await append(db, [young])
    await db.execute("UPDATE reflex.event SET created_at = %s WHERE event_id = %s", [NOW + 28 * DAY, young.event_id])
    await run_all(db, registered)
    await db.execute("UPDATE reflex.run SET finished_at = %s WHERE event_id = %s", [NOW + 28 * DAY, young.event_id])
    await place_all(db)
    await db.execute("UPDATE reflex.log SET placed_at = %s WHERE position > %s", [NOW + 28 * DAY, cursor.position])
    done = await keep(db, now=NOW + 40 * DAY)
    assert [dropped.partition.name for dropped in done.dropped] == ["event_first", "run_first"]
    assert [dropped.moved for dropped in done.dropped] == [0, 0]
    assert done.pruned.events == 0  # none was left to be deleted
    left = {table: await count(db, table) for table in ("event", "run", "idempotency", "unrouted", "log")}
    assert left == {"event": 1, "run": 1, "idempotency": 1, "unrouted": 0, "log": 1}
    assert (await read_all(db, (await log_bounds(db)).start))[0] == [young.event_id]
    with pytest.raises(CursorExpired):
        (await log_bounds(db)).check(BEGINNING)
    assert (await log_bounds(db)).check(cursor)  # whoever had read all of it goes on
    again = new_event(idempotency_key="A1")
    assert await append(db, [again]) == {again.event_id: again.event_id}


async def test_a_partition_stays_until_its_last_event_is_as_old_as_is_kept(db: AsyncConnection[Any]) -> None:
    """Fails if it goes when its first one is, or if its events are deleted one by one before."""
    second = (await keep(db, now=NOW)).made[0]
    assert second.since is not None
    assert second.until is not None
    await append(db, [event_of(second.since, type="weather.changed")])
    await place_all(db)
    await db.execute("UPDATE reflex.log SET placed_at = %s", [second.since])
    await db.execute("UPDATE reflex.event SET created_at = %s", [second.since])
    await keep(db, now=second.until + 30 * DAY - timedelta(seconds=1))
    assert await count(db, "event") == 1
    await keep(db, now=second.until + 30 * DAY)
    assert await count(db, "event") == 0
    assert second.name not in await names(db)


@pytest.mark.parametrize(
    "where", ["delivery", "scheduled", "waiting", "lease", "ordered", "dead_letter", "gathered", "appended"]
)
async def test_what_is_needed_outlives_its_partition_runs_and_goes_with_a_later_pass(
    db: AsyncConnection[Any], where: str
) -> None:
    """Fails if the table is not asked before the drop: the delivery is there, and its event is not; or if the event
    stays for ever."""
    registered = await (ordered_shop(db) if where == "ordered" else shop(db))
    worker_id = await enlisted(db, registered)
    kept = new_event("weather.changed" if where == "appended" else "order.created", key="k",
                     delay=DAY if where == "scheduled" else None)  # fmt: skip
    gone = new_event("weather.changed")
    leases: list[Claimed] = []
    if where == "appended":
        await append(db, [gone])
        await place_all(db)
        await append(db, [kept])
    else:
        await append(db, [kept, gone])
        await place_all(db)
    if where in ("lease", "dead_letter", "gathered", "waiting"):
        leases = await claim(db, registered, worker_id)
    if where == "dead_letter":
        await settle(db, worker_id, leases, Outcome.DEAD)
    if where == "waiting":  # for a person
        wait = Wait(WaitKind.APPROVAL, "a refund", DAY)
        await settle(db, worker_id, leases, Outcome.WAITING, retry_in=wait.at_most, wait=wait)
    if where == "gathered":
        terms = Gathering("s", 2, max_interval=timedelta(hours=1))
        await settle(db, worker_id, leases, Outcome.SKIPPED, gathers=terms)
    assert await count(db, where) == 1
    done = await keep(db)
    assert (done.dropped[0].partition.name, done.dropped[0].moved) == ("event_first", 1)
    cursor = await db.execute("SELECT event_id FROM reflex.event_rest")
    assert await cursor.fetchall() == [(kept.event_id,)]
    assert await count(db, "event") == 1
    await db.execute("UPDATE reflex.scheduled SET available_at = now()")
    await queue.promote_scheduled(db)
    if where == "dead_letter":
        await retry_dead_letters(db, DeadLetterFilter(), all=True)
    await place_all(db)
    if where == "gathered":  # its batch has ended
        await db.execute("TRUNCATE reflex.gathered, reflex.batch, reflex.delivery, reflex.scheduled")
    if where != "lease":
        leases = await claim(db, registered, worker_id)
    assert [lease.event_id for lease in leases] == ([kept.event_id] if where not in ("appended", "gathered") else [])
    await settle(db, worker_id, leases)
    await keep(db)
    assert (await count(db, "event"), await count(db, "log"), await count(db, "run")) == (0, 0, 0)


async def test_the_attempts_of_a_dead_letter_stay_as_long_as_it(db: AsyncConnection[Any]) -> None:
    """Fails if the partition of runs goes with all that a person will want to know."""
    registered = await shop(db)
    await publish(db, 3)
    await place_all(db)
    worker_id = await enlisted(db, registered)
    one, *others = await claim(db, registered, worker_id)
    await settle(db, worker_id, [one], Outcome.DEAD, error="no such address")
    await settle(db, worker_id, others)
    done = await keep(db)
    assert [dropped.moved for dropped in done.dropped] == [1, 1]
    cursor = await db.execute("SELECT event_id, error FROM reflex.run")
    assert await cursor.fetchall() == [(one.event_id, "no such address")]


async def test_what_came_late_is_young_whatever_its_id_says(db: AsyncConnection[Any]) -> None:
    """Fails if an event goes because the clock of a gateway was wrong."""
    for _ in range(2):
        await append(db, [event_of(NOW - 300 * DAY, type="weather.changed")])
        await place_all(db)
    ids, _ = await read_all(db)
    await db.execute("UPDATE reflex.event SET created_at = %s WHERE event_id = %s", [LATER - DAY, ids[1]])
    await db.execute("UPDATE reflex.log SET placed_at = %s WHERE position = 2", [LATER - DAY])
    done = await keep(db)
    assert done.dropped[0].moved == 1
    assert (await read_all(db, (await log_bounds(db)).start))[0] == [ids[1]]


async def test_runs_that_are_kept_longer_outlive_their_events(db: AsyncConnection[Any]) -> None:
    """Fails if runs go with their events though they have a period: a year of costs is gone after a month."""
    registered = await shop(db)
    await publish(db, 2)
    await place_all(db)
    await run_all(db, registered)
    year = Periods(events=30 * DAY, runs=365 * DAY)
    await keep(db, year)
    assert (await count(db, "event"), await count(db, "run")) == (0, 2)
    await db.execute("UPDATE reflex.run SET finished_at = %s", [LATER])
    done = await keep(db, year, now=NOW + 400 * DAY)
    assert [dropped.partition.name for dropped in done.dropped][-1:] == ["run_first"]
    assert await count(db, "run_rest") == 2  # they ended late
    done = await keep(db, year, now=LATER + 366 * DAY)
    assert (done.runs, await count(db, "run")) == (2, 0)


async def test_runs_that_are_kept_shorter_go_before_their_events(db: AsyncConnection[Any]) -> None:
    """Fails if only one of the two periods counts; or if the runs of what is still open go."""
    registered = await shop(db)
    await publish(db, 2)
    await place_all(db)
    worker_id = await enlisted(db, registered)
    done, later = await claim(db, registered, worker_id)
    await settle(db, worker_id, [done])
    await settle(db, worker_id, [later], Outcome.RETRY, retry_in=timedelta(hours=1))
    periods = Periods(runs=10 * DAY)
    await keep(db, periods)
    cursor = await db.execute("SELECT event_id FROM reflex.run")
    assert await cursor.fetchall() == [(later.event_id,)]
    assert await count(db, "event") == 2
    await keep(db, periods)
    assert await count(db, "run") == 1
    await db.execute("DELETE FROM reflex.scheduled")
    await keep(db, periods)
    assert (await count(db, "event"), await count(db, "run")) == (2, 0)


async def test_dead_letters_are_given_up_when_that_is_said_and_their_events_say_so(db: AsyncConnection[Any]) -> None:
    """Fails if they are for ever, if the others go, or if it is not written down."""
    registered = await shop(db)
    old, young = await publish(db, 2)
    await place_all(db)
    await run_all(db, registered, Outcome.DEAD)
    await db.execute("UPDATE reflex.dead_letter SET died_at = %s WHERE event_id = %s", [LATER - DAY, young])
    assert (await keep(db)).given_up == 0
    assert await count(db, "dead_letter") == 2
    done = await keep(db, Periods(dead_letters=50 * DAY))
    assert done.given_up == 1
    assert await count(db, "dead_letter") == 1
    cursor = await db.execute("SELECT event_id, error FROM reflex.run WHERE outcome = 'cancelled'")
    ((event_id, error),) = await cursor.fetchall()
    assert event_id == old
    assert error.startswith("given up after 50d as a dead letter (REFLEX_KEEP_DEAD_LETTERS); it was a dead letter (")
    await keep(db, MONTH._replace(dead_letters=50 * DAY))
    cursor = await db.execute("SELECT event_id FROM reflex.event")
    assert await cursor.fetchall() == [(young,)]


async def test_a_short_period_is_kept_to_the_minute(db: AsyncConnection[Any]) -> None:
    """Fails if an hour becomes a day, since no partition is shorter."""
    await publish(db, 2, "weather.changed")
    await place_all(db)
    assert (await keep(db, Periods(timedelta(hours=1)), now=NOW + timedelta(hours=2))).pruned.events == 2


async def test_a_partition_of_which_too_much_is_needed_stays_and_the_rest_of_it_goes_one_by_one(
    db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if all wait while a backlog is moved; or if a backlog keeps what nobody needs."""
    monkeypatch.setattr(dropping_module, "MOVED_ROWS", 1)
    await shop(db)
    await publish(db, 2)
    await publish(db, 3, "weather.changed")
    await place_all(db)
    done = await keep(db)
    assert [part.name for part in done.stay] == ["event_first", "run_first"]
    assert "event_first" in await names(db)
    assert (await count(db, "event"), done.pruned.events, done.pruned.needed) == (2, 3, 2)


async def test_whoever_reads_for_long_is_not_cut_off_and_all_others_go_on(
    db: AsyncConnection[Any], database_url: str
) -> None:
    """Fails if the pass waits for a dump: nothing is stored until that ends. Or if it prunes row by row what it may
    drop in a minute."""
    await publish(db, 2, "weather.changed")
    await place_all(db)
    await keep(db, now=NOW)  # the partitions of today
    async with await connect(database_url, name="dump") as dump, await connect(database_url, name="gateway") as gateway:
        async with dump.transaction():
            await dump.execute("SELECT count(*) FROM reflex.event")
            passing = asyncio.create_task(keep(db, MONTH, now=NOW + 33 * DAY))
            await append(gateway, [new_event()])
            assert set((await passing).busy) == {"event"}
            assert await count(gateway, "event") == 3
        assert "event_first" in [dropped.partition.name for dropped in (await keep(db, now=NOW + 33 * DAY)).dropped]


async def test_a_delivery_that_is_being_made_of_an_old_event_keeps_it(
    db: AsyncConnection[Any], database_url: str
) -> None:
    """A new trigger gets an unrouted event while its partition is about to go. Fails if what is needed is asked before
    the lock is had: the delivery cannot be seen yet."""
    (event_id,) = await publish(db, 1, "weather.changed")
    await place_all(db)
    await keep(db, Periods())  # then there are no partitions to be made, and the first lock is that of the drop
    registered = await shop(db, {"note": "weather.changed"})
    async with await connect(database_url, name="routing") as routing:
        async with routing.transaction():
            assert await queue.route_unrouted(routing) == 1
            passing = asyncio.create_task(keep(db))

            async def waits() -> bool:
                cursor = await routing.execute(
                    "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
                )
                return await cursor.fetchone() is not None

            await eventually(waits, timeout_s=5)
        assert (await passing).dropped
    worker_id = await enlisted(db, registered)
    assert [lease.event_id for lease in await claim(db, registered, worker_id)] == [event_id]


async def test_a_role_that_does_not_own_the_tables_removes_row_by_row_and_says_so(
    db: AsyncConnection[Any], database_url: str
) -> None:
    """Fails if a worker's role ends its retention, or its other chores, with an error."""
    await publish(db, 2, "weather.changed")
    await place_all(db)
    role = "reflex_keeping_worker"
    await db.execute(f"DROP ROLE IF EXISTS {role}".encode())
    await db.execute(f"CREATE ROLE {role}".encode())
    try:
        await db.execute(f"GRANT USAGE ON SCHEMA reflex TO {role}".encode())
        await db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA reflex TO {role}".encode())
        async with await connect(database_url, name="worker") as worker:
            await worker.execute(f"SET ROLE {role}".encode())
            done = await keep(worker)
            assert done.not_owner
            assert (done.dropped, done.made, done.pruned.events) == ((), (), 2)
    finally:
        await db.execute(f"DROP OWNED BY {role}".encode())
        await db.execute(f"DROP ROLE {role}".encode())


async def test_one_at_a_time(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if two make or drop partitions at once, or while a replay gives old events out again."""
    async with await connect(database_url, name="replay") as other, other.transaction():
        await take_turn(other)
        keeping = Keeping(MONTH, now=LATER)
        assert await keeping.portion(db, wait=False) is True  # nothing is dead
        assert await keeping.portion(db, wait=False) is None
    assert len(await names(db)) == 2


async def test_many_at_once_make_each_partition_once(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails with an error if they look before they have their turn."""
    connections = [await connect(database_url, name="worker") for _ in range(4)]
    try:
        done = await asyncio.gather(*(keep(conn, MONTH, now=NOW) for conn in connections))
    finally:
        for conn in connections:
            await conn.close()
    made = [part.name for one in done for part in one.made]
    assert sorted(made) == sorted(set(made))
    assert {*made} == {*await names(db), *await names(db, "run")} - {
        "event_first",
        "event_rest",
        "run_first",
        "run_rest",
    }


def test_where_events_end_that_go_one_by_one() -> None:
    """Up to the partition that goes as a whole; elsewhere, up to the moment itself. Fails if a month that is asked for
    becomes a quarter, for the partitions were made when all was kept."""
    one = Partition("event", "event_first", None, NOW, 0, 0)
    two = one._replace(since=NOW + 5 * DAY, until=NOW + 10 * DAY)
    rest = one._replace(until=None)
    parts, width = [one, two, rest], 5 * DAY
    assert end_of_drops(parts, NOW - DAY, width=width) == NOW - DAY
    assert end_of_drops(parts, NOW + DAY, width=width) == NOW + DAY
    assert end_of_drops(parts, NOW + 7 * DAY, width=width) == NOW + 5 * DAY
    assert end_of_drops(parts, NOW + 7 * DAY, width=3 * DAY) == NOW + 7 * DAY
    assert end_of_drops(parts, NOW + 11 * DAY, width=width) == NOW + 11 * DAY


async def test_a_pass_that_ends_in_the_middle_of_a_drop_has_done_nothing(db: AsyncConnection[Any]) -> None:
    """Fails if a partition is detached in a transaction of its own: its needed events are nowhere."""
    registered = await shop(db)
    (event_id,) = await publish(db)
    await place_all(db)
    await db.execute(
        "CREATE FUNCTION stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stopped'; END $$; "
        "CREATE EVENT TRIGGER stop ON sql_drop EXECUTE FUNCTION stop()"
    )
    with pytest.raises(psycopg.errors.RaiseException, match="stopped"):
        await keep(db)
    await db.execute("DROP EVENT TRIGGER stop")
    assert "event_first" in await names(db)
    worker_id = await enlisted(db, registered)
    assert [lease.event_id for lease in await claim(db, registered, worker_id)] == [event_id]
