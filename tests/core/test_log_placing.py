"""Promise 8, readers miss nothing, with every interleaving of appends and placers forced.

Where appends overlap, these fail if a position is the number that is drawn in the append (`INSERT INTO reflex.log
(position, …) OVERRIDING SYSTEM VALUE SELECT append_id, …`): what commits late is behind the readers then. What else
each fails with, it says.
"""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.log_reading import log_bounds, read_log
from tests.core.log_fixtures import BEGINNING, StoppedPlacer, place, place_all, read_all
from tests.queue_fixtures import count, new_event, publish

Conn = AsyncConnection[Any]


@pytest.fixture
async def conns(database_url: str) -> AsyncIterator[list[Conn]]:
    """Four autocommit connections; a lock that one of them waits for in vain is an error and not a test that hangs."""
    opened = [await connect(database_url, name=f"test {n}") for n in range(4)]
    for conn in opened:
        await conn.execute("SET lock_timeout = '3s'")
    yield opened
    for conn in opened:
        await conn.close()


async def test_who_commits_first_comes_first_and_who_comes_later_is_read_later(conns: list[Conn]) -> None:
    """Two open appends that commit in the other order than they began in, and a third that never does."""
    one, two, three, reader = conns
    async with one.transaction():
        (first,) = await publish(one)
        async with three.transaction(force_rollback=True):
            await publish(three)
            async with two.transaction():
                (second,) = await publish(two)
            await place_all(reader)
            read, cursor = await read_all(reader)
            assert read == [second]
        await place_all(reader)
        assert await read_all(reader, cursor) == ([], cursor)
    await place_all(reader)
    assert (await read_all(reader, cursor))[0] == [first]
    assert (await read_all(reader))[0] == [second, first]


async def test_an_append_that_stays_open_holds_up_nobody_and_comes_once(conns: list[Conn]) -> None:
    """Fails, too, if only what is older than every open transaction is placed: nothing is read until it commits."""
    slow, writer, reader, _ = conns
    read: list[UUID] = []
    cursor = BEGINNING
    async with slow.transaction():
        late = await publish(slow, 3)
        for turn in range(20):
            published = await publish(writer, 1 + turn % 3)
            await place_all(reader)
            new, cursor = await read_all(reader, cursor, limit=2)
            assert new == published
            read += new
    await place_all(reader)
    new, cursor = await read_all(reader, cursor)
    assert new == late
    assert (await read_all(reader))[0] == read + late
    assert await count(reader, "appended") == 0


async def test_nothing_becomes_visible_before_what_another_placer_has_placed(conns: list[Conn]) -> None:
    """Fails without the placers' lock, or if it is given back at the end of the statement and not of the transaction
    (`pg_try_advisory_lock` with an unlock): the second placer then places past the first."""
    one, two, writer, reader = conns
    before = await publish(writer, 2)
    async with one.transaction():
        assert await place(one) == 1
        after = await publish(writer, 2)
        assert await place(two) == 0
        assert await read_all(reader) == ([], BEGINNING)
    assert (await read_all(reader))[0] == before
    assert await place(two) == 1
    assert (await read_all(reader))[0] == before + after


async def test_what_was_placed_since_a_placers_snapshot_is_not_placed_again(conns: list[Conn]) -> None:
    """The placer has its snapshot and not yet its turn, while another one places what it sees, and more.

    Fails if what is placed is what was selected and not what was deleted.
    """
    holder, placer, other, writer = conns
    first = await publish(writer)
    stopped = StoppedPlacer(holder, placer)
    placing = await stopped.start("before")
    second = await publish(writer)
    assert await place(other) == 2
    third = await publish(writer)
    await stopped.release()
    assert await placing == 0
    assert (await read_all(other))[0] == first + second
    await place_all(other)
    assert (await read_all(other))[0] == first + second + third


async def test_what_commits_between_a_placers_snapshot_and_its_turn_is_left_to_the_next(conns: list[Conn]) -> None:
    """An append that was open before the snapshot, and one that began after it: both come behind what was seen."""
    holder, placer, slow, writer = conns
    async with slow.transaction():
        older = await publish(slow)
        seen = await publish(writer)
        stopped = StoppedPlacer(holder, placer)
        placing = await stopped.start("before")
    newer = await publish(writer)
    await stopped.release()
    assert await placing == 1
    read, cursor = await read_all(writer)
    assert read == seen
    await place_all(writer)
    assert (await read_all(writer, cursor))[0] == older + newer


async def test_a_placer_that_is_killed_leaves_everything_to_the_next(conns: list[Conn], database_url: str) -> None:
    """Once in the middle of its statement and once before its commit. The numbers it has drawn are gaps.

    Fails without the placers' lock.
    """
    holder, victim, writer, reader = conns
    first = await publish(writer, 2)
    placing = await StoppedPlacer(holder, victim).start("after")
    assert await place(reader) == 0
    await kill(holder, victim)
    with pytest.raises(psycopg.OperationalError):
        await placing
    second = await publish(writer)
    victim = await connect(database_url, name="another victim")
    await victim.set_autocommit(False)
    assert await place(victim) == 2
    await kill(holder, victim)
    await victim.close()
    assert await place(reader) == 2
    assert (await read_all(reader))[0] == first + second
    assert (await log_bounds(reader)).end.position > 2


async def kill(conn: Conn, victim: Conn) -> None:
    """Ends the backend, and waits until it is gone."""
    row = await (await conn.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])).fetchone()
    assert row == (True,)


async def test_gaps_in_the_numbers_change_nothing(conns: list[Conn]) -> None:
    """Appends and placers that were rolled back, and a server that lost the numbers it had logged ahead."""
    one, two, reader, _ = conns
    published: list[UUID] = []
    for _ in range(3):
        published += await publish(one)
        async with two.transaction(force_rollback=True):
            await publish(two)
            await place(two)
        await place_all(reader)
        await one.execute(
            "SELECT nextval(pg_get_serial_sequence('reflex.log', 'position')) FROM generate_series(1, 40)"
        )
    read, cursor = await read_all(reader, limit=1, looked_at=1)
    assert read == published
    assert cursor == (await log_bounds(reader)).end


async def test_what_is_appended_after_another_event_was_accepted_comes_later(conns: list[Conn]) -> None:
    """Over several connections, with ids that run backwards as those of a gateway whose clock is slow do; and placed in
    one turn. Fails if a turn is in the order of ids."""
    ids: list[UUID] = []
    for turn, event in enumerate(sorted((new_event() for _ in range(12)), reverse=True)):
        await append(conns[turn % 3], [event])
        ids.append(event.event_id)
    assert await place(conns[3], limit=5) == 5
    assert await place(conns[0], limit=100) == 7
    assert (await read_all(conns[3]))[0] == ids


async def test_a_large_append_is_in_the_order_of_its_ids(conns: list[Conn]) -> None:
    """Fails if the rows that an append is cut into draw their numbers in any order; a hundred events a row."""
    writer, reader, *_ = conns
    ids = await publish(writer, 1050)
    assert await place(reader, limit=7) == 7
    assert await place(reader) == 4
    assert (await read_all(reader))[0] == ids
    assert len((await read_log(reader, BEGINNING, limit=2000)).events) == 1050
