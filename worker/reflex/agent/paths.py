"""Where an event has something: its key, its source, or a dotted path into its payload."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from reflex.core.events import Event

__all__ = ["MISSING", "By", "checked_by", "field_of", "is_path", "perhaps", "subject_of", "values_of"]

By: TypeAlias = str | Sequence[str] | None

MISSING: Final = object()
ENVELOPE: Final = ("key", "source")
# A subject has to fit into an index, beside others.
LONGEST_SUBJECT: Final = 200


def field_of(payload: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or MISSING. A name that itself contains the dots is found first."""
    if path in payload:
        return payload[path]
    value: Any = payload
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = cast("Mapping[str, Any]", value)[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(part)]
        else:
            return MISSING
    return value


def is_path(text: str) -> bool:
    """Whether it says where an event has something, as in `key`, `source` or `payload.order.id`."""
    first, *below = text.split(".")
    return text in ENVELOPE or (first == "payload" and bool(below) and all(below))


def perhaps(text: str) -> str:
    """At the end of an error about a path that is none: the one that may be meant."""
    parts = text.split(".")
    return f", perhaps 'payload.{text}'" if all(parts) and parts[0] not in ("payload", *ENVELOPE) else ""


def checked_by(what: str, by: By) -> tuple[str, ...]:
    """The paths that `by` names; none means that all events are one subject.

    Raises:
        TypeError: It is no path and no paths.
        ValueError: A path is none.
    """
    paths: Any = () if by is None else (by,) if isinstance(by, str) else by
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in cast("Sequence[Any]", paths)):
        raise TypeError(f"{what}: by is {by!r}; pass a path such as 'payload.user', several, or None for all events")
    for path in cast("Sequence[str]", paths):
        if not is_path(path):
            raise ValueError(f"{what}: by names {path!r}; write 'key', 'source', or 'payload.user'{perhaps(path)}")
    return tuple(cast("Sequence[str]", paths))


def values_of(event: Event, paths: Sequence[str]) -> list[Any]:
    """What the event has at these paths. None is what is not there."""
    return [value_at(event, path) for path in paths]


def value_at(event: Event, path: str) -> Any:
    if path in ENVELOPE:
        return event.key if path == "key" else event.source
    value = field_of(event.payload, path.removeprefix("payload."))
    return None if value is MISSING else value


def subject_of(event: Event, paths: Sequence[str]) -> str:
    """A text that two events share if, and only if, they have the same at these paths. It also names the paths: what is
    known by others is another subject."""
    # Not orjson: a payload may hold numbers that it does not write.
    text = json.dumps([*paths, values_of(event, paths)], sort_keys=True)
    return text if len(text) <= LONGEST_SUBJECT else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
