"""Dropping a partition whose time is over: what is still needed, or younger than it looks, moves to the rest first."""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, sql

from reflex.core.ids import first_id_at
from reflex.core.partitions import Partition, locking, named
from reflex.core.reads import FIRST_ID
from reflex.core.statements import statement

__all__ = ["Dropped", "drop_partition"]

# What is moved while nothing can be stored or claimed. If more than so many rows of a partition are needed, it stays:
# its other rows go one by one, and what is needed becomes less.
MOVED_ROWS: Final = 10_000
# When a row came, by the database's clock: an id tells what the clock of a gateway said.
CAME_AT: Final = {"event": "created_at", "run": "finished_at"}
# Runs are keyed by trigger first.
PLACES: Final = {
    "event": "SELECT ctid FROM {part} WHERE event_id = ANY(%(kept)s::uuid[])",
    "run": "SELECT mine.ctid FROM reflex.trigger CROSS JOIN LATERAL (SELECT ctid FROM {part} AS run "
    "WHERE run.trigger_id = trigger.trigger_id AND run.event_id = ANY(%(kept)s::uuid[]) OFFSET 0) AS mine",
}


class Dropped(NamedTuple):
    """`rows` is the planner's estimate of what went; `moved` is what went to the rest."""

    partition: Partition
    rows: int
    moved: int


async def drop_partition(
    conn: AsyncConnection[Any], partition: Partition, *, before: datetime | None, with_events: bool = False
) -> Dropped | None:
    """Drop it, but for what is needed: by an open or dead delivery, by a trigger that gathers, or by having no place in
    the log yet.

    Args:
        conn: Inside a transaction that has the turn.
        before: What came later is kept, too, whatever its id says. Without, only the time of the event counts.
        with_events: Of runs: those of events that are still there are kept.

    Returns:
        None if too much is needed; nothing was done.

    Raises:
        Busy: Something holds on to the table; the transaction is over.
        psycopg.errors.InsufficientPrivilege: The role does not own the tables.
    """
    assert partition.until is not None
    names = {"table": named(partition.table), "part": named(partition.name)}
    within = {
        "low": first_id_at(partition.since) if partition.since else FIRST_ID,
        "high": first_id_at(partition.until),
        "limit": MOVED_ROWS + 1,
    }
    async with locking(conn):
        # Nobody writes here while we read, or only the run of an event as old as this.
        await conn.execute(sql.SQL("LOCK TABLE {part} IN SHARE MODE").format(**names))
        young = await places(
            conn, "SELECT ctid FROM {part} WHERE {came_at} >= %(before)s LIMIT %(limit)s", {**within, "before": before},
            **names, came_at=sql.Identifier(CAME_AT[partition.table]),
        ) if before else []  # fmt: skip
        # From here on nothing is stored, claimed or settled. No delivery can be made of an event that cannot be read.
        await conn.execute(sql.SQL("LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE").format(**names))
        kept: set[UUID] = set()
        for asked in ("needed_events", "events_between") if with_events else ("needed_events",):
            kept.update(row[0] for row in await (await conn.execute(statement(asked), within)).fetchall())
        moving = {*young, *await places(conn, PLACES[partition.table], {"kept": list(kept)}, **names)}
        if max(len(kept), len(moving)) > MOVED_ROWS:
            return None
        await conn.execute(sql.SQL("ALTER TABLE {table} DETACH PARTITION {part}").format(**names))
        if moving:
            await conn.execute(
                sql.SQL("INSERT INTO {table} SELECT * FROM {part} WHERE ctid = ANY(%(moving)s::tid[])").format(**names),
                {"moving": list(moving)},
            )
        await conn.execute(sql.SQL("DROP TABLE {part}").format(**names))
    return Dropped(partition, max(0, partition.rows - len(moving)), len(moving))


async def places(
    conn: AsyncConnection[Any], query: str, parameters: dict[str, Any], **names: sql.Identifier
) -> list[str]:
    cursor = await conn.execute(sql.SQL(query).format(**names), parameters)  # pyright: ignore[reportArgumentType]
    return [row[0] for row in await cursor.fetchall()]
