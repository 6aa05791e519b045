"""What became of events: runs, events and dead letters, as a test looks at them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar, overload

from psycopg import AsyncConnection
from pydantic import ValidationError

from reflex.core.events import SYSTEM_PREFIX, BaseEvent, Event, EventRegistry, UntypedEvent
from reflex.core.settlement import Outcome

__all__ = ["DeadLetter", "Events", "Run", "Runs", "Story", "read_story"]

EventT = TypeVar("EventT", bound=BaseEvent)
Row = TypeVar("Row")

MAX_SHOWN: Final = 300

EVENTS: Final = """
SELECT event_id, type, source, key, time, payload, correlation_id, causation_id, depth, trace_context
FROM reflex.event
ORDER BY event_id
"""
RUNS: Final = """
SELECT trigger.name, run.event_id, run.attempt, run.outcome, run.output::text, run.error, run.usage, run.started_at,
       run.finished_at
FROM reflex.run
JOIN reflex.trigger USING (trigger_id)
ORDER BY run.finished_at, run.started_at, run.event_id, run.lease_epoch
"""
DEAD_LETTERS: Final = """
SELECT trigger.name, dead_letter.event_id, dead_letter.reason, dead_letter.error, dead_letter.attempt
FROM reflex.dead_letter
JOIN reflex.trigger USING (trigger_id)
ORDER BY dead_letter.died_at, dead_letter.event_id
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at a delivery, ended. `output` is what the agent returned, as JSON would bring it back; `usage` what
    its pydantic-ai agents used up, None if there were none."""

    trigger: str
    event: BaseEvent
    attempt: int
    outcome: Outcome
    output: Any
    error: str | None
    usage: dict[str, Any] | None
    started_at: datetime
    finished_at: datetime

    def __repr__(self) -> str:
        end = f": {self.error}" if self.error else "" if self.output is None else f" -> {short(repr(self.output))}"
        return f"<{self.trigger}: {self.outcome}, attempt {self.attempt}, {self.event.type}{end}>"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that is not tried again by itself. `reason` is the code, `error` the text."""

    trigger: str
    event: BaseEvent
    reason: str
    error: str | None
    attempt: int

    def __repr__(self) -> str:
        return f"<{self.trigger}: dead ({self.reason}), attempt {self.attempt}, {self.event.type}: {self.error}>"


class Lines(tuple[Row, ...]):
    """A tuple that shows one line for each of its elements."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(["", *(f"    {self.line(each)}" for each in self)]) if self else "(none)"

    def line(self, each: Row) -> str:
        return repr(each)


class Runs(Lines[Run]):
    """Runs, in the order in which they ended."""

    __slots__ = ()

    def of(self, trigger: str) -> "Runs":
        """Those of one trigger."""
        return Runs(run for run in self if run.trigger == trigger)

    @property
    def outcomes(self) -> list[str]:
        """How they ended, in order."""
        return [str(run.outcome) for run in self]


class Events(Lines[BaseEvent]):
    """Events as objects of their classes, or as `UntypedEvent`s, in the order in which they were accepted; each has its
    record in the log as `meta`."""

    __slots__ = ()

    @overload
    def of(self, type: type[EventT]) -> list[EventT]: ...
    @overload
    def of(self, type: str) -> list[BaseEvent]: ...
    def of(self, type: Any) -> Any:
        """Those of one class, or of one type."""
        if isinstance(type, str):
            return [event for event in self if event.type == type]
        return [event for event in self if isinstance(event, type)]

    @property
    def types(self) -> list[str]:
        """Their types, in order."""
        return [event.type for event in self]

    def line(self, each: BaseEvent) -> str:
        meta = record_of(each)
        about = f" key={meta.key!r}" if meta.key is not None else ""
        return f"<{each.type} from {meta.source}{about} {short(repr(meta.payload))}>"


@dataclass(frozen=True, slots=True)
class Story:
    """All that has happened: every event of the log, Reflex's own too; every run; every dead letter."""

    events: Events = field(default_factory=Events)
    runs: Runs = field(default_factory=Runs)
    dead_letters: Lines[DeadLetter] = field(default_factory=Lines[DeadLetter])

    @property
    def published(self) -> Events:
        """What runs have published."""
        return Events(
            event
            for event in self.events
            if record_of(event).causation_id is not None and not event.type.startswith(SYSTEM_PREFIX)
        )

    def __str__(self) -> str:
        parts = [("events", self.events), ("runs", self.runs), ("dead letters", self.dead_letters)]
        return "\n".join(f"{name}: {found!r}" for name, found in parts)


async def read_story(conn: AsyncConnection[Any]) -> Story:
    """Read it from the database."""
    events = {row[0]: as_event(Event(*row)) for row in await rows(conn, EVENTS)}
    runs = [
        Run(trigger, events[event_id], attempt, Outcome(outcome), decoded(output), error, usage, *times)
        for trigger, event_id, attempt, outcome, output, error, usage, *times in await rows(conn, RUNS)
    ]
    dead = [DeadLetter(trigger, events[event_id], *rest) for trigger, event_id, *rest in await rows(conn, DEAD_LETTERS)]
    return Story(Events(events.values()), Runs(runs), Lines(dead))


async def rows(conn: AsyncConnection[Any], statement: str) -> Iterable[Any]:
    cursor = await conn.execute(statement.encode())
    return await cursor.fetchall()


def as_event(record: Event) -> BaseEvent:
    """The record as its class, or as an `UntypedEvent` if the class refuses it: its deliveries are dead, and the test
    wants to see why."""
    try:
        return EventRegistry.read(record)
    except ValidationError:
        return UntypedEvent.from_record(record)


def record_of(event: BaseEvent) -> Event:
    """The event's record in the log.

    Raises:
        ValueError: The object was not read from the log.
    """
    if event.meta is None:
        raise ValueError(f"{event!r} is not in the log: use what publish() returned, or one of t.events")
    return event.meta


def decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"
