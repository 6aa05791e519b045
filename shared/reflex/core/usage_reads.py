"""What agents have used up, summed for the people who run the system."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from psycopg import AsyncConnection

from reflex.core.reads import fetch

__all__ = ["A_DAY", "UsageRow", "usage_of_triggers"]

A_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What the agents of a trigger have used up, without what was replayed from journals.

    `runs` are those that used anything. `cost_usd` is null if no run has a price; `unpriced_runs` are not in it.
    """

    trigger: str
    app: str
    runs: int
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    unpriced_runs: int


async def usage_of_triggers(
    conn: AsyncConnection[Any], *, within: timedelta = A_DAY, now: datetime | None = None
) -> list[UsageRow]:
    """By app and trigger, of the runs that ended within a time."""
    return [UsageRow(**row) for row in await fetch(conn, "usage_of_triggers", {"within": within, "now": now})]
