"""The frames of the WebSocket, in one table: the reader checks by it, and /asyncapi.json and the guide are made of it.

A schema here uses the few words of JSON Schema that `protocol.complaint` knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from reflex.core.api_keys import KeyScope
from reflex.core.envelope import MAX_LENGTH
from reflex.core.events import MAX_TYPE_LENGTH, TYPE_PATTERN

__all__ = ["CLIENT_FRAMES", "MAX_TAIL", "MAX_TERMS", "QUERY", "SERVER_FRAMES", "Field", "Frame"]

MAX_ID_LENGTH: Final = 200
MAX_CURSOR_LENGTH: Final = 200
# Of one subscription: each event is compared with every one of them.
MAX_TERMS: Final = 100
MAX_TAIL: Final = 1000


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a frame."""

    name: str
    description: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """One kind of frame, by its `op`. `answers` are the ops that the gateway answers an operation with, `scopes` those
    of which an API key needs one."""

    op: str
    summary: str
    fields: tuple[Field, ...]
    example: Mapping[str, Any]
    answers: tuple[str, ...] = ()
    scopes: tuple[KeyScope, ...] = ()


def text(most: int) -> Mapping[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


UUID: Final = {"type": "string", "format": "uuid"}
TEXT: Final = {"type": "string"}
EVENT: Final = {"$ref": "#/components/schemas/NewEvent"}
STORED_EVENT: Final = {"$ref": "#/components/schemas/Event"}
PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
PATTERN: Final = {
    **text(MAX_TYPE_LENGTH), "pattern": f"^({TYPE_PATTERN.pattern})$", "examples": ["order.created", "order.*", "*"]
}  # fmt: skip
ID: Final = Field("id", "The client's own word for this request; the answer carries it.", text(MAX_ID_LENGTH))
NAME: Final = Field("id", "The client's name of the subscription.", text(MAX_ID_LENGTH), required=True)
ECHO: Final = Field("id", "Of the request, if it had one.", TEXT)
# Of a connection: all its replies up to there have come. Of a subscription, where it says so.
CURSOR: Final = Field("cursor", "For `?after=` of a reconnect: the replies up to here have come.", TEXT, required=True)
PLACE: Final = Field("cursor", "For `after` of a subscription that goes on from here.", TEXT, required=True)
OF_SUBSCRIPTION: Final = Field("subscription", "The name of the subscription.", TEXT, required=True)
AN_EVENT: Final = "0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b"
A_PROBLEM: Final = {
    "type": "urn:reflex:problem:event_rejected", "title": "The event is not accepted; nothing was stored",
    "status": 422, "detail": "/event/type: is missing", "code": "event_rejected",
    "errors": [{"field": "/event/type", "reason": "is missing"}],
}  # fmt: skip

# Of the address, by name: what it is for and its schema.
QUERY: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "key": (
        "What lines that a person types are about; the session, if not given.", text(MAX_LENGTH["correlation_id"])
    ),
    "session": ("The `session` of an earlier `welcome`: its replies come here.", text(MAX_ID_LENGTH)),
    "after": (
        "With `session`: the cursor of the last reply that arrived. Without it, some replies may come twice.",
        text(MAX_CURSOR_LENGTH),
    ),
}  # fmt: skip

