"""Sessions of clients: their secrets, and the positions that many of them write together."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.errors import DatabaseUnavailable
from reflex.core.sessions import keep_sessions, session_positions
from reflex.gateway.live import sessions
from reflex.gateway.live.sessions import Session, Sessions
from reflex.gateway.live.stream import Receipts
from tests.processes import eventually


@pytest.fixture
async def conn(database_url: str) -> AsyncGenerator[AsyncConnection[Any]]:
    async with await connect(database_url, name="tests") as conn:
        yield conn


@given(st.binary(min_size=32, max_size=32))
def test_a_token_is_read_as_it_was_written(secret: bytes) -> None:
    session = Session.of(secret)
    assert Session.parse(session.token) == session
    assert len(session.token) == 43
    assert len(session.id) == 32


@given(st.text(max_size=50) | st.binary(max_size=40).map(lambda secret: base64.urlsafe_b64encode(secret).decode()))
def test_anything_else_is_no_token(text: str) -> None:
    """Fails when characters that base64 skips are let through: one session would have many tokens."""
    session = Session.parse(text)
    assert session is None or session.token == text


def test_each_session_is_another() -> None:
    assert len({Session.new().token for _ in range(100)}) == 100


async def test_a_position_only_moves_forward(conn: AsyncConnection[Any]) -> None:
    """Fails when the condition of the update is dropped: a second connection that is behind would take replies back."""
    await keep_sessions(conn, {"a": Cursor(5, 2), "b": Cursor(1, 1)})
    await keep_sessions(conn, {"a": Cursor(5, 1), "b": Cursor(1, 2)})
    assert await session_positions(conn, ["a", "b", "c"]) == {"a": Cursor(5, 2), "b": Cursor(1, 2)}


async def test_two_gateways_that_write_the_same_sessions_do_not_lock_each_other_out(
    conn: AsyncConnection[Any], database_url: str
) -> None:
    """Fails with a deadlock when rows are locked in the order in which they were given."""
    names = [f"{number:02}" for number in range(50)]
    await keep_sessions(conn, {name: Cursor(0, 0) for name in names})
    async with await connect(database_url, name="tests") as other:
        for position in range(1, 20):
            cursor = Cursor(position, 0)
            await asyncio.gather(
                keep_sessions(conn, {name: cursor for name in names}),
                keep_sessions(other, {name: cursor for name in reversed(names)}),
            )


def reading(conn: AsyncConnection[Any], calls: list[int]) -> sessions.Read:
    async def read(query: Callable[[AsyncConnection[Any]], Awaitable[Any]]) -> Any:
        calls.append(1)
        async with conn.transaction():
            return await query(conn)

    return read


async def test_what_many_ask_at_once_is_asked_once(conn: AsyncConnection[Any]) -> None:
    """Fails when each connection has a statement of its own: thousands that come back at once would wait in line."""
    calls: list[int] = []
    async with Sessions(reading(conn, calls)) as kept:
        await asyncio.gather(*(kept.keep(f"{number}", Cursor(number, 1)) for number in range(100)))
        found = await asyncio.gather(*(kept.find(f"{number}") for number in range(101)))
    assert found == [Cursor(number, 1) for number in range(100)] + [None]
    assert len(calls) == 2


async def test_an_outage_is_told_and_what_changed_is_written_after_it(
    conn: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a position that could not be written is forgotten, or the first failure ends the writing for good."""
    monkeypatch.setattr(sessions, "EVERY_S", 0.02)
    works = False

    async def read(query: Callable[[AsyncConnection[Any]], Awaitable[Any]]) -> Any:
        if not works:
            raise DatabaseUnavailable("away")
        return await reading(conn, [])(query)

    async with Sessions(read) as kept:
        with pytest.raises(DatabaseUnavailable):
            await kept.find("a")
        with kept.watched("a", lambda: Cursor(7, 1)):
            await asyncio.sleep(0.1)
        works = True

        async def is_written() -> bool:
            return await kept.find("a") == Cursor(7, 1)

        await eventually(is_written)


async def test_leaving_writes_the_last_positions(conn: AsyncConnection[Any]) -> None:
    """Fails when a gateway that stops leaves its clients' positions as they were five seconds before."""
    async with Sessions(reading(conn, [])) as kept:
        with kept.watched("a", lambda: Cursor(7, 1)), kept.watched("never published", lambda: None):
            pass
    assert await session_positions(conn, ["a", "never published"]) == {"a": Cursor(7, 1)}


def test_only_the_pong_of_the_latest_ping_proves_what_was_sent_before_it() -> None:
    """Fails when any pong counts, or what was sent after the ping counts as received."""
    asked: list[bytes] = []
    receipts = Receipts(lambda: asked.append(receipts.ping()))
    receipts.sent("one")
    receipts.sent("two")
    assert (len(asked), receipts.confirmed) == (1, None)
    receipts.pong(b"something else")
    assert receipts.confirmed is None
    receipts.pong(asked[0])
    assert (len(asked), receipts.confirmed) == (2, "one")
    receipts.pong(asked[0])
    assert receipts.confirmed == "one"
    receipts.pong(asked[1])
    assert (len(asked), receipts.confirmed) == (2, "two")
    receipts.sent("three")
    receipts.pong(asked[2])
    assert receipts.confirmed == "three"
