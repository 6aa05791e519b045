"""The slots of a worker: which deliveries wait for one, which run, and which have finished and are not settled yet.

    claimed ──take──► waiting (prefetched) ──a free slot──► running ──► finished

A slot runs a batch: one delivery, or what was claimed of one lane, one delivery after the other. A lease that the
worker holds is always in exactly one of the three places, or was taken by a run that is in one (see `inboxes`). What
ends other runs needs no slot: it runs beside them.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, Final
from uuid import UUID

import structlog

from reflex.core.settlement import Claimed, Outcome, Settlement, settled
from reflex.worker.cancelling import Cancelled
from reflex.worker.inboxes import Inboxes

__all__ = ["Batch", "Key", "Slots"]

Key = tuple[int, UUID]
# Runs shorter than this are worth claiming ahead of the slots: a round trip is as long as they are.
SHORT_RUN_S: Final = 0.02
# How many deliveries are claimed ahead of the slots at most, and of lanes with one claim: a lane gives no more until
# these are settled.
AHEAD: Final = 800
# How many deliveries are claimed to run beside the slots while these are taken.
BESIDE: Final = 4
# After any other outcome, a run that was not short, or a changed state, which it has to see, the next delivery of the
# lane begins when this one is settled.
GOES_ON: Final = frozenset({Outcome.SUCCEEDED, Outcome.SKIPPED})


class Batch:
    """What one slot works off. `left` begins with the delivery that runs or is to run next. A task that is cancelled
    before it `has_begun` never does, and would never free its slot."""

    __slots__ = ("has_begun", "is_beside", "lane", "left", "taken_at")

    def __init__(self, leases: Iterable[Claimed], *, taken_at: float, is_beside: bool = False) -> None:
        self.left = deque(leases)
        self.has_begun = False
        self.is_beside = is_beside
        self.taken_at = taken_at
        first = self.left[0]
        self.lane = None if first.lane_key is None else (first.trigger_id, first.lane_key)

    def given_back(self, cancelled: Cancelled, *, begun: int = 0) -> list[Settlement]:
        """Give back what is left, of which so many had begun; but for what is cancelled, which ends."""
        settlements = [cancelled.released(lease, begun=place < begun) for place, lease in enumerate(self.left)]
        self.left.clear()
        return settlements


class Slots:
    """Up to `concurrency` batches at a time. `attempt` runs one delivery and never raises but on cancellation;
    `on_finished` is told of each settlement, `on_ended` of each run and how many seconds it took. Deliveries of the
    triggers `beside` run at once, and take no slot."""

    def __init__(
        self,
        concurrency: int,
        attempt: Callable[[Claimed], Awaitable[Settlement]],
        on_finished: Callable[[], None],
        cancelled: Cancelled | None = None,
        beside: Collection[int] = (),
        inboxes: Inboxes | None = None,
        on_ended: Callable[[tuple[Claimed, Settlement, float]], None] | None = None,
    ) -> None:
        self.concurrency = concurrency
        self.beside = frozenset(beside)
        self.running_beside = 0
        self.attempt = attempt
        self.on_finished = on_finished
        self.on_ended = on_ended
        self.cancelled = cancelled or Cancelled()
        self.inboxes = inboxes or Inboxes()
        self.waiting: deque[Batch] = deque()
        self.running: dict[Batch, asyncio.Task[None]] = {}
        self.finished: list[Settlement] = []
        self.run_s = math.inf  # moving average of the run time; not known before the first
        self.log: Any = structlog.get_logger()

    @property
    def runs_are_short(self) -> bool:
        return self.run_s < SHORT_RUN_S

    def room(self) -> int:
        """How many batches may be claimed now: the free slots, and while runs are short as many ahead as take about
        the time of a short run. An exchange costs PostgreSQL as much for a few deliveries as for hundreds."""
        ahead = 0
        if self.runs_are_short:
            ahead = min(int(self.concurrency * SHORT_RUN_S / self.run_s), max(AHEAD, self.concurrency))
        return max(0, self.concurrency + ahead - self.busy - len(self.waiting))

    def room_beside(self) -> int:
        """How many of those that need no slot may be claimed while there is no room."""
        return max(0, BESIDE - self.running_beside) if self.beside else 0

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self.running) - self.running_beside

    def lane_rows(self) -> int:
        """How many deliveries a claim of lanes may take at most. What waits behind a long run is better off in the
        database, where a reader sees it as pending."""
        if not self.runs_are_short:
            return 0
        return max(0, AHEAD - sum(len(batch.left) for batch in (*self.waiting, *self.running)))

    def known(self) -> set[Key]:
        """Trigger and event of every lease that is here."""
        leases = [lease for batch in (*self.waiting, *self.running) for lease in batch.left]
        settled = [each for settlement in self.finished for each in (settlement, *settlement.with_it)]
        return {(each.trigger_id, each.event_id) for each in (*leases, *self.inboxes.leases(), *settled)}

    def runs(self) -> list[Claimed]:
        """The leases of what runs, but for what is cancelled already."""
        return [lease for batch in self.running for lease in islice(batch.left, 1) if lease not in self.cancelled]

    def take(self, claimed: Sequence[Claimed]) -> None:
        """Run them as soon as there are slots. Those of one lane stand together, in their order."""
        now = time.monotonic()
        for lane, leases in groupby(claimed, key=lambda lease: (lease.trigger_id, lease.lane_key)):
            if lane[0] in self.beside:
                for lease in leases:
                    self.running_beside += 1
                    self.begin(Batch((lease,), taken_at=now, is_beside=True))
            elif lane[1] is None:
                self.waiting.extend(Batch((lease,), taken_at=now) for lease in leases)
            else:
                self.waiting.append(Batch(leases, taken_at=now))
        self.fill()

    def join(self, strays: Sequence[Claimed], held: Container[Key]) -> list[Claimed]:
        """Put leases of ours that were not known here behind what they belong to: a run that took them, or was claimed
        with them. Returns those that belong to nothing here. `held` are all leases that the worker has."""
        alone: list[Claimed] = []
        batches = {
            batch.lane: batch
            for batch in (*self.waiting, *self.running)
            if batch.lane is not None and batch.left and batch.left[0][:2] in held
        }
        for lease in strays:
            batch = batches.get((lease.trigger_id, lease.lane_key or ""))
            (alone if batch is None or lease.lane_key is None else batch.left).append(lease)
        return alone

    def refuse(self, claimed: Sequence[Claimed]) -> None:
        """Give them back at once."""
        self.finished.extend(self.cancelled.released(lease) for lease in claimed)

    def give_back(self, older_than_s: float) -> None:
        """Give back what was prefetched and still has no slot: runs turned out longer than they looked, and another
        worker may be idle."""
        while self.waiting and time.monotonic() - self.waiting[0].taken_at >= older_than_s:
            self.finished.extend(self.waiting.popleft().given_back(self.cancelled))

    def abandon(self, lost: Container[Batch]) -> None:
        """Stop batches whose leases are somebody else's by now."""
        self.waiting = deque(batch for batch in self.waiting if batch not in lost)
        for batch in self.running:
            if batch in lost and not self.stopped(batch, "the lease was lost"):
                batch.left.clear()

    def stopped(self, batch: Batch, why: str) -> bool:
        """Stop what a slot runs. False: its task has not begun, and sees when it does what there is to do."""
        if batch.has_begun:
            self.running[batch].cancel(why)
        return batch.has_begun

    def cancel(self, asked: Mapping[Key, str]) -> None:
        """These deliveries are to end, each with its error. One that has not begun never does; one that runs is
        stopped; one that is not here, or has finished, is left alone."""
        for batch in (*self.waiting, *self.running):
            for lease in batch.left:
                error = asked.get(lease[:2])
                if error is None or lease in self.cancelled:
                    continue
                self.cancelled.add(lease, error)
                if lease is batch.left[0]:
                    self.stopped(batch, error)
        self.inboxes.cancel(asked)

    def interrupt(self, lease: Claimed, event_id: UUID) -> None:
        """A newer event of its key ends this run, if it still goes on."""
        for batch in self.running:
            if batch.left and batch.left[0] is lease and lease not in self.cancelled:
                self.cancelled.interrupt(lease, event_id)
                self.stopped(batch, "interrupted by a newer event")

    def fill(self) -> None:
        while self.waiting and self.busy < self.concurrency:
            self.begin(self.waiting.popleft())

    def begin(self, batch: Batch) -> None:
        self.running[batch] = asyncio.create_task(self.work(batch))

    async def work(self, batch: Batch) -> None:
        batch.has_begun = True
        while batch.left:
            started = time.perf_counter()
            lease = batch.left[0]
            superseded = False
            if lease.trigger_id in self.inboxes.triggers and lease.lane_key is not None:
                superseded = self.inboxes.begin(lease, batch.left)
                settlement = await self.inboxes.ended(lease, await self.settlement_of(lease))
            else:
                settlement = await self.settlement_of(lease)
            elapsed_s = time.perf_counter() - started
            if not batch.is_beside:
                self.run_s = elapsed_s if self.run_s == math.inf else self.run_s + (elapsed_s - self.run_s) * 0.05
            if batch not in self.running:
                return  # it was given back while it did not stop
            if self.on_ended is not None:
                self.on_ended((lease, settlement, elapsed_s))
            batch.left.popleft()
            self.finished.append(settlement)
            if (
                not (superseded or settlement.outcome in GOES_ON)
                or elapsed_s >= SHORT_RUN_S
                or settlement.state is not None
            ):
                self.finished.extend(batch.given_back(self.cancelled))
            self.on_finished()
        del self.running[batch]
        self.running_beside -= batch.is_beside
        self.fill()

    async def settlement_of(self, lease: Claimed) -> Settlement:
        if lease in self.cancelled:
            return self.cancelled.settlement(lease)
        try:
            settlement = await self.attempt(lease)
        except asyncio.CancelledError:
            # Only a person, a drain, a lost lease and a lost incarnation cancel; for the latter two nobody settles any
            # more.
            settlement = settled(lease, Outcome.RELEASED)
        if lease in self.cancelled:
            # Whatever it made of its cancellation. The next delivery of the batch is not cancelled.
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            return self.cancelled.settlement(lease, instead_of=settlement)
        return settlement

    async def stop(self) -> None:
        """Cancel what runs, and begin nothing more. A run that swallows its cancellation is given back all the same:
        the fence keeps its outcome out."""
        self.give_back(0)
        for batch in self.running:
            if not self.stopped(batch, "the worker stops"):
                self.finished.extend(batch.given_back(self.cancelled))
        if runs := list(self.running.values()):
            await asyncio.wait(runs, timeout=2)
        for batch in self.running:
            self.log.warning(
                "a run does not stop; its delivery is given back", delivery_id=str(batch.left[0].delivery_id)
            )
            self.finished.extend(self.inboxes.given_back(batch.left[0]))
            self.finished.extend(batch.given_back(self.cancelled, begun=1))
        self.running.clear()
        self.running_beside = 0
