"""Versions: of Python, of the distributions, of PostgreSQL and of the schema."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem
from reflex.core.migrate import HEAD
from reflex.core.statements import only_row
from reflex.core.version import VERSION

__all__ = ["SCHEMA", "VERSIONS", "judge_distributions", "judge_postgres", "judge_revision", "read_revision"]

DISTRIBUTIONS: Final = ("reflex-fleet-core", "reflex-fleet-gateway", "reflex-fleet-worker")
# The versions that the tests run on (docs/guides/operating.md). Not when each of them ends: such a list is soon wrong.
OLDEST, NEWEST = 15, 18


async def look_at_versions(installation: Installation) -> Looked:
    problems = judge_distributions(installed())
    says = f"Python {platform.python_version()}, reflex {VERSION}"
    if installation.conn is not None:
        number = installation.conn.info.server_version
        problems += judge_postgres(number)
        says += f", PostgreSQL {shown(number)}"
    return Looked(says, problems)


async def look_at_schema(installation: Installation) -> Looked:
    installation.found = await read_revision(installation.connection)
    return Looked(f"revision {installation.found}", judge_revision(installation.found))


async def read_revision(conn: AsyncConnection[Any]) -> str | None:
    """The revision that the schema is at; None if there is none. Raises psycopg.Error if it cannot be read."""
    try:
        return str((await only_row(conn, "check_revision"))[0])
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None


def installed() -> dict[str, str]:
    """The versions of those distributions that this environment has."""
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a gateway's environment holds no worker
            continue
    return found


def judge_distributions(found: dict[str, str]) -> list[Problem]:
    """They are released together, and import each other's insides."""
    other = {name: version for name, version in found.items() if version != VERSION}
    if not other:
        return []
    return [
        Problem(
            Level.ERROR,
            ", ".join(f"{name} is {version}" for name, version in other.items()) + f", but reflex is {VERSION}",
            "The distributions are made for each other, version by version; other mixtures are not tested.",
            ["pip install " + " ".join(f"'{name}=={VERSION}'" for name in found)],
        )
    ]


def judge_postgres(server_version: int) -> list[Problem]:
    """`server_version` as libpq has it: 150004 is 15.4."""
    major = server_version // 10_000
    if major < OLDEST:
        return [
            Problem(
                Level.ERROR,
                f"PostgreSQL {shown(server_version)} is too old: Reflex needs {OLDEST} or newer",
                "Statements that Reflex uses are not known to it.",
                [f"Upgrade the server to {OLDEST} to {NEWEST}: pg_upgrade, or a dump and restore."],
            )
        ]
    if major > NEWEST:
        return [
            Problem(
                Level.WARNING,
                f"PostgreSQL {shown(server_version)} is newer than what this Reflex was tested with ({NEWEST})",
                "It will probably do; nobody has tried.",
                ["Look for a newer Reflex: pip install --upgrade reflex-fleet-core"],
            )
        ]
    return []


def judge_revision(found: str | None) -> list[Problem]:
    """What a schema of that revision is for this code. Pure."""
    if found == HEAD:
        return []
    if found is None:
        return [
            Problem(
                Level.ERROR,
                "the database has no Reflex schema",
                "No process can start on it. If it should have one: is DATABASE_URL that of the right database?",
                ["reflex migrate"],
            )
        ]
    if found.isdecimal() and int(found) < int(HEAD):
        return [
            Problem(
                Level.ERROR,
                f"the schema is at revision {found}, and this code needs {HEAD}",
                "Statements of this code name tables and columns that are not there yet.",
                ["reflex migrate"],
            )
        ]
    return [
        Problem(
            Level.WARNING,
            f"the schema is at revision {found}, and this code knows only {HEAD}: it is older than the schema",
            "Old code runs beside new code for the time of a deploy, not for good.",
            ["Deploy the newer version here as well."],
        )
    ]


def shown(server_version: int) -> str:
    return f"{server_version // 10_000}.{server_version % 10_000}"


VERSIONS: Final = Check("versions", "do the parts fit each other, and PostgreSQL", Need.NOTHING, look_at_versions)
SCHEMA: Final = Check("schema", "is the database migrated to what this code needs", Need.SERVER, look_at_schema)
