"""Retention: what is old goes, what somebody needs stays, and nobody who works beside it notices."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.cursors import Cursor, CursorExpired
from reflex.core.dead_letters import DeadLetterFilter, purge_dead_letters, retry_dead_letters
from reflex.core.ids import new_id
from reflex.core.log import append
from reflex.core.log_reading import LogBounds, log_before, log_bounds, read_log, tail_log
from reflex.core.queue import route_unrouted
from reflex.core.retention import Pruned, Pruning, take_turn
from reflex.core.sessions import keep_sessions, session_positions
from reflex.core.settlement import Outcome
from reflex.core.statements import only_row
from tests.core.log_fixtures import BEGINNING, place_all, read_all, somebody_waits
from tests.queue_fixtures import claim, claim_ordered, count, enlisted, new_event, ordered_shop, publish, settled, shop

HOUR = timedelta(hours=1)
TABLES = ("event", "run", "idempotency", "unrouted", "step", "log")


async def grow_old(db: AsyncConnection[Any]) -> None:
    """Place what was appended, and let it have been placed two hours ago."""
    await place_all(db)
    await db.execute("UPDATE reflex.log SET placed_at = now() - interval '2 hours'")


async def prune(db: AsyncConnection[Any], *, size: int = 500, dry_run: bool = False) -> Pruned:
    """A whole pass over what is older than an hour."""
    pruning = await Pruning.older_than(db, HOUR, dry_run=dry_run)
    while await pruning.portion(db, size=size):
        pass
    return pruning.done


async def finish(
    db: AsyncConnection[Any], registered: Any, outcome: Outcome = Outcome.SUCCEEDED, limit: int = 100
) -> None:
    worker_id = await enlisted(db, registered)
    leases = await claim(db, worker_id, list(registered.trigger_ids.values()), limit)
    settlements = [settled(lease, outcome) for lease in leases]
    await queue.exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)


async def left(db: AsyncConnection[Any]) -> dict[str, int]:
    return {table: await count(db, table) for table in TABLES}


async def events(db: AsyncConnection[Any]) -> set[UUID]:
    return {row[0] for row in await (await db.execute("SELECT event_id FROM reflex.event")).fetchall()}


async def test_an_old_event_goes_with_all_that_belongs_to_it(db: AsyncConnection[Any]) -> None:
    """Fails if any of the deletes is taken out, or takes more than what is old."""
    registered = await shop(db, {"pack": "order.created", "weigh": "order.created"})
    await append(db, [new_event(idempotency_key="A1"), new_event("weather.changed")])
    await finish(db, registered)
    (old,) = await (await db.execute("SELECT event_id FROM reflex.event WHERE type = 'order.created'")).fetchall()
    step = "INSERT INTO reflex.step VALUES (1, %s, '', 1, 'tool_call', 1, '{}', 1)"
    await db.execute(step, [old[0]])
    await grow_old(db)
    await append(db, [new_event(idempotency_key="A2"), new_event("weather.changed")])
    await finish(db, registered)
    await db.execute(step, [new_id()])
    await place_all(db)
    before = await left(db)
    assert before == {"event": 4, "run": 4, "idempotency": 2, "unrouted": 2, "step": 2, "log": 2}
    assert await prune(db, dry_run=True) == Pruned(events=2, runs=2)
    assert (await left(db), (await log_bounds(db)).start) == (before, BEGINNING)
    assert await prune(db) == Pruned(events=2, runs=2)
    assert await left(db) == {table: number // 2 for table, number in before.items()}
    assert await log_bounds(db) == LogBounds(Cursor(1, 2), Cursor(2, 2))
    assert await prune(db) == Pruned()


@pytest.mark.parametrize("where", ["delivery", "scheduled", "lease", "ordered", "dead_letter"])
async def test_an_event_stays_until_its_delivery_is_settled_and_goes_with_a_later_pass(
    db: AsyncConnection[Any], where: str
) -> None:
    """Fails if the table is not asked; or if the row of its append goes at once, for then it is never found again."""
    registered = await (ordered_shop(db) if where == "ordered" else shop(db))
    worker_id = await enlisted(db, registered)
    ids = list(registered.trigger_ids.values())
    kept, gone = new_event(key="k", delay=HOUR if where == "scheduled" else None), new_event("weather.changed")
    await append(db, [kept, gone])
    leases = await claim(db, worker_id, ids) if where in ("lease", "dead_letter") else []
    if where == "dead_letter":
        dead = [settled(lease, Outcome.DEAD) for lease in leases]
        await queue.exchange(db, worker_id=worker_id, settlements=dead, trigger_ids=[], limit=0)
    assert await count(db, where) == 1
    await grow_old(db)
    assert await prune(db) == Pruned(events=1, needed=1)
    assert await prune(db) == Pruned(needed=1)
    assert await events(db) == {kept.event_id}
    await db.execute("UPDATE reflex.scheduled SET available_at = now()")
    await queue.promote_scheduled(db)
    if where == "dead_letter":
        await retry_dead_letters(db, DeadLetterFilter(), all=True)
    leases = leases if where == "lease" else await claim_ordered(db, worker_id, registered)
    done = [settled(lease) for lease in leases]
    await queue.exchange(db, worker_id=worker_id, settlements=done, trigger_ids=[], limit=0)
    pruned = await prune(db)
    assert (pruned.events, pruned.needed) == (1, 0)
    assert await left(db) == dict.fromkeys(TABLES, 0)


async def test_what_has_no_place_in_the_log_yet_stays(db: AsyncConnection[Any]) -> None:
    """Fails if events go by their own time: a reader would never get to see this one."""
    await append(db, [new_event("weather.changed")])
    await db.execute("UPDATE reflex.event SET created_at = now() - interval '9 days', time = now() - interval '9 days'")
    assert await prune(db) == Pruned()
    await place_all(db)
    assert await prune(db) == Pruned()
    assert len((await read_all(db))[0]) == 1


async def test_a_pass_in_small_portions_does_the_same_and_may_be_broken_off(db: AsyncConnection[Any]) -> None:
    """Appends of several events, one of which is still needed. Fails if a portion does not begin behind the last one,
    or if a pass that was broken off leaves what no other finds."""
    registered = await shop(db)
    (kept,) = await publish(db)
    for n in (3, 1, 250, 2):
        await publish(db, n, "weather.changed")
    await grow_old(db)
    (new,) = await publish(db, type="weather.changed")
    await place_all(db)
    first = await Pruning.older_than(db, HOUR)
    assert await first.portion(db, size=2)
    assert first.done.events == 3
    assert (await log_bounds(db)).start == Cursor(7, 2)
    assert await prune(db, size=2) == Pruned(events=253, needed=1)
    assert await events(db) == {kept, new}
    await finish(db, registered)
    assert (await prune(db)).events == 1
    assert await count(db, "log") == 1


async def test_pruning_up_to_the_middle_of_an_append_takes_its_first_events(db: AsyncConnection[Any]) -> None:
    """Fails if `place` is not looked at, or if the row goes: its other events could not be read any more."""
    ids = [*await publish(db, 2, "weather.changed"), *await publish(db, 3, "weather.changed")]
    await place_all(db)
    pruning = Pruning(Cursor(2, 1))
    while await pruning.portion(db):
        pass
    assert pruning.done == Pruned(events=3)
    assert await read_all(db, Cursor(2, 1)) == (ids[3:], Cursor(2, 3))
    assert await log_before(db, HOUR) == Cursor(2, 1)
    await grow_old(db)
    assert await prune(db) == Pruned(events=2)
    assert await left(db) == dict.fromkeys(TABLES, 0)


async def test_rows_from_before_the_beginning_of_the_log_are_not_read(db: AsyncConnection[Any]) -> None:
    """They are there for an event that is still needed. Fails if the bounds, or the latest events, come from
    them: every cursor would then be ahead of the log, or a reader begin with one that is refused."""
    await shop(db)
    await publish(db)
    (unrouted,) = await publish(db, type="weather.changed")
    await grow_old(db)
    assert await prune(db) == Pruned(events=1, needed=1)
    assert unrouted not in await events(db)
    start = Cursor(2, 1)
    assert await log_bounds(db) == LogBounds(start, start)
    assert await tail_log(db, 5) == start
    (new,) = await publish(db)
    await place_all(db)
    assert await read_all(db, await tail_log(db, 5)) == ([new], Cursor(3, 1))
    await grow_old(db)
    assert await prune(db) == Pruned(needed=2)
    assert await tail_log(db, 5) == (await log_bounds(db)).end == Cursor(3, 1)


async def test_a_reader_in_the_midst_of_what_goes_is_told_and_one_behind_it_reads_on(db: AsyncConnection[Any]) -> None:
    """Fails if events go before the order does, or in another commit: the reader would skip them without a word."""
    for _ in range(3):
        await publish(db, 2, "weather.changed")
    await grow_old(db)
    (new,) = await publish(db, type="weather.changed")
    await place_all(db)
    middle = (await read_log(db, BEGINNING, limit=3)).cursor
    end = (await read_log(db, BEGINNING, limit=6)).cursor
    pruning = await Pruning.older_than(db, HOUR)
    assert await pruning.portion(db, size=1)
    with pytest.raises(CursorExpired, match=f"read on from {end}"):
        await read_log(db, middle)
    assert (await read_all(db, end))[0] == [new]


async def test_the_place_in_the_log_of_a_time_is_found_wherever_it_is(db: AsyncConnection[Any]) -> None:
    """Positions have gaps. Fails if the halving ends a step early or begins behind the first append."""
    start = (await log_bounds(db)).start
    assert await log_before(db, HOUR) == start
    await db.execute(
        "INSERT INTO reflex.log (event_ids, placed_at) SELECT ARRAY[gen_random_uuid(), gen_random_uuid()], "
        "now() - make_interval(hours => 40 - n) FROM generate_series(1, 40) AS n"
    )
    await db.execute("DELETE FROM reflex.log WHERE position % 3 = 0 OR position BETWEEN 20 AND 25")
    rows = await (await db.execute("SELECT position FROM reflex.log ORDER BY position")).fetchall()
    positions = [row[0] for row in rows]
    for hours in range(-1, 45):
        older = [Cursor(position, 2) for position in positions if 40 - position > hours]
        assert await log_before(db, timedelta(hours=hours + 0.5)) == (older[-1] if older else start), hours


async def test_an_unrouted_event_that_is_being_handed_to_a_trigger_stays(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Both ways round. Fails if the row of the unrouted event is not locked, or waited for: its delivery would have no
    event, or the pass would stand still."""
    await publish(db, 1, "order.created")
    await grow_old(db)
    registered = await shop(db)
    async with other.transaction():
        assert await route_unrouted(other) == 1
        await db.execute("SET lock_timeout = '2s'")
        assert await prune(db) == Pruned(needed=1)
    await finish(db, registered)
    assert await count(db, "run") == 1

    await publish(db, 1, "weather.changed")
    await grow_old(db)
    await shop(db, {"look": "weather.changed"}, app="weather")
    pruning = await Pruning.older_than(db, HOUR)
    async with db.transaction():
        while await pruning.portion(db):
            pass
        assert await route_unrouted(other) == 0
    assert await left(db) == dict.fromkeys(TABLES, 0)
    assert await count(db, "delivery") == 0


