"""The publisher of progress: sends what runs show while somebody watches, on a connection of its own.

It never holds up a run: what cannot be sent is dropped, counted, and forgotten.
"""

import asyncio
import time
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.agent.progress import Entry
from reflex.core.database import answered_within, connect
from reflex.core.progress import WATCHED_FOR_S, encode, send_progress
from reflex.worker.progress_buffer import ProgressBuffer

__all__ = ["ProgressPublisher"]

SEND_EVERY_S: Final = 0.1
# How long the connection outlasts the last watcher.
LINGER_S: Final = 60.0
ANSWER_S: Final = 5.0
LAST_WORDS_S: Final = 1.0
LONGEST_WAIT_S: Final = 5.0


class ProgressPublisher:
    """One a process; the `Audience` of its runs. Nothing is connected before somebody watches."""

    def __init__(
        self, url: str, *, watched_for_s: float = WATCHED_FOR_S, linger_s: float = LINGER_S, max_size: int | None = None
    ) -> None:
        self.buffer = ProgressBuffer() if max_size is None else ProgressBuffer(max_size)
        self._url = url
        self._watched_for_s = watched_for_s
        self._linger_s = linger_s
        self._watched_until = 0.0
        self._filled = asyncio.Event()
        self._closing = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger()

    @property
    def watched(self) -> bool:
        return time.monotonic() < self._watched_until

    def watch(self) -> None:
        """Somebody watches, as far as was heard just now. Called in the event loop."""
        self._watched_until = time.monotonic() + self._watched_for_s
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_while_watched())

    def show(self, entry: Entry) -> None:
        self.buffer.add(entry)
        self._filled.set()

    async def aclose(self) -> None:
        """Send what is left, if that goes quickly, and close the connection. Nothing must be shown afterwards."""
        self._closing.set()
        self._filled.set()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=2 * LAST_WORDS_S)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send_while_watched(self) -> None:
        conn: AsyncConnection[Any] | None = None
        wait_s = SEND_EVERY_S
        try:
            while (idle_s := self._watched_until + self._linger_s - time.monotonic()) > 0:
                if not await within(idle_s, self._filled):
                    continue  # somebody may have begun to watch again
                self._filled.clear()
                try:
                    if conn is None and not self._closing.is_set():
                        conn = await connect(self._url, name="reflex progress")
                    if conn is not None:
                        await self._send(conn)
                    wait_s = SEND_EVERY_S
                except (psycopg.Error, OSError) as error:
                    self._log.debug("progress could not be sent", error=str(error).strip())
                    await close(conn)
                    conn = None
                    wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                    self._filled.set()
                if self._closing.is_set():
                    break
                await within(wait_s, self._closing)
        finally:
            await close(conn)

    async def _send(self, conn: AsyncConnection[Any]) -> None:
        if not self.buffer:
            return
        # Not before there is a connection: while the database is away, the buffer keeps the newest.
        entries = self.buffer.take()
        try:
            with answered_within(LAST_WORDS_S if self._closing.is_set() else ANSWER_S, conn):
                await send_progress(conn, encode([entry.record() for entry in entries]))
        except (psycopg.Error, OSError):
            # They may have arrived: sent again, they would be shown twice.
            self.buffer.lost(entries)
            raise


async def within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def close(conn: AsyncConnection[Any] | None) -> None:
    if conn is not None:
        await conn.close()
