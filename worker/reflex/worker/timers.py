"""Timers: the loop that fires schedules. Every worker of an app runs it; each planned time is decided by one."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from reflex.agent.timing import due, read_timing
from reflex.core.database import answered_within, brief_transaction
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.log import append
from reflex.core.schedules import (
    Advance,
    DueSchedule,
    Missed,
    advance_schedules,
    take_due_schedules,
    upcoming_schedules,
)
from reflex.worker.standing import standing

__all__ = ["Fired", "Timers", "fire"]

# A hundred events of 64 KiB each may come of one schedule that was missed for long.
BATCH: Final = 20
ANSWER_S: Final = 60.0


class Fired(NamedTuple):
    """What became of a schedule that was due: the events it appended, and how many planned times got none.

    `problem` is why this worker cannot fire it; then nothing was done.
    """

    schedule_id: int
    name: str
    event_ids: Sequence[UUID] = ()
    skipped: int = 0
    busy: bool = False
    problem: str | None = None


class Decision(NamedTuple):
    """What to do about a schedule that is due. `advance` None: leave it as it is."""

    fired: Fired
    advance: Advance | None = None
    events: Sequence[NewEvent] = ()


class Timers:
    """Fires an app's schedules. The database's clock says what is due; this machine's only how long to sleep."""

    def __init__(self, url: str, *, schedule_ids: Sequence[int], poll_interval_s: float) -> None:
        """`schedule_ids` are those that this worker's code has."""
        self.url = url
        self.schedule_ids = list(schedule_ids)
        self.poll_interval_s = poll_interval_s
        self.signal = asyncio.Event()
        self.log = structlog.get_logger()

    def wake(self) -> None:
        """Schedules may have changed: look at once."""
        self.signal.set()

    async def run(self) -> None:
        """Until cancelled. An outage is waited out, and what was due meanwhile is fired after it."""
        await standing(self.url, "timers", self.rounds)

    async def rounds(self, conn: AsyncConnection[Any]) -> None:
        while True:
            self.signal.clear()
            with answered_within(ANSWER_S, conn):
                next_in = await self.fire_due(conn)
            sleep_s = self.poll_interval_s * random.uniform(0.75, 1)  # noqa: S311 (jitter)
            try:
                async with asyncio.timeout(sleep_s if next_in is None else min(sleep_s, next_in.total_seconds())):
                    await self.signal.wait()
            except TimeoutError:
                pass

    async def fire_due(self, conn: AsyncConnection[Any]) -> timedelta | None:
        """Fire what is due. How long until the next is; None: nothing is planned, or others are about to plan it."""
        is_due, next_in = await upcoming_schedules(conn, self.schedule_ids)
        if is_due:
            while self.report(await fire(conn, self.schedule_ids)) == BATCH:
                pass
            _, next_in = await upcoming_schedules(conn, self.schedule_ids)
        return next_in

    def report(self, fired: Sequence[Fired]) -> int:
        """Log what became of them, and leave what this worker cannot fire to others from now on. How many they were."""
        for schedule in fired:
            log = self.log.bind(schedule=schedule.name)
            if schedule.problem:
                self.schedule_ids.remove(schedule.schedule_id)
                log.error("cannot fire a schedule, leaving it to other workers", error=schedule.problem)
            elif schedule.event_ids:
                log.info("schedule fired", event_ids=[str(id) for id in schedule.event_ids], skipped=schedule.skipped)
            elif schedule.skipped:
                why = "its last event is not finished" if schedule.busy else "it was missed"
                log.info("schedule skipped", why=why, skipped=schedule.skipped)
        return len(fired)


async def fire(
    conn: AsyncConnection[Any], schedule_ids: Sequence[int], *, limit: int = BATCH, now: datetime | None = None
) -> list[Fired]:
    """Append the events of those that are due, and move them on, in one commit.

    Args:
        schedule_ids: Those that may be fired. One that another worker is firing is left to it.
        now: None means the database's clock.

    Returns:
        At most `limit`; if so many, there may be more.
    """
    async with brief_transaction(conn):
        decisions = [
            decide(schedule) for schedule in await take_due_schedules(conn, schedule_ids, limit=limit, now=now)
        ]
        events = [event for decision in decisions for event in decision.events]
        ids = await append(conn, events) if events else {}
        advances = [decision.advance for decision in decisions if decision.advance]
        if advances:
            # Under another id if somebody had set next_at back by hand: the event of that time is in the log already.
            logged = [a._replace(last_event_id=a.last_event_id and ids[a.last_event_id]) for a in advances]
            await advance_schedules(conn, logged)
    return [decision.fired for decision in decisions]


def decide(schedule: DueSchedule) -> Decision:
    """What a schedule that is due does. Pure, but for the ids."""
    try:
        timing = read_timing(schedule.spec)
    except ValueError as error:
        # Registered by newer code, or by a machine that knows more time zones.
        return Decision(Fired(schedule.schedule_id, schedule.name, problem=str(error)))
    found = due(timing, Missed(schedule.missed), schedule.next_at or timing.first(schedule.started_at), schedule.now)
    times = [] if schedule.busy else found.times
    skipped = found.skipped + len(found.times) - len(times)
    events = [planned_event(schedule, at) for at in times]
    ids = [event.event_id for event in events]
    last_at, last_id = (times[-1], ids[-1]) if times else (None, None)
    advance = Advance(schedule.schedule_id, found.next_at, last_at, last_id, len(ids), skipped)
    return Decision(Fired(schedule.schedule_id, schedule.name, ids, skipped, schedule.busy), advance, events)


def planned_event(schedule: DueSchedule, at: datetime) -> NewEvent:
    """The idempotency key is a second lock: whatever happens to `next_at`, a planned time has one event. The id of the
    schedule is in it, since two apps may have schedules of one name, and so of one source."""
    return NewEvent(
        new_id(),
        schedule.type,
        f"timer:{schedule.name}",
        schedule.key,
        at,
        schedule.payload,
        idempotency_key=f"{schedule.schedule_id}:{at.isoformat()}",
    )
