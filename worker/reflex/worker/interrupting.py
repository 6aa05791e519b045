"""Interrupting: runs whose trigger says so end when a newer event of their key is there.

    no such run ──one begins──► look ──told of appends, or after a second──► look again

A look is one statement for all of them, and changes nothing. What is cancelled is settled where the runs are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from reflex.agent.ordering import WhileRunning
from reflex.agent.triggers import Trigger
from reflex.core.inbox import LOOKED_AT, Place, newer_in_lanes
from reflex.core.journal import JournalUnavailable, StepStore
from reflex.core.settlement import Claimed
from reflex.worker.inboxes import wants
from reflex.worker.slots import Slots

__all__ = ["Interrupting"]

# However many appends there are, it is not looked more often than this; and while such a run goes on, at least this
# often.
SHORTEST_S: Final = 0.05
LOOK_S: Final = 1.0


class Interrupting:
    """Ends the runs of a worker that a newer event interrupts."""

    def __init__(self, triggers: Mapping[int, Trigger], slots: Slots, steps: StepStore) -> None:
        self.triggers = {
            trigger_id: trigger
            for trigger_id, trigger in triggers.items()
            if trigger.while_running is WhileRunning.INTERRUPT
        }
        self.slots = slots
        self.steps = steps
        self.signal = asyncio.Event()
        # Of each run, up to where its lane holds nothing that would end it.
        self.looked_at: dict[tuple[int, UUID], Place] = {}
        self.log: Any = structlog.get_logger()

    def wake(self) -> None:
        """Something was appended, or a run began."""
        self.signal.set()

    async def run(self) -> None:
        """Until cancelled. Without a run that can be interrupted it waits for one, and asks nobody."""
        while True:
            self.signal.clear()
            looked_at = time.monotonic()
            if running := self.interruptible():
                try:
                    await self.look(running)
                except (psycopg.Error, JournalUnavailable) as error:
                    self.log.warning("runs are interrupted later: the lanes cannot be read", error=str(error).strip())
            try:
                async with asyncio.timeout(LOOK_S if self.interruptible() else None):
                    await self.signal.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, looked_at + SHORTEST_S - time.monotonic()))

    def interruptible(self) -> list[Claimed]:
        """The runs that a newer event would end."""
        return [
            lease for lease in self.slots.runs() if lease.trigger_id in self.triggers and lease.lane_key is not None
        ]

    async def look(self, running: list[Claimed]) -> None:
        """One page of what waits behind each run; the next one, if there is, at the next look, which is due then."""
        runs = {lease[:2]: lease for lease in running}
        self.looked_at = {run: place for run, place in self.looked_at.items() if run in runs}
        newer = await self.steps.patiently(lambda conn: newer_in_lanes(conn, running, after=self.looked_at))
        if any(number >= LOOKED_AT for number in Counter(each.run for each in newer).values()):
            self.signal.set()
        for run, place, event in newer:
            lease = runs.get(run)
            if lease is None:
                continue
            self.looked_at[run] = place
            if wants(self.triggers[lease.trigger_id], event):
                del runs[run]
                self.slots.interrupt(lease, event.event_id)
