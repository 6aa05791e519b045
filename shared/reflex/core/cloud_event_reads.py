"""Events of the log, read as CloudEvents."""

from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.cloud_event_fields import from_log
from reflex.core.cloud_events import CloudEvent
from reflex.core.errors import NotFound
from reflex.core.reads import fetch
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.rows import StoredJson

__all__ = ["get_cloud_event"]


async def get_cloud_event(
    conn: AsyncConnection[Any], event_id: UUID, *, within: Restriction = UNRESTRICTED
) -> CloudEvent:
    """One event of the log.

    Raises:
        NotFound: The log has no such event, or none within these.
    """
    found = await fetch(conn, "get_event", {"event_id": event_id})
    if not found or not within.allows(found[0]["type"], found[0]["source"]):
        raise NotFound(f"there is no event {event_id}")
    sent = await fetch(conn, "client_id", {"event_id": event_id})
    payload: dict[str, Any] = StoredJson(found[0]["payload"]).value
    return from_log(found[0], payload, sent[0]["key"] if sent else None)
