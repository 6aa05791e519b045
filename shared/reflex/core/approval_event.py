"""The events that tell of approvals, so that triggers and readers of the log can bring them to people."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId, new_id
from reflex.core.json_text import without_nul
from reflex.core.replies import WAITED_FOR

__all__ = ["APPROVAL_DECIDED", "APPROVAL_REQUESTED", "decided_event"]

APPROVAL_REQUESTED: Final = "approval.requested"
APPROVAL_DECIDED: Final = "approval.decided"


def decided_event(
    row: Mapping[str, Any],
    *,
    decision: str,
    edited: str | None = None,
    reason: str | None = None,
    by: str | None = None,
) -> NewEvent:
    """What became of a question, in the chain of the event that caused it.

    Args:
        row: Of `list_approvals`, read in the transaction that decides.
        edited: JSON text.
    """
    payload = {
        "approval_id": str(row["approval_id"]),
        "delivery_id": str(DeliveryId(row["trigger_id"], row["event_id"])),
        "trigger": row["trigger"],
        "tool": row["tool"],
        "digest": row["digest"],
        "decision": decision,
        "arguments": orjson.Fragment(without_nul(edited or row["arguments"])),
        "edited": edited is not None,
        "reason": reason,
        "by": by,
        "decided_at": row["now"],
    }
    return NewEvent(
        event_id=new_id(),
        type=APPROVAL_DECIDED,
        source=f"agent:{row['trigger']}",
        key=row["key"],
        time=None,
        payload=orjson.dumps(payload).decode(),
        correlation_id=row["correlation_id"] or str(row["event_id"]),
        causation_id=row["event_id"],
        depth=row["depth"] + 1,
        reply_to=None if row["reply_to"] == WAITED_FOR else row["reply_to"],
    )
