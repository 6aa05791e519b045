"""Database connections for requests other than appending events: lent from the pool, in turn and not for long.

Cancelling a psycopg call on a dead network path takes as long as the path's own time-outs, so nothing here waits for
a cancellation: work that is late is left to end by itself, and the request is answered without it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout
from starlette.requests import Request

from reflex.core.database import is_connection_error
from reflex.core.errors import DatabaseUnavailable, Saturated

__all__ = [
    "NO_DATABASE",
    "READS",
    "READ_S",
    "Connection",
    "Pool",
    "change",
    "finish_within",
    "lend",
    "limited",
    "place_in",
    "pool_of",
    "read",
    "read_places",
]

Connection = AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]
Result = TypeVar("Result")

# Reads never take the pool's last connection: the health check has to get one on a busy gateway, too.
KEPT_FOR_HEALTH: Final = 1
WAIT_S: Final = 2.0
STATEMENT_TIMEOUT: Final = "SET LOCAL statement_timeout = '5s'"
READ_S: Final = 8.0
CHANGE_S: Final = 60.0
READS: Final = "the queue for database reads"
NO_DATABASE: Final = "this gateway was started without a database"

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.gateway.connections")
late: set[asyncio.Task[Any]] = set()


async def read(request: Request, query: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run a query in a transaction with a time limit.

    Raises:
        Saturated: Too many reads are under way.
        DatabaseUnavailable: No connection, a broken one, or the query took too long.
    """

    pool = pool_of(request)

    async def work() -> Result:
        async with place_of(request), limited(pool, wait_s=WAIT_S) as conn:
            return await query(conn)

    return await finish_within(READ_S, work())


async def change(request: Request, command: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run a command on an autocommit connection.

    Raises:
        Saturated: Too many requests are under way.
        DatabaseUnavailable: As for `read`; what was done before is done.
    """

    pool = pool_of(request)

    async def work() -> Result:
        async with place_of(request), lend(pool, wait_s=WAIT_S) as conn:
            return await command(conn)

    return await finish_within(CHANGE_S, work())


def pool_of(request: Request) -> Pool:
    """The app's pool. A gateway that only measures runs without one."""
    pool: Pool | None = getattr(request.app.state, "pool", None)
    if pool is None:
        raise DatabaseUnavailable(NO_DATABASE)
    return pool


def place_of(request: Request) -> AbstractAsyncContextManager[None]:
    return place_in(request.app.state.read_places, wait_s=WAIT_S, queue=READS)


def read_places(pool: Pool) -> asyncio.Semaphore:
    """The places for all who read, requests and the hub together."""
    return asyncio.Semaphore(max(1, pool.max_size - KEPT_FOR_HEALTH))


@asynccontextmanager
async def place_in(places: asyncio.Semaphore, *, wait_s: float, queue: str) -> AsyncGenerator[None]:
    """One of so many places. Raises Saturated, with what the queue for them is called, if none is free in time."""
    try:
        async with asyncio.timeout(wait_s):
            await places.acquire()
    except TimeoutError:
        raise Saturated(queue) from None
    try:
        yield
    finally:
        places.release()


@asynccontextmanager
async def limited(pool: Pool, *, wait_s: float) -> AsyncGenerator[Connection]:
    """A connection in a transaction whose statements have a time limit. Raises as `lend` does."""
    async with lend(pool, wait_s=wait_s) as conn, conn.transaction():
        await conn.execute(STATEMENT_TIMEOUT)
        yield conn


@asynccontextmanager
async def lend(pool: Pool, *, wait_s: float) -> AsyncGenerator[Connection]:
    """A connection that works. After a restart of PostgreSQL the pool's old ones do not, and are thrown away."""
    conn: Connection | None = None
    try:
        for remaining in reversed(range(pool.max_size + 1)):
            conn = await pool.getconn(timeout=wait_s)
            try:
                await pool.check_connection(conn)
                break
            except psycopg.OperationalError:
                await pool.putconn(conn)
                conn = None
                if not remaining:
                    raise
        assert conn is not None
        yield conn
    except (PoolTimeout, PoolClosed) as error:
        raise DatabaseUnavailable(f"no connection to PostgreSQL could be had within {wait_s:g} s") from error
    except psycopg.errors.QueryCanceled as error:
        raise DatabaseUnavailable(
            "the query took longer than 5 s and was stopped; "
            "narrow it down by type, key, correlation_id, since or until"
        ) from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise DatabaseUnavailable("the database is not migrated; run `reflex migrate`") from error
    except psycopg.Error as error:
        if not is_connection_error(error):
            raise
        # The error's own text names the server; it goes to the log, not to the client.
        log.warning("the connection to PostgreSQL broke", error=str(error))
        raise DatabaseUnavailable("the connection to PostgreSQL broke; try again") from error
    finally:
        if conn is not None:
            await pool.putconn(conn)


async def finish_within(seconds: float, work: Coroutine[Any, Any, Result] | asyncio.Task[Result]) -> Result:
    """The result of `work`, or DatabaseUnavailable when it takes longer. It goes on then, and nobody hears of it."""
    task = asyncio.ensure_future(work)
    late.add(task)
    task.add_done_callback(forget)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        raise DatabaseUnavailable(f"PostgreSQL did not answer within {seconds:g} s")
    return task.result()


def forget(task: asyncio.Task[Any]) -> None:
    late.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it as lost
