"""The hub on a real log: everything once and in order, whoever comes, leaves, lags behind or is cut off."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

import reflex.core.placing as placing_module
from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.cursors import Cursor, CursorExpired, CursorRejected
from reflex.core.database import connect
from reflex.core.errors import DatabaseUnavailable
from reflex.core.log import append
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LoggedEvent, LogPage, drop_log, log_bounds, read_log
from reflex.core.migrate import upgrade
from reflex.core.retention import Pruning
from reflex.gateway.live import follower as follower_module
from reflex.gateway.live import hub as hub_module
from reflex.gateway.live.outbox import SLOW
from tests.faults import FaultProxy
from tests.gateway.live.readers import Gate, Reader, log_ids, open_hub
from tests.processes import eventually
from tests.queue_fixtures import count as number_of
from tests.queue_fixtures import new_event, publish

BEGINNING = Cursor(0, 0)


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old cursors are read from the database, since the hub remembers next to nothing."""
    monkeypatch.setattr(follower_module, "APPENDS_READ_BACK", (0,))
    monkeypatch.setattr(hub_module, "RECENT_EVENTS", 3)


async def test_a_reader_without_a_cursor_gets_what_comes_and_nothing_of_what_was(
    database_url: str, writer: AsyncConnection[Any]
) -> None:
    """Fails with: a reader that begins at the start of the log, or at the end of what is in memory twice."""
    await publish(writer, 3)
    async with open_hub(database_url) as hub, Reader(hub) as early:
        first = await publish(writer, 2)
        assert await early.has(2) == first
        async with Reader(hub) as late:
            second = await publish(writer, 150)
            assert sorted(await late.has(150)) == second
            assert await early.has(152) == first + late.ids
            assert early.cursors == sorted(set(early.cursors))


@pytest.mark.parametrize("remembered", [0, 4, 1000])
@pytest.mark.parametrize("follower_keeps_up", [True, False])
async def test_old_events_are_read_page_by_page_and_joined_with_what_comes_meanwhile(
    database_url: str,
    writer: AsyncConnection[Any],
    monkeypatch: pytest.MonkeyPatch,
    remembered: int,
    follower_keeps_up: bool,
) -> None:
    """Between any two pages others append, and the hub has handed that out, or not, when the next page is read.

    Fails with: a reader that joins without what is in memory, or behind it; a page whose last events are read again.
    """
    monkeypatch.setattr(follower_module, "APPENDS_READ_BACK", (0,))
    monkeypatch.setattr(hub_module, "RECENT_EVENTS", remembered)
    # What waited for the follower comes at once, more than the outbox holds: the reader gets its turn in between.
    monkeypatch.setattr(hub_module, "FRAMES_A_TURN", 0)
    pages = 0

    async def read_page(conn_: AsyncConnection[Any], after: Cursor, *, filter: LogFilter) -> LogPage:
        nonlocal pages
        page = await read_log(conn_, after, filter=filter, limit=5)
        pages += 1
        if pages < 20:
            await publish(writer, 3)
            if follower_keeps_up:
                end = (await log_bounds(writer)).end
                await eventually(lambda: hub._cursor >= end)
        return page

    monkeypatch.setattr(hub_module, "read_log", read_page)
    await publish(writer, 23)
    await log_ids(writer)
    async with open_hub(database_url) as hub, Reader(hub) as watching:
        async with Reader(hub, after=BEGINNING, max_frames=7) as reader:
            await eventually(lambda: hub._joined(reader.subscription), what="joining")
            await publish(writer, 2)
            everything = await log_ids(writer)
            assert await reader.has(len(everything)) == everything
            assert reader.cursors == sorted(set(reader.cursors))
            assert await watching.has(len(everything) - 23) == everything[23:]
            assert pages > 4
        pages = 20
        async with Reader(hub, after=reader.cursors[30]) as resumed:
            assert await resumed.has(len(everything) - 31) == everything[31:]


