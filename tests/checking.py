"""Checks of an installation, made one by one, and the cures that they name."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from reflex.core.checks.catalogue import CHECKS, examine
from reflex.core.checks.checkup import Check, Checkup, Installation, Level, Problem
from reflex.core.database import connect
from reflex.core.settings import Settings
from reflex.core.statements import only_row

__all__ = ["check_named", "checked", "checked_all", "cure", "only_problem", "statements", "told"]


def check_named(name: str) -> Check:
    (check,) = [check for check in CHECKS if check.name == name]
    return check


async def checked(name: str, url: str, **settings: Any) -> Checkup:
    """One check, made on this database with these settings."""
    (made,) = await checked_all(url, [check_named(name)], **settings)
    return made


async def checked_all(url: str, checks: Sequence[Check] = CHECKS, **settings: Any) -> list[Checkup]:
    installation = Installation(Settings.model_construct(**settings), url)
    return [checkup async for checkup in examine(installation, checks)]


def only_problem(checkup: Checkup, level: Level) -> Problem:
    """The problem of this level; there is no other one of it."""
    found = [problem for problem in checkup.problems if problem.level is level]
    assert len(found) == 1, checkup
    return found[0]


def statements(problem: Problem) -> list[str]:
    """Those lines of a cure that are SQL, without the comments behind them."""
    lines = [re.sub(r"  -- .*", "", line) for line in problem.cure]
    return [line for line in lines if re.match(r"[A-Z]{3,}[ A-Z]* .*;$", line)]


async def cure(conn: AsyncConnection[Any], problem: Problem) -> None:
    """Do what the cure says: its first line of SQL, as somebody copies it."""
    await told(conn, statements(problem)[0])


async def told(conn: AsyncConnection[Any], text: str) -> None:
    """Execute statements; if they ask the server to read its settings anew, return when new connections have them."""
    (before,) = await only_row(conn, "check_round_trip")
    for statement in filter(None, text.split("; ")):
        await conn.execute(statement.encode())
    if "pg_reload_conf" not in text:
        return
    dsn = make_conninfo(conn.info.dsn, password=conn.info.password)
    for _ in range(200):
        async with await connect(dsn, name="tests: reloaded") as fresh:
            row = await (await fresh.execute("SELECT pg_conf_load_time() >= %s", [before])).fetchone()
        if row == (True,):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the settings were not read anew")
