"""Reading the log: pages neither skip nor repeat, whatever bounds them; and where the log begins."""

import asyncio
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor, CursorExpired, CursorRejected
from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LogBounds, drop_log, log_bounds, read_log
from tests.core.log_fixtures import BEGINNING, place, place_all, read_all
from tests.queue_fixtures import new_event, publish

APPENDS = (1, 1, 105, 3, 1, 7)
BOUNDS = st.fixed_dictionaries({
    "limit": st.integers(1, 60) | st.just(1000), "looked_at": st.integers(1, 110),
    "max_bytes": st.integers(1, 3000) | st.just(10**6),
})  # fmt: skip


def test_pages_of_every_size_give_everything_once(database_url: str) -> None:
    """Whatever bounds each page, and with a filter or without.

    Fails if the append that a cursor points into counts as looked at (no way on with `looked_at` 1); if a page that
    was cut at its bytes goes on behind the span; with `>=` for the place in the append; if the bytes before an event
    include its own (no way on with `max_bytes` 1).
    """
    with asyncio.Runner() as runner:
        conn, ids, odd = runner.run(filled_log(database_url))

        @settings(deadline=None, max_examples=30, database=None)
        @given(pages=st.lists(BOUNDS, min_size=1, max_size=5), filtered=st.booleans())
        def check(pages: list[dict[str, int]], filtered: bool) -> None:
            wanted = LogFilter(types=("order.odd",)) if filtered else LogFilter()
            read, cursor, turn = list[UUID](), BEGINNING, 0
            while True:
                bounds = pages[turn % len(pages)]
                page = runner.run(read_log(conn, cursor, filter=wanted, **bounds))
                if page.cursor == cursor:
                    break
                assert cursor < page.cursor
                assert len(page.events) <= bounds["limit"]
                assert all(cursor < event.cursor <= page.cursor for event in page.events)
                assert sum(len(event.payload) for event in page.events[:-1]) <= 2 * bounds["max_bytes"]
                read += [event.event_id for event in page.events]
                cursor = Cursor.parse(str(page.cursor))
                turn += 1
            assert read == (odd if filtered else ids)
            assert cursor == Cursor(len(APPENDS) + 1, 7)

        check()
        runner.run(conn.close())


async def filled_log(url: str) -> tuple[AsyncConnection[Any], list[UUID], list[UUID]]:
    conn = await connect(url, name="test")
    ids: list[UUID] = []
    odd: list[UUID] = []
    for number in APPENDS:
        events = [
            new_event("order.odd" if n % 3 else "order.even", payload='{"text": "%s"}' % ("x" * (n * 37 % 200)))
            for n in range(number)
        ]
        await append(conn, events)
        ids += [event.event_id for event in events]
        odd += [event.event_id for event in events if event.type == "order.odd"]
    await place_all(conn)
    return conn, ids, odd


async def test_a_filter_that_matches_nothing_moves_the_cursor_on(database_url: str) -> None:
    """Fails if the cursor of a page is that of its last event: such a reader looks at the same appends forever."""
    async with await connect(database_url, name="test") as conn:
        ids = await publish(conn, 5)
        await publish(conn, 95)
        (rare,) = await publish(conn, type="order.rare")
        await place_all(conn)
        wanted = LogFilter(types=("order.rare",))
        page = await read_log(conn, BEGINNING, filter=wanted, looked_at=50)
        assert (page.events, page.cursor) == ([], Cursor(2, 95))
        page = await read_log(conn, page.cursor, filter=wanted, looked_at=50)
        assert ([event.event_id for event in page.events], page.cursor) == ([rare], Cursor(3, 1))
        page = await read_log(conn, BEGINNING, filter=LogFilter(key="nobody's"))
        assert (page.events, page.cursor) == ([], Cursor(3, 1))
        assert (await read_all(conn, Cursor(1, 2)))[0][:4] == [*ids[2:], (await read_all(conn))[0][5]]


