"""The claim loop: settles what finished and claims up to the free slots, one round trip at a time, on one connection.

pending ──claim──► slots (waiting, running, finished) ──settle──► gone
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.database import answered_within, connect, is_connection_error
from reflex.core.ids import DeliveryId
from reflex.core.lanes import LaneId
from reflex.core.queue import Exchanged, exchange, own_leases, slots_taken
from reflex.core.settlement import Claimed, Outcome, Settlement, not_begun
from reflex.worker.cancelling import Cancelled
from reflex.worker.inboxes import Inboxes
from reflex.worker.metrics import WorkerMetrics
from reflex.worker.slots import Key, Slots

__all__ = ["ClaimLoop"]

PREFETCH_PATIENCE_S: Final = 1.0
# How often the worker looks for leases of its own that it does not know: a claim whose answer was lost.
STRAY_CHECK_S: Final = 15.0
# What a settlement meets that cannot be written; psycopg itself cannot write half a surrogate pair.
REFUSED: Final = (psycopg.Error, UnicodeError)


class ClaimLoop:
    """One incarnation's deliveries, from claim to settling."""

    def __init__(
        self,
        url: str,
        *,
        worker_id: UUID,
        trigger_ids: Sequence[int],
        trigger_names: dict[int, str],
        concurrency: int,
        poll_interval_s: float,
        attempt: Callable[[Claimed], Awaitable[Settlement]],
        ordered_ids: Sequence[int] = (),
        answer_within_s: float = 20,
        cancelled: Cancelled | None = None,
        beside: Sequence[int] = (),
        inboxes: Inboxes | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        """`attempt` runs one delivery and never raises but on cancellation. `ordered_ids` are those of the triggers
        that are ordered, `beside` of those whose deliveries need no slot. After `answer_within_s` a connection that
        does not answer is given up."""
        self.url = url
        self.worker_id = worker_id
        self.trigger_ids = deque(trigger_ids)
        self.ordered_ids = deque(ordered_ids)
        self.lanes_first = False
        self.overdue: LaneId | None = None
        self.trigger_names = trigger_names
        self.poll_interval_s = poll_interval_s
        self.answer_within_s = answer_within_s
        self.accepting = True
        self.hungry = True
        self.closing = False
        self.signal = asyncio.Event()
        self.asked: Mapping[Key, str] = {}
        self.beside = list(beside)
        self.slots = Slots(
            concurrency, attempt, on_finished=self.signal.set, cancelled=cancelled, beside=beside, inboxes=inboxes,
            on_ended=metrics.ended.append if metrics is not None else None,
        )  # fmt: skip
        self.metrics = metrics
        if metrics is not None:
            metrics.triggers = trigger_names
            metrics.slots = lambda: (self.slots.busy, concurrency)
        self.conn: AsyncConnection[Any] | None = None
        self.strays_checked_at = 0.0
        self.log = structlog.get_logger().bind(worker_id=str(worker_id))

    def wake(self) -> None:
        """There may be something to claim."""
        self.hungry = True
        self.signal.set()

    def cancel(self, asked: Mapping[Key, str]) -> None:
        """As `Slots.cancel`, also for what is being claimed: PostgreSQL knows of its lease, and we do not yet."""
        self.asked = asked
        self.slots.cancel(asked)
        self.signal.set()

    async def run(self) -> None:
        """Claim, run and settle until `drain` has emptied it; cancelled when the worker was declared dead."""
        outage_s = 0.0
        try:
            while not (self.closing and not self.slots.running and not self.slots.finished):
                await self.wait_for_work()
                try:
                    await self.turn()
                    outage_s = 0.0
                except (psycopg.Error, OSError) as error:
                    if not (is_connection_error(error) or is_conflict(error)):
                        raise
                    if outage_s == 0:
                        self.log.warning(
                            "database unreachable: runs go on, their outcomes are kept until it is back",
                            kept=len(self.slots.finished), error=str(error).strip(),
                        )  # fmt: skip
                    await self.disconnect()
                    outage_s = min(max(outage_s * 2, 0.1), 2)
                    await asyncio.sleep(outage_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
        finally:
            await self.disconnect()

    async def wait_for_work(self) -> None:
        slots = self.slots
        if not slots.finished:
            # One pass of the event loop lets everything that is about to finish do so: one settling instead of many.
            # With something to settle already, the next exchange goes out first, and the runs that the last one
            # brought use the time that PostgreSQL takes.
            await asyncio.sleep(0)
        # While most of what is here still has to run, nothing is urgent, and one exchange for many costs less.
        finished = -1
        while finished < len(slots.finished) < len(slots.waiting):
            finished = len(slots.finished)
            await asyncio.sleep(0)
        while not slots.finished and not self.may_claim() and not (self.closing and not slots.running):
            self.signal.clear()
            # Jitter keeps a fleet that was started at once from polling at once.
            poll_s = self.poll_interval_s * random.uniform(0.75, 1.25)  # noqa: S311
            try:
                async with asyncio.timeout(poll_s):
                    await self.signal.wait()
            except TimeoutError:
                self.hungry = True
            slots.give_back(PREFETCH_PATIENCE_S)

    def may_claim(self) -> bool:
        return self.hungry and self.accepting and (self.slots.room() or self.slots.room_beside()) > 0

    async def turn(self) -> None:
        """One exchange, and the runs that it brought."""
        if self.conn is None or self.conn.broken:
            await self.disconnect()
            self.conn = await connect(self.url, name="reflex worker")
            self.strays_checked_at = 0.0
        if self.slots.inboxes.doubtful or time.monotonic() - self.strays_checked_at > STRAY_CHECK_S:
            with answered_within(self.answer_within_s, self.conn):
                await self.adopt_strays(self.conn)
        settlements, limit = self.slots.finished[:1000], self.slots.room() if self.accepting else 0
        if full := bool(self.beside) and self.accepting and limit == 0:
            limit = self.slots.room_beside()
        self.hungry = False
        with answered_within(self.answer_within_s, self.conn):
            exchanged = await self.exchange(self.conn, settlements, limit, full=full)
        del self.slots.finished[: len(settlements)]
        # A full claim means that there is probably more.
        self.hungry = self.hungry or (limit > 0 and slots_taken(exchanged.claimed) >= limit)
        self.trigger_ids.rotate(-1)
        self.ordered_ids.rotate(-1)
        self.lanes_first = not self.lanes_first
        if not full:
            self.overdue = exchanged.overdue
        if exchanged.stale:
            await self.discard(self.conn, settlements, exchanged.stale)
        for conflict in exchanged.conflicts:
            self.gave_way(conflict)
        self.take(exchanged.claimed)
        self.asked = {}

    def gave_way(self, conflict: Settlement) -> None:
        assert conflict.state is not None
        self.log.info(
            "another run changed the state of the key first: the delivery runs again",
            trigger=conflict.state.trigger, key=conflict.state.key,
            delivery_id=str(DeliveryId(conflict.trigger_id, conflict.event_id)),
        )  # fmt: skip

    async def discard(
        self, conn: AsyncConnection[Any], settlements: Sequence[Settlement], stale: frozenset[Key]
    ) -> None:
        """Outcomes that came too late. A lane that was lost must not go on here: it does elsewhere."""
        for trigger_id, event_id in stale:
            self.log.warning(
                "outcome discarded: the lease was lost to another worker",
                delivery_id=str(DeliveryId(trigger_id, event_id)), trigger=self.trigger_names.get(trigger_id),
            )  # fmt: skip
        lanes = {(s.trigger_id, s.lane_key) for s in settlements if s.lane_key and (s.trigger_id, s.event_id) in stale}
        if suspects := [batch for batch in (*self.slots.waiting, *self.slots.running) if batch.lane in lanes]:
            # After a lost answer a settlement may come a second time, and be late only for that.
            with answered_within(self.answer_within_s, conn):
                held = {lease[:2] for lease in await own_leases(conn, worker_id=self.worker_id)}
            self.slots.abandon([batch for batch in suspects if batch.left and batch.left[0][:2] not in held])

    async def exchange(
        self, conn: AsyncConnection[Any], settlements: list[Settlement], limit: int, *, full: bool
    ) -> Exchanged:
        """One exchange. If the slots are `full`, it claims what needs none. A settlement that PostgreSQL refuses (an
        output it cannot store) must not hold up the rest: then each goes alone, and the refused one becomes a dead
        letter."""
        try:
            return await self.exchange_with(conn, settlements, limit, full=full)
        except REFUSED as error:
            if is_connection_error(error) or is_conflict(error) or not settlements:
                raise
        # Some may be settled by now, and some lanes claimed without our having heard of it.
        self.strays_checked_at = 0.0
        held = {lease[:2] for lease in await own_leases(conn, worker_id=self.worker_id)}
        stale: set[Key] = set()
        conflicts: list[Settlement] = []
        for settlement in settlements:
            if settlement[:2] not in held:
                continue
            try:
                done = await self.exchange_with(conn, [settlement], 0)
            except REFUSED as error:
                if is_connection_error(error) or is_conflict(error):
                    raise
                done = await self.exchange_with(conn, [self.refused(settlement, error)], 0)
            stale |= done.stale
            conflicts.extend(done.conflicts)
        return Exchanged([], frozenset(stale), conflicts=tuple(conflicts))

    async def exchange_with(
        self, conn: AsyncConnection[Any], settlements: list[Settlement], limit: int, *, full: bool = False
    ) -> Exchanged:
        began = time.perf_counter()
        exchanged = await exchange(
            conn,
            worker_id=self.worker_id,
            settlements=settlements,
            trigger_ids=self.beside if full else list(self.trigger_ids),
            limit=limit,
            ordered_ids=[] if full else list(self.ordered_ids),
            rows=self.slots.lane_rows(),
            lanes_first=self.lanes_first,
            overdue=self.overdue,
        )
        if self.metrics is not None:
            self.metrics.exchanged(settlements, exchanged, limit=limit, took_s=time.perf_counter() - began)
        return exchanged

    def refused(self, settlement: Settlement, error: Exception) -> Settlement:
        reason = str(error).splitlines()[0][:500].replace("\x00", "")
        self.log.error("PostgreSQL refuses what the run produced", event_id=str(settlement.event_id), error=reason)
        return settlement._replace(
            outcome=Outcome.DEAD, error=f"PostgreSQL refuses what the run produced: {reason}", output=None, usage=None,
            retry_in=None, reason="refused_by_database", published=(),
            state=None, wait=None, with_it=tuple(map(not_begun, settlement.with_it)), gathers=None,
        )  # fmt: skip

    async def adopt_strays(self, conn: AsyncConnection[Any]) -> None:
        """Take up leases of ours that we do not know: their claim was committed, its answer never arrived."""
        self.slots.inboxes.doubtful = False
        leases = await own_leases(conn, worker_id=self.worker_id)
        # Not before that: a run may take more meanwhile, and end.
        known = self.slots.known()
        strays = [lease for lease in leases if lease[:2] not in known]
        if strays:
            self.log.info("took up leases whose claim was not heard of", count=len(strays))
            strays = self.slots.join(strays, {lease[:2] for lease in leases})
        self.take(strays)
        self.strays_checked_at = time.monotonic()

    def take(self, claimed: list[Claimed]) -> None:
        if self.accepting:
            self.slots.take(claimed)
            # Before any of them begins.
            self.slots.cancel(self.asked)
        else:
            self.slots.refuse(claimed)

    async def drain(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Claim no more, give back what has not started, let runs finish within the grace, give back the rest.

        Args:
            hurry: Ends the grace at once.
        """
        self.accepting = False
        self.slots.give_back(0)
        self.signal.set()
        deadline = time.monotonic() + grace_s
        while self.slots.running and not hurry.is_set() and (left := deadline - time.monotonic()) > 0:
            waiting = asyncio.ensure_future(hurry.wait())
            runs = list(self.slots.running.values())
            await asyncio.wait([waiting, *runs], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        await self.slots.stop()
        self.closing = True
        self.signal.set()

    async def disconnect(self) -> None:
        if self.conn is not None:
            conn, self.conn = self.conn, None
            await conn.close()


def is_conflict(error: BaseException) -> bool:
    """A deadlock or serialization failure: PostgreSQL undid the statement, and the same one may succeed next time."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] == "40"
