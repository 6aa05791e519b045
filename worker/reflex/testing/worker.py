"""One life of a worker, turned by hand: the product's claim loop and attempts, without its timers and threads."""

import asyncio
import os
import socket
from datetime import timedelta
from typing import Any, Final

from psycopg import AsyncConnection

from reflex.agent.app import App
from reflex.agent.models import Models
from reflex.agent.publishing import RunLimits
from reflex.core.errors import ReflexError
from reflex.core.ids import new_id
from reflex.core.journal import StepStore
from reflex.core.lanes import promote_lanes
from reflex.core.placing import Placer
from reflex.core.queue import promote_scheduled
from reflex.core.registration import Registered
from reflex.core.schedules import upcoming_schedules
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.workers import Incarnation, enlist
from reflex.testing.watching import Watch, WatchedInboxes
from reflex.worker.attempt import Attempts
from reflex.worker.awaiting import Awaiting
from reflex.worker.cancelling import Cancelled
from reflex.worker.claim_loop import ClaimLoop
from reflex.worker.timers import fire

__all__ = ["Endless", "Worker"]

FIRED_AT_ONCE: Final = 20
DUE: Final = b"""
SELECT EXISTS (SELECT FROM reflex.delivery WHERE trigger_id = ANY(%(ids)s))
    OR EXISTS (SELECT FROM reflex.lane WHERE trigger_id = ANY(%(ids)s) AND ready)
"""


class Endless(ReflexError):
    """The app does not come to rest."""

    code = "endless"


class Worker:
    """Works off what is due, and stops when nothing is."""

    def __init__(
        self,
        url: str,
        conn: AsyncConnection[Any],
        app: App,
        registered: Registered,
        *,
        models: Models,
        steps: StepStore,
        watch: Watch,
        limits: RunLimits,
        concurrency: int,
    ) -> None:
        """`conn` is for what a worker's other loops do: to make due what is due, and to fire schedules."""
        triggers = {registered.trigger_ids[trigger.name]: trigger for trigger in app.triggers}
        self.conn = conn
        self.watch = watch
        self.life = watch.life
        self.schedule_ids = list(registered.schedule_ids.values())
        self.names = {trigger_id: trigger.name for trigger_id, trigger in triggers.items()}
        self.incarnation = Incarnation(
            new_id(), registered.app_id, tuple(triggers), socket.gethostname(), os.getpid(), concurrency,
            tuple(self.schedule_ids),
        )  # fmt: skip
        cancelled = Cancelled(self.names)
        inboxes = WatchedInboxes(watch, triggers, steps, cancelled)
        self.attempts = Attempts(
            triggers=triggers, models=models, worker_id=self.incarnation.worker_id, limits=limits, steps=steps,
            traced=False, open_journal=watch.open_journal, cancelled=cancelled, inboxes=inboxes,
        )  # fmt: skip
        self.loop = ClaimLoop(
            url,
            worker_id=self.incarnation.worker_id,
            trigger_ids=tuple(triggers),
            ordered_ids=[trigger_id for trigger_id, trigger in triggers.items() if trigger.ordered],
            trigger_names=self.names,
            concurrency=concurrency,
            poll_interval_s=1,
            attempt=self.attempt,
            cancelled=cancelled,
            inboxes=inboxes,
        )
        self.awaiting = Awaiting(url)
        self.placer = Placer()
        # Whether a run may wait for an event; a worker before this one may have left some.
        self.awaits = True
        self.runs_begun = 0

    async def enlist(self) -> None:
        """From here on it may claim."""
        await enlist(self.conn, self.incarnation)

    async def attempt(self, claimed: Claimed) -> Settlement:
        self.runs_begun += 1
        settlement = await self.attempts(claimed)
        self.awaits |= settlement.outcome is Outcome.WAITING
        await self.watch.ended(self.life, settlement, self.names[claimed.trigger_id])
        return settlement

    async def work_off(self, *, timeout_s: float, max_runs: int) -> None:
        """Until nothing is due, or the worker was killed.

        Raises:
            Endless: A run does not end within the time, or there are more of them than that.
        """
        last = self.runs_begun + max_runs
        try:
            async with asyncio.timeout(timeout_s):
                while not self.watch.dead.is_set() and await self.turn():
                    if self.runs_begun > last:
                        raise Endless(
                            f"more than {max_runs} runs, and something is due still: do triggers cause one another? "
                            f"The last ones were of {', '.join(sorted(self.running())) or 'triggers that ended'}"
                        )
        except TimeoutError:
            if not self.running():
                raise Endless(
                    f"after {timeout_s:g} s and {self.runs_begun} runs something is due still: do triggers cause one "
                    "another? If it is to take so long, pass a longer timeout_s"
                ) from None
            raise Endless(
                f"after {timeout_s:g} s a run of {', '.join(sorted(self.running()))} has not ended; if it is to take "
                "so long, pass a longer timeout_s"
            ) from None

    async def turn(self) -> bool:
        """Make due what is due, settle and claim, wait for a run. False: nothing is left to do."""
        await self.make_due()
        await self.loop.turn()
        slots = self.loop.slots
        if not slots.finished and (slots.running or slots.waiting):
            await self.next_end()
        if slots.finished or slots.running or slots.waiting:
            return True
        # What was settled just now may be due at once: a lane whose delivery is tried again without a wait.
        await self.make_due()
        return await self.is_due()

    async def is_due(self) -> bool:
        """Whether there is something to claim."""
        row = await (await self.conn.execute(DUE, {"ids": list(self.names)})).fetchone()
        return row is not None and row[0]

    async def next_end(self) -> None:
        """Until a run has ended, or the worker was killed."""
        self.loop.signal.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self.loop.signal, self.watch.dead)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def wake(self) -> timedelta | None:
        """Make due what waits for an event that is there. How long until a wait is looked at by itself."""
        next_in = None
        while self.awaits:
            found = await self.awaiting.look(self.conn, self.placer)
            # What has ended and is not settled yet may be about to wait.
            self.awaits, next_in = found.anything or bool(self.loop.slots.finished), found.next_in
            if not found.more:
                break
        return next_in

    async def make_due(self) -> None:
        await self.wake()
        await promote_scheduled(self.conn)
        if self.loop.ordered_ids:
            await promote_lanes(self.conn)
        while self.schedule_ids and len(await fire(self.conn, self.schedule_ids)) == FIRED_AT_ONCE:
            pass

    async def next_in(self, *, schedules: bool = True) -> timedelta | None:
        """How long until the next thing that was put off is due; None: nothing is. What has become due just now is
        next, too: the clock does not stand still while we look."""
        found: list[tuple[int, timedelta | None]] = [(0, await self.wake()), await promote_scheduled(self.conn)]
        if self.loop.ordered_ids:
            found.append(await promote_lanes(self.conn))
        if schedules and self.schedule_ids:
            found.append(await upcoming_schedules(self.conn, self.schedule_ids))
        if any(is_due for is_due, _ in found) or await self.is_due():
            return timedelta(0)
        return min((next_in for _, next_in in found if next_in is not None), default=None)

    def running(self) -> set[str]:
        """The triggers of the runs that go on."""
        return {self.names[batch.left[0].trigger_id] for batch in self.loop.slots.running if batch.left}

    async def stop(self) -> None:
        """End what runs still, and let go of the connection. Nothing is settled."""
        await self.loop.disconnect()
        await self.loop.slots.stop()
