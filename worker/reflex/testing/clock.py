"""The clock of a tested app: the database's, set as far ahead as the test says."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection

from reflex.core.statements import only_row
from reflex.testing.worker import Endless

__all__ = ["Clock"]

MOST_MOMENTS: Final = 10_000


class Clock:
    """What time it is for the app. It goes on by itself, as clocks do, and jumps when it is told to.

    Time limits inside a run (`timeout=`, `ctx.deadline`) are those of the machine and are not moved.
    """

    def __init__(
        self,
        conn: AsyncConnection[Any],
        *,
        work_off: Callable[[], Awaitable[None]],
        next_in: Callable[[], Awaitable[timedelta | None]],
    ) -> None:
        self._conn = conn
        self._work_off = work_off
        self._next_in = next_in
        self._ahead = timedelta(0)

    @property
    def now(self) -> datetime:
        """The time of the app, in UTC."""
        return datetime.now(UTC) + self._ahead

    async def advance(self, by: timedelta | float) -> None:
        """Let time pass with a worker at work: whatever becomes due meanwhile runs at its time, one after the other.

        Args:
            by: A `timedelta`, or seconds.

        Raises:
            Endless: There is no end to what becomes due.
        """
        passing = positive(by)
        # What is due now takes its time first: a wait counts from the end of the run that asked for it.
        await self._work_off()
        end = self.now + passing
        for _ in range(MOST_MOMENTS):
            next_in = await self._next_in()
            if next_in is None or self.now + next_in > end:
                break
            await self.set(self.now + next_in)
            await self._work_off()
        else:
            raise Endless(
                f"something was due at more than {MOST_MOMENTS} moments of {by}; let less time pass at once, or skip()"
            )
        await self.set(max(self.now, end))
        await self._work_off()

    async def advance_to_next(self) -> timedelta | None:
        """Let time pass until the next thing is due, and run it. How long that was; None: nothing was put off."""
        await self._work_off()
        next_in = await self._next_in()
        if next_in is not None:
            await self.set(self.now + next_in)
            await self._work_off()
        return next_in

    async def skip(self, by: timedelta | float) -> None:
        """Let time pass as if no worker ran: afterwards `run()` finds all that has become due, and schedules find that
        they were missed."""
        await self.set(self.now + positive(by))

    async def set(self, moment: datetime) -> None:
        """Set it, without working. Backwards, too.

        Raises:
            ValueError: The moment has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError(f"the clock is set to {moment!r}, which has no time zone; write datetime(…, tzinfo=UTC)")
        set_ahead = "UPDATE reflex_clock.setting SET ahead = %s - pg_catalog.clock_timestamp()"
        await self._conn.execute(set_ahead, [moment])
        await self.read()

    async def read(self) -> None:
        """Look what time it is: the database may be on another machine, with a clock of its own."""
        (now,) = await only_row(self._conn, "clock")
        self._ahead = now - datetime.now(UTC)

    def __repr__(self) -> str:
        return f"Clock({self.now.isoformat(timespec='milliseconds')})"


def positive(by: timedelta | float) -> timedelta:
    time = by if isinstance(by, timedelta) else timedelta(seconds=by)
    if time < timedelta(0):
        raise ValueError(f"time passes forwards: {by!r} is negative; to set the clock back, use clock.set(moment)")
    return time
