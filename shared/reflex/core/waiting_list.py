"""Which deliveries wait, and for what: for the gateway and the command line."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.ids import DeliveryId
from reflex.core.pages import DEFAULT_LIMIT, check_limit
from reflex.core.reads import fetch
from reflex.core.restriction import UNRESTRICTED, Restriction

__all__ = ["WaitingRow", "list_waiting"]


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A delivery that waits. `kind` is for what, `reason` the same in words; `key` is the event's. At `until` it is due
    by itself; a wait that only a person or an event ends has a moment decades away."""

    id: str
    trigger: str
    app: str
    event_id: UUID
    type: str
    key: str | None
    kind: str
    reason: str
    since: datetime
    until: datetime | None


async def list_waiting(
    conn: AsyncConnection[Any], *, limit: int = DEFAULT_LIMIT, within: Restriction = UNRESTRICTED
) -> list[WaitingRow]:
    """Those that have waited longest first.

    Raises:
        QueryRejected: A limit that makes no sense.
    """
    check_limit(limit)
    return [
        WaitingRow(str(DeliveryId(row.pop("trigger_id"), row["event_id"])), **row)
        for row in await fetch(conn, "list_waiting", {**within.parameters(), "limit": limit})
    ]
