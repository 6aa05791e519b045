"""Reading the log in commit order: pages after a cursor, and where the log begins.

    append() ──► appended ──place──► log ──read──► events after a cursor

A position is given after the commit, by one transaction at a time. So a position that can be seen is never followed
by a lower one, whatever commits overlapped, and a reader needs nothing but the last cursor it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor, CursorExpired, CursorRejected
from reflex.core.log_filter import LogFilter
from reflex.core.statements import only_row, statement

__all__ = [
    "LOG_CHANNEL",
    "LogBounds",
    "LogPage",
    "LoggedEvent",
    "drop_log",
    "log_before",
    "log_of_ids_before",
    "log_bounds",
    "read_log",
    "tail_log",
]

LOG_CHANNEL: Final = "reflex_log"
PAGE_BYTES: Final = 8 * 1024 * 1024
TAIL_APPENDS: Final = 10_000
EVERYTHING: Final = LogFilter()


@dataclass(slots=True)
class LoggedEvent:
    """An event at its place in the log. `payload` is JSON text as PostgreSQL wrote it."""

    cursor: Cursor
    event_id: UUID
    type: str
    source: str
    key: str | None
    time: datetime
    payload: str
    correlation_id: str | None
    causation_id: UUID | None
    depth: int
    trace_context: str | None
    available_at: datetime | None
    created_at: datetime
    reply_to: str | None
    _json: str | None = None
    _place: str | None = None

    @property
    def place(self) -> str:
        """The cursor as its readers get it. Written once, however many they are."""
        if self._place is None:
            self._place = str(self.cursor)
        return self._place

    @property
    def json(self) -> str:
        """The event as its readers get it. Written once, however many they are."""
        if self._json is None:
            fields = {
                "id": self.event_id,
                "type": self.type,
                "source": self.source,
                "key": self.key,
                "time": self.time,
                "payload": orjson.Fragment(self.payload),
                "correlation_id": self.correlation_id,
                "causation_id": self.causation_id,
                "depth": self.depth,
                "trace_context": self.trace_context,
                "available_at": self.available_at,
                "created_at": self.created_at,
            }
            self._json = orjson.dumps(fields, option=orjson.OPT_UTC_Z).decode()
        return self._json


@dataclass(frozen=True, slots=True)
class LogPage:
    """Events in log order, and the cursor from which reading goes on. It moves past what the filter left out, too."""

    events: Sequence[LoggedEvent]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class LogBounds:
    """`start`: everything up to it was dropped. `end`: everything up to it can be read."""

    start: Cursor
    end: Cursor

    def check(self, cursor: Cursor, *, field: str = "after") -> Cursor:
        """The cursor, if reading can go on there without missing anything.

        Raises:
            CursorExpired: Events after it were dropped.
            CursorRejected: It is ahead of the log.
        """
        if cursor < self.start:
            raise expired(self.start, field=field)
        if cursor > self.end:
            raise CursorRejected(
                "this cursor is ahead of the log: it is from another database, or this one was restored from a backup",
                field=field,
            )
        return cursor


def expired(start: Cursor, *, field: str) -> CursorExpired:
    return CursorExpired(
        "the log was dropped up to a later place, so events after this cursor may be missing; "
        f"read on from {start}, or without a cursor from now on",
        field=field,
    )


async def log_bounds(conn: AsyncConnection[Any]) -> LogBounds:
    start_position, start_place, position, place = await only_row(conn, "log_bounds")
    return LogBounds(Cursor(start_position, start_place), Cursor(position, place))


async def read_log(
    conn: AsyncConnection[Any],
    after: Cursor,
    *,
    filter: LogFilter = EVERYTHING,
    limit: int = 500,
    looked_at: int = 2000,
    max_bytes: int = PAGE_BYTES,
) -> LogPage:
    """The next page of the log.

    Args:
        limit: Of events.
        looked_at: After so many events the append being looked at is the last one; it bounds the time a page takes
            when the filter matches little.
        max_bytes: Of payloads, as they are stored; one event is always let through.

    Returns:
        Events after the cursor. With no more to read, none, and the same cursor.

    Raises:
        CursorExpired: Events after it were dropped, perhaps since the page before.
    """
    bounds = {"limit": limit, "looked_at": looked_at, "max_bytes": max_bytes}
    cursor = await conn.execute(statement("read_log"), {**after._asdict(), **filter.parameters(), **bounds})
    rows = await cursor.fetchall()
    start = Cursor(*rows[-1][-2:])
    if after < start:
        raise expired(start, field="after")
    if rows[-1][0] is None:
        return LogPage([], after)
    end = max(after, Cursor(*rows[-1][:2]))
    if rows[-1][2] is None:
        rows.pop()
    return LogPage([LoggedEvent(Cursor(*row[:2]), *row[2:-2]) for row in rows], end)


async def tail_log(
    conn: AsyncConnection[Any], count: int, *, filter: LogFilter = EVERYTHING, appends: int = TAIL_APPENDS
) -> Cursor:
    """The cursor after which the latest `count` events that pass the filter come, or as many as the last `appends`
    appends hold."""
    parameters = {**filter.parameters(), "count": count, "appends": appends}
    row = await (await conn.execute(statement("tail_log"), parameters)).fetchone()
    return Cursor(*row) if row else (await log_bounds(conn)).end


async def log_before(conn: AsyncConnection[Any], age: timedelta, *, now: datetime | None = None) -> Cursor:
    """The cursor up to which the log is older than `age`: by when an event got its place, which is right after its
    commit. Nowhere before the beginning of the log."""
    row = await (await conn.execute(statement("log_before"), {"age": age, "now": now})).fetchone()
    start = (await log_bounds(conn)).start
    return max(start, Cursor(*row)) if row else start


async def log_of_ids_before(
    conn: AsyncConnection[Any], event_id: UUID, moment: datetime, *, at_most: datetime
) -> Cursor:
    """The cursor behind which no event has a lesser id, all of which were made before `moment`.

    An event has its place within a second of when it was made; more are looked at in case gateways were away longer.
    Nothing that got its place after `at_most` counts: a gateway whose clock is wrong makes lesser ids all the time.
    """
    cursor = await log_before(conn, timedelta(0), now=moment)
    last = await log_before(conn, timedelta(0), now=at_most)
    while cursor < last:
        parameters = {"position": cursor.position, "event_id": event_id}
        row = await (await conn.execute(statement("lesser_ids_in_log"), parameters)).fetchone()
        if row is None:
            break
        cursor = Cursor(*row)
    return min(cursor, last)


async def drop_log(conn: AsyncConnection[Any], *, until: Cursor) -> None:
    """Forget the order of everything up to `until`: a reader whose cursor is older is told that it missed something.
    Its events stay until they are pruned."""
    await conn.execute(statement("drop_log"), until._asdict())
