"""Progress: what a run does while it does it, for those who watch. Not kept anywhere; what became of the run is.

A gateway whose subscribers watch says so (`ask_for_progress`) at once, every WATCH_EVERY_S, and when a worker that has
begun to listen asks (`ask_who_watches`). Workers send for WATCHED_FOR_S after they heard it, and nothing otherwise: a
notification is a cost for the whole database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final, cast

import orjson
import structlog
from psycopg import AsyncConnection
from pydantic import TypeAdapter, ValidationError

from reflex.core.statements import statement

__all__ = [
    "PROGRESS_CHANNEL",
    "WATCHED_FOR_S",
    "WATCH_CHANNEL",
    "WATCH_EVERY_S",
    "WHO_WATCHES_CHANNEL",
    "Progress",
    "ProgressKind",
    "as_json",
    "ask_for_progress",
    "ask_who_watches",
    "decode",
    "encode",
    "send_progress",
]

PROGRESS_CHANNEL: Final = "reflex_progress"
WATCH_CHANNEL: Final = "reflex_watch"
WHO_WATCHES_CHANNEL: Final = "reflex_who_watches"
WATCH_EVERY_S: Final = 10.0
# Two announcements may be lost or late.
WATCHED_FOR_S: Final = 25.0
# PostgreSQL refuses a payload of 8,000 bytes.
MAX_PAYLOAD_BYTES: Final = 7_900


class ProgressKind(StrEnum):
    """What happened. Sent between versions; never renamed."""

    RUN_STARTED = "run_started"
    TEXT = "text"
    THINKING = "thinking"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    RUN_ENDED = "run_ended"


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that a run did.

    Attributes:
        event_id: With `delivery_id` as text, as everywhere outside.
        trigger, attempt, type, source, key, correlation_id: Of the run, and of its event.
        seq: From 1 for each run. A gap is what was dropped or lost.
        kind: A `ProgressKind`, or one that a newer worker knows.
        text: Of text and thinking: what is to be appended to what came before.
        request: The how-manieth model request of the run the text belongs to. What a text agent replies is the text of
            its last request; two agents that run at once are told apart by it.
        inside: The id of the tool call in which this happened, if a tool runs an agent. None: the run itself.
        tool, tool_call_id: Of a call and of its result.
        arguments: JSON text.
        result: What the tool returned, as the model is told.
        outcome: Of the end: that of the run, such as "succeeded" or "retry".
        truncated: `text`, `arguments` or `result` was too long and has lost its end.
        dropped: How many before this one were given up: they came faster than they could be sent, or the connection
            broke; of the latter some may have arrived.
    """

    event_id: str
    delivery_id: str
    trigger: str
    attempt: int
    type: str
    source: str
    key: str | None
    correlation_id: str | None
    seq: int
    kind: str
    text: str = ""
    request: int | None = None
    inside: str | None = None
    tool: str | None = None
    tool_call_id: str | None = None
    arguments: str | None = None
    result: str | None = None
    outcome: str | None = None
    truncated: bool = False
    dropped: int = 0


DEFAULTS: Final = {field.name: field.default for field in fields(Progress)}
# What comes from a model or a tool and may have any length; the rest is bounded where it enters, and comes last.
CUT: Final = ("text", "arguments", "result", "tool", "tool_call_id", "inside")
CUT_LAST: Final = ("key", "correlation_id", "source", "type", "trigger", "outcome", "kind", "delivery_id", "event_id")
RECORD: Final = TypeAdapter(Progress)


async def ask_for_progress(conn: AsyncConnection[Any]) -> None:
    """Tell all workers that somebody watches."""
    await conn.execute(statement("notify_watch"))


async def ask_who_watches(conn: AsyncConnection[Any]) -> None:
    """Ask all gateways to say it if somebody watches."""
    await conn.execute(statement("notify_who_watches"))


async def send_progress(conn: AsyncConnection[Any], payloads: Sequence[str]) -> None:
    """Send what `encode` gave, in one transaction."""
    await conn.execute(statement("notify_progress"), {"payloads": list(payloads)})


def encode(records: Sequence[Progress]) -> list[str]:
    """As few payloads as hold the records, in their order. One that is too large alone is cut and says so."""
    payloads: list[bytes] = []
    batch: list[bytes] = []
    size = 2
    for record in records:
        encoded = fitting(record)
        if batch and size + len(encoded) > MAX_PAYLOAD_BYTES:
            payloads.append(b",".join(batch))
            batch, size = [], 2
        batch.append(encoded)
        size += len(encoded) + 1
    if batch:
        payloads.append(b",".join(batch))
    return [f"[{payload.decode()}]" for payload in payloads]


def fitting(record: Progress) -> bytes:
    encoded = as_json(record)
    while len(encoded) > MAX_PAYLOAD_BYTES - 2:
        longest = max(CUT, key=lambda name: length(record, name))
        if not length(record, longest):
            longest = max(CUT_LAST, key=lambda name: length(record, name))
        # A character takes at most six bytes.
        excess = max((len(encoded) - MAX_PAYLOAD_BYTES) // 6, 16)
        cut: dict[str, Any] = {longest: getattr(record, longest)[:-excess], "truncated": True}
        record = replace(record, **cut)
        encoded = as_json(record)
    return encoded


def length(record: Progress, name: str) -> int:
    return len(getattr(record, name) or "")


def as_json(record: Progress) -> bytes:
    """The record; what holds nothing is left out."""
    told = {name: value for name in DEFAULTS if (value := getattr(record, name)) != DEFAULTS[name]}
    try:
        return orjson.dumps(told)
    except orjson.JSONEncodeError:
        # A model may say half of a surrogate pair, which is no UTF-8.
        return orjson.dumps({name: sayable(value) for name, value in told.items()})


def sayable(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def decode(payload: str) -> list[Progress]:
    """The records of a payload. What is no progress gives none: anybody may send notifications."""
    try:
        found: Any = orjson.loads(payload)
    except ValueError:
        found = None
    records: list[Progress] = []
    for each in cast("list[Any]", found) if isinstance(found, list) else [None]:
        try:
            records.append(RECORD.validate_python(each))
        except ValidationError as error:
            structlog.get_logger("reflex.core").debug(
                "a notification is no progress and is ignored", channel=PROGRESS_CHANNEL, problems=error.error_count()
            )
    return records
