"""The event that a dead letter appends, so that a trigger can triage dead letters."""

from typing import Final
from uuid import UUID

import orjson

from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId, new_id

__all__ = ["DEAD_LETTER_TYPE", "dead_letter_event"]

DEAD_LETTER_TYPE: Final = "reflex.dead_letter"


def dead_letter_event(
    *,
    trigger: str,
    delivery_id: DeliveryId,
    event_type: str,
    key: str | None,
    correlation_id: str | None,
    depth: int,
    attempt: int,
    reason: str,
    error: str | None,
    reply_to: str | None = None,
) -> NewEvent | None:
    """The event, caused by the event that died. None if that was a dead letter itself: no chain of those."""
    if event_type == DEAD_LETTER_TYPE:
        return None
    event_id: UUID = delivery_id.event_id
    payload = {
        "dead_letter_id": str(delivery_id),
        "trigger": trigger,
        "event_id": str(event_id),
        "event_type": event_type,
        "attempt": attempt,
        "reason": reason,
        "error": error,
    }
    return NewEvent(
        event_id=new_id(),
        type=DEAD_LETTER_TYPE,
        source=f"agent:{trigger}",
        key=key,
        time=None,
        payload=orjson.dumps(payload).decode(),
        correlation_id=correlation_id or str(event_id),
        causation_id=event_id,
        depth=depth + 1,
        reply_to=reply_to,
    )
