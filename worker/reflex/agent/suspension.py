"""Giving up the slot in the middle of a run: the delivery waits, and later runs again from its journal."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NoReturn, cast

import orjson

from reflex.agent.lengths import length_of
from reflex.core.journal import StepKind
from reflex.core.waiting import Wait, WaitKind

if TYPE_CHECKING:
    from reflex.agent.journal import Journal

__all__ = ["Suspended", "sleep", "suspend", "wait_of"]

LONGEST_SLEEP: Final = timedelta(days=3660)


class Suspended(BaseException):
    """Ends a run that has to wait. No `Exception`: what authors' code catches are failures, and this is none."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(wait.reason)
        self.wait = wait


def suspend(wait: Wait) -> NoReturn:
    """End the run here. When the delivery is due again it runs from its beginning, with its journal."""
    raise Suspended(wait)


def wait_of(error: BaseException) -> Wait | None:
    """For what the run waits that ended with this, a suspension or an error that says so in `wait`; None if it does
    not. Of several parallel waits the shortest one: when it is over, the run finds the others again. What any of them
    asks for is asked for."""
    if isinstance(wait := getattr(error, "wait", None), Wait):
        return wait
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        waits = [wait for inner in group.exceptions if (wait := wait_of(inner)) is not None]
        shortest = min(waits, key=lambda wait: wait.at_most, default=None)
        return shortest and shortest._replace(
            asks=tuple(ask for wait in waits for ask in wait.asks),
            awaits=tuple(approval_id for wait in waits for approval_id in wait.awaits),
        )
    return None


async def sleep(journal: "Journal | None", duration: timedelta | float | datetime) -> None:
    """Return if the time is over; else suspend the run until then. Measured by the database's clock. Without a journal,
    outside a worker, it is slept here.

    Raises:
        ValueError: The time is longer than ten years, or a moment without a time zone.
    """
    asked = checked(duration)
    if journal is None:
        time = asked - datetime.now(UTC) if isinstance(asked, datetime) else asked
        await asyncio.sleep(time.total_seconds())
        return
    name = asked.isoformat() if isinstance(asked, datetime) else f"{asked.total_seconds():.6f}"
    with journal.waits.looking():
        step = await journal.look_up(StepKind.WAIT, hashlib.sha256(f"sleep {name}".encode()).digest())
        now = await journal.now()
        if step.recorded is None:
            until = asked if isinstance(asked, datetime) else now + asked
            await journal.record(step, orjson.dumps({"until": until}).decode())
        else:
            until = datetime.fromisoformat(orjson.loads(step.recorded)["until"])
    if now < until:
        reason = f"sleeps until {until.isoformat(timespec='seconds')}"
        await journal.waits.suspend(Wait(WaitKind.TIME, reason, until - now))


def checked(duration: timedelta | float | datetime) -> timedelta | datetime:
    if isinstance(duration, datetime):
        if duration.tzinfo is None:
            raise ValueError(f"sleep({duration!r}): a moment needs a time zone, as in datetime.now(UTC)")
        if duration > datetime.now(UTC) + LONGEST_SLEEP:
            raise ValueError(f"sleep({duration!r}): more than {LONGEST_SLEEP.days} days from now")
        return duration
    return length_of(f"sleep({duration!r})", duration, most=LONGEST_SLEEP)
