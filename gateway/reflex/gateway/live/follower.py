"""The follower: reads the end of the log for everybody in this gateway, on one connection of its own.

Woken by notifications, with polling underneath. While nobody watches it only gives appends their position, so that
the order of the log stays close to that of the commits.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor, CursorExpired, CursorRejected
from reflex.core.database import answered_within, connect, describe
from reflex.core.listening import listen_to
from reflex.core.log import WAKE_CHANNEL
from reflex.core.log_reading import LOG_CHANNEL, LogPage, log_bounds, read_log
from reflex.core.placing import Placer

__all__ = ["Follower"]

POLL_S: Final = 1.0
IDLE_POLL_S: Final = 2.0
# Commits that come faster than this are read together. Readers hardly notice, and the database does.
TURN_S: Final = 0.005
ANSWER_S: Final = 10.0
PLACED_A_TURN: Final = 1000
EVENTS_A_PAGE: Final = 500
# How far back the log is read when the first reader comes: those who were cut off by a restart resume from memory.
# As many as fit into one page: reading much would keep that reader waiting, and fill the memory.
APPENDS_READ_BACK: Final = (200, 20, 2, 0)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Follower:
    """Calls `deliver` with the events of the log, in order, each once, while somebody watches.

    Args:
        deliver: Gets the next events.
        begin: Gets a cursor and what follows it up to the end of the log, some recent events. Nothing of what was
            delivered before counts any more.
        lose: The log was dropped or restored under it, so that events are missing, or what it delivers to failed; it
            begins anew.
    """

    def __init__(
        self,
        url: str,
        *,
        deliver: Callable[[LogPage], Awaitable[None]],
        begin: Callable[[Cursor, LogPage], None],
        lose: Callable[[], None],
    ) -> None:
        self._url = url
        self._deliver = deliver
        self._begin = begin
        self._lose = lose
        self._watched = False
        self._wake = asyncio.Event()
        self._cursor: Cursor | None = None
        self._placer = Placer()
        self._turned_at = 0.0
        self._works = True
        self.ready = asyncio.Event()

    def watch(self) -> None:
        """Somebody reads: `ready` is set once the end of the log is known."""
        if not self._watched:
            self._watched = True
            self._wake.set()

    def rest(self) -> None:
        """Nobody reads any more."""
        self._watched = False
        self._cursor = None
        self.ready.clear()

    async def run(self) -> None:
        """Follow until cancelled; an outage is waited out, and nothing is missed by it."""
        wait_s = 0.1
        while True:
            try:
                conn = await connect(self._url, name="reflex gateway: follow")
                self._placer = Placer()
                try:
                    await self._listen(conn)
                    await self._check(conn)
                    while True:
                        try:
                            await self._turn(conn)
                        except CursorExpired as error:
                            self._begin_anew(error)
                            continue
                        wait_s = 0.1
                        if not self._works:
                            self._works = True
                            log.info("live readers are served again", database=describe(self._url))
                        await self._pause(conn)
                finally:
                    await conn.close()
            except (psycopg.Error, OSError) as error:
                if self._works:
                    self._works = False
                    log.warning(
                        "live readers wait: the log cannot be read", database=describe(self._url),
                        error=str(error).strip(),
                    )  # fmt: skip
            except Exception as error:
                log.exception("the log could not be handed out")
                self._begin_anew(error)  # how far that was is not known; readers know how far they are
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
            wait_s = min(wait_s * 2, 2)

    async def _listen(self, conn: AsyncConnection[Any]) -> None:
        conn.add_notify_handler(lambda _: self._wake.set())
        try:
            with answered_within(ANSWER_S, conn):
                await listen_to(conn, [WAKE_CHANNEL, LOG_CHANNEL])
        except psycopg.NotSupportedError as error:
            log.warning("live readers are served by polling only, a second later", reason=str(error))

    async def _check(self, conn: AsyncConnection[Any]) -> None:
        """After an outage: whether the log still holds what comes next."""
        if self._cursor is None:
            return
        with answered_within(ANSWER_S, conn):
            bounds = await log_bounds(conn)
        try:
            bounds.check(self._cursor)
        except CursorRejected as error:
            self._begin_anew(error)

    def _begin_anew(self, error: Exception) -> None:
        """At the end of the log, with new readers: those that there are end, and resume from their own cursors."""
        if self._cursor is not None:
            log.error("live readers have to begin anew", error=str(error))
            self._cursor = None
            self.ready.clear()
            self._lose()

    async def _turn(self, conn: AsyncConnection[Any]) -> None:
        """Give appends their position, and deliver what can be read."""
        self._wake.clear()
        with answered_within(ANSWER_S, conn):
            while await self._placer.place(conn, limit=PLACED_A_TURN) >= PLACED_A_TURN:
                pass
        self._turned_at = time.monotonic()
        if self._watched and self._cursor is None:
            await self._find_end(conn)
        while (cursor := self._cursor) is not None:
            with answered_within(ANSWER_S, conn):
                page = await read_log(conn, cursor, limit=EVENTS_A_PAGE)
            if self._cursor is cursor:
                await self._deliver(page)
            # Everybody may have left meanwhile, and others come: then the next turn begins at the end of the log.
            if self._cursor is not cursor or page.cursor == cursor:
                break
            self._cursor = page.cursor

    async def _find_end(self, conn: AsyncConnection[Any]) -> None:
        with answered_within(ANSWER_S, conn):
            bounds = await log_bounds(conn)
            first, page = bounds.end, LogPage((), bounds.end)
            for appends in APPENDS_READ_BACK:
                first = max(bounds.start, bounds.end._replace(position=bounds.end.position - appends))
                page = await read_log(conn, first, limit=EVENTS_A_PAGE)
                if page.cursor >= bounds.end:
                    break
        if self._watched:
            self._cursor = page.cursor
            self._begin(first, page)
            self.ready.set()

    async def _pause(self, conn: AsyncConnection[Any]) -> None:
        """Until there is a notification, a first reader, or it is time to look anyway."""
        loop = asyncio.get_running_loop()
        poll_s = (POLL_S if self._watched else IDLE_POLL_S) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
        # The connection is idle: whatever arrives on it is a notification, or its end. The next statement reads it.
        loop.add_reader(conn.fileno(), self._wake.set)
        try:
            async with asyncio.timeout(poll_s):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(conn.fileno())
        if self._watched:
            await asyncio.sleep(self._turned_at + TURN_S - time.monotonic())
        else:
            await self._doze(self._turned_at + POLL_S - time.monotonic())

    async def _doze(self, seconds: float) -> None:
        """Nobody reads: appends get their position once a second, unless somebody comes."""
        ends_at = time.monotonic() + seconds
        while not self._watched and (left := ends_at - time.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return
