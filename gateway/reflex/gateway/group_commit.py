"""Group commit: what arrived while the last commit was under way is the next one. No timer, no waiting for company."""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol, Self
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core import log as event_log
from reflex.core import telemetry
from reflex.core.database import connect, describe, is_connection_error
from reflex.core.errors import DatabaseUnavailable, Saturated
from reflex.core.events import NewEvent
from reflex.gateway.append_errors import blames_an_event, describe_refusal, explain

__all__ = ["EventStore", "GroupCommit"]

Append = Callable[[AsyncConnection[Any], Sequence[NewEvent]], Awaitable[dict[UUID, UUID]]]

# While one flusher waits for the disk the other sends the next batch; a third would only make batches smaller.
FLUSHERS: Final = 2
MAX_EVENTS_A_FLUSH: Final = 1000
MAX_BYTES_A_FLUSH: Final = 8 * 1024 * 1024
MAX_BUFFERED_BYTES: Final = 64 * 1024 * 1024
COMMIT_TIMEOUT_S: Final = 10.0
# How many ids a log line names.
SHOWN_EVENTS: Final = 10
OUTCOME_UNKNOWN: Final = (
    "the database did not confirm the commit, so it is not known whether the event was stored. "
    "Send it again with an `id`: it is then stored once"
)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class EventStore(Protocol):
    """Where the ingest route puts events."""

    def append(self, events: Sequence[NewEvent]) -> Awaitable[Mapping[UUID, UUID]]:
        """Store all of them or none, durably. For each event's own id, at least, the id it has in the log."""
        ...


@dataclass(slots=True, eq=False)
class Group:
    """The events of one request, which commit together, and who waits for that."""

    events: Sequence[NewEvent]
    size: int
    deadline: float
    stored: "asyncio.Future[Mapping[UUID, UUID]]"
    in_flight: bool = False

    def fail(self, error: Exception) -> None:
        if not self.stored.done():
            self.stored.set_exception(error)


@dataclass(slots=True, eq=False)
class Flusher:
    """A connection that appends, and what it is appending."""

    conn: AsyncConnection[Any] | None = None
    groups: list[Group] = field(default_factory=list[Group])


