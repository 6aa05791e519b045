"""The way to the database: whether it answers and how fast, and whether there is room on it."""

import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number, seconds
from reflex.core.checks.server_settings import identifier
from reflex.core.checks.versions import read_revision
from reflex.core.database import connect, conninfo, describe
from reflex.core.errors import ConfigurationError
from reflex.core.reads import fetch
from reflex.core.statements import statement

__all__ = ["CONNECTIONS", "DATABASE", "OURS", "judge_connections", "judge_round_trip", "place_of", "reached", "reason"]

OURS: Final = "reflex doctor"
ROUND_TRIPS: Final = 7
# Beyond the farthest zone of one region. A run makes some round trips one after another: claim, each step, settle.
SLOW_S: Final = 0.01
# docs/guides/operating.md: what one more worker process may open.
WORKER_CONNECTIONS: Final = 14
NEARLY_FULL: Final = 0.8


@asynccontextmanager
async def reached(installation: Installation) -> AsyncGenerator[Installation]:
    """The installation with a connection, if one can be had; it says why not otherwise, and raises nothing."""
    if installation.url is None:
        yield installation
        return
    try:
        # Of a database in SQL_ASCII texts would come as bytes.
        conn = await connect(make_conninfo(conninfo(installation.url), client_encoding="UTF8"), name=OURS)
    except (psycopg.Error, OSError, ConfigurationError) as error:
        installation.unreachable = reason(installation.url, error)
        yield installation
        return
    async with conn:
        installation.conn = conn
        try:
            installation.found = await read_revision(conn)
        except psycopg.Error:  # the check of the schema says why
            installation.found = None
        yield installation


async def look_at_database(installation: Installation) -> Looked:
    url, conn = installation.url, installation.conn
    if url is None:
        return Looked("", [
            Problem(
                Level.ERROR, "DATABASE_URL is not set",
                "It names the PostgreSQL to use; no `reflex dev` runs on REFLEX_DATA_DIR either.",
                ["export DATABASE_URL=postgresql://user:password@host:5432/name"],
            )
        ])  # fmt: skip
    if conn is None:
        return Looked("", [
            Problem(
                Level.ERROR, f"PostgreSQL cannot be reached at {place_of(url) or 'DATABASE_URL'}",
                installation.unreachable or "it does not answer",
                ['psql "$DATABASE_URL" -c "SELECT 1"'],
            )
        ])  # fmt: skip
    median = await round_trip(conn)
    says = f"{describe(url)} as {installation.account}, {seconds(median)} away"
    return Looked(says, judge_round_trip(median, lease_timeout_s=installation.settings.lease_timeout_s))


def place_of(url: str) -> str | None:
    """Where it leads; None if that cannot be said."""
    try:
        return describe(url)
    except ConfigurationError:
        return None


def reason(url: str, error: Exception) -> str:
    """Why there is no connection, on one line. An error of a misread address would repeat a part of the password."""
    if place_of(url) is None:
        return (
            "The address cannot be parsed; it looks like postgresql://user:password@host:5432/name, and characters "
            "such as '@' or '/' in a password are written %40 and %2F."
        )
    return " ".join(str(error).split())


async def round_trip(conn: AsyncConnection[Any]) -> float:
    """The median of a few, in seconds."""
    took: list[float] = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        await conn.execute(statement("check_round_trip"))
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def judge_round_trip(median: float, *, lease_timeout_s: float) -> list[Problem]:
    """What a way of so many seconds is for those who work over it. Pure."""
    if median <= SLOW_S:
        return []
    if median > lease_timeout_s / 8:  # half the time between two heartbeats
        return [
            Problem(
                Level.ERROR,
                f"a round trip to PostgreSQL takes {seconds(median)}",
                f"A heartbeat is sent every {lease_timeout_s / 4:g} s and has to be answered in that time: workers "
                "will be declared dead while they work.",
                ["Bring workers and PostgreSQL closer together, or look whether either is overloaded.",
                 f"Until then: REFLEX_LEASE_TIMEOUT_S={max(60, int(median * 16) + 1)}"],
            )
        ]  # fmt: skip
    return [
        Problem(
            Level.WARNING,
            f"a round trip to PostgreSQL takes {seconds(median)}",
            "Each claim, each step of an agent and each settling waits for one; on one connection no more than "
            f"{1 / median:.0f} claims are made in a second. Within a region it is below 2 ms.",
            ["Bring gateways, workers and PostgreSQL into one zone, or look whether this machine is overloaded."],
        )
    ]


class Connections(NamedTuple):
    """The row of check_connections. A limit of -1 is none."""

    names: dict[str, int]
    used: int
    used_here: int
    used_by_us: int
    most: int
    reserved: int
    most_here: int
    most_of_us: int


async def look_at_connections(installation: Installation) -> Looked:
    found = Connections(**(await fetch(installation.connection, "check_connections", {}))[0])
    ours = sum(count for name, count in found.names.items() if name.startswith("reflex"))
    says = f"{found.used} of {found.most - found.reserved} are used, {ours} by Reflex"
    return Looked(says, judge_connections(found, database=installation.database, account=installation.account))


def judge_connections(found: Connections, *, database: str, account: str) -> list[Problem]:
    """Whether one more worker would get its connections. Pure."""
    who = ", ".join(
        f"{name} {count}" for name, count in sorted(found.names.items(), key=lambda pair: -pair[1])[:8]
    )  # fmt: skip
    problems: list[Problem] = []
    for used, most, what, cure in (
        (
            found.used, found.most - found.reserved, "max_connections, less those reserved,",
            [f"ALTER SYSTEM SET max_connections = {2 * found.most};  -- and restart PostgreSQL",
             "Or put PgBouncer in front: docs/guides/deploying.md"],
        ),
        (
            found.used_here, found.most_here, f"the connection limit of database {database}",
            [f"ALTER DATABASE {identifier(database)} CONNECTION LIMIT -1;"],
        ),
        (
            found.used_by_us, found.most_of_us, f"the connection limit of role {account}",
            [f"ALTER ROLE {identifier(account)} CONNECTION LIMIT -1;"],
        ),
    ):  # fmt: skip
        free = most - used
        if most < 0 or (free >= WORKER_CONNECTIONS and used < NEARLY_FULL * most):
            continue
        problems.append(
            Problem(
                Level.WARNING if free > 0 else Level.ERROR,
                f"{number(max(0, free), 'connection')} left: {used} of {most} are used ({what.rstrip(',')})",
                f"A worker process may open up to {WORKER_CONNECTIONS}, a gateway up to nine; what gets none waits, "
                f"and gateways answer 503. Used by: {who or 'nobody'}.",
                cure,
            )
        )
    return problems


DATABASE: Final = Check("database", "does PostgreSQL answer, and how fast", Need.NOTHING, look_at_database)
CONNECTIONS: Final = Check("connections", "is there room for one more process", Need.SERVER, look_at_connections)
