"""Replay: a trigger gets events again that are in the log, once each, in their order, and beside everything else."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.cursors import Cursor, CursorExpired, CursorRejected
from reflex.core.errors import NotFound
from reflex.core.ids import new_id
from reflex.core.journal import Step, StepKind, journal_step, recorded_steps
from reflex.core.log import append
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import drop_log, log_bounds
from reflex.core.pages import QueryRejected
from reflex.core.queue import route_unrouted
from reflex.core.reads import get_event
from reflex.core.registration import Registered
from reflex.core.replaying import Replay, Replayed, find_trigger, replay_span
from reflex.core.retention import Pruning
from reflex.core.settlement import Claimed, Outcome
from tests.core.log_fixtures import BEGINNING, place_all, somebody_waits
from tests.queue_fixtures import claim, claim_ordered, count, enlisted, new_event, ordered_shop, publish, settled, shop


async def again(db: AsyncConnection[Any], after: Cursor = BEGINNING, *, name: str = "pack", **rest: Any) -> Replayed:
    """A whole replay; what it had done at its end."""
    going = await begun(db, after, name=name, **rest)
    async for _ in going:
        pass
    return going.done


async def begun(
    db: AsyncConnection[Any], after: Cursor = BEGINNING, *, until: Cursor | None = None, name: str = "pack", **rest: Any
) -> Replay:
    """A replay of which nothing is done yet."""
    return Replay(db, await find_trigger(db, name), await replay_span(db, after=after, up_to=until), **rest)


async def settle(db: AsyncConnection[Any], leases: list[Claimed], outcome: Outcome = Outcome.SUCCEEDED) -> None:
    settlements = [settled(lease, outcome, forget_steps=outcome is Outcome.SUCCEEDED) for lease in leases]
    done = await queue.exchange(db, worker_id=new_id(), settlements=settlements, trigger_ids=[], limit=0)
    assert not done.stale


async def work(db: AsyncConnection[Any], registered: Registered, outcome: Outcome = Outcome.SUCCEEDED) -> list[UUID]:
    """Claim and settle all there is; the events in the order of their claim."""
    worker_id = await enlisted(db, registered)
    ids: list[UUID] = []
    while leases := await claim_ordered(db, worker_id, registered):
        await settle(db, leases, outcome)
        ids += [lease.event_id for lease in leases]
    return ids


async def runs(db: AsyncConnection[Any], event_id: UUID) -> list[tuple[int, str]]:
    """Of the one delivery: each run's lease_epoch and outcome."""
    query = "SELECT lease_epoch, outcome FROM reflex.run WHERE event_id = %s ORDER BY lease_epoch"
    return await (await db.execute(query, [event_id])).fetchall()


async def test_what_a_trigger_has_done_it_does_again_and_the_runs_of_before_stay(db: AsyncConnection[Any]) -> None:
    """Twice. Fails if lease_epoch begins anew: the second run would have the key of the first."""
    registered = await shop(db, {"pack": "order.*", "weigh": "order.created"})
    ids = await publish(db, 2)
    await publish(db, 1, "weather.changed")
    await place_all(db)
    await work(db, registered)
    for time in (1, 2):
        assert await again(db) == Replayed(Cursor(2, 1), looked_at=3, replayed=2)
        assert await count(db, "delivery") == 2
        assert await work(db, registered) == ids
        (delivery,) = [d for d in (await get_event(db, ids[0])).deliveries if d.trigger == "pack"]
        assert (delivery.state, [run.attempt for run in delivery.runs]) == ("succeeded", [1] * (time + 1))
    assert await count(db, "run") == 8


@pytest.mark.parametrize("portion", [1, 2, 500])
async def test_portions_end_with_a_cursor_from_which_it_goes_on(db: AsyncConnection[Any], portion: int) -> None:
    """Broken off after each of them. Fails if a portion repeats, or leaves out, what is at its edges."""
    registered = await shop(db)
    ids = [id for n in (1, 3, 1, 2, 1) for id in await publish(db, n)]
    await place_all(db)
    await work(db, registered)
    done = Replayed(BEGINNING)
    total = portions = 0
    while done.cursor < Cursor(5, 1):
        done = await anext(await begun(db, done.cursor, portion=portion))
        total += done.replayed
        portions += 1
        assert await count(db, "delivery") == total
    assert total == len(ids)
    assert portions == {1: 5, 2: 3, 500: 1}[portion]
    assert [replayed async for replayed in await begun(db, done.cursor)] == []


async def test_it_begins_behind_a_cursor_and_ends_with_another_one(db: AsyncConnection[Any]) -> None:
    """In the middle of appends, or where there is none. Fails if an edge is left out of the comparison, or if it looks
    for ever for an append that is not there."""
    registered = await shop(db)
    ids = [id for n in (3, 3) for id in await publish(db, n)]
    await place_all(db)
    await db.execute("SELECT nextval(pg_get_serial_sequence('reflex.log', 'position')) FROM generate_series(1, 5)")
    await publish(db)
    await place_all(db)
    assert (await log_bounds(db)).end == Cursor(8, 1)
    await work(db, registered)
    assert await again(db, Cursor(1, 2), until=Cursor(2, 1)) == Replayed(Cursor(2, 1), looked_at=2, replayed=2)
    assert await work(db, registered) == [ids[2], ids[3]]
    assert await again(db, Cursor(2, 2), until=Cursor(5, 1)) == Replayed(Cursor(5, 1), looked_at=1, replayed=1)
    assert await again(db, Cursor(2, 1), until=Cursor(1, 1)) == Replayed(Cursor(2, 1))