CLIENT_FRAMES: Final[tuple[Frame, ...]] = (
    Frame(
        op="publish",
        summary="Store an event. Several may be under way; they are answered in any order.",
        fields=(ID, Field("event", "The event, as for `POST /events`.", EVENT, required=True)),
        example={"op": "publish", "id": "7", "event": {"type": "order.created", "payload": {"order_id": "A1"}}},
        answers=("published", "refused"),
        scopes=(KeyScope.PUBLISH,),
    ),
    Frame(
        op="subscribe",
        summary="Get the events that match, from now on or from a place in the log on.",
        fields=(
            NAME,
            Field(
                "types",
                "Types, or prefixes such as `order.*`; `*` is all but Reflex's own. Without any, those are included.",
                {"type": "array", "items": PATTERN, "minItems": 1, "maxItems": MAX_TERMS},
            ),
            Field(
                "sources",
                "Sources, one of which the event must have.",
                {"type": "array", "items": text(MAX_LENGTH["source"]), "minItems": 1, "maxItems": MAX_TERMS},
            ),
            Field("key", "What the events are about.", text(MAX_LENGTH["key"])),
            Field("correlation_id", "The chain that the events belong to.", text(MAX_LENGTH["correlation_id"])),
            Field("after", "A cursor: begin behind it.", text(MAX_CURSOR_LENGTH)),
            Field(
                "tail",
                "Begin with so many of the latest events that match. Not together with `after`.",
                {"type": "integer", "minimum": 1, "maximum": MAX_TAIL},
            ),
            Field(
                "include",
                "`progress`: also what runs say while they are going on.",
                {"type": "array", "items": {"type": "string", "enum": ["progress"]}, "maxItems": 1},
            ),
        ),
        example={"op": "subscribe", "id": "orders", "types": ["order.*"], "key": "A1"},
        answers=("subscribed", "refused"),
        scopes=(KeyScope.READ,),
    ),
    Frame(
        op="unsubscribe",
        summary="End a subscription. Frames of it that are on their way may still come before the answer.",
        fields=(NAME,),
        example={"op": "unsubscribe", "id": "orders"},
        answers=("unsubscribed", "refused"),
    ),
    Frame(
        op="ping",
        summary="Ask whether the gateway is there, and how far the log is.",
        fields=(ID,),
        example={"op": "ping", "id": "8"},
        answers=("pong",),
    ),
)