class GroupCommit:
    """The durable `EventStore`. Use as `async with`; leaving it flushes what is waiting.

    Args:
        max_buffered_events: How many may wait for their commit; beyond that the gateway says that it is busy.
        commit_timeout_s: How long a request waits for its commit before it is told that the outcome is not known.
        append: What a flush does with its connection; a parameter for tests.
    """

    def __init__(
        self,
        database_url: str,
        *,
        max_buffered_events: int,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
        append: Append = event_log.append,
    ) -> None:
        self._url = database_url
        self._max_buffered_events = max_buffered_events
        self._commit_timeout_s = commit_timeout_s
        self._append = append
        self._waiting: deque[Group] = deque()
        self._buffered_events = 0
        self._buffered_bytes = 0
        self._in_flight_events = 0
        self._flushers = [Flusher() for _ in range(FLUSHERS)]
        self._idle = list(self._flushers)
        self._flushing: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closing = False
        self._works = True

    @property
    def buffered_events(self) -> int:
        """How many events wait for their commit."""
        return self._buffered_events

    async def append(self, events: Sequence[NewEvent]) -> Mapping[UUID, UUID]:
        """See `EventStore`.

        Raises:
            Saturated: Too many events wait already; nothing was stored.
            EventRejected: The database refuses one of these events; nothing was stored.
            DatabaseUnavailable: There is no connection, or no answer in time; the events may have been stored.
        """
        if self._closing:
            raise DatabaseUnavailable("the gateway is stopping; nothing was stored")
        size = sum([len(event.payload) for event in events])
        # A request that is larger than the whole buffer has to pass when nothing else waits.
        if self._buffered_events and (
            self._buffered_events + len(events) > self._max_buffered_events
            or self._buffered_bytes + size > MAX_BUFFERED_BYTES
        ):
            raise Saturated("the buffer of events that wait for their commit")
        loop = asyncio.get_running_loop()
        group = Group(events, size, loop.time() + self._commit_timeout_s, loop.create_future())
        self._waiting.append(group)
        self._buffered_events += len(events)
        self._buffered_bytes += size
        # While a commit is under way, the next one begins when as much waits: sooner, both would stay small.
        if self._buffered_events >= 2 * self._in_flight_events:
            self._start()
        if self._sweep is None:
            self._expire()
        try:
            return await group.stored
        finally:
            self._buffered_events -= len(events)
            self._buffered_bytes -= size
            if group.in_flight:
                self._in_flight_events -= len(events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        if self._flushing:
            await asyncio.wait(self._flushing, timeout=self._commit_timeout_s)
        for task in list(self._flushing):
            task.cancel()
        await asyncio.gather(*self._flushing, return_exceptions=True)
        for flusher in self._flushers:
            await self._disconnect(flusher)
        if self._sweep:
            self._sweep.cancel()

    def _start(self) -> None:
        """Let an idle flusher take what waits."""
        if self._idle and self._waiting:
            task = asyncio.create_task(self._flush(self._idle.pop()))
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)

    async def _flush(self, flusher: Flusher) -> None:
        """Commit one batch after the other for as long as something waits."""
        try:
            while groups := self._take():
                flusher.groups = groups
                await self._commit(flusher, groups)
        finally:
            # Nothing may be awaited between the last look at the queue and this: a wake-up would be lost.
            for group in flusher.groups:
                group.fail(DatabaseUnavailable(OUTCOME_UNKNOWN))
            flusher.groups = []
            self._idle.append(flusher)

    def _take(self) -> list[Group]:
        """What waits, up to the size of one flush; a request is never split."""
        groups: list[Group] = []
        events = size = 0
        while self._waiting:
            group = self._waiting[0]
            events += len(group.events)
            size += group.size
            if groups and (events > MAX_EVENTS_A_FLUSH or size > MAX_BYTES_A_FLUSH):
                break
            self._waiting.popleft()
            if group.stored.done():  # told already that it took too long, or its client is gone
                events -= len(group.events)
                size -= group.size
            else:
                groups.append(group)
                group.in_flight = True
                self._in_flight_events += len(group.events)
        return groups

    async def _commit(self, flusher: Flusher, groups: Sequence[Group]) -> None:
        events = [event for group in groups for event in group.events]
        connected = False
        try:
            async with asyncio.timeout(self._commit_timeout_s):
                if flusher.conn is None or flusher.conn.closed:
                    flusher.conn = await connect(self._url, name="reflex gateway: append")
                connected = True
                stored = await self._append(flusher.conn, events)
        except Exception as error:  # noqa: BLE001 - whatever it is, each group is told and the flusher lives on
            if isinstance(error, TimeoutError) or is_connection_error(error):
                await self._disconnect(flusher)
                why = (
                    f"no commit within {self._commit_timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
                )
                told = OUTCOME_UNKNOWN if connected else "the database cannot be reached; nothing was stored"
                self._fail(groups, told, why)
            elif isinstance(error, psycopg.Error) and not blames_an_event(error):
                why = describe_refusal(error)
                self._fail(groups, f"{why}; nothing was stored", why)
            elif len(groups) == 1:
                groups[0].fail(explain(error))
            else:
                # One of them is bad. Halving finds it in a few statements, and its neighbours are stored.
                middle = len(groups) // 2
                await self._commit(flusher, groups[:middle])
                await self._commit(flusher, groups[middle:])
            return
        for group in groups:
            if not group.stored.done():
                group.stored.set_result(stored)
        if log.is_enabled_for(logging.INFO):
            say_stored(events, stored)
        if not self._works:
            self._works = True
            log.info("events are stored again", database=describe(self._url))

    def _fail(self, groups: Sequence[Group], told: str, why: str) -> None:
        for group in groups:
            group.fail(DatabaseUnavailable(told))
        if self._works:  # one line when it begins and one when it ends, however many requests there are in between
            self._works = False
            log.error("no event can be stored, clients get 503", database=describe(self._url), error=why)

    def _expire(self) -> None:
        """Answer those who waited too long, whatever their flusher is stuck in, and let no others wait for it; look
        again while someone waits."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        in_flight = itertools.chain.from_iterable(flusher.groups for flusher in self._flushers)
        for group in itertools.chain(in_flight, self._waiting):
            if group.deadline <= now:
                group.fail(DatabaseUnavailable(OUTCOME_UNKNOWN))
        self._start()
        self._sweep = None
        if self._buffered_events:
            self._sweep = loop.call_later(min(0.5, self._commit_timeout_s / 4), self._expire)

    async def _disconnect(self, flusher: Flusher) -> None:
        conn, flusher.conn = flusher.conn, None
        if conn is not None:
            await conn.close()


def say_stored(events: Sequence[NewEvent], stored: Mapping[UUID, UUID]) -> None:
    """One line a commit, not one an event: under load that is a hundredth of them, and alone it is the same."""
    first = events[:SHOWN_EVENTS]
    traces = {trace for event in first if (trace := telemetry.trace_id(event.trace_context))}
    log.info(
        "events stored", count=len(events), types=sorted({event.type for event in first}),
        event_ids=[str(stored[event.event_id]) for event in first], **({"trace_ids": sorted(traces)} if traces else {}),
    )  # fmt: skip
