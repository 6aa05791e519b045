"""What runs say while they are going on, for the subscriptions that ask for it. Shown, not kept: it may have gaps.

While somebody watches, this gateway tells the workers so and listens, on a connection of its own.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.database import answered_within, connect, describe
from reflex.core.listening import listen_to, notified
from reflex.core.log_filter import LogFilter
from reflex.core.progress import (
    PROGRESS_CHANNEL,
    WATCH_EVERY_S,
    WHO_WATCHES_CHANNEL,
    Progress,
    as_json,
    ask_for_progress,
    decode,
)
from reflex.gateway.live.outbox import Outbox

__all__ = ["ProgressFeed"]

ANSWER_S: Final = 10.0
# How long a subscription waits until the workers were told. Without that the first words of a run would be missing.
READY_S: Final = 2.0
# However many workers ask.
TOLD_EVERY_S: Final = 0.1

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Subject(NamedTuple):
    """What a filter looks at: of the event whose run it is."""

    type: str
    source: str
    key: str | None
    correlation_id: str | None
    reply_to: str | None = None


class Watcher(NamedTuple):
    """A subscription, and the beginning of its frames."""

    filter: LogFilter
    outbox: Outbox
    head: str


class ProgressFeed:
    """Use as `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: dict[object, Watcher] = {}
        self._watched = asyncio.Event()
        self._told = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._works = True

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    @asynccontextmanager
    async def watching(self, subscription: str, filter: LogFilter, outbox: Outbox) -> AsyncGenerator[None]:
        """Frames of what passes the filter go to the outbox, where there is room. Once inside, the workers were told,
        unless the database is away."""
        head = b'{"op":"progress","subscription":%b,"progress":' % orjson.dumps(subscription)
        watcher = object()
        self._watchers[watcher] = Watcher(filter, outbox, head.decode())
        self._watched.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    await self._told.wait()
            yield
        finally:
            del self._watchers[watcher]
            if not self._watchers:
                self._watched.clear()

    async def _run(self) -> None:
        wait_s = 0.1
        while True:
            await self._watched.wait()
            try:
                conn = await connect(self._url, name="reflex gateway: progress")
                try:
                    with answered_within(ANSWER_S, conn):
                        await listen_to(conn, [PROGRESS_CHANNEL, WHO_WATCHES_CHANNEL])
                    while self._watchers:
                        with answered_within(ANSWER_S, conn):
                            await ask_for_progress(conn)
                        self._told.set()
                        wait_s = 0.1
                        self._works = True
                        await self._hear(conn)
                finally:
                    self._told.clear()
                    await conn.close()
            except (psycopg.Error, OSError) as error:
                if self._works:  # one line an outage
                    self._works = False
                    log.warning("progress is not shown now", database=describe(self._url), error=str(error).strip())
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
                wait_s = min(wait_s * 2, WATCH_EVERY_S)

    async def _hear(self, conn: AsyncConnection[Any]) -> None:
        """Until the workers have to be told again: those that ask at the same time are answered together."""
        began = time.monotonic()
        ends_at = began + WATCH_EVERY_S
        while self._watchers and (left := ends_at - time.monotonic()) > 0:
            # All that came at once is given, however much; the connection is free in between.
            for notification in await notified(conn, within_s=left):
                if notification.channel == WHO_WATCHES_CHANNEL:
                    ends_at = began + TOLD_EVERY_S
                else:
                    self._hand_out(decode(notification.payload))

    def _hand_out(self, records: list[Progress]) -> None:
        for record in records:
            subject = Subject(record.type, record.source, record.key, record.correlation_id)
            told = ""
            for watcher in self._watchers.values():
                if watcher.filter.matches(subject):
                    told = told or as_json(record).decode() + "}"
                    watcher.outbox.offer_if_spare(watcher.head + told)
