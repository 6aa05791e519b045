"""The event that answers an event: what an agent returned, in the log, where whoever asked finds it."""

from typing import Final

import orjson

from reflex.core.dead_letter_event import DEAD_LETTER_TYPE
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.settlement import Claimed, Outcome

__all__ = ["REPLY_TYPE", "WAITED_FOR", "reply_event"]

REPLY_TYPE: Final = "reflex.reply"
# The `reply_to` of an event for whose deliveries somebody waits: each of them answers, with or without an output.
WAITED_FOR: Final = "wait"


def reply_event(
    claimed: Claimed, *, trigger: str, outcome: Outcome, output_json: str | None, trace_context: str | None = None
) -> NewEvent | None:
    """The reply of a run that ended well. None if there is nothing to say, or if the event was a reply itself: no
    chain of those. A dead letter has `reply_to` from the event that died: nobody waits for what becomes of itself."""
    waited_for = claimed.reply_to == WAITED_FOR and claimed.type != DEAD_LETTER_TYPE
    if claimed.type == REPLY_TYPE or (output_json is None and not waited_for):
        return None
    payload = {
        "delivery_id": str(claimed.delivery_id),
        "trigger": trigger,
        "event_id": str(claimed.event_id),
        "event_type": claimed.type,
        "outcome": outcome,
        "output": None if output_json is None else orjson.Fragment(output_json),
    }
    return NewEvent(
        event_id=new_id(),
        type=REPLY_TYPE,
        source=f"agent:{trigger}",
        key=claimed.key,
        time=None,
        payload=orjson.dumps(payload).decode(),
        correlation_id=claimed.correlation_id or str(claimed.event_id),
        causation_id=claimed.event_id,
        depth=claimed.depth + 1,
        trace_context=trace_context,
        reply_to=claimed.reply_to,
    )