@pytest.mark.parametrize("place", ["pending", "scheduled", "running", "dead", "unrouted"])
async def test_a_delivery_that_is_not_finished_is_left_alone(db: AsyncConnection[Any], place: str) -> None:
    """Fails if one of the tables is not asked: there would be two deliveries of one event, and one key."""
    if place == "unrouted":
        await publish(db)
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    if place != "unrouted":
        await append(db, [new_event(delay=timedelta(hours=1) if place == "scheduled" else None)])
    await place_all(db)
    leases = await claim(db, worker_id, [1]) if place in ("running", "dead") else []
    if place == "dead":
        await settle(db, leases, Outcome.DEAD)
    assert await again(db) == Replayed(Cursor(1, 1), looked_at=1, left_alone=1)
    assert await count(db, "delivery") == (place == "pending")
    if place == "running":
        await settle(db, leases)
    if place == "unrouted":
        await route_unrouted(db)
        assert await count(db, "delivery") == 1


async def test_only_what_a_route_matches_and_the_filter_wants(db: AsyncConnection[Any]) -> None:
    """Fails if a condition is left out, or `*` means Reflex's own events."""
    events = [
        new_event(), new_event(source="web", key="k"), new_event("order.paid", source="app"),
        new_event("weather.changed"), new_event("reflex.dead_letter"),
    ]  # fmt: skip
    await append(db, events)
    await shop(db, {"log": "*", "letters": "reflex.*"}, app="other")
    await route_unrouted(db)
    await db.execute("DELETE FROM reflex.delivery")
    patterns = ("order.*", "order.created", "*", "reflex.*")
    await shop(db, {pattern: pattern for pattern in patterns})
    await place_all(db)
    for pattern, filter, expected in (
        ("order.*", LogFilter(), [0, 1, 2]),
        ("order.created", LogFilter(), [0, 1]),
        ("*", LogFilter(), [0, 1, 2, 3]),
        ("*", LogFilter(types=("reflex.*",)), []),
        ("reflex.*", LogFilter(), [4]),
        ("*", LogFilter(types=("order.paid", "weather.*")), [2, 3]),
        ("*", LogFilter(sources=("app", "web")), [1, 2]),
        ("*", LogFilter(key="k"), [1]),
        ("*", LogFilter(types=("order.*",), sources=("web",), key="k"), [1]),
    ):
        done = await again(db, name=pattern, filter=filter)
        assert (done.looked_at, done.replayed, done.left_alone) == (5, len(expected), 0)
        rows = await db.execute("DELETE FROM reflex.delivery RETURNING event_id")
        assert {row[0] for row in await rows.fetchall()} == {events[n].event_id for n in expected}


async def test_a_dry_run_only_counts(db: AsyncConnection[Any]) -> None:
    """Fails if it makes deliveries, forgets steps, or wakes workers."""
    registered = await shop(db)
    await publish(db, 2)
    await place_all(db)
    await work(db, registered)
    assert await again(db, dry_run=True) == Replayed(Cursor(1, 2), looked_at=2, replayed=2)
    assert await count(db, "delivery") == 0


async def test_an_ordered_trigger_gets_them_in_the_order_of_the_log_behind_what_waits(db: AsyncConnection[Any]) -> None:
    """Ids say otherwise than the log. Fails if positions are drawn by event_id, or those of before are taken again."""
    registered = await ordered_shop(db)
    events = [new_event(key=key) for key in ("a", "b", "a", "a")]
    for event in (events[2], events[0], events[1], events[3]):
        await append(db, [event])
    nobody = new_event()
    await append(db, [nobody])
    await place_all(db)
    await work(db, registered)
    waiting = new_event(key="a")
    await append(db, [waiting])
    assert await again(db) == Replayed(Cursor(5, 1), looked_at=5, replayed=5)
    rows = await db.execute("SELECT event_id FROM reflex.ordered WHERE key = 'a' ORDER BY position, event_id")
    ids = [event.event_id for event in events]
    assert [row[0] for row in await rows.fetchall()] == [waiting.event_id, ids[2], ids[0], ids[3]]
    assert (await again(db)).left_alone == 5
    lanes = await db.execute("SELECT key, pending, running, ready FROM reflex.lane WHERE pending > 0 ORDER BY key")
    assert await lanes.fetchall() == [("a", 4, 0, True), ("b", 1, 0, True)]
    assert await count(db, "delivery") == 1
    done = await work(db, registered)
    assert [id for id in done if id in (waiting.event_id, ids[2], ids[0], ids[3])] == [
        waiting.event_id, ids[2], ids[0], ids[3],
    ]  # fmt: skip
    assert await runs(db, ids[2]) == [(1, "succeeded"), (2, "succeeded")]


