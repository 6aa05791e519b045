"""Partitions of `event` and `run`: by the id of the event, which begins with the time at which it was made.

    first │ 20261201 │ 20261204 │ 20261207 │ rest
    behind: dropped                  ahead: made before they are needed

What no partition takes is in the rest: events that came when nobody had made a partition in time, and those that
outlive the partition they were in. So nothing is refused, and nothing that is needed is in the way of what is not.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from reflex.core.ids import first_id_at, time_of
from reflex.core.periods import DAY, EPOCH, boundary_after
from reflex.core.statements import statement

__all__ = ["TABLES", "Busy", "Partition", "end_of", "list_partitions", "locking", "make_ahead", "named"]

TABLES: Final = ("event", "run")

# Appends and claims wait while a lock is waited for, so that is not for long; it is tried again later.
LOCK_TIMEOUT: Final = "300ms"
# Made ahead for so long, or for two partitions: a weekend without any worker is none without partitions.
AHEAD: Final = 4 * DAY
WIDTHS_AHEAD: Final = 2
# Rows of the rest that are moved to the partition that is made for their time, while events cannot be read. Where there
# are more they stay where they are, and the next partition begins after them.
MOVED_ROWS: Final = 10_000
# PostgreSQL reads the rest as a whole when a partition is made beside it, and all wait: for some tenths of a second.
READ_BYTES: Final = 1024**3


class Busy(Exception):
    """Something holds on to the table: a long transaction, a dump, a vacuum against wraparound."""


class Partition(NamedTuple):
    """`since` is included, `until` is not; the first one has no `since`, and the rest has neither."""

    table: str
    name: str
    since: datetime | None
    until: datetime | None
    rows: int
    bytes: int

    @property
    def is_rest(self) -> bool:
        return self.until is None

    def is_behind(self, moment: datetime) -> bool:
        """Whether all that belongs here is older."""
        return self.until is not None and self.until <= moment


def end_of(partitions: Iterable[Partition]) -> datetime:
    """Until when those of a table are made."""
    return max((part.until for part in partitions if part.until is not None), default=EPOCH)


async def list_partitions(conn: AsyncConnection[Any], table: str | None = None) -> list[Partition]:
    """Those of one table, or of both; in the order of time, the rest last."""
    cursor = await conn.execute(statement("list_partitions"))
    return [
        Partition(of, name, low and time_of(low), high and time_of(high), rows, size)
        for of, name, low, high, rows, size in await cursor.fetchall()
        if table in (None, of)
    ]


async def make_ahead(
    conn: AsyncConnection[Any], table: str, *, width: timedelta, now: datetime, whatever_it_takes: bool = False
) -> list[Partition]:
    """Make the partitions of the time to come that are not there yet.

    Args:
        conn: Inside a transaction that has the turn.
        width: How much time each of them holds; the first is shorter.
        whatever_it_takes: Also if reading the rest takes long, during which no event can be stored.

    Returns:
        Those that were made; none, without whatever it takes, if the rest is too large.

    Raises:
        Busy: Something holds on to the rest of the table.
        psycopg.errors.InsufficientPrivilege: The role does not own the tables.
    """
    parts = await list_partitions(conn, table)
    end = end_of(parts)
    rest = next(part for part in parts if part.is_rest)
    # Nobody was there to make them in time: what came since is in the rest.
    begin = end if end > now else max(end, boundary_after(now, width) - width)
    made: list[Partition] = []
    if end >= now + max(AHEAD, WIDTHS_AHEAD * width) or (rest.bytes > READ_BYTES and not whatever_it_takes):
        return made
    async with locking(conn):
        # Without the first, an insert that has chosen the rest already, and waits for it, is refused by it afterwards.
        await conn.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(named(table)))
        await conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(named(rest.name)))
        while begin < now + max(AHEAD, WIDTHS_AHEAD * width):
            until = boundary_after(begin, width)
            part = Partition(table, f"{table}_{begin:%Y%m%d}", begin, until, 0, 0)
            if await make(conn, part, rest):
                made.append(part)
            begin = until
    return made


async def make(conn: AsyncConnection[Any], part: Partition, rest: Partition) -> bool:
    """Make one partition, with the rows of its time that are in the rest; False, and nothing, if they are too many."""
    assert part.since is not None
    assert part.until is not None
    names = {"table": named(part.table), "part": named(part.name), "rest": named(rest.name)}
    within = {"low": first_id_at(part.since), "high": first_id_at(part.until), "limit": MOVED_ROWS + 1}
    counted = sql.SQL(
        "SELECT count(*) FROM (SELECT FROM {rest} WHERE event_id >= %(low)s AND event_id < %(high)s "
        "LIMIT %(limit)s) AS few"
    )
    row = await (await conn.execute(counted.format(**names), within)).fetchone()
    if row is None or row[0] > MOVED_ROWS:
        return False
    await conn.execute(
        sql.SQL(
            "CREATE TABLE {part} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE "
            "INCLUDING COMPRESSION)"
        ).format(**names)
    )
    if row[0]:
        await conn.execute(
            sql.SQL(
                "WITH moved AS (DELETE FROM {rest} WHERE event_id >= %(low)s AND event_id < %(high)s RETURNING *) "
                "INSERT INTO {part} SELECT * FROM moved"
            ).format(**names),
            within,
        )
    await conn.execute(
        sql.SQL("ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES FROM ({low}) TO ({high})").format(
            **names, low=sql.Literal(within["low"]), high=sql.Literal(within["high"])
        )
    )
    return True


def named(table: str) -> sql.Identifier:
    return sql.Identifier("reflex", table)


@asynccontextmanager
async def locking(conn: AsyncConnection[Any]) -> AsyncGenerator[None]:
    """Statements of a transaction that take strong locks.

    Raises:
        Busy: One is not to be had soon; the transaction is over.
    """
    await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise Busy from error
