"""What a CloudEvent is to Reflex, and what an event of the log is as a CloudEvent.

    id, source        the client's own id: what came before with both is the same event
    type, time        type, time
    subject           key
    correlationid     correlation_id
    traceparent       trace_context
    data              payload

Data that are no JSON object are the member `data`, or `data_base64`, of a payload. What else a CloudEvent says is kept
in the payload's member `cloudevents`, which is there only if there is something to keep.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from reflex.core import telemetry
from reflex.core.cloud_events import JSON, NO_DATA, CloudEvent, Scalar, extension, to_reference
from reflex.core.errors import EventRejected

__all__ = ["KEPT", "LoggedEvent", "from_log", "to_fields", "wrongly_named"]

KEPT: Final = "cloudevents"
# In `KEPT`, how data are wrapped that are no object of their own; no attribute can have this name.
FORM: Final = "data"
VALUE: Final = "value"
BASE64: Final = "base64"
# The attributes that have a field of their own, by the name of that field.
ATTRIBUTES: Final = {"key": "subject", "correlation_id": "correlationid"}

# A row of `get_event.sql`.
LoggedEvent = Mapping[str, Any]


def to_fields(event: CloudEvent) -> tuple[dict[str, Any], str | None]:
    """The fields of the envelope, as a client would send them, and the trace context that the event brings along."""
    kept: dict[str, Any] = dict(event.extensions)
    correlation_id = kept.pop("correlationid", None)
    trace_context = telemetry.valid_trace_context(as_text(kept.get("traceparent")))
    if trace_context is not None:
        del kept["traceparent"]
    if event.datacontenttype not in (None, JSON):
        kept["datacontenttype"] = event.datacontenttype
    if event.dataschema is not None:
        kept["dataschema"] = event.dataschema
    data: Any = event.data
    payload: dict[str, Any]
    if data is NO_DATA:
        payload = {}
    elif isinstance(data, bytes):
        payload, kept[FORM] = {"data_base64": base64.b64encode(data).decode()}, BASE64
    elif isinstance(data, dict) and KEPT not in data:
        payload = {**cast("dict[str, Any]", data)}
    else:
        payload, kept[FORM] = {"data": cast("Any", data)}, VALUE
    if kept:
        payload[KEPT] = kept
    given = {"key": event.subject, "time": event.time, "correlation_id": correlation_id}
    fields = {"type": event.type, "source": event.source, "id": event.id, "payload": payload}
    return {**fields, **{name: value for name, value in given.items() if value is not None}}, trace_context


def from_log(event: LoggedEvent, payload: dict[str, Any], client_id: str | None) -> CloudEvent:
    """An event of the log as a CloudEvent.

    Args:
        client_id: The id that it was sent with, if it was sent with one.
    """
    kept: dict[str, Any] = {}
    data: Any = payload
    if is_kept(payload.get(KEPT), payload):
        kept = {**payload[KEPT]}
        form = kept.pop(FORM, None)
        if form == BASE64:
            data = base64.b64decode(payload["data_base64"])
        elif form == VALUE:
            data = payload["data"]
        else:
            data = {name: value for name, value in payload.items() if name != KEPT}
    extensions: dict[str, Scalar] = {
        name: value for name, value in kept.items() if name not in ("datacontenttype", "dataschema")
    }
    if event["correlation_id"] is not None:
        extensions["correlationid"] = event["correlation_id"]
    if event["causation_id"] is not None:
        extensions["causationid"] = str(event["causation_id"])
    if event["trace_context"] is not None:
        extensions["traceparent"] = event["trace_context"]
    moment: datetime = event["time"]
    return CloudEvent(
        str(event["id"]) if client_id is None else client_id,
        to_reference(event["source"]),
        event["type"],
        event["key"],
        moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        kept.get("datacontenttype", JSON),
        kept.get("dataschema"),
        extensions,
        data,
    )


def is_kept(found: object, payload: Mapping[str, Any]) -> bool:
    """Whether the member is ours, and not an author's own by the same name."""
    if not isinstance(found, dict) or not found:
        return False
    members = cast("dict[str, Any]", found)
    try:
        for name, value in members.items():
            extension(name, value, "")
    except EventRejected:
        return False
    if not all(isinstance(members.get(name, ""), str) for name in ("datacontenttype", "dataschema")):
        return False
    form = members.get(FORM)
    if form == BASE64:
        return set(payload) == {KEPT, "data_base64"} and is_base64(payload["data_base64"])
    return set(payload) == {KEPT, "data"} if form == VALUE else form is None


def is_base64(value: object) -> bool:
    try:
        base64.b64decode(cast("str", value), validate=True)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def wrongly_named(error: EventRejected, at: str, *, in_headers: bool = False) -> EventRejected:
    """The error with the CloudEvent's word for the field that it names.

    Args:
        at: Where the event was in the request, as a JSON Pointer.
        in_headers: It came in the binary mode: attributes are headers, and the body is the data.
    """
    name, slash, below = error.field.removeprefix(f"{at}/").partition("/")
    if not error.field.startswith(f"{at}/"):
        return error
    if name == "payload":
        inner, _, rest = below.partition("/")
        name, below = "data", below
        if inner in ("data", "data_base64"):
            name, below = inner, rest
        elif inner == KEPT:
            name, _, below = rest.partition("/")
        slash = "/" if below else ""
    name = ATTRIBUTES.get(name, name)
    if not in_headers:
        renamed = f"{at}/{name}{slash}{below}"
    elif name in ("data", "data_base64"):
        renamed = f"{slash}{below}"
    else:
        renamed = "content-type" if name == "datacontenttype" else f"ce-{name}"
    return type(error)(error.reason, field=renamed)


def as_text(value: object) -> str | None:
    return value if isinstance(value, str) else None