async def test_an_event_that_is_not_due_is_put_off_again(db: AsyncConnection[Any]) -> None:
    """For a trigger that came later. Fails if it is delivered before its time."""
    await shop(db, {"log": "*"}, app="other")
    await append(db, [new_event(delay=timedelta(hours=1), key="a")])
    await ordered_shop(db)
    await place_all(db)
    assert (await again(db)).replayed == 1
    rows = await db.execute(
        "SELECT lane_key FROM reflex.scheduled JOIN reflex.trigger USING (trigger_id) WHERE name = 'pack'"
    )
    assert await rows.fetchall() == [("a",)]
    assert (await count(db, "ordered"), (await again(db)).left_alone) == (0, 1)


async def test_what_an_earlier_run_journaled_is_not_replayed(db: AsyncConnection[Any]) -> None:
    """A journal that outlived its delivery. Fails if it is left: the new run would get the old one's answers."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db)
    await place_all(db)
    (lease,) = await claim(db, worker_id, [1])
    await journal_step(db, lease.delivery_id, lease.lease_epoch, Step(StepKind.TOOL_CALL, b"f", 1, 1, "1"))
    done = settled(lease)
    await queue.exchange(db, worker_id=worker_id, settlements=[done], trigger_ids=[], limit=0)
    assert len(await recorded_steps(db, lease.delivery_id)) == 1
    assert (await again(db)).replayed == 1
    assert await recorded_steps(db, lease.delivery_id) == []


async def test_two_replays_at_once_make_one_delivery_though_it_moved_on_between(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """The second begins while the first is not committed, and goes on when its delivery runs. Fails without the turn:
    the second would not have seen it, and make another one."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db)
    await place_all(db)
    await work(db, registered)
    going = await begun(db)
    async with db.transaction():
        first = await anext(going)
        second = asyncio.create_task(again(other))
        await somebody_waits(db)
    assert (first.replayed, await second) == (1, Replayed(Cursor(1, 1), looked_at=1, left_alone=1))
    (lease,) = await claim(db, worker_id, [1])
    assert lease.lease_epoch == 2


async def test_retention_sees_what_a_replay_has_just_made(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """A pass that begins while the replay is not committed. Fails if it does not wait for its turn before it looks: the
    delivery would be left without its event, and nobody would ever claim it."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db)
    await place_all(db)
    await work(db, registered)
    going = await begun(db)
    pruning = Pruning((await log_bounds(db)).end)
    async with db.transaction():
        await anext(going)
        portion = asyncio.create_task(pruning.portion(other))
        await somebody_waits(db)
    assert await portion
    assert (pruning.done.events, pruning.done.needed) == (0, 1)
    assert len(await claim(db, worker_id, [1])) == 1


async def test_a_cursor_that_is_no_good_is_refused_also_in_the_midst_of_it(db: AsyncConnection[Any]) -> None:
    """Fails if a portion does not look at where the log begins: what was dropped would be skipped without a word."""
    await shop(db)
    for _ in range(4):
        await publish(db)
    await place_all(db)
    for after, until in ((Cursor(9, 1), None), (BEGINNING, Cursor(9, 1))):
        with pytest.raises(CursorRejected, match="ahead of the log"):
            await again(db, after, until=until)
    going = await begun(db, portion=1)
    await anext(going)
    await drop_log(db, until=Cursor(3, 1))
    with pytest.raises(CursorExpired, match=f"read on from {Cursor(3, 1)}"):
        await anext(going)
    with pytest.raises(CursorExpired):
        await again(db)


async def test_a_trigger_that_is_not_there_is_said_with_those_that_are(db: AsyncConnection[Any]) -> None:
    """Fails if a retired one is taken: nobody would claim the deliveries."""
    with pytest.raises(NotFound, match="there is no trigger 'pack'; there are none"):
        await find_trigger(db, "pack")
    await shop(db, {"pack": "order.created", "weigh": "order.created"})
    await shop(db, {"pack": "order.created"}, app="annex")
    with pytest.raises(NotFound, match="'wrap'; there are pack of annex, pack of shop, weigh of shop"):
        await find_trigger(db, "wrap")
    with pytest.raises(QueryRejected, match="app: several apps have a trigger 'pack': say which of annex, shop"):
        await find_trigger(db, "pack")
    assert (await find_trigger(db, "pack", app="annex")).trigger_id == 3
    await db.execute("UPDATE reflex.trigger SET retired_at = now() WHERE trigger_id = 1")
    assert (await find_trigger(db, "pack")).app == "annex"
    with pytest.raises(NotFound, match="trigger 'pack' is retired: no running code has it; there are pack of annex"):
        await find_trigger(db, "pack", app="shop")
    with pytest.raises(NotFound, match="there is no trigger 'pack' of depot"):
        await find_trigger(db, "pack", app="depot")
