"""The words of the WebSocket: text frames in, operations out, and frames back. Pure: no socket, no database, no clock.

A frame whose first character is `{` is an operation; any other is a line that a person typed.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, cast

import orjson

from reflex.core.api_keys import KeyScope
from reflex.core.errors import EventRejected
from reflex.core.strict_json import parse, pointer
from reflex.gateway.live.frames import CLIENT_FRAMES, Frame

__all__ = [
    "PROTOCOL",
    "SCOPES",
    "FrameRejected",
    "Line",
    "Operation",
    "Ping",
    "Publish",
    "Subscribe",
    "Unsubscribe",
    "complaint",
    "frame",
    "read_frame",
]

PROTOCOL: Final = 1
FRAMES: Final[Mapping[str, Frame]] = {frame.op: frame for frame in CLIENT_FRAMES}
FIELDS: Final = {op: {field.name: field for field in frame.fields} for op, frame in FRAMES.items()}
KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str]]] = {
    "string": (str, "a string"), "integer": (int, "a whole number"), "array": (list, "an array"),
}  # fmt: skip
SHOWN_LENGTH: Final = 60


class FrameRejected(EventRejected):
    """A frame that is no operation. `field` is a JSON Pointer into it; `id` is the client's, if one could be read."""

    code: ClassVar[str] = "frame_rejected"

    def __init__(self, reason: str, *, field: str = "", id: str | None = None) -> None:
        super().__init__(reason, field=field)
        self.args = (f"{field or 'frame'}: {reason}",)
        self.id = id


class Line(NamedTuple):
    """What a person typed."""

    content: str


class Publish(NamedTuple):
    """`event` is not looked at yet."""

    id: str | None
    event: object


class Subscribe(NamedTuple):
    """Empty `types` and `sources` mean all."""

    id: str
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    key: str | None = None
    correlation_id: str | None = None
    after: str | None = None
    tail: int | None = None
    include: tuple[str, ...] = ()


class Unsubscribe(NamedTuple):
    id: str


class Ping(NamedTuple):
    id: str | None = None


Operation: TypeAlias = Line | Publish | Subscribe | Unsubscribe | Ping

# Of which an API key needs one. A line is published; what is not here needs none.
SCOPES: Final[Mapping[type[Operation], tuple[KeyScope, ...]]] = {
    Line: FRAMES["publish"].scopes, Publish: FRAMES["publish"].scopes, Subscribe: FRAMES["subscribe"].scopes
}  # fmt: skip


def read_frame(text: str, *, max_nesting: int) -> Operation | None:
    """What a text frame asks for; None for an empty line.

    Args:
        max_nesting: Levels of JSON that an event may have; the frame around it is one more.

    Raises:
        FrameRejected: With what is wrong, and with the id that the client gave, if that can be made out.
    """
    content = text.strip()
    if not content.startswith("{"):
        return read_line(content)
    try:
        value = cast("dict[str, Any]", parse(content.encode(), max_nesting=max_nesting + 1))
    except EventRejected as error:
        raise FrameRejected(error.reason, field=error.field, id=guess_id(content)) from None
    # A field that is null counts as not given, as in an event; within the event that is the envelope's to say.
    fields = {name: member for name, member in value.items() if member is not None or name == "event"}
    given = fields.pop("id", None)
    id = given if isinstance(given, str) and complaint(given, FIELDS["ping"]["id"].schema) is None else None
    op = fields.pop("op", None)
    known = FIELDS.get(op) if isinstance(op, str) else None
    if known is None:
        raise FrameRejected(no_such_op(op), field="/op", id=id)
    if given is not None:
        fields["id"] = given
    if unknown := sorted(fields.keys() - known.keys()):
        shown = ", ".join(repr(name[:SHOWN_LENGTH]) for name in unknown[:5])
        raise FrameRejected(f"unknown in {op!r}: {shown}; it has {', '.join(known)}", id=id)
    for name, field in known.items():
        if name in fields:
            if wrong := complaint(fields[name], field.schema, f"/{name}"):
                raise FrameRejected(wrong[1], field=wrong[0], id=id)
        elif field.required:
            raise FrameRejected("is missing", field=f"/{name}", id=id)
    return operation(cast("str", op), fields, id)


def read_line(content: str) -> Line | None:
    if "\0" in content:
        raise FrameRejected("contains a NUL character, which PostgreSQL cannot store")
    return Line(content) if content else None


def operation(op: str, fields: dict[str, Any], id: str | None) -> Operation:
    """The operation of a frame whose fields have been checked."""
    match op:
        case "publish":
            return Publish(id, fields["event"])
        case "subscribe":
            if "after" in fields and "tail" in fields:
                raise FrameRejected("cannot be combined with after; send one of them", field="/tail", id=id)
            for name in ("types", "sources", "include"):
                fields[name] = tuple(fields.get(name, ()))
            return Subscribe(**fields)
        case "unsubscribe":
            return Unsubscribe(fields["id"])
        case _:
            return Ping(id)


def complaint(value: Any, schema: Mapping[str, Any], at: str = "") -> tuple[str, str] | None:
    """Where and how a value is not what the schema of a field says; None if it is."""
    if "type" not in schema:
        return None
    kind, name = KINDS[schema["type"]]
    if not isinstance(value, kind) or isinstance(value, bool):
        return at, f"must be {name}"
    if isinstance(value, list):
        members = cast("list[object]", value)
        if not schema.get("minItems", 0) <= len(members) <= schema["maxItems"]:
            return at, f"must have {schema.get('minItems', 0)} to {schema['maxItems']} members"
        found = (complaint(member, schema["items"], pointer(at, index)) for index, member in enumerate(members))
        return next((wrong for wrong in found if wrong), None)
    if isinstance(value, int):
        inside = schema["minimum"] <= value <= schema["maximum"]
        return None if inside else (at, f"must be from {schema['minimum']} to {schema['maximum']}")
    reason = None
    if len(value) < schema.get("minLength", 0):
        reason = "must not be empty"
    elif len(value) > schema.get("maxLength", len(value)):
        reason = f"is longer than {schema['maxLength']} characters"
    elif "enum" in schema and value not in schema["enum"]:
        reason = f"{value[:SHOWN_LENGTH]!r} is none of {', '.join(map(repr, schema['enum']))}"
    elif "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        reason = f"{value[:SHOWN_LENGTH]!r} is not of the form of {', '.join(map(repr, schema['examples']))}"
    return (at, reason) if reason else None


def no_such_op(op: object) -> str:
    known = ", ".join(repr(name) for name in FRAMES)
    if op is None:
        return f"is missing; it is one of {known}"
    shown = repr(op[:SHOWN_LENGTH]) if isinstance(op, str) else "that"
    return f"{shown} is no operation; there are {known}"


def guess_id(content: str) -> str | None:
    """The id of a frame that is not acceptable as JSON, so that the client knows which of its requests failed."""
    try:
        value: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    id = cast("dict[str, object]", value).get("id")
    return id if isinstance(id, str) and complaint(id, FIELDS["ping"]["id"].schema) is None else None


def frame(op: str, id: str | None = None, **fields: object) -> str:
    """A frame of the gateway, as text. `id` is left out if the client gave none."""
    head: dict[str, object] = {"op": op} if id is None else {"op": op, "id": id}
    return orjson.dumps(head | fields).decode()
