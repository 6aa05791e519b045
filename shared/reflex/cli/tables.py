"""What listings print: a table for people, JSON for programs, from the same rows."""

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import typer

from reflex.core.rows import StoredJson

__all__ = ["ago", "ahead", "print_json", "print_table"]


def print_json(value: object) -> None:
    """One JSON document; dataclasses become objects, moments RFC 3339 in UTC, stored JSON stays as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(value, option=options, default=in_json).decode())


def in_json(value: object) -> object:
    return orjson.Fragment(value.text) if isinstance(value, StoredJson) else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, nothing: str) -> None:
    """A table on standard output, or one sentence if there are no rows. Cells are never cut when piped."""
    if not rows:
        typer.echo(nothing)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=not typer.get_text_stream("stdout").isatty())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    if not console.is_terminal:
        console.width = 400
    console.print(table, highlight=False)


def ago(moment: datetime) -> str:
    """How long ago, in one unit: `12 s ago`, `3 h ago`."""
    return f"{in_one_unit((datetime.now(UTC) - moment).total_seconds())} ago"


def ahead(moment: datetime) -> str:
    """In how long, in one unit: `in 12 s`; `due` if the moment has come."""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return f"in {in_one_unit(seconds)}" if seconds > 0 else "due"


def in_one_unit(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
