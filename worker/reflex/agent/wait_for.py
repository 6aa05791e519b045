"""Waiting for an event in the middle of a run, without a slot: the log is read from where the wait began, so that
nothing is missed in between, and the event that was found is kept in the journal.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson
import structlog
from psycopg import AsyncConnection
from pydantic import ValidationError

from reflex.agent.filters import Filter
from reflex.agent.lengths import length_of
from reflex.core.awaiting import Awaited, place_of_event
from reflex.core.cursors import Cursor, CursorExpired
from reflex.core.errors import ReflexError
from reflex.core.events import BaseEvent, Event, EventRegistry
from reflex.core.journal import StepKind
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LoggedEvent, log_bounds, read_log
from reflex.core.placing import place
from reflex.core.statements import only_row
from reflex.core.waiting import LONGEST_WAIT, Wait, WaitKind

if TYPE_CHECKING:
    from reflex.agent.journal import Journal

__all__ = ["WhoseKey", "wait_for"]

# A wait that is woken for events which its filter refuses is left alone for so long, twice as long each time.
FIRST_QUIET: Final = timedelta(seconds=0.1)
LONGEST_QUIET: Final = timedelta(seconds=10)
# A wait that was woken keeps how far it has read if that was far: else it would read it again.
WORTH_KEEPING: Final = 1000
SHOWN_LENGTH: Final = 500
LINE_NUMBER: Final = re.compile(r":\d+>")

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.agent")


class WhoseKey(Enum):
    """The default of `wait_for`'s `key`."""

    OWN = "the key of the event that the run is for"


