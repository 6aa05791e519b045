"""Sessions: how far a client that publishes and goes away has its replies. The client's secret is not here."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.statements import only_row, statement

__all__ = ["count_old_sessions", "forget_sessions", "keep_sessions", "session_positions"]


async def keep_sessions(conn: AsyncConnection[Any], positions: Mapping[str, Cursor]) -> None:
    """Write the positions of sessions, by id; one that is behind what is written already changes nothing."""
    parameters = {
        "session_id": list(positions),
        "position": [cursor.position for cursor in positions.values()],
        "place": [cursor.place for cursor in positions.values()],
    }
    await conn.execute(statement("keep_sessions"), parameters)


async def session_positions(conn: AsyncConnection[Any], session_ids: Sequence[str]) -> dict[str, Cursor]:
    """The positions of those that are known."""
    cursor = await conn.execute(statement("session_positions"), {"session_id": list(session_ids)})
    return {session_id: Cursor(position, place) for session_id, position, place in await cursor.fetchall()}


async def forget_sessions(
    conn: AsyncConnection[Any], *, age: timedelta, limit: int = 1000, now: datetime | None = None
) -> int:
    """Forget those that have not moved for so long. Returns how many; `limit`: call again."""
    return (await only_row(conn, "forget_sessions", {"age": age, "limit": limit, "now": now}))[0]


async def count_old_sessions(conn: AsyncConnection[Any], *, age: timedelta, now: datetime | None = None) -> int:
    """How many have not moved for so long."""
    return (await only_row(conn, "count_old_sessions", {"age": age, "now": now}))[0]
