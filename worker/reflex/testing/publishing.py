"""Events as a client sends them: checked as the gateway checks them, without a gateway."""

from typing import Any, Final

import orjson
from pydantic import ValidationError

from reflex.agent.publishing import RunLimits, payload_text
from reflex.core import envelope, strict_json
from reflex.core.errors import EventRejected
from reflex.core.events import BaseEvent, EventRegistry, NewEvent
from reflex.core.strict_json import pointer

__all__ = ["sent_event"]

# Raised by the author's own validators, of which the JSON Schema that a gateway knows says nothing.
UNKNOWN_TO_SCHEMAS: Final = frozenset({"value_error", "assertion_error"})


def sent_event(
    event: BaseEvent | str, payload: dict[str, Any] | None, fields: dict[str, Any], limits: RunLimits
) -> NewEvent:
    """The event to append.

    Args:
        fields: The rest of the envelope: `key`, `source`, `id`, `correlation_id`, `delay` and so on.

    Raises:
        EventRejected: The gateway would answer 422, with the field that is wrong.
        TypeError: The arguments make no event.
    """
    type = event.type if isinstance(event, BaseEvent) else event
    given = {name: value for name, value in fields.items() if value is not None}
    text = orjson.dumps({"type": type, **given, "payload": orjson.Fragment(payload_text(event, payload))})
    data = strict_json.parse(text, max_nesting=limits.max_nesting)
    new, decoded = envelope.read(data, max_payload_bytes=limits.max_payload_bytes)
    check_payload(type, decoded)
    return new


def check_payload(type: str, payload: dict[str, Any]) -> None:
    """Refuse what the registered class's JSON Schema refuses. What only its own validators refuse is stored, and is a
    dead letter of each trigger that wants it, as in production."""
    event_class = EventRegistry.classes.get(type)
    if event_class is None:
        return
    try:
        event_class.model_validate_json(orjson.dumps({**payload, "type": type}), strict=True)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            if each["type"] not in UNKNOWN_TO_SCHEMAS:
                path = "/payload"
                for part in each["loc"]:
                    path = pointer(path, part)
                raise EventRejected(each["msg"], field=path) from None
