"""Timers: the loop that fires schedules. Every worker of an app runs it; each planned time is decided by one of them."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from reflex.agent.timing import due, read_timing
from reflex.core.database import answered_within
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
            sleep_s = self.poll_interval_s * random.uniform(0.75, 1)  # noqa: S311 (jitter)
            with answered_within(ANSWER_S, conn):
                is_due, _ = await upcoming_schedules(conn, self.schedule_ids)
                while is_due and self.report(await fire(conn, self.schedule_ids)) == BATCH:
                    pass
                _, next_in = await upcoming_schedules(conn, self.schedule_ids) if is_due else (False, _)
            if next_in is not None:
                sleep_s = min(sleep_s, next_in.total_seconds())
            try:
                async with asyncio.timeout(sleep_s):
                    await self.signal.wait()
            except TimeoutError:
                pass

    def report(self, fired: Sequence[Fired]) -> int:
        """Log what was fired, and leave what this worker cannot fire to others from now on. How many there were."""
        for schedule in fired:
            if schedule.problem:
                self.schedule_ids.remove(schedule.schedule_id)
                self.log.error("cannot fire a schedule", schedule=schedule.name, error=schedule.problem)
            elif schedule.event_ids or schedule.skipped:
                self.log.info(
                    "schedule fired" if schedule.event_ids else "schedule skipped: its last event is not finished"
                    if schedule.busy else "schedule skipped: it was missed",
                    schedule=schedule.name, event_ids=[str(id) for id in schedule.event_ids], skipped=schedule.skipped,
                )  # fmt: skip
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
    async with conn.transaction():
        decided = [decide(schedule) for schedule in await take_due_schedules(conn, schedule_ids, limit=limit, now=now)]
        if events := [event for _, advance, events in decided for event in events]:
            await append(conn, events)
        if advances := [advance for _, advance, _ in decided if advance]:
            await advance_schedules(conn, advances)
    return [fired for fired, _, _ in decided]


def decide(schedule: DueSchedule) -> tuple[Fired, Advance | None, list[NewEvent]]:
    """What a schedule that is due does. Pure, but for the ids."""
    try:
        timing = read_timing(schedule.spec)
    except ValueError as error:
        # Registered by newer code, or by a machine that knows more time zones.
        return Fired(schedule.schedule_id, schedule.name, problem=str(error)), None, []
    found = due(timing, Missed(schedule.missed), schedule.next_at or timing.first(schedule.started_at), schedule.now)
    times = [] if schedule.busy else found.times
    skipped = found.skipped + len(found.times) - len(times)
    events = [planned_event(schedule, at) for at in times]
    ids = [event.event_id for event in events]
    last_at, last_id = (times[-1], ids[-1]) if times else (None, None)
    advance = Advance(schedule.schedule_id, found.next_at, last_at, last_id, len(ids), skipped)
    return Fired(schedule.schedule_id, schedule.name, ids, skipped, schedule.busy), advance, events


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