SERVER_FRAMES: Final[tuple[Frame, ...]] = (
    Frame(
        op="welcome",
        summary="The first frame.",
        fields=(
            Field(
                "connection",
                "What is published here has the source `ws:<connection>`, unless it names another. It goes with the "
                "session, so that an event sent again by its `id` after a reconnect is not stored twice.",
                TEXT,
                required=True,
            ),
            Field("session", "Secret. Connect again with it to get replies that came meanwhile.", TEXT, required=True),
            Field(
                "resumed",
                "Whether no reply is missing since the session was last here. `false`: it is new, or has never "
                "published, or was forgotten because nobody used it, or its place in the log was dropped.",
                {"type": "boolean"},
                required=True,
            ),
            CURSOR,
            Field("protocol", "The version of the protocol.", {"type": "integer"}, required=True),
        ),
        example={
            "op": "welcome",
            "connection": "k3vQ0x9d",
            "session": "5T0x…",
            "resumed": False,
            "cursor": "AAAB",
            "protocol": 1,
        },
    ),
    Frame(
        op="published",
        summary="The event is stored, and so is a delivery for every trigger that matches.",
        fields=(
            ECHO,
            Field("event_id", "Of the event in the log.", UUID, required=True),
            Field("duplicate", "It was stored before, and nothing is now.", {"type": "boolean"}, required=True),
        ),
        example={"op": "published", "id": "7", "event_id": AN_EVENT, "duplicate": False},
    ),
    Frame(
        op="refused",
        summary="The operation is understood and not done.",
        fields=(ECHO, Field("problem", "Why, as HTTP would say it.", PROBLEM, required=True)),
        example={"op": "refused", "id": "7", "problem": A_PROBLEM},
    ),
    Frame(
        op="subscribed",
        summary="Events of the subscription follow.",
        fields=(NAME, PLACE),
        example={"op": "subscribed", "id": "orders", "cursor": "AAAB"},
    ),
    Frame(
        op="unsubscribed",
        summary="No frame of the subscription follows.",
        fields=(NAME,),
        example={"op": "unsubscribed", "id": "orders"},
    ),
    Frame(
        op="pong",
        summary="The answer to `ping`.",
        fields=(ECHO, CURSOR),
        example={"op": "pong", "id": "8", "cursor": "AAAB"},
    ),
    Frame(
        op="event",
        summary="An event of a subscription, in the order of the log.",
        fields=(OF_SUBSCRIPTION, PLACE, Field("event", "The event as it is stored.", STORED_EVENT, required=True)),
        example={
            "op": "event",
            "subscription": "orders",
            "cursor": "AAAC",
            "event": {
                **dict.fromkeys(("correlation_id", "causation_id", "trace_context", "available_at")),
                "id": AN_EVENT,
                "type": "order.created",
                "source": "shop",
                "key": "A1",
                "depth": 0,
                "time": "2026-01-31T09:00:00Z",
                "created_at": "2026-01-31T09:00:00.004Z",
                "payload": {"order_id": "A1"},
            },
        },
    ),
    Frame(
        op="progress",
        summary="What a run does while it is going on. It is not kept: a client that is away, or slow, misses it.",
        fields=(
            OF_SUBSCRIPTION,
            Field("progress", "See the guide.", {"$ref": "#/components/schemas/Progress"}, required=True),
        ),
        example={
            "op": "progress",
            "subscription": "orders",
            "progress": {
                "event_id": AN_EVENT,
                "delivery_id": f"3-{AN_EVENT}",
                "trigger": "greeter",
                "attempt": 1,
                "type": "ws.message",
                "source": "ws:7e80…",
                "key": "A1",
                "correlation_id": None,
                "seq": 2,
                "kind": "text",
                "text": "Looking it",
                "request": 1,
            },
        },
    ),
    Frame(
        op="reply",
        summary="What an agent answered to an event that this session published.",
        fields=(
            CURSOR,
            Field("event_id", "The event that is answered.", UUID, required=True),
            Field("event_type", "Its type.", TEXT, required=True),
            Field("trigger", "Whose answer it is.", TEXT, required=True),
            Field("delivery_id", "The delivery.", TEXT, required=True),
            Field("outcome", "How the run ended.", TEXT, required=True),
            Field("output", "The answer.", {}, required=True),
        ),
        example={
            "op": "reply",
            "cursor": "AAAD",
            "event_id": AN_EVENT,
            "event_type": "ws.message",
            "trigger": "greeter",
            "delivery_id": f"3-{AN_EVENT}",
            "outcome": "succeeded",
            "output": "Hello!",
        },
    ),
    Frame(
        op="failed",
        summary="An event that this session published became a dead letter of a trigger.",
        fields=(
            CURSOR,
            Field("event_id", "The event.", UUID, required=True),
            Field("event_type", "Its type.", TEXT, required=True),
            Field("trigger", "Which one gave up.", TEXT, required=True),
            Field("dead_letter_id", "The dead letter; it may be retried.", TEXT, required=True),
            Field("attempt", "The number of the last attempt.", {"type": "integer"}, required=True),
            Field("reason", "Why, in a word.", TEXT, required=True),
            Field("error", "Why, in a sentence.", {"type": ["string", "null"]}, required=True),
        ),
        example={
            "op": "failed",
            "cursor": "AAAD",
            "event_id": AN_EVENT,
            "event_type": "ws.message",
            "trigger": "greeter",
            "dead_letter_id": f"3-{AN_EVENT}",
            "attempt": 5,
            "reason": "failed",
            "error": "TimeoutError",
        },
    ),
    Frame(
        op="error",
        summary="A frame that makes no sense. The connection stays, unless they do not end.",
        fields=(ECHO, Field("problem", "What is wrong with it.", PROBLEM, required=True)),
        example={"op": "error", "problem": {**A_PROBLEM, "code": "frame_rejected"}},
    ),
    Frame(
        op="closing",
        summary="The last frame before the gateway closes a connection with subscriptions.",
        fields=(
            Field("code", "The closing code that follows.", {"type": "integer"}, required=True),
            Field("reason", "Why.", TEXT, required=True),
            Field(
                "cursors",
                "By subscription, where to go on.",
                {"type": "object", "additionalProperties": TEXT},
                required=True,
            ),
        ),
        example={"op": "closing", "code": 4008, "reason": "too slow", "cursors": {"orders": "AAAC"}},
    ),
)
