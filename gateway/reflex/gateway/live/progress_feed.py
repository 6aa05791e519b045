"""What runs do while they do it, for the subscriptions that asked for it: heard from the workers, kept nowhere.

Workers say nothing unless somebody watches, so the feed says so as long as there is a watcher, and listens only then.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from reflex.core.database import answered_within, connect
from reflex.core.log_filter import LogFilter
from reflex.core.progress import PROGRESS_CHANNEL, WATCH_EVERY_S, Progress, ask_for_progress, decode

__all__ = ["ProgressFeed"]

ANSWER_S: Final = 5.0
# How long a subscription waits until the workers have been told. Without it the first words of a run may be missing.
READY_S: Final = 2.0

Watcher = Callable[[Progress], None]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ProgressFeed:
    """One connection to the database while anybody watches, none otherwise."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: dict[Watcher, LogFilter] = {}
        self._listening: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @asynccontextmanager
    async def watched(self, filter: LogFilter, give: Watcher) -> AsyncGenerator[None]:
        """Give what the runs of events that pass the filter do, from now on."""
        self._watchers[give] = filter
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    await self._ready.wait()
            yield
        finally:
            del self._watchers[give]
            if not self._watchers:
                listening, self._listening = self._listening, None
                self._ready.clear()
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self) -> None:
        """Until cancelled. What is said during an outage is not heard."""
        wait_s = 0.1
        while True:
            try:
                conn = await connect(self._url, name="reflex gateway: progress")
                try:
                    await conn.execute(SQL("LISTEN {}").format(Identifier(PROGRESS_CHANNEL)))
                    while True:
                        await self._ask(conn)
                        wait_s = 0.1
                        async for notification in conn.notifies(timeout=WATCH_EVERY_S):
                            self._hand_out(notification.payload)
                finally:
                    await conn.close()
            except (psycopg.Error, OSError) as error:
                log.debug("progress cannot be watched for a while", error=str(error).strip())
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
            wait_s = min(wait_s * 2, 5)

    async def _ask(self, conn: AsyncConnection[Any]) -> None:
        with answered_within(ANSWER_S, conn):
            await ask_for_progress(conn)
        self._ready.set()

    def _hand_out(self, payload: str) -> None:
        for progress in decode(payload):
            for give, filter in list(self._watchers.items()):
                if filter.matches(progress):
                    give(progress)
