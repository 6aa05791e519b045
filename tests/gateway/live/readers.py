"""What the tests of the hub share: a hub on the test's database, readers that note what they get, the log itself."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.database import open_pool
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LoggedEvent
from reflex.core.placing import place
from reflex.gateway.connections import read_places
from reflex.gateway.live.hub import Hub
from reflex.gateway.live.outbox import Outbox, OutboxClosed
from reflex.gateway.live.subscription import Subscription
from tests.processes import eventually

__all__ = ["EVERYTHING", "Gate", "Reader", "log_ids", "open_hub"]

EVERYTHING = LogFilter()


@asynccontextmanager
async def open_hub(url: str, *, pool_url: str | None = None) -> AsyncGenerator[Hub]:
    """A hub as the gateway has it."""
    pool = open_pool(pool_url or url, name="reflex gateway", size=4)
    await pool.open(wait=False)
    try:
        async with Hub(url, pool, read_places(pool)) as hub:
            yield hub
    finally:
        await pool.close()


async def log_ids(conn: AsyncConnection[Any]) -> list[UUID]:
    """The ids of all events in the order of the log, after giving each append its position."""
    while (await place(conn))[0]:
        pass
    cursor = await conn.execute(
        "SELECT member.event_id FROM reflex.log"
        " CROSS JOIN LATERAL unnest(event_ids) WITH ORDINALITY AS member (event_id, place) ORDER BY position, place"
    )
    return [event_id for (event_id,) in await cursor.fetchall()]


class Reader:
    """A subscription and its client. Use as `async with`; it takes what there is until it is told to pause."""

    def __init__(
        self,
        hub: Hub,
        filter: LogFilter = EVERYTHING,
        *,
        after: Cursor | None = None,
        max_frames: int = 1000,
        max_chars: int = 1_000_000,
        render: Callable[[LoggedEvent], str] | None = None,
    ) -> None:
        self.outbox = Outbox(max_frames=max_frames, max_chars=max_chars)
        self.subscription = Subscription(filter, self.outbox, render=render or frame_of, cursor=after)
        self.ids: list[UUID] = []
        self.cursors: list[Cursor] = []
        self.closed: str | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self.pauses_at: int | None = None
        self._hub = hub
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._hub.subscription(self.subscription))
        task = asyncio.create_task(self._read())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def has(self, count: int) -> list[UUID]:
        """Wait until it has so many, and a moment for what would be too much."""
        await eventually(lambda: len(self.ids) >= count, what=f"{count} events of a reader that has {len(self.ids)}")
        await asyncio.sleep(0.02)
        return self.ids

    async def ends(self) -> str | None:
        """Wait until nothing more comes; why."""
        await eventually(lambda: self.closed, what="the end of a reader")
        return self.closed

    async def _read(self) -> None:
        try:
            while True:
                await self.reads.wait()
                for frame, reader, cursor in await self.outbox.take():
                    assert reader is self.subscription
                    assert cursor is not None
                    self.ids.append(UUID(frame[:36]))
                    self.cursors.append(cursor)
                    self.subscription.sent = cursor
                if self.pauses_at is not None and len(self.ids) >= self.pauses_at:
                    self.reads.clear()
        except OutboxClosed as closed:
            self.closed = closed.reason


def frame_of(event: LoggedEvent) -> str:
    return str(event.event_id)


class Gate:
    """Holds up whoever comes through a function until it is opened, and counts them."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self._function = function
        self._open = asyncio.Event()
        self._open.set()
        self.held = 0
        self.calls = 0

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def __call__(self, *arguments: Any, **named: Any) -> Coroutine[Any, Any, Any]:
        return self._pass(*arguments, **named)

    async def _pass(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        self.held += 1
        await self._open.wait()
        self.held -= 1
        return await self._function(*arguments, **named)
