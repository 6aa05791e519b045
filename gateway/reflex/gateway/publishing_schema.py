"""The schema of POST /events: what an envelope may hold and what is answered. The check itself is written by hand for
speed (`reflex.core.envelope`); tests hold the two against each other."""

import re
from collections.abc import Mapping
from typing import Any, Final

from reflex.core.envelope import MAX_LENGTH
from reflex.core.events import MAX_TYPE_LENGTH, SYSTEM_PREFIX, TYPE_NAME

__all__ = ["BATCH_ANSWER", "CLOUD_EVENT", "COMPONENTS", "EVENT", "EVENT_ANSWER"]

EVENT: Final = {"$ref": "#/components/schemas/NewEvent"}
CLOUD_EVENT: Final = {"$ref": "#/components/schemas/CloudEvent"}
EVENT_ANSWER: Final = {"$ref": "#/components/schemas/Accepted"}
BATCH_ANSWER: Final = {"$ref": "#/components/schemas/AcceptedBatch"}


def text(name: str, description: str) -> dict[str, Any]:
    return {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_LENGTH[name], "description": description}


COMPONENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "NewEvent": {
        "type": "object",
        "description": "An event as a client sends it. A field that is null counts as not given, but for `type` and "
        "`payload`.",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "type": {
                "type": "string",
                "maxLength": MAX_TYPE_LENGTH,
                "pattern": f"^{TYPE_NAME.pattern}$",
                "not": {"pattern": f"^{re.escape(SYSTEM_PREFIX)}"},
                "description": f"What happened. Types that start with `{SYSTEM_PREFIX}` are Reflex's own.",
                "examples": ["order.created"],
            },
            "payload": {
                "type": "object",
                "description": "The event's own data; the schema of its type, if one is registered, applies.",
                "default": {},
                "examples": [{"order_id": "A1", "amount": 250.0}],
            },
            "source": {**text("source", "Where it comes from."), "default": "http"},
            "key": text("key", "What it is about: an order, a user, a conversation."),
            "time": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "When it happened, with an offset; now, if not given.",
            },
            "id": text("id", "The client's own id: sent again with the same source, nothing is stored twice."),
            "correlation_id": text("correlation_id", "The chain of events it belongs to."),
            "delay": {
                "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^P"}, {"type": "null"}],
                "description": "Deliver it only after so many seconds, or an ISO 8601 duration such as `PT15M`.",
            },
            "available_at": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "Deliver it only then. Not together with `delay`.",
            },
        },
    },
    "CloudEvent": {
        "type": "object",
        "description": "A CloudEvent 1.0 in its JSON format. Members beside these are extensions.",
        "required": ["specversion", "id", "source", "type"],
        "additionalProperties": {"type": ["string", "boolean", "integer", "null"]},
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH["id"]},
            "source": {
                "type": "string",
                "format": "uri-reference",
                "minLength": 1,
                "maxLength": MAX_LENGTH["source"],
                "description": "With the same id, it is the same event, and stored once.",
            },
            "type": {"type": "string", "maxLength": MAX_TYPE_LENGTH, "pattern": f"^{TYPE_NAME.pattern}$"},
            "subject": text("key", "The event's key."),
            "time": {"type": ["string", "null"], "format": "date-time"},
            "datacontenttype": {"type": ["string", "null"], "minLength": 1},
            "dataschema": {"type": ["string", "null"], "format": "uri", "minLength": 1},
            "data": {"description": "The payload; wrapped as its member `data`, if it is no object."},
            "data_base64": {"type": ["string", "null"], "contentEncoding": "base64"},
        },
    },
    "Accepted": {
        "type": "object",
        "description": "One event was stored.",
        "required": ["id"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "duplicate": {"const": True, "description": "It was stored before; the id is the first one's."},
            "see": {"type": "string", "description": "Where to look: with `wait`, if not all was settled in time."},
        },
    },
    "AcceptedBatch": {
        "type": "object",
        "description": "A batch was stored.",
        "required": ["ids", "duplicates"],
        "properties": {
            "ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
            "duplicates": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "The places, from 0, of events that were stored before.",
            },
        },
    },
}
