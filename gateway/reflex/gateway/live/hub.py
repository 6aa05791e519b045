"""The hub: hands what the follower reads to the subscriptions of this gateway.

    follower ──► hub ──► subscription ──► outbox ──► client
                  │
                  └ recent events, so that who was away for a moment resumes from memory

A subscription that begins at an older cursor reads the database page by page until the recent events cover it, and
joins in between two events: what it has is then complete, and what comes next is live.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import structlog
from starlette.applications import Starlette

from reflex.core.cursors import Cursor
from reflex.core.dead_letter_event import DEAD_LETTER_TYPE
from reflex.core.errors import DatabaseUnavailable, ReflexError
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LoggedEvent, LogPage, log_bounds, read_log
from reflex.core.replies import REPLY_TYPE
from reflex.gateway.connections import NO_DATABASE, READ_S, READS, Connection, Pool, finish_within, limited, place_in
from reflex.gateway.live.follower import Follower
from reflex.gateway.live.outbox import OutboxClosed
from reflex.gateway.live.subscription import Subscription

__all__ = ["Hub", "hub_of"]

RECENT_EVENTS: Final = 5000
RECENT_BYTES: Final = 16 * 1024 * 1024
# After so many frames the connections get their turn to send them.
FRAMES_A_TURN: Final = 5000
READY_S: Final = 5.0
BEHIND_S: Final = 0.02
# How many subscriptions may read old events from the database at once, and how long others wait for their turn.
OLD_READERS: Final = 2
OLD_READ_WAIT_S: Final = 30.0
LOST: Final = "lost"
STOPPING: Final = "stopping"

Index = tuple[str, str] | None
Result = TypeVar("Result")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Hub:
    """All live readers of one gateway. Use as `async with`.

    Args:
        pool: Lends connections to read old events with.
        places: For all who read with the pool; see `read_places`.
        stopping: Set when the server stops: streams, which would stay open for ever, are then ended.
    """

    def __init__(
        self, url: str, pool: Pool, places: asyncio.Semaphore, *, stopping: asyncio.Event | None = None
    ) -> None:
        self._pool = pool
        self._places = places
        self._follower = Follower(url, deliver=self._deliver, begin=self._begin, lose=self._lose)
        self._subscriptions: set[Subscription] = set()
        self._groups: dict[Index, dict[LogFilter, set[Subscription]]] = {}
        self._watchers = 0
        self._waits: dict[UUID, set[asyncio.Event]] = {}
        self._recent: deque[LoggedEvent] = deque()
        self._recent_bytes = 0
        self._recent_after = Cursor(0, 0)
        self._cursor = Cursor(0, 0)
        self._turns = asyncio.Semaphore(OLD_READERS)
        self._stop_asked = stopping or asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.stopping = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._follower.run()), asyncio.create_task(self._stop_when_asked())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def subscriptions(self) -> int:
        return len(self._subscriptions)

    def stop(self) -> None:
        """The gateway stops: every reader is told, and resumes elsewhere."""
        self.stopping = True
        for answered in chain.from_iterable(self._waits.values()):
            answered.set()
        for subscription in self._subscriptions:
            subscription.outbox.close(STOPPING)

    async def _stop_when_asked(self) -> None:
        await self._stop_asked.wait()
        self.stop()

    @asynccontextmanager
    async def subscription(self, subscription: Subscription, *, field: str = "after") -> AsyncGenerator[None]:
        """Serve a subscription: old events first, if it has a cursor to go on from, and then what is new. Once inside,
        its cursor is known and nothing was sent yet.

        Args:
            field: Where the cursor was in the request.

        Raises:
            CursorRejected: Reading cannot go on at its cursor.
            DatabaseUnavailable: The log cannot be read.
            Saturated: Too many read old events.
        """
        with self.watching():
            end = await self.ready()
            if subscription.cursor is None:
                subscription.cursor = subscription.sent = end
            elif not self._recent_after <= subscription.cursor <= end:
                (await self.read_in_turn(log_bounds)).check(subscription.cursor, field=field)
            self._subscriptions.add(subscription)
            if self.stopping:  # since it was admitted
                subscription.outbox.close(STOPPING)
            task = asyncio.create_task(self._serve(subscription))
            try:
                yield
            finally:
                task.cancel()
                self._subscriptions.discard(subscription)
                self._leave(subscription)
                await asyncio.gather(task, return_exceptions=True)

    @contextmanager
    def answers(self, event_id: UUID) -> Generator[asyncio.Event]:
        """An event that is set whenever a delivery of `event_id` answers: it succeeded, was skipped, or died. Only
        while somebody watches."""
        answered = asyncio.Event()
        waits = self._waits.setdefault(event_id, set())
        waits.add(answered)
        try:
            yield answered
        finally:
            waits.discard(answered)
            if not waits:
                self._waits.pop(event_id, None)

    @contextmanager
    def watching(self) -> Generator[None]:
        """The log is followed meanwhile."""
        self._watchers += 1
        self._follower.watch()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._follower.rest()
                self._recent.clear()

    async def ready(self) -> Cursor:
        """The place of the last event that was handed out, for who is watching.

        Raises:
            DatabaseUnavailable: The log cannot be read.
        """
        if self.stopping:
            raise DatabaseUnavailable("the gateway is stopping; connect again")
        try:
            async with asyncio.timeout(READY_S):
                await self._follower.ready.wait()
        except TimeoutError:
            raise DatabaseUnavailable("the log cannot be read: PostgreSQL does not answer; try again") from None
        return self._cursor

    def position(self, subscription: Subscription) -> Cursor:
        """How far the log was read for a subscription: what its outbox was given, and all that it does not want."""
        assert subscription.cursor is not None
        assert subscription.sent is not None
        # Of the page that is being read for it some events were sent already.
        return self._cursor if self._joined(subscription) else max(subscription.cursor, subscription.sent)

    async def _serve(self, subscription: Subscription) -> None:
        """Bring a subscription to where the hub is, and let it join."""
        try:
            while not self._join(subscription):
                if self._covers(subscription):
                    page = LogPage(self._missing(subscription), self._cursor)
                else:
                    page = await self._old_page(subscription)
                    if page.cursor == subscription.cursor:  # the follower is a moment behind, or begins anew
                        await asyncio.sleep(BEHIND_S)
                        await self.ready()
                for event in page.events:
                    if subscription.filter.matches(event):
                        await subscription.put(event)
                subscription.cursor = page.cursor
        except OutboxClosed:
            pass
        except ReflexError as error:  # the database is away, the log was dropped: its client may come again
            subscription.outbox.close(error.code)
        except Exception:
            log.exception("a subscription broke")
            subscription.outbox.close("internal_error")

    def _covers(self, subscription: Subscription) -> bool:
        """Whether all that the subscription has not read is in memory. What it has read from the database may be ahead
        of the hub: then it may not join yet, or it would get that again."""
        assert subscription.cursor is not None
        return self._follower.ready.is_set() and self._recent_after <= subscription.cursor <= self._cursor

    def _missing(self, subscription: Subscription) -> list[LoggedEvent]:
        cursor = subscription.cursor
        assert cursor is not None
        return [event for event in self._recent if event.cursor > cursor]

    def _join(self, subscription: Subscription) -> bool:
        """Join, if what is missing has room in the outbox. Nothing is awaited here: no event comes in between."""
        if not self._covers(subscription):
            return False
        wanted = [event for event in self._missing(subscription) if subscription.filter.matches(event)]
        if not subscription.has_room_for(wanted):
            return False
        for event in wanted:
            subscription.offer(event)
        group = self._groups.setdefault(index_of(subscription.filter), {})
        group.setdefault(subscription.filter, set()).add(subscription)
        return True

    def _joined(self, subscription: Subscription) -> bool:
        group = self._groups.get(index_of(subscription.filter), {})
        return subscription in group.get(subscription.filter, ())

    def _leave(self, subscription: Subscription) -> None:
        index = index_of(subscription.filter)
        group = self._groups.get(index, {})
        members = group.get(subscription.filter, set())
        members.discard(subscription)
        if not members:
            group.pop(subscription.filter, None)
        if not group:
            self._groups.pop(index, None)

    async def _old_page(self, subscription: Subscription) -> LogPage:
        assert subscription.cursor is not None
        after = subscription.cursor
        return await self.read_in_turn(lambda conn: read_checked(conn, after, subscription.filter))

    async def read_in_turn(self, query: Callable[[Connection], Awaitable[Result]]) -> Result:
        """What a reader of old events asks: the many who come back at once leave connections to others. Raises as
        `read`."""
        async with place_in(self._turns, wait_s=OLD_READ_WAIT_S, queue="the queue of those who read old events"):
            return await self.read(query)

    async def read(self, query: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run a query in a transaction with a time limit. Raises DatabaseUnavailable, or Saturated."""

        async def work() -> Result:
            async with (
                place_in(self._places, wait_s=READY_S, queue=READS),
                limited(self._pool, wait_s=READY_S) as conn,
            ):
                return await query(conn)

        return await finish_within(READ_S, work())

    def _begin(self, after: Cursor, recent: LogPage) -> None:
        self._recent.clear()
        self._recent_bytes = 0
        self._recent_after = after
        for event in recent.events:
            self._remember(event)
        self._cursor = recent.cursor

    def _lose(self) -> None:
        for subscription in self._subscriptions:
            subscription.outbox.close(LOST)

    async def _deliver(self, page: LogPage) -> None:
        frames = 0
        for event in page.events:
            frames += self._hand_out(event)
            if frames > FRAMES_A_TURN:
                frames = 0
                await asyncio.sleep(0)
        self._cursor = page.cursor

    def _hand_out(self, event: LoggedEvent) -> int:
        """Give one event to all who want it. Nothing is awaited, so that whoever joins has either seen it or will."""
        self._remember(event)
        given = 0
        for index in (
            None, ("key", event.key), ("correlation_id", event.correlation_id), ("reply_to", event.reply_to)
        ):  # fmt: skip
            group: dict[LogFilter, set[Subscription]] | None = self._groups.get(index)  # pyright: ignore[reportArgumentType]
            if group is None:
                continue
            for filter, members in group.items():
                if filter.matches(event):
                    given += len(members)
                    for subscription in members:
                        subscription.offer(event)
        if event.causation_id is not None and event.type in (REPLY_TYPE, DEAD_LETTER_TYPE):
            for answered in self._waits.get(event.causation_id, ()):
                answered.set()
        return given

    def _remember(self, event: LoggedEvent) -> None:
        self._recent.append(event)
        self._recent_bytes += len(event.payload)
        self._cursor = event.cursor
        while len(self._recent) > RECENT_EVENTS or (self._recent_bytes > RECENT_BYTES and len(self._recent) > 1):
            oldest = self._recent.popleft()
            self._recent_bytes -= len(oldest.payload)
            self._recent_after = oldest.cursor


def hub_of(app: Starlette) -> Hub:
    """The app's hub. Raises DatabaseUnavailable: a gateway that only measures runs without one."""
    hub: Hub | None = getattr(app.state, "hub", None)
    if hub is None:
        raise DatabaseUnavailable(NO_DATABASE)
    return hub


def index_of(filter: LogFilter) -> Index:
    """By what an event finds the filter: one value that it has to have, or None. A thousand conversations that are
    watched one by one are then not asked one by one."""
    for name in ("reply_to", "correlation_id", "key"):
        value: Any = getattr(filter, name)
        if value is not None:
            return name, value
    return None


async def read_checked(conn: Connection, after: Cursor, filter: LogFilter) -> LogPage:
    """A page of old events. If there are none, the cursor may be ahead of the log, which was restored meanwhile."""
    page = await read_log(conn, after, filter=filter)
    if page.cursor == after:
        (await log_bounds(conn)).check(after)
    return page
