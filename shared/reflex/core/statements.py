"""Named SQL: one statement a file in `sql/`, read once. LiteralString: nothing from outside is ever pasted in."""

from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

__all__ = ["names", "statement"]


@cache
def statement(name: str) -> LiteralString:
    """The text of `sql/<name>.sql`."""
    return cast("LiteralString", files("reflex.core").joinpath("sql", f"{name}.sql").read_text("utf-8"))


def names() -> list[str]:
    """The names of all statements, sorted; a test prepares each against the migrated schema."""
    return sorted(path.name.removesuffix(".sql") for path in files("reflex.core").joinpath("sql").iterdir())
