"""What the tests of the log's order share: reading all of it, and a placer that stops where a test wants it to."""

import asyncio
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import read_log
from reflex.core.placing import Placer
from tests.processes import eventually

__all__ = ["BEGINNING", "PLACER_WAITS_FOR", "StoppedPlacer", "place", "place_all", "read_all", "somebody_waits"]

BEGINNING: Final = Cursor(0, 0)
PLACER_WAITS_FOR: Final = 42
# The statement is the very one that is shipped; it finds this function before PostgreSQL's own of the same name.
STOP: Final = """
CREATE FUNCTION public.pg_try_advisory_xact_lock(key bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE mine boolean;
BEGIN
    {before}
    mine := pg_catalog.pg_try_advisory_xact_lock(key);
    {after}
    RETURN mine;
END $$
"""
WAITING: Final = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"


async def read_all(
    conn: AsyncConnection[Any], after: Cursor = BEGINNING, *, filter: LogFilter | None = None, **bounds: int
) -> tuple[list[UUID], Cursor]:
    """The ids of everything after the cursor, page by page, and the cursor behind it."""
    ids: list[UUID] = []
    while True:
        page = await read_log(conn, after, filter=filter or LogFilter(), **bounds)
        if page.cursor == after:
            assert not page.events
            return ids, after
        assert page.cursor > after
        ids += [event.event_id for event in page.events]
        after = page.cursor


async def place(conn: AsyncConnection[Any], *, limit: int = 1000) -> int:
    """One turn of a placer that remembers nothing."""
    return await Placer().place(conn, limit=limit)


async def place_all(conn: AsyncConnection[Any]) -> None:
    while await place(conn):
        pass


async def somebody_waits(conn: AsyncConnection[Any]) -> None:
    """Until somebody in this database waits for the turn to prune or to replay."""
    found = (
        "SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
        "WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )

    async def waits() -> bool:
        return await (await conn.execute(found)).fetchone() is not None

    await eventually(waits, what="somebody who waits for the turn")


class StoppedPlacer:
    """A placer that runs until right before it asks for its turn, or until right after it got it.

    Args:
        holder: An autocommit connection whose session holds it up.
        conn: The placer's.
    """

    def __init__(self, holder: AsyncConnection[Any], conn: AsyncConnection[Any]) -> None:
        self.holder = holder
        self.conn = conn

    async def start(self, where: Literal["before", "after"]) -> asyncio.Task[int]:
        """The running `place()`, once it has come to where it stops."""
        wait = f"PERFORM pg_advisory_xact_lock({PLACER_WAITS_FOR});"
        function = STOP.format(**{"before": "", "after": ""} | {where: wait})
        await self.holder.execute(function.encode())
        await self.holder.execute("SELECT pg_advisory_lock(%s)", [PLACER_WAITS_FOR])
        await self.conn.execute("SET search_path = public, pg_catalog")
        placing = asyncio.create_task(place(self.conn))
        async with asyncio.timeout(10):
            while await (await self.holder.execute(WAITING, [PLACER_WAITS_FOR])).fetchone() is None:
                assert not placing.done(), "it did not stop"
                await asyncio.sleep(0.005)
        return placing

    async def release(self) -> None:
        await self.holder.execute("SELECT pg_advisory_unlock(%s)", [PLACER_WAITS_FOR])
