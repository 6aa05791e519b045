"""/asyncapi.json: the frames of the WebSocket as an AsyncAPI 3.0 document, made of the table that they are read by."""

from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.progress import Progress
from reflex.gateway.access import PROTOCOL, PROTOCOL_KEY
from reflex.gateway.answers import json_answer
from reflex.gateway.interface import needed_key
from reflex.gateway.live.closing import CLOSINGS
from reflex.gateway.live.frames import CLIENT_FRAMES, QUERY, SERVER_FRAMES, Frame
from reflex.gateway.openapi import API_KEY, PROBLEM, PlainSchema
from reflex.gateway.publishing_schema import COMPONENTS

__all__ = ["asyncapi_document", "routes"]

MOMENT: Final = {"type": "string", "format": "date-time"}
TEXT: Final = {"type": "string"}
OPTIONAL_TEXT: Final = {"type": ["string", "null"]}
# The schema of LoggedEvent.json; a test compares the two.
STORED_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An event as it is in the log. `time` is the sender's, `created_at` the database's.",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "type": TEXT,
        "source": TEXT,
        "key": OPTIONAL_TEXT,
        "time": MOMENT,
        "payload": {"type": "object"},
        "correlation_id": OPTIONAL_TEXT,
        "causation_id": {"type": ["string", "null"], "format": "uuid", "description": "The event that caused it."},
        "depth": {"type": "integer", "description": "How many events caused one another before it."},
        "trace_context": OPTIONAL_TEXT,
        "available_at": {"type": ["string", "null"], "format": "date-time"},
        "created_at": MOMENT,
    },
}
STORED_EVENT["required"] = list(STORED_EVENT["properties"])
# A page cannot set headers on a WebSocket. The security schemes are those of the handshake.
SUBPROTOCOL: Final = {
    "type": "httpApiKey",
    "name": "Sec-WebSocket-Protocol",
    "in": "header",
    "description": f"For browsers: the subprotocols `{PROTOCOL}` and `{PROTOCOL_KEY}<API key>`; the gateway answers "
    f"with `{PROTOCOL}`.",
}
LINE: Final = {
    "name": "line",
    "title": "line",
    "summary": "A line that a person typed: any text that does not begin with a brace.",
    "description": 'Stored as an event `ws.message` with the payload `{"content": …}`, and answered with `published`.',
    "contentType": "text/plain",
    "payload": {"type": "string", "pattern": "^[^{]"},
    "examples": [{"payload": "Where is my order?"}],
}


@cache
def asyncapi_document() -> dict[str, Any]:
    """The whole document; made once."""
    messages = {frame.op: describe_frame(frame) for frame in (*CLIENT_FRAMES, *SERVER_FRAMES)}
    operations: dict[str, Any] = {
        "line": {
            "action": "receive",
            "channel": {"$ref": "#/channels/ws"},
            "summary": LINE["summary"],
            "messages": [{"$ref": "#/channels/ws/messages/line"}],
            "reply": replies(("published", "refused")),
        }
    }
    operations |= {frame.op: describe_operation(frame) for frame in CLIENT_FRAMES}
    answers = {answer for frame in CLIENT_FRAMES for answer in frame.answers}
    for frame in SERVER_FRAMES:
        if frame.op not in answers:
            operations[frame.op] = {
                "action": "send",
                "channel": {"$ref": "#/channels/ws"},
                "summary": frame.summary,
                "messages": [{"$ref": f"#/channels/ws/messages/{frame.op}"}],
            }
    codes = {str(int(code)): {"meaning": said.meaning, "advice": said.advice} for code, said in CLOSINGS.items()}
    query = {name: {**schema, "description": description} for name, (description, schema) in QUERY.items()}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:reflex:gateway",
        "info": {
            "title": "Reflex gateway: WebSocket",
            "version": version("reflex-fleet-gateway"),
            "description": "Publish events and get replies, or follow the log. Frames are JSON texts with an `op`; a "
            "text that does not begin with a brace is a line that a person typed. `x-closing-codes` says why a "
            "connection is closed.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "ws",
                "description": "The gateway; wss behind a proxy that speaks TLS.",
                "security": [
                    {"$ref": "#/components/securitySchemes/header"},
                    {"$ref": "#/components/securitySchemes/subprotocol"},
                ],
                "variables": {"host": {"default": "127.0.0.1:8000", "description": "REFLEX_HOST and REFLEX_PORT."}},
            }
        },
        "channels": {
            "ws": {
                "address": "/ws",
                "title": "The WebSocket",
                "servers": [{"$ref": "#/servers/gateway"}],
                "messages": {"line": LINE} | messages,
                "bindings": {"ws": {"method": "GET", "query": {"type": "object", "properties": query}}},
            }
        },
        "operations": operations,
        "components": {
            "securitySchemes": {"header": API_KEY, "subprotocol": SUBPROTOCOL},
            "schemas": {
                "NewEvent": COMPONENTS["NewEvent"],
                "Event": STORED_EVENT,
                "Problem": PROBLEM,
                "Progress": progress_schema(),
            }
        },
        "x-closing-codes": codes,
    }  # fmt: skip


def progress_schema() -> dict[str, Any]:
    """Of the record that workers send."""
    schema = TypeAdapter(Progress).json_schema(schema_generator=PlainSchema)
    return {
        "type": "object",
        "description": "One thing that a run did. What holds nothing is left out.",
        "properties": schema["properties"],
        "required": [field.name for field in fields(Progress) if field.default is MISSING],
    }


def describe_frame(frame: Frame) -> dict[str, Any]:
    members = {field.name: {**field.schema, "description": field.description} for field in frame.fields}
    # Beside a reference nothing else may stand.
    members = {name: {"$ref": m["$ref"]} if "$ref" in m else m for name, m in members.items()}
    return {
        "name": frame.op,
        "title": frame.op,
        "summary": frame.summary,
        "payload": {
            "type": "object",
            "required": ["op", *(field.name for field in frame.fields if field.required)],
            # What the gateway says may get more members one day.
            "additionalProperties": frame not in CLIENT_FRAMES,
            "properties": {"op": {"const": frame.op}, **members},
        },
        "examples": [{"payload": dict(frame.example)}],
    }


def describe_operation(frame: Frame) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/ws"},
        "summary": frame.summary,
        "messages": [{"$ref": f"#/channels/ws/messages/{frame.op}"}],
        "reply": replies((*frame.answers, "error")),
        # AsyncAPI has no place for the scopes of a key.
        **({"description": needed_key(frame.scopes)} if frame.scopes else {}),
    }


def replies(ops: tuple[str, ...]) -> dict[str, Any]:
    return {
        "channel": {"$ref": "#/channels/ws"},
        "messages": [{"$ref": f"#/channels/ws/messages/{op}"} for op in ops],
    }


async def asyncapi(_: Request) -> Response:
    return json_answer(asyncapi_document())


routes: list[Route] = [Route("/asyncapi.json", asyncapi, methods=["GET"])]
