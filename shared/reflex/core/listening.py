"""Listening: what was notified on a connection, waited for without waking up for nothing.

psycopg's own wait looks up ten times a second whether it is to end, which is most of what an idle process would do.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import AsyncConnection, Notify
from psycopg.sql import SQL, Identifier

from reflex.core.pooler import through_pooler

__all__ = ["listen_to", "notified"]


async def listen_to(conn: AsyncConnection[Any], channels: Iterable[str]) -> None:
    """What is notified on these channels from now on is heard.

    Raises:
        psycopg.NotSupportedError: It would not be: a pooler is in between, or the engine knows no LISTEN. Whoever
            looks often enough does without.
    """
    if await through_pooler(conn):
        # It would take the LISTEN, and whoever has that session next would hear.
        raise psycopg.NotSupportedError(
            "DATABASE_URL goes through a connection pooler, which passes no notifications on: set REFLEX_DIRECT_URL "
            "to the address of PostgreSQL itself"
        )
    for channel in channels:
        await conn.execute(SQL("LISTEN {}").format(Identifier(channel)))


async def notified(conn: AsyncConnection[Any], *, within_s: float) -> list[Notify]:
    """All that was notified since the last call; if that is nothing, what comes next, or after so many seconds nothing.

    Raises:
        psycopg.OperationalError: The connection has ended.
    """
    said = [notification async for notification in conn.notifies(timeout=0)]
    if said or not await readable(conn.fileno(), within_s):
        return said
    return [notification async for notification in conn.notifies(timeout=0)]


async def readable(fileno: int, within_s: float) -> bool:
    """Whether something arrived on an idle connection, or it ended, within so many seconds."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(fileno, arrived.set)
    try:
        async with asyncio.timeout(within_s):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fileno)
    return True
