"""The envelope: what a client says of an event around its payload. Checked by hand: it is on the way of every event."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, cast

import orjson

from reflex.core.errors import EventRejected
from reflex.core.events import MAX_TYPE_LENGTH, SYSTEM_PREFIX, TYPE_NAME, NewEvent
from reflex.core.ids import new_id

__all__ = ["FIELDS", "MAX_DELAY", "check_idempotency_key", "read"]

FIELDS: Final = frozenset({"type", "source", "key", "time", "payload", "id", "correlation_id", "delay", "available_at"})
DEFAULT_SOURCE: Final = "http"
EMPTY: Final[dict[str, Any]] = {}
# All of them are indexed: four bytes a character, together below the 2704 bytes that a B-tree entry may have.
MAX_LENGTH: Final = {"source": 200, "key": 512, "id": 200, "correlation_id": 200}
MAX_DELAY: Final = timedelta(days=365)
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Not the last day of 9999: read in a session east of Greenwich it would be in the year 10000, which Python has not.
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)
RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
DURATION: Final = re.compile(
    r"P(?=.)(?:(?P<weeks>\d{1,4})W|(?:(?P<days>\d{1,4})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9}(?:\.\d{1,6})?)S)?)?)",
    re.ASCII,
)
KINDS: Final[dict[type, str]] = {
    bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"
}  # fmt: skip
DELAY_FORMS: Final = 'must be a number of seconds or an ISO 8601 duration such as "PT15M" or "P1DT12H"'


def read(
    data: object,
    *,
    max_payload_bytes: int,
    at: str = "",
    idempotency_key: str | None = None,
    trace_context: str | None = None,
) -> tuple[NewEvent, dict[str, Any]]:
    """One event as a client sends it.

    A field that is null counts as not given, but for `type` and `payload`.

    Args:
        data: From `strict_json.parse`, which has kept out what no column can hold.
        at: Where it was in the request, as a JSON Pointer.
        idempotency_key: From the request's header; the field `id` means the same.
        trace_context: The traceparent to store.

    Returns:
        The event to append, and its payload for the schema of its type.

    Raises:
        EventRejected: With the field that is wrong.
    """
    if not isinstance(data, dict):
        raise EventRejected(f"must be a JSON object, not {_kind(data)}", field=at)
    fields = cast("dict[str, Any]", data)
    if not FIELDS.issuperset(fields):
        _refuse_unknown(fields, at)
    type: object = fields.get("type")
    if not (isinstance(type, str) and TYPE_NAME.fullmatch(type) and len(type) <= MAX_TYPE_LENGTH):
        _refuse_type(fields, at)
    if type.startswith(SYSTEM_PREFIX):
        raise EventRejected(f"types that start with {SYSTEM_PREFIX!r} are Reflex's own", field=f"{at}/type")
    payload: object = fields.get("payload", EMPTY)
    if not isinstance(payload, dict):
        raise EventRejected(f"must be a JSON object, not {_kind(payload)}", field=f"{at}/payload")
    payload = cast("dict[str, Any]", payload)
    text = orjson.dumps(payload)
    if len(text) > max_payload_bytes:
        reason = f"is {len(text)} bytes of JSON; the limit is {max_payload_bytes} (REFLEX_MAX_PAYLOAD_BYTES)"
        raise EventRejected(reason, field=f"{at}/payload")
    source = fields.get("source")
    if source is None:
        source = DEFAULT_SOURCE
    elif not _text(source, "source", at).isprintable():
        raise EventRejected("must consist of printable characters", field=f"{at}/source")
    key = fields.get("key")
    time = fields.get("time")
    client_id = fields.get("id")
    correlation_id = fields.get("correlation_id")
    delay = fields.get("delay")
    available_at = fields.get("available_at")
    if client_id is not None and idempotency_key not in (None, _text(client_id, "id", at)):
        raise EventRejected("differs from the Idempotency-Key header; send one of them", field=f"{at}/id")
    if delay is not None and available_at is not None:
        raise EventRejected("cannot be combined with available_at; send one of them", field=f"{at}/delay")
    event = NewEvent(
        new_id(),
        type,
        source,
        None if key is None else _text(key, "key", at),
        None if time is None else _instant(time, f"{at}/time"),
        text.decode(),
        idempotency_key if client_id is None else client_id,
        None if correlation_id is None else _text(correlation_id, "correlation_id", at),
        None,
        0,
        trace_context,
        None if available_at is None else _instant(available_at, f"{at}/available_at"),
        None if delay is None else _delay(delay, f"{at}/delay"),
    )
    return event, payload


def check_idempotency_key(text: str) -> str:
    """The value of an Idempotency-Key header; the quotes of the IETF draft's form may be there or not.

    Raises:
        EventRejected: It is empty, too long or not plain ASCII.
    """
    key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not (key and len(key) <= MAX_LENGTH["id"] and key.isascii() and key.isprintable()):
        raise EventRejected(f"the Idempotency-Key header must be 1 to {MAX_LENGTH['id']} printable ASCII characters")
    return key


def _refuse_unknown(fields: dict[str, Any], at: str) -> NoReturn:
    unknown = sorted(fields.keys() - FIELDS)
    shown = ", ".join(repr(name[:60]) for name in unknown[:5]) + (", …" if len(unknown) > 5 else "")
    plural = "s" if len(unknown) > 1 else ""
    raise EventRejected(
        f"unknown field{plural} {shown}: an event's own data goes into 'payload'; "
        f"beside it there are {', '.join(sorted(FIELDS - {'payload'}))}",
        field=at,
    )


def _refuse_type(fields: dict[str, Any], at: str) -> NoReturn:
    type: object = fields.get("type")
    if not isinstance(type, str):
        reason = f"must be a string, not {_kind(type)}" if "type" in fields else "is missing"
    elif len(type) > MAX_TYPE_LENGTH:
        reason = f"is longer than {MAX_TYPE_LENGTH} characters"
    else:
        reason = (
            f"{type!r} is no event type: letters, digits, '_' and '-' in parts joined by '.', as in 'order.created'"
        )
    raise EventRejected(reason, field=f"{at}/type")


def _text(value: object, name: str, at: str) -> str:
    if isinstance(value, str) and 0 < len(value) <= MAX_LENGTH[name]:
        return value
    if isinstance(value, str):
        reason = f"is longer than {MAX_LENGTH[name]} characters" if value else "must not be empty"
    else:
        reason = f"must be a string, not {_kind(value)}"
        if type(value) in (int, float):
            reason += f'; write it as "{str(value)[:40]}"'
    raise EventRejected(reason, field=f"{at}/{name}")


def _instant(value: object, field: str) -> datetime:
    if not isinstance(value, str) or not RFC_3339.fullmatch(value[:64]):
        example = "2026-01-31T12:00:00Z"
        raise EventRejected(f"must be a time with an offset as in RFC 3339, such as {example!r}", field=field)
    try:
        instant = datetime.fromisoformat(value.upper())
    except ValueError as error:
        raise EventRejected(f"is no time: {error}", field=field) from None
    if not EARLIEST <= instant < LATEST:
        raise EventRejected("must be between the years 1970 and 9999", field=field)
    return instant


def _delay(value: object, field: str) -> timedelta:
    if isinstance(value, str) and (parts := DURATION.fullmatch(value[:64])):
        delay = timedelta(**{unit: float(amount) for unit, amount in parts.groupdict().items() if amount})
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Compared before it is converted: a timedelta of 1e300 seconds overflows.
        delay = timedelta(seconds=min(max(value, -1), MAX_DELAY.total_seconds() + 1))
    else:
        raise EventRejected(DELAY_FORMS, field=field)
    if not timedelta(0) <= delay <= MAX_DELAY:
        raise EventRejected(f"must be between 0 and {MAX_DELAY.days} days", field=field)
    return delay


def _kind(value: object) -> str:
    return "null" if value is None else KINDS.get(type(value), "something else")
