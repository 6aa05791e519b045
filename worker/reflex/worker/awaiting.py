"""Waking runs that wait for events: follow the log while there are any, and make due those for which there is news.

    nothing is awaited ──told, or found──► follow the log over a connection of its own ──nothing is awaited──► idle

Every worker does this; one at a time looks.
"""

import asyncio
import random
import time
from contextlib import suppress
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.awaiting import AWAIT_CHANNEL, Found, find_awaited, forget_awaited, sweep_awaited
from reflex.core.database import answered_within, connect
from reflex.core.listening import listen_to, notified
from reflex.core.log import WAKE_CHANNEL
from reflex.core.log_reading import LOG_CHANNEL
from reflex.core.placing import APPENDS_A_TURN, Placer
from reflex.core.waiting import end_waits

__all__ = ["Awaiting"]

# However many events there are, the log is not looked at more often than this; and at least this often.
SHORTEST_S: Final = 0.05
LONGEST_S: Final = 1.0
# How often that is cleared away which nobody waits for any more: what timed out, or was cancelled.
SWEEP_S: Final = 5.0
ANSWER_S: Final = 30.0


class Awaiting:
    """Follows the log for runs that wait."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.awaited = asyncio.Event()
        self.sweep_at = 0.0
        self.log: Any = structlog.get_logger()

    def wake(self) -> None:
        """A run waits for an event."""
        self.awaited.set()

    async def run(self) -> None:
        """Until cancelled. An outage is waited out."""
        wait_s = 0.1
        while True:
            await self.awaited.wait()
            self.awaited.clear()
            try:
                conn = await connect(self.url, name="reflex awaiting")
                try:
                    await self.follow(conn)
                finally:
                    await conn.close()
                wait_s = 0.1
            except (psycopg.Error, OSError) as error:
                self.log.warning("runs that wait for events are woken later: the log cannot be read",
                                 error=str(error).strip())  # fmt: skip
                self.awaited.set()
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
                wait_s = min(wait_s * 2, 5)

    async def follow(self, conn: AsyncConnection[Any]) -> None:
        """Until nothing is awaited any more."""
        with suppress(psycopg.NotSupportedError):  # then it is looked for every LONGEST_S
            await listen_to(conn, [LOG_CHANNEL, WAKE_CHANNEL, AWAIT_CHANNEL])
        placer = Placer()
        while True:
            with answered_within(ANSWER_S, conn):
                found = await self.look(conn, placer)
            if not found.anything:
                return
            await asyncio.sleep(SHORTEST_S)
            if not found.more:
                left = LONGEST_S if found.next_in is None else min(LONGEST_S, found.next_in.total_seconds())
                await notified(conn, within_s=left)

    async def look(self, conn: AsyncConnection[Any], placer: Placer) -> Found:
        while await placer.place(conn) >= APPENDS_A_TURN:
            pass
        found = await find_awaited(conn)
        if found.deliveries:
            woken = await end_waits(conn, found.deliveries)
            self.log.debug("woke runs that wait for an event", deliveries=len(woken))
            await forget_awaited(conn, found.deliveries)
        if time.monotonic() >= self.sweep_at:
            await sweep_awaited(conn)
            self.sweep_at = time.monotonic() + SWEEP_S
        return found
