"""A standing loop: one that has a connection of its own, and gets another one when it loses it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.database import connect

__all__ = ["standing"]


async def standing(url: str, name: str, rounds: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> None:
    """Call `rounds` with a connection, and again with a new one whenever it ends by an error of the database's.

    Runs until cancelled; an outage is waited out. What had to be known about the old connection is void.
    """
    log = structlog.get_logger()
    wait_s = 0.1
    while True:
        try:
            conn = await connect(url, name=f"reflex {name}")
            try:
                wait_s = 0.1
                await rounds(conn)
            finally:
                await conn.close()
        except (psycopg.Error, OSError) as error:
            log.warning(f"{name} lost the database, trying again", error=str(error).strip())
        await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
        wait_s = min(wait_s * 2, 5)
