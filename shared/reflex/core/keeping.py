"""Keeping: what the fleet does about time. Partitions are made ahead of it, and what is older than its period goes.

    dead letters given up ─► partitions made ─► partitions dropped ─► what belonged to their events, row by row

One worker at a time does it, in portions, each a commit: what else is due does not wait for all of it.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.dead_letters import DeadLetterFilter, purge_dead_letters
from reflex.core.durations import written
from reflex.core.ids import first_id_at
from reflex.core.log_reading import drop_log, log_of_ids_before
from reflex.core.partition_dropping import Dropped, drop_partition
from reflex.core.partitions import TABLES, Busy, Partition, list_partitions, make_ahead
from reflex.core.periods import Periods, partition_width
from reflex.core.retention import PORTION, Pruned, Pruning, take_turn
from reflex.core.statements import only_row

__all__ = ["Keeping", "Kept", "end_of_drops", "goes_whole", "is_over"]

BEGINNING: Final = Cursor(0, 0)

Step = Callable[[AsyncConnection[Any], bool], Awaitable[bool | None]]


class Kept(NamedTuple):
    """What a pass has done. `stay` are partitions of which too much is needed, `busy` tables that something held on to.
    `not_owner`: partitions may neither be made nor dropped by this role."""

    pruned: Pruned = Pruned()
    made: tuple[Partition, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    stay: tuple[Partition, ...] = ()
    given_up: int = 0
    runs: int = 0
    busy: tuple[str, ...] = ()
    not_owner: bool = False

    @property
    def is_any(self) -> bool:
        return bool(self.pruned.is_any or self.made or self.dropped or self.given_up or self.runs)


class Keeping:
    """One pass. Call `portion` until it is over.

    Args:
        now: By the database's clock, if it is not to be asked.
        whatever_it_takes: See `make_ahead`.
    """

    def __init__(self, periods: Periods, *, now: datetime | None = None, whatever_it_takes: bool = False) -> None:
        self.done = Kept()
        self._periods = periods
        self._now = now
        self._whatever_it_takes = whatever_it_takes
        self._pruning: Pruning | None = None
        self._end: datetime | None = None
        self._steps: list[Step] = [
            self._give_up, self._make, self._drop, self._prune, self._forget_unrouted, self._forget_runs
        ]  # fmt: skip

    async def portion(self, conn: AsyncConnection[Any], *, wait: bool = True) -> bool | None:
        """Do the next portion; `conn` is autocommit, `wait` is for whoever has the turn just now.

        Returns:
            Whether there is more to do; None if it was not our turn.
        """
        if self._now is None:
            self._now = (await only_row(conn, "clock"))[0]
        if not self._steps:
            return False
        more = await self._steps[0](conn, wait)
        if more is None:
            return None
        if not more:
            del self._steps[0]
        return bool(self._steps)

    @property
    def now(self) -> datetime:
        assert self._now is not None
        return self._now

    async def _give_up(self, conn: AsyncConnection[Any], wait: bool) -> bool:
        """Dead letters that nobody has touched in their time. Their events say so; then they may go as well."""
        period = self._periods.dead_letters
        if period is None or not (await only_row(conn, "dead_before", {"before": self.now - period}))[0]:
            return False
        because = f"given up after {written(period)} as a dead letter (REFLEX_KEEP_DEAD_LETTERS)"
        which = DeadLetterFilter(until=self.now - period)
        given_up = await purge_dead_letters(conn, which, limit=PORTION, because=because)
        self._add(given_up=self.done.given_up + given_up)
        return given_up == PORTION

    async def _make(self, conn: AsyncConnection[Any], wait: bool) -> bool | None:
        for table in TABLES:
            with self._hindered(table):
                async with conn.transaction():
                    if not await take_turn(conn, wait=wait):
                        return None
                    made = await make_ahead(
                        conn, table, width=partition_width(self._periods.of(table)), now=self.now,
                        whatever_it_takes=self._whatever_it_takes,
                    )  # fmt: skip
                self._add(made=(*self.done.made, *made))
        return False

    async def _drop(self, conn: AsyncConnection[Any], wait: bool) -> bool | None:
        """The oldest partition whose time is over: one of events before any of runs, which go with them."""
        stay = {part.name for part in self.done.stay}
        over = [part for part in await list_partitions(conn) if is_over(part, self._periods, self.now)]
        left = [part for part in over if part.name not in stay and part.table not in self.done.busy]
        if not left or self.done.not_owner:
            return False
        part = left[0]
        if part.table == "event":
            # Before anything goes, readers have to be told that it does.
            await drop_log(conn, until=await self._log_until(conn, part.until))
        with_events = part.table == "run" and self._periods.runs is None
        period = self._periods.of(part.table)
        before = self.now - period if period and not with_events else None
        with self._hindered(part.table):
            async with conn.transaction():
                if not await take_turn(conn, wait=wait):
                    return None
                dropped = await drop_partition(conn, part, before=before, with_events=with_events)
            if dropped is None:
                self._add(stay=(*self.done.stay, part))
            else:
                self._add(dropped=(*self.done.dropped, dropped))
        return True

    @contextmanager
    def _hindered(self, table: str) -> Generator[None]:
        """What keeps partitions from being made or dropped is noted, and the rest of the pass goes on."""
        try:
            yield
        except Busy:
            self._add(busy=(*self.done.busy, table))
        except psycopg.errors.InsufficientPrivilege:
            self._add(not_owner=True)

    async def _prune(self, conn: AsyncConnection[Any], wait: bool) -> bool | None:
        """What belonged to events that went, and those that no partition took with it."""
        period = self._periods.events
        if period is None or "event" in self.done.busy:
            return False
        if self._pruning is None:
            runs = self._periods.runs is None
            if self._periods.exact:
                self._pruning = await Pruning.older_than(conn, period, runs=runs, now=self.now)
            else:
                end = self._end = end_of_drops(
                    await list_partitions(conn, "event"), self.now - period, width=partition_width(period)
                )
                self._pruning = Pruning(await self._log_until(conn, end), age=period, runs=runs)
        more = await self._pruning.portion(conn, wait=wait)
        self._add(pruned=self._pruning.done)
        return more

    async def _forget_unrouted(self, conn: AsyncConnection[Any], wait: bool) -> bool:
        """Those that went with their partition: the row-wise pass finds them by the type that an event has."""
        if self._end is None:
            return False
        parameters = {"event_id": first_id_at(self._end), "limit": PORTION}
        return (await only_row(conn, "forget_unrouted", parameters))[0] == PORTION

    async def _forget_runs(self, conn: AsyncConnection[Any], wait: bool) -> bool:
        if self._periods.runs is None:
            return False
        before = self.now - self._periods.runs
        parameters = {"event_id": first_id_at(before), "before": before, "limit": PORTION}
        forgotten = (await only_row(conn, "forget_runs", parameters))[0]
        self._add(runs=self.done.runs + forgotten)
        return forgotten == PORTION

    async def _log_until(self, conn: AsyncConnection[Any], end: datetime | None) -> Cursor:
        """The end of the log of events that were made before then; the beginning, if nothing goes."""
        if end is None or self._periods.events is None:
            return BEGINNING
        return await log_of_ids_before(conn, first_id_at(end), end, at_most=self.now - self._periods.events)

    def _add(self, **changes: Any) -> None:
        self.done = self.done._replace(**changes)


def is_over(part: Partition, periods: Periods, now: datetime) -> bool:
    """Whether the time of a partition is over, so that it goes with the next pass."""
    period = periods.of(part.table)
    return period is not None and part.is_behind(now - period)


def end_of_drops(partitions: list[Partition], moment: datetime, *, width: timedelta) -> datetime:
    """Up to when events go one by one that are older than a moment: to the beginning of the partition that holds it,
    for that one goes as a whole later. In one that holds more time than it would if it were made now, they go one by
    one, as they do where there is no partition."""
    for part in partitions:
        if goes_whole(part, width) and part.since and part.until and part.since <= moment < part.until:
            return part.since
    return moment


def goes_whole(part: Partition, width: timedelta) -> bool:
    """Whether its events wait for the last of them: it is no wider than what is made for their period."""
    return part.since is not None and part.until is not None and part.until - part.since <= width
