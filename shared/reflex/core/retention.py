"""Retention: what is older than a place in the log leaves the database, but for what somebody still needs.

    log ──drop_log──► behind the beginning of the log: no reader gets there ──prune──► gone, or kept until it is settled

An event goes with its runs, its journal, its idempotency key and its place among the unrouted; the approvals that were
asked for because of it, and the marks of its replays, go at the end of the pass. One of which a delivery is open or
dead stays, and so does the row of its append, which is where the next pass finds it.
"""

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Self

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.log_reading import drop_log, log_before
from reflex.core.sessions import count_old_sessions, forget_sessions
from reflex.core.statements import only_row, statement

__all__ = ["Pruned", "Pruning", "take_turn"]

# Events that one statement looks at. An append that uses the idempotency key of one of them waits until it commits.
PORTION: Final = 500


class Pruned(NamedTuple):
    """What went. `needed` are events that stay, since a delivery of theirs is open or dead."""

    events: int = 0
    runs: int = 0
    sessions: int = 0
    needed: int = 0

    @property
    def is_any(self) -> bool:
        return bool(self.events or self.runs or self.sessions)


class Pruning:
    """One pass over everything that is older than a place in the log, the oldest first, in portions.

    Each portion is a commit: a pass that ends early has done what it has done, and the next one does the rest.
    """

    def __init__(
        self, until: Cursor, *, age: timedelta | None = None, runs: bool = True, dry_run: bool = False
    ) -> None:
        """`age` is that of the sessions to forget; none, if it is None. `runs`: they go with their events."""
        self.until = until
        self.done = Pruned()
        self._age = age
        self._runs = runs
        self._dry_run = dry_run
        self._after = 0

    @classmethod
    async def older_than(
        cls,
        conn: AsyncConnection[Any],
        age: timedelta,
        *,
        runs: bool = True,
        dry_run: bool = False,
        now: datetime | None = None,
    ) -> Self:
        """A pass over what is older than that."""
        return cls(await log_before(conn, age, now=now), age=age, runs=runs, dry_run=dry_run)

    async def portion(self, conn: AsyncConnection[Any], *, wait: bool = True, size: int = PORTION) -> bool | None:
        """Do the next portion.

        Args:
            conn: Autocommit.
            wait: For whoever has the turn just now: another pass, or a replay.
            size: How many events to look at, or some more: an append is looked at as a whole.

        Returns:
            Whether there is more to do; None if it was not our turn, and nothing was done.
        """
        if self._dry_run:
            more = await self._prune(conn, size)
            if not more and self._age is not None:
                self.done = self.done._replace(sessions=await count_old_sessions(conn, age=self._age))
            return more
        if not self._after:  # Before anything goes, readers have to be told that it does.
            await drop_log(conn, until=self.until)
        async with conn.transaction():
            if not await take_turn(conn, wait=wait):
                return None
            more = await self._prune(conn, size)
            if not more:
                await conn.execute(statement("forget_approvals"))
                await conn.execute(statement("forget_replays"))
        if self._age is not None:
            forgotten = await forget_sessions(conn, age=self._age, limit=size)
            self.done = self.done._replace(sessions=self.done.sessions + forgotten)
            more = more or forgotten == size
        return more

    async def _prune(self, conn: AsyncConnection[Any], size: int) -> bool:
        bounds = {"after": self._after, **self.until._asdict(), "limit": size}
        how = {"runs": self._runs, "dry_run": self._dry_run}
        position, events, needed, runs = await only_row(conn, "prune_events", {**bounds, **how})
        if position is None:
            return False
        self._after = position
        done = self.done
        self.done = done._replace(events=done.events + events, runs=done.runs + runs, needed=done.needed + needed)
        return True


async def take_turn(conn: AsyncConnection[Any], *, wait: bool = True) -> bool:
    """Keep others from removing old events, or from giving them to a trigger again, until this transaction ends.

    Returns:
        Whether it is our turn; with `wait` it is.
    """
    return (await only_row(conn, "take_turn", {"wait": wait}))[0]
