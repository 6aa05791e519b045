"""A connection pooler in front of PostgreSQL, such as PgBouncer in transaction mode: whether there is one, and what a
session of its clients can do.

Behind one, each transaction may be on another session of the server. What a session keeps is lost or, worse, found by
others: what it listens to, session-level locks, settings, prepared statements. Reflex keeps none of these but the first
and the last; settings and locks are those of a transaction.
"""

from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, Connection, capabilities

__all__ = ["BACKEND", "adapt", "is_other_backend", "through_pooler"]

BACKEND: Final[LiteralString] = "SELECT pg_backend_pid()"
# Finds itself among the prepared statements of the session that it runs on.
PROBE: Final[LiteralString] = (
    "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT name FROM pg_prepared_statements%'"
)
OUR_NAMES: Final = "_pg3_"


async def through_pooler(conn: AsyncConnection[Any]) -> bool:
    """Whether somebody in between answered the connection. Raises psycopg.OperationalError as any statement."""
    cursor = await conn.execute(BACKEND)
    return is_other_backend(conn, await cursor.fetchone())


def is_other_backend(conn: AsyncConnection[Any] | Connection[Any], row: tuple[Any, ...] | None) -> bool:
    """The same for who asked BACKEND. A pooler tells each client a backend of its own making: it has to know who wants
    to cancel."""
    assert row is not None
    return row[0] != conn.info.backend_pid


async def adapt(conn: AsyncConnection[Any]) -> None:
    """Prepare no statements on a new connection whose pooler would lose them (PgBouncer before 1.21, or with
    `max_prepared_statements = 0`). Directly connected this costs one small statement.

    Args:
        conn: Autocommit, and not used yet.
    """
    if await through_pooler(conn):
        most = conn.prepared_max
        conn.prepared_max = 0  # the probe is closed on both sides as soon as it was answered
        if not await keeps_statements(conn):
            conn.prepare_threshold = None
        conn.prepared_max = most


async def keeps_statements(conn: AsyncConnection[Any]) -> bool:
    """Whether the pooler knows what its clients prepare. It gives each statement a name of its own then: two clients
    use the same one."""
    if not capabilities.has_send_close_prepared():
        return False  # an old libpq would close them in SQL, by the name that only the pooler knows
    try:
        async with conn.transaction():
            cursor = await conn.execute(PROBE, prepare=True)
            names = [name for (name,) in await cursor.fetchall()]
    except psycopg.errors.DuplicatePreparedStatement:
        return False  # somebody else left one on this session
    return bool(names) and not any(name.startswith(OUR_NAMES) for name in names)