async def test_appends_and_settlements_go_on_beside_a_portion_that_is_open(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Fails if a pass locks what they need, or waits for them: each has a time limit."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    ids = list(registered.trigger_ids.values())
    await publish(db, 3)
    leases = await claim(db, worker_id, ids)
    await publish(db, 3, "weather.changed")
    await grow_old(db)
    await db.execute("SET lock_timeout = '2s'")
    await other.execute("SET lock_timeout = '2s'")
    pruning = await Pruning.older_than(db, HOUR)
    async with db.transaction():
        assert await pruning.portion(db)
        assert pruning.done == Pruned(events=3, needed=3)
        await append(other, [new_event(idempotency_key="new")])
        done = [settled(lease) for lease in leases]
        exchanged = await queue.exchange(other, worker_id=worker_id, settlements=done, trigger_ids=ids, limit=1)
        assert (len(exchanged.claimed), len(exchanged.stale)) == (1, 0)
    async with other.transaction():
        await append(other, [new_event("weather.changed", idempotency_key="newer")])
        await queue.exchange(
            other, worker_id=worker_id, settlements=[settled(exchanged.claimed[0])], trigger_ids=ids, limit=1
        )
        assert (await prune(db)).events == 3
    assert await count(db, "event") == 2


async def test_a_key_is_remembered_as_long_as_its_event_and_free_after(
    db: AsyncConnection[Any], other: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key goes between the two statements of an append that uses it again. Fails if the append then looks for the
    event that it lost to and breaks, or says that nothing was stored."""
    first = new_event("weather.changed", idempotency_key="A1")
    await append(db, [first])
    again = new_event("weather.changed", idempotency_key="A1")
    assert await append(db, [again]) == {again.event_id: first.event_id}
    await grow_old(db)

    async def pruned_meanwhile(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr("reflex.core.log.only_row", only_row)
        row = await only_row(*arguments, **named)
        assert (await prune(other)).events == 1
        return row

    monkeypatch.setattr("reflex.core.log.only_row", pruned_meanwhile)
    third, neighbour = (new_event("weather.changed", idempotency_key=key) for key in ("A1", "B1"))
    ids = await append(db, [third, neighbour])
    assert ids == {event.event_id: event.event_id for event in (third, neighbour)}
    assert await events(db) == set(ids)
    assert await append(db, [again]) == {again.event_id: third.event_id}


async def test_one_pass_at_a_time(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """Fails without the advisory lock, or if who does not wait waits."""
    await publish(db, 1, "weather.changed")
    await grow_old(db)
    pruning = await Pruning.older_than(db, HOUR)
    async with other.transaction():
        assert await take_turn(other)
        assert await pruning.portion(db, wait=False) is None
        waiting = asyncio.create_task(pruning.portion(db))
        await somebody_waits(other)
    assert await waiting
    assert await count(db, "event") == 0


async def test_a_session_that_nobody_uses_is_forgotten(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """Fails if one that is in use, or just being written, goes, too, or is waited for; or a dry run forgets them."""
    await keep_sessions(db, {"old": Cursor(1, 1), "written": Cursor(1, 1), "new": Cursor(1, 1)})
    await db.execute("UPDATE reflex.session SET seen_at = now() - interval '2 hours' WHERE session_id <> 'new'")
    await db.execute("SET lock_timeout = '2s'")
    assert await prune(db, dry_run=True) == Pruned(sessions=2)
    async with other.transaction():
        await keep_sessions(other, {"written": Cursor(2, 1)})
        assert await prune(db) == Pruned(sessions=1)
    assert set(await session_positions(db, ["old", "written", "new"])) == {"written", "new"}


async def test_a_dead_letter_that_is_purged_lets_its_event_go(db: AsyncConnection[Any]) -> None:
    """Its runs, the cancelled one too, go with it."""
    registered = await shop(db)
    await publish(db)
    await finish(db, registered, Outcome.DEAD)
    await grow_old(db)
    assert await prune(db) == Pruned(needed=1)
    await purge_dead_letters(db, DeadLetterFilter(), all=True)
    assert await prune(db) == Pruned(events=1, runs=2)
