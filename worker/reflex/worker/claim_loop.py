"""The claim loop: settles what finished and claims up to the free slots, one round trip at a time, on one connection.

    pending ──claim──► waiting (prefetched) ──slot──► running ──► finished ──settle──► gone

A lease that the worker holds is always in exactly one of `waiting`, `running` and `finished`.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.database import answered_within, connect, is_connection_error
from reflex.core.ids import DeliveryId
from reflex.core.queue import Exchanged, exchange, own_leases
from reflex.core.settlement import Claimed, Outcome, Settlement

__all__ = ["ClaimLoop"]

Key = tuple[int, UUID]
# Runs shorter than this are worth claiming ahead of the slots: a round trip is as long as they are.
SHORT_RUN_S: Final = 0.02
PREFETCH_PATIENCE_S: Final = 1.0
# How often the worker looks for leases of its own that it does not know: a claim whose answer was lost.
STRAY_CHECK_S: Final = 15.0


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
        answer_within_s: float = 20,
    ) -> None:
        """`attempt` runs one delivery and never raises but on cancellation. After `answer_within_s` a connection that
        does not answer is given up."""
        self.url = url
        self.worker_id = worker_id
        self.trigger_ids = deque(trigger_ids)
        self.trigger_names = trigger_names
        self.concurrency = concurrency
        self.poll_interval_s = poll_interval_s
        self.attempt = attempt
        self.answer_within_s = answer_within_s
        self.waiting: deque[tuple[float, Claimed]] = deque()
        self.running: dict[Key, tuple[asyncio.Task[None], Claimed]] = {}
        self.finished: list[Settlement] = []
        self.accepting = True
        self.hungry = True
        self.closing = False
        self.run_s = 1.0  # moving average of the run time
        self.signal = asyncio.Event()
        self.conn: AsyncConnection[Any] | None = None
        self.strays_checked_at = 0.0
        self.log = structlog.get_logger().bind(worker_id=str(worker_id))

    def wake(self) -> None:
        """There may be something to claim."""
        self.hungry = True
        self.signal.set()

    async def run(self) -> None:
        """Claim, run and settle until `drain` has emptied it; cancelled when the worker was declared dead."""
        outage_s = 0.0
        try:
            while not (self.closing and not self.running and not self.finished):
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
                            kept=len(self.finished), error=str(error).strip(),
                        )  # fmt: skip
                    await self.disconnect()
                    outage_s = min(max(outage_s * 2, 0.1), 2)
                    await asyncio.sleep(outage_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
        finally:
            await self.disconnect()

    async def wait_for_work(self) -> None:
        if not self.finished:
            # One pass of the event loop lets everything that is about to finish do so: one settling instead of many.
            # With something to settle already, the next exchange goes out first, and the runs that the last one
            # brought use the time that PostgreSQL takes.
            await asyncio.sleep(0)
        while not self.finished and not (self.hungry and self.room() > 0) and not (self.closing and not self.running):
            self.signal.clear()
            # Jitter keeps a fleet that was started at once from polling at once.
            poll_s = self.poll_interval_s * random.uniform(0.75, 1.25)  # noqa: S311
            try:
                async with asyncio.timeout(poll_s):
                    await self.signal.wait()
            except TimeoutError:
                self.hungry = True
            self.give_back(PREFETCH_PATIENCE_S)

    def give_back(self, older_than_s: float) -> None:
        """Give back what was prefetched and still has no slot: runs turned out longer than they looked, and another
        worker may be idle."""
        while self.waiting and time.monotonic() - self.waiting[0][0] >= older_than_s:
            self.finished.append(released(self.waiting.popleft()[1]))

    def room(self) -> int:
        """How many deliveries may be claimed now: the free slots, and as many again while runs are short."""
        if not self.accepting:
            return 0
        prefetch = self.concurrency if self.run_s < SHORT_RUN_S else 0
        return max(0, self.concurrency + prefetch - len(self.running) - len(self.waiting))

    async def turn(self) -> None:
        """One exchange, and the runs that it brought."""
        if self.conn is None or self.conn.broken:
            await self.disconnect()
            self.conn = await connect(self.url, name="reflex worker")
            self.strays_checked_at = 0.0
        if time.monotonic() - self.strays_checked_at > STRAY_CHECK_S:
            with answered_within(self.answer_within_s, self.conn):
                await self.adopt_strays(self.conn)
        settlements, limit = self.finished[:1000], self.room()
        self.hungry = False
        with answered_within(self.answer_within_s, self.conn):
            exchanged = await self.exchange(self.conn, settlements, limit)
        del self.finished[: len(settlements)]
        # A full claim means that there is probably more.
        self.hungry = self.hungry or (limit > 0 and len(exchanged.claimed) >= limit)
        self.trigger_ids.rotate(-1)
        for trigger_id, event_id in exchanged.stale:
            self.log.warning(
                "outcome discarded: the lease was lost to another worker",
                delivery_id=str(DeliveryId(trigger_id, event_id)), trigger=self.trigger_names.get(trigger_id),
            )  # fmt: skip
        self.take(exchanged.claimed)

    async def exchange(self, conn: AsyncConnection[Any], settlements: list[Settlement], limit: int) -> Exchanged:
        """One exchange. A settlement that PostgreSQL refuses (an output it cannot store) must not hold up the rest:
        then each goes alone, and the refused one becomes a dead letter."""
        ids = list(self.trigger_ids)
        try:
            return await exchange(conn, worker_id=self.worker_id, settlements=settlements, trigger_ids=ids, limit=limit)
        except psycopg.Error as error:
            if is_connection_error(error) or is_conflict(error) or not settlements:
                raise
        stale: set[Key] = set()
        for settlement in settlements:
            try:
                done = await exchange(
                    conn, worker_id=self.worker_id, settlements=[settlement], trigger_ids=ids, limit=0
                )
            except psycopg.Error as error:
                if is_connection_error(error) or is_conflict(error):
                    raise
                done = await exchange(
                    conn,
                    worker_id=self.worker_id,
                    settlements=[self.refused(settlement, error)],
                    trigger_ids=ids,
                    limit=0,
                )
            stale |= done.stale
        return Exchanged([], frozenset(stale))

    def refused(self, settlement: Settlement, error: psycopg.Error) -> Settlement:
        reason = str(error).splitlines()[0][:500].replace("\x00", "")
        self.log.error("PostgreSQL refuses what the run produced", event_id=str(settlement.event_id), error=reason)
        return settlement._replace(
            outcome=Outcome.DEAD, error=f"PostgreSQL refuses what the run produced: {reason}", output=None, usage=None,
            retry_in=None, reason="refused_by_database", published=(),
        )  # fmt: skip

    async def adopt_strays(self, conn: AsyncConnection[Any]) -> None:
        """Take up leases of ours that we do not know: their claim was committed, its answer never arrived."""
        known = {(s.trigger_id, s.event_id) for s in self.finished}
        known |= {(c.trigger_id, c.event_id) for _, c in self.waiting} | self.running.keys()
        strays = [
            lease for lease in await own_leases(conn, worker_id=self.worker_id)
            if (lease.trigger_id, lease.event_id) not in known
        ]  # fmt: skip
        if strays:
            self.log.info("took up leases whose claim was not heard of", count=len(strays))
        self.take(strays)
        self.strays_checked_at = time.monotonic()

    def take(self, claimed: list[Claimed]) -> None:
        if self.accepting:
            now = time.monotonic()
            self.waiting.extend((now, lease) for lease in claimed)
            self.fill_slots()
        else:
            self.finished.extend(released(lease) for lease in claimed)

    def fill_slots(self) -> None:
        while self.waiting and len(self.running) < self.concurrency:
            _, lease = self.waiting.popleft()
            run = asyncio.create_task(self.work(lease))
            self.running[lease.trigger_id, lease.event_id] = (run, lease)

    async def work(self, lease: Claimed) -> None:
        started = time.perf_counter()
        try:
            settlement = await self.attempt(lease)
        except asyncio.CancelledError:
            # Only `drain` and a lost incarnation cancel; for the latter nobody settles any more.
            settlement = released(lease)
        self.run_s += (time.perf_counter() - started - self.run_s) * 0.05
        if self.running.pop((lease.trigger_id, lease.event_id), None) is None:
            return  # it was given back while it did not stop
        self.finished.append(settlement)
        self.fill_slots()
        self.signal.set()

    async def drain(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Claim no more, give back what has not started, let runs finish within the grace, give back the rest.

        Args:
            hurry: Ends the grace at once.
        """
        self.accepting = False
        self.give_back(0)
        self.signal.set()
        deadline = time.monotonic() + grace_s
        while self.running and not hurry.is_set() and (left := deadline - time.monotonic()) > 0:
            waiting = asyncio.ensure_future(hurry.wait())
            runs = [run for run, _ in self.running.values()]
            await asyncio.wait([waiting, *runs], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        await self.stop_runs()
        self.closing = True
        self.signal.set()

    async def stop_runs(self) -> None:
        """Cancel what runs. A run that swallows its cancellation is given back all the same: the fence keeps its
        outcome out."""
        runs = [run for run, _ in self.running.values()]
        for run in runs:
            run.cancel("the worker stops")
        if runs:
            await asyncio.wait(runs, timeout=2)
        for _, lease in self.running.values():
            self.log.warning("a run does not stop; its delivery is given back", delivery_id=str(lease.delivery_id))
            self.finished.append(released(lease))
        self.running.clear()

    async def disconnect(self) -> None:
        if self.conn is not None:
            conn, self.conn = self.conn, None
            await conn.close()


def released(lease: Claimed) -> Settlement:
    return Settlement(lease.trigger_id, lease.event_id, lease.lease_epoch, Outcome.RELEASED)


def is_conflict(error: BaseException) -> bool:
    """A deadlock or serialization failure: PostgreSQL undid the statement, and the same one may succeed next time."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] == "40"
