"""What a placer remembers: it never steps over an append that may still come."""

from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.placing import BOUND_S, Placer, place
from reflex.core.statements import statement
from tests.core.log_fixtures import read_all
from tests.queue_fixtures import publish

Conn = AsyncConnection[Any]


@pytest.fixture
async def conns(database_url: str) -> AsyncIterator[list[Conn]]:
    opened = [await connect(database_url, name=f"test {n}") for n in range(3)]
    yield opened
    for conn in opened:
        await conn.close()


async def turns(placer: Placer, conn: Conn, writer: Conn, count: int) -> None:
    for _ in range(count):
        await publish(writer)
        await placer.place(conn)


async def test_the_bound_follows_what_was_placed(conns: list[Conn]) -> None:
    """While an old snapshot keeps the dead rows. Fails if the bound stays: each turn would walk over all of them."""
    conn, writer, old = conns
    placer = Placer(appends_a_bound=2)
    async with old.transaction():
        await old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await old.execute("SELECT count(*) FROM reflex.event")
        await turns(placer, conn, writer, 20)
    assert 14 <= placer.bound < 20


async def test_an_append_that_is_open_is_not_stepped_over(conns: list[Conn]) -> None:
    """Fails if the bound is the last number that was drawn, or placed: what commits late would never be read."""
    conn, writer, slow = conns
    placer = Placer(appends_a_bound=2)
    await turns(placer, conn, writer, 10)
    async with slow.transaction():
        late = await publish(slow)
        await turns(placer, conn, writer, 20)
        assert placer.bound <= 10
    assert await placer.place(conn) == 1
    assert (await read_all(conn))[0][-1:] == late
    await turns(placer, conn, writer, 10)
    assert placer.bound > 30


async def test_an_append_that_begins_while_a_bound_is_taken_is_not_stepped_over(conns: list[Conn]) -> None:
    """It opens between the two questions. Fails if who is open is asked before the last number is read."""
    conn, writer, slow = conns
    late: list[UUID] = []

    class Interrupted:
        """The placer's connection, on which something happens right after the first of the two."""

        async def execute(self, query: Any, *rest: Any) -> Any:
            cursor = await conn.execute(query, *rest)
            if query in (statement("last_append"), statement("open_appends")) and not late:
                await slow.execute("BEGIN")
                late.extend(await publish(slow))
            return cursor

    interrupted = cast("Conn", Interrupted())
    placer = Placer(appends_a_bound=1)
    await turns(placer, interrupted, writer, 6)
    assert late
    await slow.execute("COMMIT")
    await turns(placer, conn, writer, 6)
    assert set(late) <= set((await read_all(conn))[0])
    assert placer.bound > 6


async def test_what_a_full_turn_has_left_is_not_stepped_over(conns: list[Conn]) -> None:
    """Fails if a bound moves although the turn took as much as it might."""
    conn, writer, _ = conns
    placer = Placer(appends_a_bound=1)
    published = [event_id for _ in range(4) for event_id in await publish(writer)]
    assert [await placer.place(conn, limit=1) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert (await read_all(conn))[0] == published


async def test_what_another_placer_may_give_back_is_not_stepped_over(conns: list[Conn]) -> None:
    """Another one has its turn, just as our bound would move, and rolls back. Fails if it moves though the turn was not
    ours."""
    conn, writer, other = conns
    placer = Placer(appends_a_bound=1)
    published = [event_id for _ in range(4) for event_id in await publish(writer)]
    assert [await placer.place(conn, limit=1) for _ in range(2)] == [1, 1]
    async with other.transaction(force_rollback=True):
        assert await place(other) == (2, True)
        assert await placer.place(conn) == 0
    assert await placer.place(conn) == 2
    assert (await read_all(conn))[0] == published


async def test_the_first_append_of_all_is_not_stepped_over(conns: list[Conn]) -> None:
    """Fails if the sequence is believed that says 1 before anybody has drawn a number."""
    conn, writer, _ = conns
    placer = Placer(appends_a_bound=0)
    assert [await placer.place(conn) for _ in range(3)] == [0, 0, 0]
    published = await publish(writer)
    assert await placer.place(conn) == 1
    assert (await read_all(conn))[0] == published


async def test_a_bound_is_forgotten_after_a_while(conns: list[Conn], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server behind a pooler is another one, and its numbers begin earlier. Fails if a bound is for ever."""
    conn, writer, _ = conns
    now = 0.0
    monkeypatch.setattr("reflex.core.placing.time.monotonic", lambda: now)
    placer = Placer(appends_a_bound=1)
    await turns(placer, conn, writer, 5)
    assert placer.bound > 1
    await conn.execute("SELECT setval('reflex.appended_append_id_seq', 1, false)")
    published = await publish(writer)
    assert await placer.place(conn) == 0
    now = BOUND_S + 1
    assert await placer.place(conn) == 1
    assert (await read_all(conn))[0][-1:] == published
