"""Maintenance: the standing loops over the tables. Every worker runs them; SKIP LOCKED lets them share the work.
Only retention is done by one at a time.

What is seldom there is looked for by one statement every second, the agenda, and only what it finds is done."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias

import structlog
from psycopg import AsyncConnection

from reflex.core.agenda import read_agenda
from reflex.core.database import answered_within, is_connection_error
from reflex.core.keeping import Keeping, Kept
from reflex.core.lanes import leave_lanes, promote_lanes, sweep_lanes
from reflex.core.passing import sweep_gathered
from reflex.core.periods import Periods
from reflex.core.queue import promote_scheduled, route_unrouted
from reflex.core.reaping import reap
from reflex.core.schedules import retire_schedules
from reflex.core.spending import forget_spend, give_back
from reflex.core.workers import retire_triggers
from reflex.worker.standing import standing

__all__ = ["Maintenance"]

# Returns in how many seconds it is due again.
Chore: TypeAlias = Callable[[AsyncConnection[Any]], Awaitable[float]]

# How often the agenda is read.
LOOK_S: Final = 1.0

BATCH: Final = 1000
# A chore that takes longer than so many lease timeouts has lost its connection and does not know it.
LEASE_TIMEOUTS_PER_CHORE: Final = 6
# Between two passes of retention: so long that nothing is kept much longer than it should be.
PASSES_PER_KEEP: Final = 100
LONGEST_BETWEEN_PASSES_S: Final = 600.0
# Until the next try, if something held on to a table whose partition is to be made or dropped.
BUSY_S: Final = 20.0


class Maintenance:
    """Promotes what is due, reaps dead workers, routes unrouted events, retires triggers and schedules that nobody
    knows any more, clears away lanes that are empty or not wanted any more and what was gathered and is needed no
    more, gives back what was set aside of budgets by runs that are gone, makes the partitions of the time to come, and
    lets go of what is older than `periods` say."""

    def __init__(
        self,
        url: str,
        *,
        lease_timeout_s: float,
        periods: Periods = Periods(),  # noqa: B008 - it is not changed
        cancel: Callable[[AsyncConnection[Any]], Awaitable[None]] | None = None,
        on_awaited: Callable[[], None] | None = None,
        on_reaped: Callable[[], None] | None = None,
    ) -> None:
        """`cancel` carries out cancellations; `on_awaited` is told while runs wait for events, `on_reaped` of each
        delivery that was freed."""
        self.url = url
        self.cancel = cancel
        self.on_awaited = on_awaited
        self.on_reaped = on_reaped
        self.lease_timeout_s = lease_timeout_s
        self.periods = periods
        self.keeping: Keeping | None = None
        self.not_owner_said = False
        self.log = structlog.get_logger()
        self.signal = asyncio.Event()
        self.steady_since = 0.0
        self.due: dict[str, float] = {}

    def wake(self, chore: str = "route") -> None:
        """Do this chore at once. By default: triggers changed, look at the unrouted events."""
        self.due.pop(chore, None)
        self.signal.set()

    async def run(self) -> None:
        """Until cancelled. An outage is waited out."""
        await standing(self.url, "maintenance", self.steadied)

    async def steadied(self, conn: AsyncConnection[Any]) -> None:
        # After an outage everyone's heartbeat is old. Nobody is declared dead until all had time to beat.
        self.steady_since = boot_clock()
        await self.rounds(conn)

    async def rounds(self, conn: AsyncConnection[Any]) -> None:
        chores: dict[str, Chore] = {
            "look": self.look,
            "promote": self.promote,
            "cancel": self.carry_out,
            "reap": self.reap,
            "route": self.route,
            "retire": self.retire,
            "clear": self.clear,
            "give back": self.give_back,
            "keep": self.keep,
        }
        self.due = {}
        last = boot_clock()
        while True:
            now = boot_clock()
            if now - last > self.lease_timeout_s / 2:
                # The process was frozen or the machine asleep, and perhaps everyone else too.
                self.steady_since = now
            last = now
            for name, chore in chores.items():
                if self.due.get(name, 0.0) <= now:
                    with answered_within(self.lease_timeout_s * LEASE_TIMEOUTS_PER_CHORE, conn):
                        self.due[name] = math.inf
                        again = now + await chore(conn)
                        # Who woke it while it was at it is not forgotten.
                        self.due[name] = min(again, self.due.get(name, 0.0))
            self.signal.clear()
            try:
                async with asyncio.timeout(max(0.0, min(self.due.get(name, 0.0) for name in chores) - boot_clock())):
                    await self.signal.wait()
            except TimeoutError:
                pass

    async def look(self, conn: AsyncConnection[Any]) -> float:
        agenda = await read_agenda(conn)
        if agenda.due_in is not None:
            self.due["promote"] = boot_clock() + agenda.due_in.total_seconds()
        if agenda.cancelling:
            self.due["cancel"] = 0.0
        if agenda.awaited and self.on_awaited is not None:
            self.on_awaited()
        return LOOK_S

    async def carry_out(self, conn: AsyncConnection[Any]) -> float:
        if self.cancel is not None:
            await self.cancel(conn)
        return math.inf

    async def promote(self, conn: AsyncConnection[Any]) -> float:
        found = [await promote_scheduled(conn, limit=BATCH), await promote_lanes(conn, limit=BATCH)]
        if any(promoted >= BATCH for promoted, _ in found):
            return 0.0
        return min((next_in.total_seconds() for _, next_in in found if next_in is not None), default=math.inf)

    async def reap(self, conn: AsyncConnection[Any]) -> float:
        if boot_clock() - self.steady_since >= self.lease_timeout_s:
            for freed in await reap(conn, lease_timeout=timedelta(seconds=self.lease_timeout_s)):
                self.log.warning(
                    "a delivery died with its worker" if freed.dead else "freed a delivery of a worker that is gone",
                    delivery_id=str(freed.delivery_id), worker_id=str(freed.worker_id), attempt=freed.attempt,
                )  # fmt: skip
                if self.on_reaped is not None:
                    self.on_reaped()
        return self.lease_timeout_s / 10

    async def route(self, conn: AsyncConnection[Any]) -> float:
        routed = await route_unrouted(conn, limit=BATCH)
        if routed:
            self.log.info("routed events that nobody matched before", events=routed)
        return 0.0 if routed >= BATCH else 5.0

    async def retire(self, conn: AsyncConnection[Any]) -> float:
        for name in await retire_triggers(conn):
            self.log.warning("retired a trigger that no running worker knows", trigger=name)
        for name in await retire_schedules(conn):
            self.log.warning("retired a schedule that no running worker knows", schedule=name)
        return 30.0

    async def clear(self, conn: AsyncConnection[Any]) -> float:
        moved = await leave_lanes(conn, limit=BATCH)
        if moved:
            self.log.info("deliveries of triggers that are ordered no more go on without order", deliveries=moved)
        swept = await sweep_lanes(conn, limit=BATCH)
        gathered, delivered = await sweep_gathered(conn, limit=BATCH)
        if delivered:
            self.log.warning(
                "events of a batch that was never handed over get deliveries again: does all of the code that serves "
                "this trigger know that it gathers?", deliveries=delivered,
            )  # fmt: skip
        return 0.0 if BATCH in (moved, swept, gathered) else 5.0

    async def give_back(self, conn: AsyncConnection[Any]) -> float:
        given_back = await give_back(conn, limit=BATCH)
        if given_back:
            self.log.info("gave back what was set aside for calls of runs that are gone", calls=given_back)
        forgotten = await forget_spend(conn, limit=BATCH)
        return 0.0 if BATCH in (given_back, forgotten) else min(5.0, self.lease_timeout_s / 3)

    async def keep(self, conn: AsyncConnection[Any]) -> float:
        """A portion of a pass at a time: what else is due does not wait for all of it."""
        if self.keeping is None:
            self.keeping = Keeping(self.periods)
        try:
            if await self.keeping.portion(conn, wait=False):
                return 0.0
        except Exception as error:
            if is_connection_error(error):
                raise
            # It is the one chore that changes tables, and others must not end with it: nobody would reap the dead.
            self.log.exception(
                "could not remove what is old, or make partitions; all else goes on, and this is tried again"
            )
            self.keeping = None
            return LONGEST_BETWEEN_PASSES_S
        # Done, or somebody else is at it: what we did not get to is theirs.
        kept, self.keeping = self.keeping.done, None
        self.tell(kept)
        shortest = min((period for period in self.periods if period), default=timedelta.max)
        passes = min(shortest.total_seconds() / PASSES_PER_KEEP, LONGEST_BETWEEN_PASSES_S)
        return min(passes, BUSY_S) if kept.busy else passes

    def tell(self, kept: Kept) -> None:
        """Nothing goes without a line that says so."""
        if kept.made:
            self.log.info("made partitions ahead", partitions=[part.name for part in kept.made])
        for dropped in kept.dropped:
            self.log.info(
                "dropped a partition that is older than is kept", partition=dropped.partition.name, rows=dropped.rows,
                bytes=dropped.partition.bytes, still_needed=dropped.moved,
            )  # fmt: skip
        for part in kept.stay:
            self.log.warning(
                "a partition that is older than is kept stays: too many of its events are still needed, by deliveries "
                "that are pending, running or dead; `reflex status` says which", partition=part.name,
            )  # fmt: skip
        if kept.given_up:
            self.log.warning(
                "gave up dead letters that nobody has looked at in REFLEX_KEEP_DEAD_LETTERS", dead_letters=kept.given_up
            )
        if kept.pruned.is_any or kept.runs:
            self.log.info("pruned what is older than is kept", **kept.pruned._asdict(), old_runs=kept.runs)
        if kept.not_owner and not self.not_owner_said:
            self.not_owner_said = True
            self.log.warning(
                "cannot make or drop partitions, since the role of the worker does not own the tables; run `reflex "
                "retention --now` once a day with the DATABASE_URL that `reflex migrate` uses"
            )


def boot_clock() -> float:
    """Seconds; unlike time.monotonic() it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