async def test_what_was_read_from_the_database_ahead_of_the_hub_is_not_handed_out_again(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower is held up while a reader of old events comes to the end of the log.

    Fails with: a reader that may join when it is ahead (`_covers` without `<= self._cursor`).
    """
    monkeypatch.setattr(follower_module, "APPENDS_READ_BACK", (0,))
    following = Gate(read_log)
    monkeypatch.setattr(follower_module, "read_log", following)
    await publish(writer, 5)
    await log_ids(writer)
    async with open_hub(database_url) as hub, Reader(hub) as watching:
        following.close()
        await publish(writer, 5)
        await eventually(lambda: following.held)
        async with Reader(hub, after=BEGINNING) as reader:
            assert await reader.has(10) == await log_ids(writer)
            following.open()
            await watching.has(5)
            await publish(writer, 5)
            everything = await log_ids(writer)
            assert await reader.has(15) == everything
            assert await watching.has(10) == everything[5:]


async def test_the_follower_goes_on_when_all_leave_during_a_page_and_others_come(
    database_url: str, writer: AsyncConnection[Any]
) -> None:
    """Fails with: a follower that goes on from that page (the new reader then waits until it is told 503)."""
    async with open_hub(database_url) as hub:
        delivering = Gate(hub._follower._deliver)
        hub._follower._deliver = delivering
        async with Reader(hub):
            await publish(writer, 3)
            await eventually(lambda: hub._cursor.position)
            await eventually(lambda: not delivering.held)
            delivering.close()
            await publish(writer, 3)
            await eventually(lambda: delivering.held)
        entering = asyncio.create_task(Reader(hub).__aenter__())
        await asyncio.sleep(0.01)
        delivering.open()
        async with asyncio.timeout(3):
            reader = await entering
        later = await publish(writer, 2)
        assert await reader.has(2) == later
        await reader.__aexit__(None, None, None)


async def test_no_event_is_handed_to_a_reader_that_came_during_a_page_twice(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It joins between two events. Fails with: a reader that joins without what of the page was handed out."""
    monkeypatch.setattr(hub_module, "FRAMES_A_TURN", 0)
    await publish(writer, 2)
    await log_ids(writer)
    async with open_hub(database_url) as hub:
        seen = asyncio.Event()

        def render(event: LoggedEvent) -> str:
            seen.set()
            return str(event.event_id)

        async with Reader(hub, render=render) as first:
            await append(writer, [new_event() for _ in range(300)])
            await seen.wait()
            async with Reader(hub, after=BEGINNING) as old, Reader(hub) as new:
                joined_at = new.subscription.cursor
                everything = await log_ids(writer)
                assert await old.has(302) == everything
                assert await first.has(300) == everything[2:]
                assert BEGINNING < (joined_at or BEGINNING) < old.cursors[-1]
                missed = [cursor for cursor in old.cursors if cursor <= (joined_at or BEGINNING)]
                assert await new.has(302 - len(missed)) == everything[len(missed) :]


Fault = Callable[[FaultProxy, AsyncConnection[Any]], Any]


async def terminate(_: FaultProxy, conn: AsyncConnection[Any]) -> None:
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'reflex gateway%'"
    )


async def cut(proxy: FaultProxy, _: AsyncConnection[Any]) -> None:
    await proxy.cut()


async def refuse(proxy: FaultProxy, conn: AsyncConnection[Any]) -> None:
    await proxy.refuse()
    await publish(conn, 700)  # more than a page, and more than one append
    await proxy.pass_through()


@pytest.mark.parametrize("fault", [terminate, cut, refuse])
async def test_readers_miss_and_repeat_nothing_when_the_hub_loses_its_connections(
    database_url: str, writer: AsyncConnection[Any], fault: Fault
) -> None:
    """Fails with: a follower that begins at the end of the log after an outage, or at the page that it had read."""
    async with FaultProxy(database_url) as proxy, open_hub(proxy.url) as hub, Reader(hub, max_frames=5000) as reader:
        stop = asyncio.Event()
        writing = asyncio.create_task(write_until(stop, database_url))
        for _ in range(3):
            before = len(reader.ids)
            await eventually(lambda before=before: len(reader.ids) > before + 10)
            await fault(proxy, writer)
        stop.set()
        await writing
        everything = await log_ids(writer)
        assert await reader.has(len(everything)) == everything
        async with Reader(hub, after=reader.cursors[0]) as resumed:
            assert await resumed.has(len(everything) - 1) == everything[1:]


