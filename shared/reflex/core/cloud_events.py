"""CloudEvents 1.0, as their JSON format and their HTTP headers write them. A codec: what an event means to Reflex is
decided in `cloud_event_fields`.

Strict where the standard leaves no choice: names and types of attributes, `specversion`, the characters of a text.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import quote, unquote_to_bytes

from reflex.core import strict_json
from reflex.core.errors import EventRejected
from reflex.core.strict_json import pointer

__all__ = [
    "BATCH_TYPE",
    "CONTENT_TYPE",
    "NO_DATA",
    "SPEC_VERSION",
    "CloudEvent",
    "NoData",
    "Scalar",
    "from_headers",
    "from_json",
    "is_json",
    "to_json",
]

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
PREFIX: Final = b"ce-"
JSON: Final = "application/json"

REQUIRED: Final = ("id", "source", "type")
OPTIONAL: Final = ("subject", "time", "datacontenttype", "dataschema")
CONTEXT: Final = frozenset({"specversion", *REQUIRED, *OPTIONAL})
NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
# Control characters and the code points that are no characters; lone surrogates are no UTF-8 and never get this far.
NO_CHARACTERS: Final = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
NO_TEXT: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{NO_CHARACTERS}]")
URI_REFERENCE: Final = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", re.ASCII)
SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(;.*)?", re.ASCII)
PLAIN_JSON: Final = re.compile(r"application/json\s*(;\s*charset\s*=\s*\"?utf-?8\"?\s*)?", re.ASCII | re.IGNORECASE)
OTHER_CHARSET: Final = re.compile(r";\s*charset\s*=\s*\"?(?!utf-?8\b|us-ascii\b)", re.ASCII | re.IGNORECASE)
TEXTUAL: Final = re.compile(
    r"(text/.*|application/(.*\+)?xml|application/x-www-form-urlencoded)", re.ASCII | re.IGNORECASE | re.DOTALL
)
QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
SMALLEST: Final = -(2**31)
LARGEST: Final = 2**31 - 1
SHOWN_LENGTH: Final = 80

Scalar = str | bool | int


class NoData(Enum):
    """An event without data, which is not an event whose data is null."""

    NO_DATA = "no data"


NO_DATA: Final = NoData.NO_DATA


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. `time` is as it came, a text; `data` a JSON value, bytes, or NO_DATA.

    `datacontenttype` None is JSON. A text whose content type is not JSON is the data itself.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    data: Any = NO_DATA


def from_json(value: object, *, at: str = "") -> CloudEvent:
    """An event of the JSON format.

    Args:
        value: From `strict_json.parse`.
        at: Where it was in the request, as a JSON Pointer.

    Raises:
        EventRejected: `field` is the attribute that is wrong.
    """
    if not isinstance(value, dict):
        raise EventRejected("must be a JSON object with the attributes of a CloudEvent", field=at)
    # An attribute that is null counts as not given, by the standard; and so do data.
    members = {name: member for name, member in cast("dict[str, Any]", value).items() if member is not None}
    data = members.pop("data", NO_DATA)
    encoded = members.pop("data_base64", None)
    if encoded is not None:
        if data is not NO_DATA:
            raise EventRejected("cannot be combined with data; send one of them", field=f"{at}/data_base64")
        data = decoded(encoded, f"{at}/data_base64")
    return checked(members, data, at=at)


def from_headers(headers: Iterable[tuple[bytes, bytes]], body: bytes, *, max_nesting: int) -> CloudEvent:
    """An event of the binary mode: attributes in headers that begin with `ce-`, data in the body.

    Args:
        headers: Names in lower case.

    Raises:
        MalformedJson: The content type says JSON, and the body is none.
        EventRejected: `field` is the header that is wrong, or a JSON Pointer into the body.
    """
    members: dict[str, Any] = {}
    for name, value in headers:
        if name == b"content-type":
            attribute, text = "datacontenttype", value.decode("latin-1").strip()
        elif name.startswith(PREFIX):
            attribute = name.removeprefix(PREFIX).decode("latin-1")
            text = header_text(attribute, value)
        else:
            continue
        if attribute in members:
            raise EventRejected("came twice, as a header", field=f"/{attribute}")
        if attribute == "data":
            raise EventRejected("is no attribute: data go into the body", field="/data")
        members[attribute] = text
    event = checked(members, NO_DATA, at="")
    return event if not body else with_data(event, body, max_nesting)


def to_json(event: CloudEvent) -> dict[str, Any]:
    """The event in the JSON format, to be written as JSON."""
    written: dict[str, Any] = {
        "specversion": SPEC_VERSION, "id": event.id, "source": event.source, "type": event.type,
        **{name: value for name in OPTIONAL if (value := getattr(event, name)) is not None}, **event.extensions,
    }  # fmt: skip
    if isinstance(event.data, bytes):
        written["data_base64"] = base64.b64encode(event.data).decode()
    elif event.data is not NO_DATA:
        written["data"] = event.data
    return written


def to_reference(text: str) -> str:
    """The text as a URI reference, which the source of a CloudEvent has to be; one that is one stays as it is."""
    if URI_REFERENCE.fullmatch(text):
        return text
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", quote(text, safe="%:/?#@!$&'()*+,;=~"))


def is_json(datacontenttype: str | None) -> bool:
    """Whether data of this type are JSON. None is, in the JSON format."""
    if datacontenttype is None:
        return True
    parts = MEDIA_TYPE.fullmatch(datacontenttype)
    return parts is not None and (parts[1].lower() == "json" or parts[1].lower().endswith("+json"))


def checked(members: dict[str, Any], data: Any, *, at: str) -> CloudEvent:
    """The event of its attributes, each looked at."""
    version = members.get("specversion")
    if version != SPEC_VERSION:
        given = "is missing" if version is None else f"is {shown(version)}"
        raise EventRejected(f'{given}; this gateway takes CloudEvents of version "1.0"', field=f"{at}/specversion")
    for name in REQUIRED:
        if name not in members:
            raise EventRejected("is missing; a CloudEvent has id, source and type", field=f"{at}/{name}")
    context: dict[str, Any] = {name: text_of(members, name, at) for name in (*REQUIRED, *OPTIONAL) if name in members}
    extensions = {name: extension(name, value, at) for name, value in members.items() if name not in CONTEXT}
    if not URI_REFERENCE.fullmatch(context["source"]):
        raise EventRejected(
            "must be a URI reference (RFC 3986), such as https://shop.example/orders or /orders", field=f"{at}/source"
        )
    schema = context.get("dataschema")
    if schema is not None and not (URI_REFERENCE.fullmatch(schema) and SCHEME.match(schema)):
        raise EventRejected("must be a URI with a scheme (RFC 3986)", field=f"{at}/dataschema")
    content_type = context.get("datacontenttype")
    if content_type is not None:
        if not MEDIA_TYPE.fullmatch(content_type):
            raise EventRejected("must be a media type such as application/json", field=f"{at}/datacontenttype")
        if PLAIN_JSON.fullmatch(content_type):  # JSON is UTF-8 in any case
            context["datacontenttype"] = JSON
    return CloudEvent(**context, extensions=extensions, data=data)


def text_of(members: Mapping[str, Any], name: str, at: str) -> str:
    value: object = members[name]
    where = pointer(at, name)
    if not isinstance(value, str):
        raise EventRejected(f"must be a string, not {shown(value)}", field=where)
    if not value:
        raise EventRejected("must not be empty", field=where)
    if NO_TEXT.search(value):
        raise EventRejected("must not contain control characters", field=where)
    return value


def extension(name: str, value: object, at: str) -> Scalar:
    where = pointer(at, name)
    if not NAME.fullmatch(name):
        raise EventRejected(
            "cannot be the name of an attribute: CloudEvents write these in lower-case letters and digits alone; an "
            "event's own data go into `data`", field=where,
        )  # fmt: skip
    match value:
        case bool():
            return value
        case int() if SMALLEST <= value <= LARGEST:
            return value
        case str() if not NO_TEXT.search(value):
            return value
        case str():
            raise EventRejected("must not contain control characters", field=where)
        case _:
            raise EventRejected("must be a string, a boolean or an integer of 32 bits: extensions are no data",
                                field=where)  # fmt: skip


def header_text(attribute: str, value: bytes) -> str:
    """The value of a header: what is in quotes without them, then percent-decoded once.

    Raises:
        EventRejected: It is not UTF-8.
    """
    try:
        # Bytes that are not ASCII should have been percent-encoded; those that are UTF-8 can only mean that.
        text = value.decode().strip()
        if '"' in text:
            text = QUOTED.sub(lambda quoted: re.sub(r"\\(.)", r"\1", quoted[0][1:-1], flags=re.DOTALL), text)
        return unquote_to_bytes(text).decode() if "%" in text else text
    except UnicodeDecodeError:
        raise EventRejected("is not UTF-8 once percent-decoded", field=f"/{attribute}") from None


def with_data(event: CloudEvent, body: bytes, max_nesting: int) -> CloudEvent:
    """The event with a body for its data: parsed if that is JSON, a text if it is one, bytes if not."""
    content_type = event.datacontenttype
    data: Any = body
    if content_type is None:
        # Nothing says what it is. The JSON format would take it for JSON, and so do other implementations.
        try:
            data = strict_json.parse(body, max_nesting=max_nesting)
        except EventRejected:
            content_type = "application/octet-stream"
    elif is_json(content_type):
        data = strict_json.parse(body, max_nesting=max_nesting, at="/data")
        if data is None:
            data = NO_DATA
    elif TEXTUAL.match(content_type) and not OTHER_CHARSET.search(content_type) and b"\x00" not in body:
        try:
            data = body.decode()
        except UnicodeDecodeError:
            data = body
    return CloudEvent(event.id, event.source, event.type, event.subject, event.time, content_type, event.dataschema,
                      event.extensions, data)  # fmt: skip


def decoded(encoded: object, at: str) -> bytes:
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise EventRejected("must be base64 (RFC 4648)", field=at)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
