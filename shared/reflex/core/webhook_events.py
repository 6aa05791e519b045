"""A webhook as an event: what becomes of its body, and where type, key and id come from. Pure.

What a sender has signed is stored, whatever it looks like: it would send the same again, and then give up. So what is
no JSON, or JSON that PostgreSQL would change or refuse, is kept as text or as bytes.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast
from urllib.parse import parse_qsl

import orjson

from reflex.core import strict_json
from reflex.core.envelope import MAX_LENGTH
from reflex.core.errors import EventRejected
from reflex.core.events import MAX_TYPE_LENGTH, TYPE_NAME, NewEvent
from reflex.core.ids import new_id
from reflex.core.webhook_signatures import Scheme

__all__ = ["Payload", "checked_path", "checked_template", "event_of", "read_body", "value_at"]

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
BETWEEN_WORDS: Final = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)
FORM: Final = "application/x-www-form-urlencoded"
NO_EVENT: Final = "unknown"
KEPT_OF_KEY: Final = 64


class Payload(NamedTuple):
    """The payload of the event: as JSON text, exact, and decoded."""

    text: str
    value: Mapping[str, Any]


def read_body(body: bytes, content_type: str, *, max_nesting: int) -> Payload:
    """A JSON object as it is; a form as an object; JSON in a form's field `payload` as that; and else `{"body": …}`,
    `{"body_text": "…"}` or `{"body_base64": "…"}`."""
    if content_type.partition(";")[0].strip().lower() == FORM:
        return read_form(body, max_nesting) or wrapped(body)
    return read_json(body, max_nesting) or wrapped(body)


def read_json(text: bytes, max_nesting: int) -> Payload | None:
    try:
        value: object = strict_json.parse(text, max_nesting=max_nesting - 1)
    except EventRejected:
        return None
    # The text and not what was parsed: a number may have more digits than a double.
    if isinstance(value, dict):
        return Payload(text.decode(), cast("dict[str, Any]", value))
    return Payload('{"body":' + text.decode() + "}", {"body": value})


def read_form(body: bytes, max_nesting: int) -> Payload | None:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        return None
    fields = dict(pairs)
    if len(fields) < len(pairs) or "\0" in "".join([part for pair in pairs for part in pair]):
        return None
    if fields.keys() == {"payload"}:
        return read_json(fields["payload"].encode(), max_nesting)
    return Payload(orjson.dumps(fields).decode(), fields)


def wrapped(body: bytes) -> Payload:
    try:
        value = {"body_text": body.decode()}
    except UnicodeDecodeError:
        value = {}
    if not value or "\0" in value["body_text"]:
        value = {"body_base64": base64.b64encode(body).decode()}
    return Payload(orjson.dumps(value).decode(), value)


def event_of(
    name: str, scheme: Scheme, template: str, key_path: str | None, *,
    payload: Payload, headers: Mapping[str, str], body: bytes,
) -> NewEvent:  # fmt: skip
    """The event to append.

    Args:
        template: The type, with `{event}` and `{payload.…}` in it.
        key_path: `payload.…`, where the key is.
        headers: By names in lower case.
        body: As it came; its digest is the id of what has none.
    """
    given = headers.get(scheme.id_header) if scheme.id_header else text_of(below(payload.value, scheme.id_path))
    if not given:
        given = "sha256:" + hashlib.sha256(body).hexdigest()
    elif len(given) > MAX_LENGTH["id"] or not given.isprintable():
        given = "sha256:" + hashlib.sha256(given.encode()).hexdigest()
    return NewEvent(
        new_id(), type_of(template, scheme, payload.value, headers), f"webhook:{name}",
        None if key_path is None else short_key(text_of(value_at(key_path, payload.value))), None, payload.text, given,
    )  # fmt: skip


def type_of(template: str, scheme: Scheme, payload: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    def filled(found: re.Match[str]) -> str:
        text = event_name(scheme, payload, headers) if found[1] == "event" else text_of(value_at(found[1], payload))
        return BETWEEN_WORDS.sub(".", text or "").strip(".") or NO_EVENT

    return PLACEHOLDER.sub(filled, template)[:MAX_TYPE_LENGTH].rstrip(".")


def event_name(scheme: Scheme, payload: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    if scheme.event_header and (named := headers.get(scheme.event_header)):
        return named
    return next((text for path in scheme.event_paths if (text := text_of(below(payload, path)))), None)


def value_at(path: str, payload: Mapping[str, Any]) -> Any:
    """What is at `payload.a.b`; None if nothing is."""
    return below(payload, tuple(path.split(".")[1:]))


def below(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return None
    for part in path:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Any]", value).get(part)
        elif (
            isinstance(value, list)
            and part.isascii()
            and part.isdecimal()
            and int(part[:9]) < len(cast("list[Any]", value))
        ):
            value = cast("list[Any]", value)[int(part[:9])]
        else:
            return None
    return value


def text_of(value: object) -> str | None:
    """A text, a number or a boolean as a text; None for anything else."""
    if isinstance(value, str):
        return value or None
    return orjson.dumps(value).decode() if isinstance(value, bool | int | float) else None


def short_key(key: str | None) -> str | None:
    """A key that fits its column; a longer one is cut, and told apart by its digest."""
    if key is None or len(key) <= MAX_LENGTH["key"]:
        return key
    return f"{key[:KEPT_OF_KEY]}#{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def checked_template(template: str) -> str:
    """Raises ValueError, with what to write, if no type can be made of it."""
    for name in PLACEHOLDER.findall(template):
        if name != "event":
            checked_path(name)
    filled = PLACEHOLDER.sub("x", template)
    if len(filled) > MAX_TYPE_LENGTH or not TYPE_NAME.fullmatch(filled):
        raise ValueError(f"{template!r} makes no event type; write one such as 'github.{{event}}'")
    if template.startswith("{") or filled.startswith("reflex."):
        # Else who signs webhooks could pass for any other source of events.
        raise ValueError(f"{template!r} has to begin with a word of its own, as in 'stripe.{{event}}', and not reflex")
    return template


def checked_path(path: str) -> str:
    """Raises ValueError if it is no path below the payload."""
    first, *parts = path.split(".")
    if first != "payload" or not parts or not all(parts) or "\0" in path:
        raise ValueError(f"{path!r} is no path below the payload; write one such as 'payload.repository.full_name'")
    return path