async def test_readers_miss_and_repeat_nothing_when_postgresql_restarts(tmp_path: Path) -> None:
    """Fails with: a follower that ends, or begins anew, at a lost connection."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as server:
        upgrade(server.url)
        async with open_hub(server.url) as hub, Reader(hub) as reader:
            async with await connect(server.url, name="test") as conn:
                before = await publish(conn, 5)
                assert await reader.has(5) == before
            server.stop()
            server.start()
            async with await connect(server.url, name="test") as conn:
                after = await publish(conn, 5)
                assert await reader.has(10) == before + after


async def write_until(stop: asyncio.Event, url: str) -> None:
    async with await connect(url, name="test") as conn:
        while not stop.is_set():
            await publish(conn, random.randint(1, 3))
            await asyncio.sleep(0.002)


async def test_a_log_that_was_dropped_under_the_hub_ends_its_readers_as_lost_and_others_begin_anew(
    database_url: str, writer: AsyncConnection[Any]
) -> None:
    """While the hub is cut off, what its readers had not got yet is dropped. Fails with: a follower that reads on after
    an outage without a look at where the log begins."""
    async with FaultProxy(database_url) as proxy, open_hub(proxy.url, pool_url=database_url) as hub:
        async with Reader(hub) as reader:
            await reader.has(len(await publish(writer, 2)))
            await proxy.refuse()
            await publish(writer, 3)
            await log_ids(writer)
            await drop_log(writer, until=(await log_bounds(writer)).end)
            await publish(writer, 1)
            await proxy.pass_through()
            assert await reader.ends() == "lost"
            assert len(reader.ids) == 2
            with pytest.raises(CursorExpired, match=r"the log was dropped up to a later place.*read on from") as error:
                await Reader(hub, after=reader.cursors[0]).__aenter__()
            assert error.value.field == "after"
        async with Reader(hub) as again:
            ids = await publish(writer, 2)
            assert (await again.has(2))[-2:] == ids


async def test_a_log_that_is_dropped_under_a_hub_that_lags_behind_ends_its_readers_and_not_the_hub(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection was lost. Fails with: a follower that ends, or skips what is missing."""
    following = Gate(read_log)
    monkeypatch.setattr(follower_module, "read_log", following)
    async with open_hub(database_url) as hub:
        async with Reader(hub) as reader:
            before = await publish(writer, 2)
            await reader.has(2)
            await eventually(lambda: not following.held)
            following.close()
            await publish(writer, 3)
            await log_ids(writer)
            await drop_log(writer, until=(await log_bounds(writer)).end)
            await publish(writer, 3)
            following.open()
            assert await reader.ends() == "lost"
            assert reader.ids == before
        async with Reader(hub) as again:
            ids = await publish(writer, 2)
            assert (await again.has(2))[-2:] == ids


async def test_an_event_that_cannot_be_handed_out_ends_the_readers_and_not_the_hub(
    database_url: str, writer: AsyncConnection[Any]
) -> None:
    """They resume, and only who cannot have it is ended again. Fails with: a follower that ends, after
    which everybody waits for ever; one that hands the page out from its beginning."""

    def render(event: LoggedEvent) -> str:
        if event.type == "bad":
            raise ValueError("cannot be written")
        return str(event.event_id)

    async with open_hub(database_url) as hub:
        async with Reader(hub, render=render) as picky, Reader(hub) as other:
            before = await publish(writer, 2)
            await asyncio.gather(picky.has(2), other.has(2))
            await append(writer, [new_event(), new_event("bad"), new_event()])
            assert {await picky.ends(), await other.ends()} == {"lost"}
        everything = await log_ids(writer)
        async with Reader(hub, after=other.subscription.sent) as resumed:
            assert other.ids + await resumed.has(5 - len(other.ids)) == everything
            async with Reader(hub, after=picky.subscription.sent, render=render) as again:
                assert await again.ends() == "internal_error"
        assert before == everything[:2]


async def test_a_log_that_is_pruned_under_a_reader_of_old_events_ends_it_and_not_one_that_is_behind_it(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch, short_memory: None
) -> None:
    """Between two of its pages. Fails with: a page that looks at the bounds of the log only in the beginning, or before
    it reads; or rows of the log that are left without their events."""
    await publish(writer, 20)
    await log_ids(writer)
    pruning = Pruning((await log_bounds(writer)).end)
    new: list[UUID] = []
    pages = 0

    async def read_page(conn_: AsyncConnection[Any], after: Cursor, *, filter: LogFilter) -> LogPage:
        nonlocal pages
        pages += 1
        if pages == 2:
            while await pruning.portion(writer):
                pass
            new.extend(await publish(writer, 3))
            await log_ids(writer)
        return await read_log(conn_, after, filter=filter, limit=5)

    monkeypatch.setattr(hub_module, "read_log", read_page)
    async with open_hub(database_url) as hub:
        async with Reader(hub, after=BEGINNING) as reader:
            assert await reader.ends() == "cursor_expired"
            assert len(reader.ids) == 5
        assert pruning.done.events == 20
        async with Reader(hub, after=pruning.until) as behind:
            assert await behind.has(3) == new


