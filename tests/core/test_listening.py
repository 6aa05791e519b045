"""Waiting for notifications."""

import asyncio
import time
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.database import sever
from reflex.core.listening import listen_to, notified


async def say(conn: AsyncConnection[Any], *words: str) -> None:
    for word in words:
        await conn.execute("SELECT pg_notify('reflex_test', %s)", [word])


async def test_what_is_said_ends_the_wait(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """Fails if the wait goes on after its notification, or the socket is not watched."""
    await listen_to(db, ["reflex_test"])
    waiting = asyncio.create_task(notified(db, within_s=60))
    await asyncio.sleep(0.1)
    await say(other, "news")
    async with asyncio.timeout(10):
        assert [said.payload for said in await waiting] == ["news"]


async def test_all_that_was_said_meanwhile_is_given_at_once(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Fails if only the socket is looked at: a statement on the connection has read the first two already."""
    await listen_to(db, ["reflex_test", "reflex_other"])
    await say(other, "one", "two")
    await db.execute("SELECT")
    await say(other, "three")
    async with asyncio.timeout(10):
        said = await notified(db, within_s=60)
        if len(said) < 3:  # the third was still on its way
            said += await notified(db, within_s=60)
    assert [(each.channel, each.payload) for each in said] == [
        ("reflex_test", word) for word in ("one", "two", "three")
    ]


async def test_nothing_is_said(db: AsyncConnection[Any]) -> None:
    """Fails if the wait has no end, or leaves the connection in a state that takes no statement."""
    await listen_to(db, ["reflex_test"])
    began = time.monotonic()
    assert await notified(db, within_s=0.2) == []
    assert time.monotonic() - began >= 0.2
    await db.execute("SELECT")


async def test_a_connection_that_ends_is_an_error_at_once(db: AsyncConnection[Any]) -> None:
    """Fails if the end of a connection looks like silence: an outage would be noticed at the next probe only."""
    await listen_to(db, ["reflex_test"])
    asyncio.get_running_loop().call_later(0.1, sever, db)
    async with asyncio.timeout(10):
        with pytest.raises(psycopg.OperationalError):
            await notified(db, within_s=60)
