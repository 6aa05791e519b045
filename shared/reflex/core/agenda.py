"""The agenda: what stands in the tables for some worker to do. One statement, for it is asked every second."""

from datetime import timedelta
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from reflex.core.statements import only_row

__all__ = ["Agenda", "read_agenda"]


class Agenda(NamedTuple):
    """`due_in` is how long until something that was put off is due, not above zero if something is, None if nothing was
    put off; `awaited` whether any run waits for an event, `cancelling` whether any is to be cancelled."""

    due_in: timedelta | None
    awaited: bool
    cancelling: bool


async def read_agenda(conn: AsyncConnection[Any]) -> Agenda:
    """Look at the tables, and change nothing."""
    return Agenda(*await only_row(conn, "agenda", {}))