async def test_a_cursor_ahead_of_the_log_is_refused_and_one_ahead_of_the_hub_is_not(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may come from another gateway that is further. Fails with: no look at the bounds, or only at the hub's
    own place."""
    following = Gate(read_log)
    monkeypatch.setattr(follower_module, "read_log", following)
    await publish(writer)
    async with open_hub(database_url) as hub, Reader(hub) as watching:
        await watching.has(0)
        following.close()
        await publish(writer, 2)
        await log_ids(writer)
        end = (await log_bounds(writer)).end
        assert end > hub._cursor
        with pytest.raises(CursorRejected, match="ahead of the log"):
            await Reader(hub, after=end._replace(position=end.position + 1)).__aenter__()
        async with Reader(hub, after=end) as ahead:
            following.open()
            await watching.has(2)
            ids = await publish(writer, 2)
            assert await ahead.has(2) == ids


@pytest.mark.parametrize("seed", range(3))
async def test_every_filter_gets_what_a_scan_of_the_log_gives_live_from_memory_and_from_the_database(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Fails with: an index that is looked up by another field than it is filled by; filters that share an index and are
    not all asked."""
    monkeypatch.setattr(hub_module, "RECENT_EVENTS", 60)
    pick = random.Random(seed)

    def some(*values: Any) -> Any:
        return pick.choice([None, *values])

    def event() -> Any:
        return new_event(
            pick.choice(["a", "a.b", "c", "reflex.reply"]),
            source=pick.choice("xyz"), key=some("k", "l"), correlation_id=some("k", "c"), reply_to=some("k", "r"),
        )  # fmt: skip

    def filter() -> LogFilter:
        return LogFilter(
            tuple(sorted(pick.sample(["a", "a.*", "c", "*", "reflex.*"], pick.choice([0, 1, 2])))),
            tuple(sorted(pick.sample("xyz", pick.choice([0, 0, 2])))),
            key=some("k", "l", "none"), correlation_id=some("k", "c"), reply_to=some("k", "r"),
        )  # fmt: skip

    filters = [filter() for _ in range(40)]
    await append(writer, [event() for _ in range(100)])
    for _ in range(40):
        await append(writer, [event()])
    await log_ids(writer)
    middle = Cursor((await log_bounds(writer)).end.position - 20, 1)
    async with open_hub(database_url) as hub:
        readers = [Reader(hub, each, after=after) for each in filters for after in (None, BEGINNING, middle)]
        for reader in readers:
            await reader.__aenter__()
        await eventually(lambda: all(hub._joined(reader.subscription) for reader in readers))
        for size in (1, 30, 2, 1):
            await append(writer, [event() for _ in range(size)])
        await log_ids(writer)
        log = (await read_log(writer, BEGINNING)).events
        assert len(log) == 174
        await eventually(lambda: hub._cursor == log[-1].cursor)
        for number, reader in enumerate(readers):
            wanted = [each for each in log if filters[number // 3].matches(each)]
            since = (log[139].cursor, BEGINNING, middle)[number % 3]
            wanted = [each.event_id for each in wanted if each.cursor > since]
            await eventually(lambda reader=reader, wanted=wanted: len(reader.ids) >= len(wanted))
            assert reader.ids == wanted
            await reader.__aexit__(None, None, None)
        assert hub._groups == {}


async def test_a_slow_reader_is_closed_and_the_fast_one_beside_it_gets_everything(
    database_url: str, writer: AsyncConnection[Any]
) -> None:
    """Fails with: an offer that waits for room; an outbox that grows."""
    async with open_hub(database_url) as hub, Reader(hub, max_frames=10) as slow, Reader(hub, max_frames=10) as fast:
        slow.reads.clear()
        await publish(writer)
        await asyncio.gather(slow.has(0), fast.has(1))
        for _ in range(20):
            await publish(writer)
            await fast.has(len(fast.ids))
        everything = await log_ids(writer)
        assert await fast.has(21) == everything
        assert slow.outbox.closed == SLOW
        slow.reads.set()
        assert await slow.ends() == SLOW
        assert slow.ids == everything[: len(slow.ids)]
        assert len(slow.ids) <= 1
        async with Reader(hub, after=slow.subscription.sent) as resumed:
            assert await resumed.has(21 - len(slow.ids)) == everything[len(slow.ids) :]


async def test_who_reads_old_events_slowly_is_waited_for_and_holds_no_more_than_a_page(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch, short_memory: None
) -> None:
    """Others append meanwhile, more than its outbox would hold. Fails with: old events that are offered instead of put;
    a reader that joins before there is room for what is missing."""
    reading = Gate(lambda writer, after, *, filter: read_log(writer, after, filter=filter, limit=50))
    monkeypatch.setattr(hub_module, "read_log", reading)
    await publish(writer, 300)
    await log_ids(writer)
    async with open_hub(database_url) as hub, Reader(hub):
        reader = Reader(hub, after=BEGINNING, max_frames=10)
        reader.reads.clear()
        async with reader:
            await eventually(lambda: not reader.outbox._has_half(1))
            await asyncio.sleep(0.05)
            assert reading.calls == 1
            for step in range(1, 8):
                await publish(writer, 15)
                # It pauses by itself: until this test looks it would have caught up and joined the live ones.
                reader.pauses_at = step * 20
                reader.reads.set()
                await eventually(lambda: not reader.reads.is_set())
                assert reader.outbox.closed is None
                assert reading.calls <= len(reader.ids) // 50 + 2
            reader.pauses_at = None
            reader.reads.set()
            everything = await log_ids(writer)
            assert await reader.has(405) == everything
            assert reader.outbox.closed is None


async def test_while_nobody_watches_the_log_is_put_in_order_and_not_read(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: a follower that reads without readers, or that gives no positions."""
    reading, placing, old = Gate(read_log), Gate(placing_module.place), Gate(read_log)
    monkeypatch.setattr(follower_module, "read_log", reading)
    monkeypatch.setattr(placing_module, "place", placing)
    monkeypatch.setattr(hub_module, "read_log", old)

    async def placed(count: int) -> bool:
        return await number_of(writer, "log") == count

    async with open_hub(database_url) as hub:
        await publish(writer)
        await eventually(lambda: placed(1))
        await publish(writer)
        await eventually(lambda: placed(2))
        assert (reading.calls, old.calls) == (0, 0)
        assert placing.calls < 8, "not a turn for each append"
        async with Reader(hub) as reader:
            await publish(writer)
            await reader.has(1)
            assert reading.calls > 0
        calls = reading.calls
        await publish(writer)
        await eventually(lambda: placed(4))
        assert reading.calls == calls
        assert (len(hub._recent), old.calls) == (0, 0)


async def test_the_first_reader_does_not_wait_until_much_is_read_back(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered for it fits into a page. Fails with: as many appends as there are, however large they are."""
    reading = Gate(read_log)
    monkeypatch.setattr(follower_module, "read_log", reading)
    for _ in range(12):
        await publish(writer, 100)
    await publish(writer, 3)
    everything = await log_ids(writer)
    async with open_hub(database_url) as hub, Reader(hub) as reader:
        assert reading.calls <= 4
        assert [event.event_id for event in hub._recent] == everything[-len(hub._recent) :]
        assert 3 <= len(hub._recent) <= follower_module.EVENTS_A_PAGE
        async with Reader(hub, after=BEGINNING, max_frames=2000) as old:
            assert await old.has(1203) == everything
        assert await reader.has(0) == []


async def test_stopping_ends_every_reader_also_one_that_is_just_being_admitted(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch, short_memory: None
) -> None:
    """Fails with: a stop that looks only at those that there are; a stopped hub that admits others."""
    await publish(writer, 5)
    await log_ids(writer)
    async with open_hub(database_url) as hub, Reader(hub) as reader:
        looking = Gate(log_bounds)
        monkeypatch.setattr(hub_module, "log_bounds", looking)
        looking.close()
        late = Reader(hub, after=BEGINNING)
        entering = asyncio.create_task(late.__aenter__())
        await eventually(lambda: looking.held)
        hub.stop()
        looking.open()
        await entering
        assert (await reader.ends(), await late.ends()) == ("stopping", "stopping")
        with pytest.raises(DatabaseUnavailable, match="stopping"):
            await Reader(hub).__aenter__()
        await late.__aexit__(None, None, None)
