"""Named SQL: one statement a file in `sql/`, read once. LiteralString: nothing from outside is ever pasted in."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection

__all__ = ["names", "only_row", "source", "statement"]


async def only_row(
    conn: AsyncConnection[Any],
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    without: str | None = None,
) -> tuple[Any, ...]:
    """The row of a named statement that always gives one."""
    row = await (await conn.execute(statement(name, without=without), parameters)).fetchone()
    assert row is not None
    return row


@cache
def statement(name: str, *, without: str | None = None) -> LiteralString:
    """The text of `sql/<name>.sql`, to be run.

    Comments and indentation are left out: psycopg remembers how it read a text of up to 4096 characters. A longer one
    it reads anew each time, which takes longer than PostgreSQL needs for some of them. The name is put in front, for
    those who look at pg_stat_activity.

    Args:
        without: Leave out the lines from each `-- <this>` to the next `-- </this>`.
    """
    text = source(name)
    if without is not None:
        text = re.sub(rf"^ *-- <{without}>\n.*?-- </{without}>\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *--.*\n|^ +", "", text, flags=re.MULTILINE)
    return cast("LiteralString", f"-- {name}\n{text}")


def source(name: str) -> str:
    """The text of `sql/<name>.sql` as it was written."""
    return files("reflex.core").joinpath("sql", f"{name}.sql").read_text("utf-8")


def names() -> list[str]:
    """The names of all statements, sorted; a test prepares each against the migrated schema."""
    return sorted(path.name.removesuffix(".sql") for path in files("reflex.core").joinpath("sql").iterdir())
