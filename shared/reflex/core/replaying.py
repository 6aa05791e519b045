"""Replay: new deliveries of one trigger for events that are in the log already.

A delivery that a replay makes is marked (`reflex.replayed`): runs with a higher lease_epoch than the mark are runs of a
replay, whatever becomes of them. No other delivery of that trigger and event is ever made after it, so one mark is all
there is to keep.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.errors import NotFound
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import expired, log_before, log_bounds
from reflex.core.pacing import PORTION, Pace
from reflex.core.pages import QueryRejected
from reflex.core.retention import take_turn
from reflex.core.settlement import Claimed
from reflex.core.statements import only_row, statement

__all__ = ["Replay", "ReplaySpan", "Replayed", "ReplayedTrigger", "find_trigger", "is_replay", "replay_span"]

EVERYTHING: Final = LogFilter()
UNPACED: Final = Pace()


class ReplayedTrigger(NamedTuple):
    """The trigger that gets the events again."""

    trigger_id: int
    name: str
    app: str


class ReplaySpan(NamedTuple):
    """The part of the log that is replayed: all events behind `after`, up to `up_to`."""

    after: Cursor
    up_to: Cursor


class Replayed(NamedTuple):
    """How far a replay is, and what it has done so far.

    `left_alone` are events of which the trigger's delivery is pending, running or dead, or about to be made.
    """

    cursor: Cursor
    looked_at: int = 0
    replayed: int = 0
    left_alone: int = 0


class Found(NamedTuple):
    """What `events_to_replay` found: where it ended, and the deliveries to make, a sequence for each column."""

    cursor: Cursor
    looked_at: int
    left_alone: int
    event_id: Sequence[UUID]
    lease_epoch: Sequence[int]
    lane_key: Sequence[str | None]
    available_at: Sequence[datetime | None]


async def find_trigger(conn: AsyncConnection[Any], name: str, *, app: str | None = None) -> ReplayedTrigger:
    """The trigger of that name.

    Raises:
        NotFound: There is none, or it is retired; the sentence names those that there are.
        QueryRejected: Several apps have one, and `app` does not say which.
    """
    rows = await (await conn.execute(statement("find_triggers"))).fetchall()
    known = [(ReplayedTrigger(*row[:3]), row[3]) for row in rows]
    found = [
        (trigger, is_retired) for trigger, is_retired in known if trigger.name == name and app in (None, trigger.app)
    ]
    serving = [trigger for trigger, is_retired in found if not is_retired]
    if len(serving) == 1:
        return serving[0]
    if serving:
        apps = ", ".join(trigger.app for trigger in serving)
        raise QueryRejected(f"several apps have a trigger {name!r}: say which of {apps} is meant", field="app")
    others = ", ".join(f"{trigger.name} of {trigger.app}" for trigger, is_retired in known if not is_retired)
    what = f"trigger {name!r} is retired: no running code has it" if found else f"there is no trigger {name!r}"
    raise NotFound(f"{what}{f' of {app}' if app and not found else ''}; there are {others or 'none'}")


async def replay_span(
    conn: AsyncConnection[Any],
    *,
    after: Cursor | None = None,
    since: datetime | None = None,
    up_to: Cursor | None = None,
    until: datetime | None = None,
    written: str = "{}",
) -> ReplaySpan:
    """Where a replay begins and ends. What counts of an event is when it got its place in the log, right after it was
    stored.

    Args:
        after: Behind this cursor; `since`: with the events of then or later. One of the two.
        up_to: With the event of this cursor; `until`: before then. Without either, with the log as it is now, so that
            what comes of the replay is no part of it.
        written: How errors write the names of these, as in `--{}`; the underscore is a dash then.

    Raises:
        QueryRejected: It is not said where to begin, or twice where to begin or to end.
        CursorExpired: Events after `after` were dropped from the log.
        CursorRejected: A cursor is ahead of the log.
    """

    def name(of: str) -> str:
        return written.format(of.replace("_", "-") if "-" in written else of)

    bounds = await log_bounds(conn)
    if after is not None and since is not None:
        raise QueryRejected(f"goes without {name('after')}: both say where to begin", field=name("since"))
    if up_to is not None and until is not None:
        raise QueryRejected(f"goes without {name('up_to')}: both say where to end", field=name("until"))
    if after is not None:
        begin = bounds.check(after, field=name("after"))
    elif since is not None:
        begin = await log_before(conn, timedelta(0), now=since)
    else:
        raise QueryRejected(
            f"is missing; say from when on, as in 2h or 2026-01-31T09:00:00Z, or behind which cursor: "
            f"{name('after')} {bounds.start} begins with the first event of the log",
            field=name("since"),
        )
    if until is not None:
        if since is not None and since >= until:
            raise QueryRejected(f"is not after {name('since')}", field=name("until"))
        return ReplaySpan(begin, min(bounds.end, await log_before(conn, timedelta(0), now=until)))
    return ReplaySpan(begin, bounds.end if up_to is None else bounds.check(up_to, field=name("up_to")))


class Replay:
    """Makes new deliveries for the events of a span that the trigger's routes match, in the order of the log.

    Runs of before stay, their journals do not. A delivery that is open or dead is left alone. Iterating does portion
    after portion and gives `done` after each; each is a commit. To go on after an interruption, begin another replay
    after `done.cursor`.

    Args:
        conn: Autocommit.
        filter: By type, source and key.
        dry_run: Only count.
        pace: How fast, at most.
        portion: How many events to look at in one commit, or some more: an append is looked at as a whole.

    Attributes:
        done: How far it is. True after an interruption, too: what was committed is in it.
        first, last: The first and the last event that was replayed, or would be; None as long as there is none.
    """

    def __init__(
        self,
        conn: AsyncConnection[Any],
        trigger: ReplayedTrigger,
        span: ReplaySpan,
        *,
        filter: LogFilter = EVERYTHING,
        dry_run: bool = False,
        pace: Pace = UNPACED,
        portion: int = PORTION,
    ) -> None:
        self.done = Replayed(span.after)
        self.first: UUID | None = None
        self.last: UUID | None = None
        self._conn = conn
        self._trigger = trigger
        self._end = span.up_to
        self._filter = filter
        self._dry_run = dry_run
        self._pace = pace
        self._portion = portion
        self._is_committing = False
        self._pause_s = 0.0

    @property
    def is_finished(self) -> bool:
        return self.done.cursor >= self._end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Replayed:
        """The next portion, after the pause that is due.

        Raises:
            CursorExpired: Events that come next were dropped from the log.
        """
        if self.is_finished:
            raise StopAsyncIteration
        await asyncio.sleep(self._pause_s)
        await self.portion()
        return self.done

    async def portion(self, most: int | None = None) -> None:
        """The next portion at once, with at most so many deliveries, however fast the pace.

        Cancelled while it commits, it ends first: whoever goes on behind `done.cursor` must not do it again.
        """
        portion = asyncio.create_task(self._replay(self._pace.most if most is None else most))
        try:
            await asyncio.shield(portion)
        except asyncio.CancelledError:
            if not self._is_committing:
                portion.cancel()
            await asyncio.wait([portion])
            raise

    async def _replay(self, most: int) -> None:
        if self._dry_run:
            found = await self._find(most)
        else:
            async with self._conn.transaction():
                await take_turn(self._conn)
                found = await self._find(most)
                if found.event_id:
                    columns = {name: list(getattr(found, name)) for name in Found._fields[3:]}
                    await self._conn.execute(
                        statement("replay_events"), {"trigger": self._trigger.trigger_id, **columns}
                    )
                self._is_committing = True
        self._is_committing = False
        made, done = len(found.event_id), self.done
        self.done = Replayed(
            found.cursor, done.looked_at + found.looked_at, done.replayed + made, done.left_alone + found.left_alone
        )
        self._pause_s = self._pace.pause_s if made and not self._dry_run else 0.0
        if made:
            self.first, self.last = self.first or found.event_id[0], found.event_id[-1]

    async def _find(self, most: int) -> Found:
        begin = self.done.cursor
        parameters = {
            "trigger": self._trigger.trigger_id, **self._filter.parameters(), **begin._asdict(),
            "end_position": self._end.position, "end_place": self._end.place, "limit": self._portion, "most": most,
        }  # fmt: skip
        row = await only_row(self._conn, "events_to_replay", parameters)
        start_position, start_place, position, place, next_position, next_place, looked_at, left_alone, *columns = row
        if begin < (start := Cursor(start_position, start_place)):
            raise expired(start, field="after")
        if next_position is not None:
            cursor = Cursor(next_position, next_place - 1)
        else:
            reached = self._end if position is None else min(self._end, Cursor(position, place))
            # The end may be a place where no append is: then the last one before it has been read.
            cursor = reached if reached > begin else self._end
        return Found(cursor, looked_at, left_alone, *(column or () for column in columns))


async def is_replay(conn: AsyncConnection[Any], claimed: Claimed) -> bool:
    """Whether this run is one of a replay. Who asks this of a delivery whose `lease_epoch` is its attempt knows the
    answer before: no."""
    lease = {"trigger_id": claimed.trigger_id, "event_id": claimed.event_id, "lease_epoch": claimed.lease_epoch}
    return (await only_row(conn, "is_replay", lease))[0]
