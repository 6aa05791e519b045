"""What a check of an installation is, and what it comes to. Nothing here reads anything."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from reflex.core.database import answered_within
from reflex.core.errors import ReflexError
from reflex.core.settings import Settings

__all__ = [
    "Check",
    "Checkup",
    "Installation",
    "Level",
    "Looked",
    "Need",
    "Problem",
    "number",
    "seconds",
    "severity",
    "worst",
]

# A check that takes longer is given up: somebody holds a lock on what it reads, or the way there is broken.
LOOK_S: Final = 15.0
# Asked to stop, psycopg asks the server to cancel first, which takes up to five seconds if that does not answer.
SEVER_S: Final = LOOK_S + 6


class Level(StrEnum):
    """How bad it is. `unknown`: it could not be looked at; `note`: nothing is wrong, but somebody may want to know."""

    OK = "ok"
    NOTE = "note"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to know or to change.

    `says` is one line, `means` what comes of it; `cure` are commands and statements to copy, or a sentence where there
    is nothing to copy.
    """

    level: Level
    says: str
    means: str
    cure: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Looked:
    """What a check saw: `says` is its line when nothing is wrong."""

    says: str
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class Checkup:
    """A check that was made. `level` is that of its worst problem. `hindered`: it was not made, for want of what it
    needs."""

    name: str
    level: Level
    says: str
    problems: Sequence[Problem] = ()
    hindered: bool = False


class Need(IntEnum):
    """What a check cannot be made without. What needs the schema needs the server too."""

    NOTHING = 0
    SERVER = 1
    SCHEMA = 2


@dataclass(slots=True)
class Installation:
    """What is looked at.

    Args:
        url: Of the database; None if the settings name none.
        unread: Variables of which the value makes no sense, and why. `settings` has their defaults.
        conn: Autocommit; None if the database cannot be reached, and `unreachable` says why.
        found: The revision of the schema; None if there is none, or nobody has looked yet.
    """

    settings: Settings
    url: str | None
    unread: Sequence[tuple[str, str]] = ()
    conn: AsyncConnection[Any] | None = None
    unreachable: str | None = None
    found: str | None = None

    @property
    def connection(self) -> AsyncConnection[Any]:
        """The connection, for checks that are made only if there is one."""
        assert self.conn is not None
        return self.conn

    @property
    def lease_timeout(self) -> timedelta:
        return timedelta(seconds=self.settings.lease_timeout_s)

    @property
    def account(self) -> str:
        """The role that the connection has."""
        return self.connection.info.user

    @property
    def database(self) -> str:
        return self.connection.info.dbname

    def missing(self, need: Need) -> str | None:
        """Why a check with this need cannot be made; None: it can."""
        if need is Need.NOTHING:
            return None
        if self.conn is None:
            return "there is no database" if self.url is None else "the database cannot be reached"
        if self.conn.closed:
            return "the connection to the database was lost"
        if need is Need.SCHEMA and self.found is None:
            return "the database has no Reflex schema"
        return None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. Its name is what `reflex doctor --only` takes, and stays as it is."""

    name: str
    asks: str
    need: Need
    look: Callable[[Installation], Awaitable[Looked]]

    async def make(self, installation: Installation) -> Checkup:
        """Look. Whatever fails becomes a checkup that says why: the others are made all the same."""
        missing = installation.missing(self.need)
        if missing is not None:
            return replace(self._unknown(missing), hindered=True)
        try:
            looked = await self._look(installation)
        except TimeoutError:
            return self._unknown(f"nothing came back within {LOOK_S:.0f} s; somebody may hold a lock on what it reads")
        except (psycopg.Error, OSError, ReflexError) as error:
            return self._unknown(first_line(error))
        if not looked.problems:
            return Checkup(self.name, Level.OK, looked.says)
        first = worst(looked.problems)
        more = len(looked.problems) - 1
        says = looked.says if first.level is Level.NOTE else first.says + (f"; and {more} more" if more else "")
        return Checkup(self.name, first.level, says, looked.problems)

    async def _look(self, installation: Installation) -> Looked:
        async with asyncio.timeout(LOOK_S):
            if installation.conn is None:
                return await self.look(installation)
            with answered_within(SEVER_S, installation.conn):
                return await self.look(installation)

    def _unknown(self, why: str) -> Checkup:
        return Checkup(self.name, Level.UNKNOWN, f"could not be looked at: {why}")


def worst(problems: Sequence[Problem]) -> Problem:
    """The first of the most severe ones."""
    return max(problems, key=lambda problem: severity(problem.level))


def severity(level: Level) -> int:
    """Greater is worse."""
    return list(Level).index(level)


def first_line(error: BaseException) -> str:
    """What it says, without what PostgreSQL adds about the place in the statement."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def number(count: float, what: str, plural: str | None = None) -> str:
    """`1 worker`, `3 workers`, `12,000 workers`."""
    return f"{count:,.0f} {what if count == 1 else plural or what + 's'}"


def seconds(length: float) -> str:
    """A length of time in one unit, as a person says it: `0.3 ms`, `12 s`, `5 min`, `3 h`, `2 days`."""
    size = abs(length)
    if size < 1:
        return f"{length * 1000:.3g} ms"
    for unit, at_least in (("days", 172_800), ("h", 7_200), ("min", 120)):
        if size >= at_least:
            return f"{length / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{length:.3g} s"
