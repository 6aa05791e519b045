"""What the database says of the whole system, as readings: queues, workers, dead letters, tables. Gateways show it."""

from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection

from reflex.core.reads import COUNT_LIMIT
from reflex.core.series import Reading
from reflex.core.statements import statement

__all__ = ["TABLES", "read_figures"]

# Those whose rows come and go with each delivery; vacuum has to keep up with them.
TABLES: Final = ("delivery", "ordered", "scheduled", "lease", "lane", "waiting", "appended", "dead_letter", "unrouted")


async def read_figures(
    conn: AsyncConnection[Any], *, lease_timeout: timedelta, now: datetime | None = None
) -> list[Reading]:
    """All of them at one moment; two statements that change nothing.

    Args:
        lease_timeout: A worker whose heartbeat is older than this does not count as live.
    """
    parameters = {"limit": COUNT_LIMIT, "lease_timeout": lease_timeout, "now": now, "tables": list(TABLES)}
    readings: list[Reading] = []
    for name in ("figures", "table_figures"):
        cursor = await conn.execute(statement(name), parameters)
        readings += [Reading(name, tuple(labels), float(value)) for name, labels, value in await cursor.fetchall()]
    return readings