async def test_an_event_is_read_as_it_was_stored(database_url: str) -> None:
    """Fails if a column of read_log.sql changes its place, or a payload is read and written again."""
    async with await connect(database_url, name="test") as conn:
        cause = new_event()
        event = new_event(
            "order.paid", '{"n": 1.50, "s": "ß"}', source="shop", key="A1", correlation_id="c",
            causation_id=cause.event_id, depth=3, trace_context="00-1-2-01", reply_to="somebody",
        )  # fmt: skip
        await append(conn, [cause, event])
        await place(conn)
        (_, logged) = (await read_log(conn, BEGINNING)).events
        for name in ("event_id", "type", "source", "key", "correlation_id", "causation_id", "depth", "trace_context",
                     "reply_to"):  # fmt: skip
            assert getattr(logged, name) == getattr(event, name), name
        assert (logged.cursor, logged.available_at) == (Cursor(1, 2), None)
        shown = orjson.loads(logged.json)
        assert (shown["id"], shown["causation_id"]) == (str(event.event_id), str(cause.event_id))
        assert shown["time"].endswith("Z")
        assert '{"n": 1.50, "s": "ß"}' in logged.json
        assert "reply_to" not in shown


async def test_the_bounds_follow_the_log(database_url: str) -> None:
    """An event that has no position yet is not in them."""
    async with await connect(database_url, name="test") as conn:
        assert await log_bounds(conn) == LogBounds(BEGINNING, BEGINNING)
        await publish(conn, 3)
        assert (await log_bounds(conn)).end == BEGINNING
        await place(conn)
        assert await log_bounds(conn) == LogBounds(BEGINNING, Cursor(1, 3))
        bounds = await log_bounds(conn)
        assert bounds.check(Cursor(1, 3)) == Cursor(1, 3)
        with pytest.raises(CursorRejected):
            bounds.check(Cursor(2, 1))


async def test_dropping_up_to_the_middle_of_an_append_keeps_its_other_events(database_url: str) -> None:
    """Fails if the whole row of `until` goes: events that are still there could not be read any more."""
    async with await connect(database_url, name="test") as conn:
        ids = [event_id for n in (2, 3, 1) for event_id in await publish(conn, n)]
        await place_all(conn)
        await drop_log(conn, until=Cursor(2, 2))
        bounds = await log_bounds(conn)
        assert bounds == LogBounds(Cursor(2, 2), Cursor(3, 1))
        assert await read_all(conn, bounds.start) == (ids[4:], Cursor(3, 1))
        with pytest.raises(CursorExpired):
            bounds.check(Cursor(2, 1))
        await drop_log(conn, until=Cursor(2, 1))
        await drop_log(conn, until=Cursor(0, 0))
        assert await log_bounds(conn) == bounds
        await drop_log(conn, until=Cursor(3, 0))
        assert (await log_bounds(conn)).start == Cursor(2, 3)


async def test_dropping_more_than_there_is_ends_at_the_end_of_the_log(database_url: str) -> None:
    """Fails if the log begins at `until` then: who has read everything would be told that it missed something.
    The numbers of what was dropped are not given again."""
    async with await connect(database_url, name="test") as conn:
        await publish(conn, 2)
        await place(conn)
        for until in (Cursor(1, 60_000), Cursor(99, 0)):
            await drop_log(conn, until=until)
            assert await log_bounds(conn) == LogBounds(Cursor(1, 2), Cursor(1, 2))
        assert await read_all(conn, Cursor(1, 2)) == ([], Cursor(1, 2))
        (new,) = await publish(conn)
        await place(conn)
        assert await read_all(conn, Cursor(1, 2)) == ([new], Cursor(2, 1))


async def test_a_reader_that_is_overtaken_by_a_drop_is_told(database_url: str) -> None:
    """It was checked at its beginning and has read a page since. Fails if read_log() does not look at the beginning of
    the log in the snapshot it reads: it would go on behind what it missed,
    or wait at a cursor that is no good when all is gone."""
    async with await connect(database_url, name="test") as conn:
        for _ in range(4):
            await publish(conn)
        await place(conn)
        cursor = (await log_bounds(conn)).check(BEGINNING)
        cursor = (await read_log(conn, cursor, limit=1)).cursor
        await drop_log(conn, until=cursor)
        cursor = (await read_log(conn, cursor, limit=1)).cursor
        for until in (Cursor(3, 1), Cursor(4, 1)):
            await drop_log(conn, until=until)
            with pytest.raises(CursorExpired) as caught:
                await read_log(conn, cursor)
            assert str(until) in caught.value.reason
