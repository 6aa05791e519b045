"""Connections to PostgreSQL, all opened the same way: autocommit, orjson, and time limits on a path that went dead."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncTransaction, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool

from reflex.core.errors import ConfigurationError
from reflex.core.pooler import adapt

__all__ = [
    "STANDSTILL",
    "answered_within",
    "brief_transaction",
    "conninfo",
    "connect",
    "describe",
    "is_connection_error",
    "open_pool",
    "prepare_connection",
    "sever",
    "sqlalchemy_url",
    "with_database",
]

# Without these a connection whose peer vanished (no RST, a dropped NAT entry) looks alive for up to two hours.
# tcp_user_timeout bounds unacknowledged data, the keepalives an idle wait.
LIMITS: Final[dict[str, int]] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
}

# How long a transaction that holds leases or lanes may stand still before the server ends it: its process is frozen or
# its path dead, and others wait for it, such as the gateways' appends to these lanes.
STANDSTILL: Final = "5s"


def conninfo(url: str, *, name: str | None = None, **limits: int) -> str:
    """The libpq form of a database address, with our limits where it sets none.

    Args:
        url: `postgresql://…`, `postgres://…`, SQLAlchemy's `postgresql+psycopg://…`, or `key=value` pairs.
        name: What pg_stat_activity shows as application_name.
        limits: Tighter ones than ours, as libpq names them.

    Raises:
        ConfigurationError: It cannot be parsed. The sentence does not repeat it: it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    if separator:
        url = f"{scheme.partition('+')[0]}://{rest}"
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        given = {"host": "?@"}
    # libpq takes what follows a bare '@' in a password for the host, which is shown. A name that begins with one is
    # that of an abstract socket.
    if "@" in str(given.get("host") or "")[1:]:
        raise ConfigurationError(
            "DATABASE_URL cannot be parsed; it looks like postgresql://user:password@host:5432/name "
            "(characters such as '@' or '/' in a password are written %40 and %2F)"
        )
    named = {"application_name": name} if name else {}
    return make_conninfo("", **{**LIMITS, **limits, **named, **given})


def describe(url: str) -> str:
    """Where the database is, all of its hosts, without the password: for logs and error messages."""
    parts = conninfo_to_dict(conninfo(url))
    hosts = str(parts.get("host", "local socket")).split(",")
    ports = str(parts.get("port", 5432)).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return f"{','.join(map(':'.join, zip(hosts, ports, strict=False)))}/{parts.get('dbname', '')}"


def sqlalchemy_url(url: str) -> str:
    """The address as SQLAlchemy wants it, with psycopg as the driver."""
    _, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError("DATABASE_URL must be an address such as postgresql://user:password@host:5432/name")
    return f"postgresql+psycopg://{rest}"


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def prepare_connection(conn: AsyncConnection[Any]) -> None:
    """What a pool does with each new connection."""
    set_json_loads(orjson.loads, conn)
    with answered_within(LIMITS["connect_timeout"], conn):
        await adapt(conn)


async def connect(url: str, *, name: str) -> AsyncConnection[Any]:
    """One connection outside any pool, autocommit."""
    conn = await AsyncConnection.connect(conninfo(url, name=name), autocommit=True)
    try:
        await prepare_connection(conn)
    except BaseException:
        await conn.close()
        raise
    return conn


def open_pool(url: str, *, name: str, size: int, least: int = 2) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """A pool of autocommit connections, not opened yet: the caller opens it, and may do so without a database.

    Args:
        size: How many there are at most.
        least: How many there are at least. They are used in turn, however few would do.
    """
    return AsyncConnectionPool(
        conninfo(url, name=name),
        min_size=min(least, size),
        max_size=size,
        open=False,
        timeout=5,
        reconnect_timeout=30,
        name=name,
        kwargs={"autocommit": True},
        configure=prepare_connection,
    )


@asynccontextmanager
async def brief_transaction(conn: AsyncConnection[Any]) -> AsyncGenerator[AsyncTransaction]:
    """A transaction that the server ends if nothing more comes for five seconds: the process is frozen, or its path is
    dead, which the server would not notice for hours. Others wait for what it has locked."""
    async with conn.transaction() as transaction:
        await conn.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{STANDSTILL}'")
        yield transaction


@contextmanager
def answered_within(seconds: float, conn: AsyncConnection[Any]) -> Generator[None]:
    """Sever the connection if the block takes longer.

    The limits of TCP see a path that is dead, but not one on which something takes what is sent and answers nothing.
    """
    clock = asyncio.get_running_loop().call_later(seconds, sever, conn)
    try:
        yield
    finally:
        clock.cancel()


def sever(conn: AsyncConnection[Any] | Connection[Any]) -> None:
    """Break a connection that does not answer: whoever waits on it gets a connection error at once. Cancelling would
    first ask the server, and wait for its answer."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def is_connection_error(error: BaseException) -> bool:
    """Whether the database was unreachable or going away, rather than refusing what it was told.

    A shutdown (57P01 to 57P03), a full disk or too many connections (class 53) count: waiting may help. So does a
    session that the server ended because it stood still inside a transaction (25P03): the process was frozen.
    """
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OSError)
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate[:2] in {"08", "53", "57", "58"} or error.sqlstate in {"25006", "25P03"}
