"""What the reads return: frozen rows that turn into the answers of the gateway and the tables of the command line.

Stored JSON stays text (`StoredJson`): it is passed on as it is, so a number that Python or orjson cannot hold does no
harm, and a page of payloads costs no parsing.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import GetPydanticSchema, WithJsonSchema
from pydantic_core import core_schema

__all__ = [
    "DeadLetterDetail",
    "DeadLetterRow",
    "DeliveryRow",
    "DeliveryState",
    "EventDetail",
    "EventRef",
    "EventRow",
    "EventTypeRow",
    "FollowUp",
    "Json",
    "JsonObject",
    "Registration",
    "RunRow",
    "StoredJson",
    "TriggerRow",
    "WorkerRef",
    "stored_json",
    "to_json",
]

DeliveryState = Literal["pending", "running", "waiting", "succeeded", "skipped", "dead", "cancelled"]
RunOutcome = Literal["succeeded", "skipped", "retry", "dead", "released", "lost", "cancelled", "waiting"]

ANY: Final = GetPydanticSchema(lambda _source, _handler: core_schema.any_schema())


class StoredJson:
    """A JSON value as PostgreSQL wrote it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"StoredJson({self.text!r})"

    @property
    def value(self) -> Any:
        """The value, decoded; integers of any size stay exact."""
        return json.loads(self.text)


Json = Annotated[StoredJson, ANY, WithJsonSchema({"description": "Any JSON value."})]
JsonObject = Annotated[StoredJson, ANY, WithJsonSchema({"type": "object"})]


def stored_json(text: str | None) -> Any:
    """A column of JSON text as it goes into a row."""
    return None if text is None else StoredJson(text)


def to_json(value: Any, *, indent: bool = False) -> bytes:
    """Rows as JSON: UUIDs as text, moments as RFC 3339, stored JSON as it is."""
    return orjson.dumps(value, default=_default, option=orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indent else 0))


def _default(value: object) -> Any:
    if isinstance(value, StoredJson):
        return orjson.Fragment(value.text)
    raise TypeError(f"{type(value).__name__} is not serializable")


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event in a list. `payload` is null where it is larger than 16 KiB; ask for the event itself then.

    `time` is the sender's, `created_at` the database's. `unrouted` says that no trigger matched it so far.
    """

    id: UUID
    type: str
    source: str
    key: str | None
    time: datetime
    payload: JsonObject | None
    correlation_id: str | None
    causation_id: UUID | None
    depth: int
    trace_context: str | None
    available_at: datetime | None
    created_at: datetime
    unrouted: bool


@dataclass(frozen=True, slots=True)
class RunRow:
    """One attempt at a delivery. `worker_id` is null where a person ended it (`cancelled`). `is_replay` says that the
    delivery had been made anew by a replay."""

    lease_epoch: int
    attempt: int
    outcome: RunOutcome
    started_at: datetime
    finished_at: datetime
    duration_ms: float
    error: str | None
    output: Json | None
    usage: Json | None
    trace_id: str | None
    worker_id: UUID | None
    is_replay: bool


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """Who works a delivery. `host` and `pid` are null if that worker is gone and the delivery not freed yet."""

    id: UUID
    host: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One event for one trigger. `attempt` counts the attempts begun since it was made or last retried by a person.

    `available_at` is when a pending one may run, null for at once, and when a waiting one runs at the latest. `reason`
    is why one is dead or for what one waits, `waiting_for` the latter in words. `error` and `died_at` are a dead one's;
    `replayed_at` is when a replay last made it anew; `runs` are the latest hundred, oldest first.
    """

    id: str
    trigger: str
    app: str
    state: DeliveryState
    attempt: int
    available_at: datetime | None
    worker: WorkerRef | None
    reason: str | None
    waiting_for: str | None
    error: str | None
    died_at: datetime | None
    replayed_at: datetime | None
    runs: list[RunRow]


@dataclass(frozen=True, slots=True)
class FollowUp:
    """An event that a run of another event published."""

    id: UUID
    type: str
    source: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EventDetail(EventRow):
    """An event, whole, with what became of it. `follow_ups` are the first hundred events that its runs published."""

    deliveries: list[DeliveryRow]
    follow_ups: list[FollowUp]


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app says a type's payload looks like."""

    app: str
    schema: JsonObject
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class EventTypeRow:
    """A type that apps registered, or of which events wait for a trigger.

    `unrouted` is counted up to 1,000; `unrouted_capped` says that there are at least that many.
    """

    type: str
    registrations: list[Registration]
    unrouted: int
    unrouted_capped: bool


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A trigger. Its deliveries are counted up to 10,000 a state; `capped` names the numbers that are at least that.

    `pending` are due, `scheduled` are put off, `waiting` gave their slot back in the middle of a run. A retired trigger
    gets no new deliveries: no running code has it.
    """

    id: int
    name: str
    app: str
    patterns: list[str]
    max_attempts: int
    definition: JsonObject
    registered_at: datetime
    retired_at: datetime | None
    pending: int
    scheduled: int
    running: int
    dead: int
    live_workers: int
    capped: list[Literal["pending", "scheduled", "running", "dead", "waiting"]]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class EventRef:
    """The event of a dead letter."""

    id: UUID
    type: str
    source: str
    key: str | None
    time: datetime
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A delivery that will not be tried again by itself. In a list `error` is cut after 2,000 characters."""

    id: str
    trigger: str
    app: str
    event: EventRef
    reason: str
    error: str | None
    attempt: int
    died_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterDetail(DeadLetterRow):
    """A dead letter with the payload of its event and its latest hundred runs, oldest first."""

    payload: JsonObject
    runs: list[RunRow]