class NoLog(ReflexError):
    """There is no log to wait at: the run is not in a worker."""

    code = "no_log"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is waited for. `key` None is any."""

    filter: Filter
    key: str | None
    own: Event

    @property
    def in_log(self) -> LogFilter:
        return LogFilter(types=tuple(sorted(self.filter.patterns)), key=self.key)

    @property
    def fingerprint(self) -> bytes:
        """Where a lambda stands in its file does not count: a deployment must not begin the wait anew."""
        text = LINE_NUMBER.sub(">", repr(self.filter))
        return hashlib.sha256(f"wait_for {text} {self.key!r}".encode()).digest()

    @property
    def reason(self) -> str:
        return f"waits for {self.filter!r}"[:SHOWN_LENGTH] + ("" if self.key is None else f" with key {self.key!r}")

    def wants(self, event: LoggedEvent) -> BaseEvent | None:
        """The event, if it is one that is waited for."""
        if event.event_id == self.own.event_id:
            return None
        record = recorded(event)
        if not self.filter(record):
            return None
        try:
            return EventRegistry.read(record)
        except ValidationError as error:
            # It fails whoever gets it as their own. Here it is somebody else's, and no reason to fail.
            log.warning("an event that is waited for is not what its class asks for, and is passed over",
                        type=event.type, event_id=str(event.event_id), problems=error.error_count())  # fmt: skip
            return None


@dataclass(frozen=True, slots=True)
class Began:
    """A wait that is under way: up to where the log was read, when the wait ends, and how often it was woken for
    nothing."""

    after: Cursor
    until: datetime | None
    fruitless: int = 0

    def json(self) -> str:
        return orjson.dumps({"after": str(self.after), "until": self.until, "fruitless": self.fruitless}).decode()

    @property
    def quiet(self) -> timedelta:
        return min(FIRST_QUIET * 2 ** min(self.fruitless - 1, 30), LONGEST_QUIET) if self.fruitless else timedelta(0)


async def wait_for(
    journal: "Journal | None",
    own: Event,
    filter: Filter,
    *,
    timeout: timedelta | float | None,
    key: str | WhoseKey | None,
    after: BaseEvent | UUID | Cursor | str | None,
) -> BaseEvent | None:
    """As `AgentContext.wait_for`.

    Raises:
        TypeError, ValueError: An argument makes no sense.
        NoLog: There is no journal: the run is not in a worker.
        FilterError: The filter raised. The run counts as failed.
    """
    terms = checked_terms(filter, key, own)
    limit = checked_timeout(timeout)
    start = checked_after(after)
    if journal is None:
        raise NoLog("wait_for() reads the log of a worker's database; outside a worker there is none")
    with journal.waits.looking():
        found = await look(journal, terms, limit, start)
    if isinstance(found, Wait):
        await journal.waits.suspend(found)
    return found


async def look(
    journal: "Journal", terms: Terms, timeout: timedelta | None, start: Cursor | UUID | None
) -> BaseEvent | Wait | None:
    """The event; None if the time is over; or for what the run has to wait."""
    step = await journal.look_up(StepKind.WAIT, terms.fingerprint)
    known = None if step.recorded is None else orjson.loads(step.recorded)
    if known is not None and "event" in known:
        return None if known["event"] is None else EventRegistry.read(event_of(known["event"]))
    began = None
    if known is not None:
        until = known["until"]
        began = Began(
            Cursor.parse(known["after"]), None if until is None else datetime.fromisoformat(until), known["fruitless"]
        )
    found, now, far = await journal.ask(lambda conn: read_on(conn, terms, began, timeout, start))
    if found is not None:
        await journal.record(step, ended(found))
        return found
    if far.until is not None and far.until <= now:
        await journal.record(step, ended(None))
        return None
    if began is None or far.fruitless != began.fruitless or far.after.position - began.after.position > WORTH_KEEPING:
        await journal.record(step, far.json())
    return waits(terms, far, now)


async def read_on(
    conn: AsyncConnection[Any],
    terms: Terms,
    began: Began | None,
    timeout: timedelta | None,
    start: Cursor | UUID | None,
) -> tuple[BaseEvent | None, datetime, Began]:
    """What there is in the log for the wait, the time before it was read, and how far it was read.

    Raises:
        CursorExpired, CursorRejected: The wait begins at a cursor from which the log cannot be read.
    """
    await place(conn)  # what was appended before now has its place then, if no other process is about to give it one
    now: datetime = (await only_row(conn, "clock"))[0]
    bounds = await log_bounds(conn)
    if began is not None:
        after, until = began.after, began.until
    else:
        until = None if timeout is None else now + timeout
        if isinstance(start, UUID):
            after = await place_of_event(conn, start, bounds)
        else:
            after = bounds.end if start is None else bounds.check(start)
    fruitless = 0 if began is None else began.fruitless
    refused = False
    while after < bounds.end:
        try:
            page = await read_log(conn, after, filter=terms.in_log)
        except CursorExpired:
            # What was dropped while the run waited was held against its wait while it was there.
            after = (await log_bounds(conn)).start
            continue
        for event in page.events:
            if (found := terms.wants(event)) is not None:
                return found, now, Began(event.cursor, until, fruitless)
            refused = True
        if page.cursor == after:
            break
        after = page.cursor
    return None, now, Began(after, until, fruitless + (1 if refused and began is not None else 0))


def waits(terms: Terms, began: Began, now: datetime) -> Wait:
    end = "" if began.until is None else f", until {began.until.isoformat(timespec='seconds')}"
    return Wait(
        WaitKind.EVENT,
        terms.reason + end,
        LONGEST_WAIT if began.until is None else began.until - now,
        (Awaited(terms.in_log.types, terms.key, began.after.position, began.quiet),),
    )


def checked_terms(filter: object, key: str | WhoseKey | None, own: Event) -> Terms:
    if not isinstance(filter, Filter):
        raise TypeError(f"wait_for({filter!r}): pass a filter, as in wait_for(type_filter('payment.received'))")
    if not filter.patterns:
        raise ValueError(f"wait_for({filter!r}): it can match no event: its parts have no event type in common")
    if filter.gates:
        raise ValueError(f"wait_for({filter!r}): a rate limit and duplicates are asked for by triggers only")
    if isinstance(key, WhoseKey):
        if own.key is None:
            raise ValueError(
                f"wait_for({filter!r}): the event of this run has no key, so say which is meant: key='…', or key=None "
                "for events with any key or none"
            )
        key = own.key
    if key is not None and (not isinstance(key, str) or "\x00" in key or not is_text(key)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"wait_for({filter!r}): key is {key!r}, which no event has; pass a text, or None for any")
    return Terms(filter, key, own)


def is_text(text: str) -> bool:
    """Whether it can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_timeout(timeout: timedelta | float | None) -> timedelta | None:
    if timeout is None:
        return None
    return length_of(f"wait_for(timeout={timeout!r})", timeout, most=LONGEST_WAIT)


def checked_after(after: BaseEvent | UUID | Cursor | str | None) -> Cursor | UUID | None:
    if isinstance(after, str):
        return Cursor.parse(after)
    if isinstance(after, BaseEvent):
        if after.meta is None:
            raise ValueError(f"wait_for(after={after!r}): this event is not from the log; pass one that was received")
        return after.meta.event_id
    return after


def recorded(event: LoggedEvent) -> Event:
    """The event as runs know it."""
    return Event(
        event.event_id, event.type, event.source, event.key, event.time, orjson.loads(event.payload),
        event.correlation_id, event.causation_id, event.depth, event.trace_context,
    )  # fmt: skip


def ended(found: BaseEvent | None) -> str:
    """The end of a wait as the journal keeps it, with the whole event: it may have left the log by the next replay."""
    return orjson.dumps({"event": None if found is None or found.meta is None else found.meta._asdict()}).decode()


def event_of(kept: dict[str, Any]) -> Event:
    causation_id = kept["causation_id"]
    kept["event_id"] = UUID(kept["event_id"])
    kept["time"] = datetime.fromisoformat(kept["time"])
    kept["causation_id"] = None if causation_id is None else UUID(causation_id)
    return Event(**kept)
