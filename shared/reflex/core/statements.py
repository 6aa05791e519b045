"""Named SQL: one statement a file in `sql/`, read once. LiteralString: nothing from outside is ever pasted in."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection

__all__ = ["names", "only_row", "statement"]


async def only_row(
    conn: AsyncConnection[Any], name: str, parameters: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """The row of a named statement that always gives one."""
    row = await (await conn.execute(statement(name), parameters)).fetchone()
    assert row is not None
    return row


@cache
def statement(name: str) -> LiteralString:
    """The text of `sql/<name>.sql`."""
    return cast("LiteralString", files("reflex.core").joinpath("sql", f"{name}.sql").read_text("utf-8"))


def names() -> list[str]:
    """The names of all statements, sorted; a test prepares each against the migrated schema."""
    return sorted(path.name.removesuffix(".sql") for path in files("reflex.core").joinpath("sql").iterdir())
