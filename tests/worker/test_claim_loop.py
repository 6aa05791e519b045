"""The claim loop on a real database, with agents that the test controls."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.cancelling import asked_cancellations, cancel_delivery
from reflex.core.database import connect
from reflex.core.queue import Exchanged
from reflex.core.registration import Registered
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.waiting import Wait, WaitKind
from reflex.worker.claim_loop import ClaimLoop
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, publish, settled, shop

Attempt = Callable[[Claimed], Awaitable[Settlement]]


class Bench:
    """A claim loop, and an agent that runs until the test lets it end."""

    def __init__(self) -> None:
        self.started: list[UUID] = []
        self.gate = asyncio.Event()
        self.most = 0
        self.now = 0

    async def held(self, lease: Claimed) -> Settlement:
        self.started.append(lease.event_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
        finally:
            self.now -= 1
        return settled(lease)


async def at_once(lease: Claimed) -> Settlement:
    return settled(lease)


@asynccontextmanager
async def looping(
    url: str, conn: AsyncConnection[Any], attempt: Attempt, *, concurrency: int = 4, poll_interval_s: float = 0.1
) -> AsyncGenerator[ClaimLoop]:
    registered = await shop(conn)
    loop = make(url, registered, await enlisted(conn, registered), attempt, concurrency, poll_interval_s)
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await loop.slots.stop()


def make(
    url: str, registered: Registered, worker_id: UUID, attempt: Attempt, concurrency: int, poll_interval_s: float
) -> ClaimLoop:
    ids = registered.trigger_ids
    return ClaimLoop(
        url,
        worker_id=worker_id,
        trigger_ids=list(ids.values()),
        trigger_names={trigger_id: name for name, trigger_id in ids.items()},
        concurrency=concurrency,
        poll_interval_s=poll_interval_s,
        attempt=attempt,
    )


async def test_polling_alone_finds_work(database_url: str) -> None:
    """Nobody calls wake(): as behind a PgBouncer in transaction mode. Fails if a time-out does not make it hungry."""
    async with await connect(database_url, name="t") as conn, looping(database_url, conn, at_once):
        await publish(conn, 7)
        await eventually(lambda: all_settled(conn, 7))


async def all_settled(conn: AsyncConnection[Any], runs: int) -> bool:
    return await count(conn, "run") == runs and await count(conn, "lease") == 0


async def test_no_more_runs_and_no_more_leases_than_slots(database_url: str) -> None:
    """Promise 12. Fails if room() ignores what is running: the whole backlog would be claimed into memory."""
    bench = Bench()
    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, bench.held, concurrency=3),
    ):
        await publish(conn, 20)
        await eventually(lambda: len(bench.started) == 3)
        await asyncio.sleep(0.5)
        assert (await count(conn, "lease"), await count(conn, "delivery")) == (3, 17)
        bench.gate.set()
        await eventually(lambda: all_settled(conn, 20))
        assert bench.most == 3


async def test_short_runs_are_claimed_ahead_and_given_back_when_they_turn_long(database_url: str) -> None:
    """Fails without give_back(): what was prefetched would wait behind long runs while another worker is idle."""
    bench = Bench()
    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, bench.held, concurrency=2) as loop,
    ):
        loop.slots.run_s = 0.001
        await publish(conn, 4)
        await eventually(lambda: len(loop.slots.waiting) == 2)
        assert await count(conn, "lease") == 4

        async def given_back() -> bool:
            return await count(conn, "delivery") == 2

        loop.slots.run_s = 1.0
        await eventually(given_back)
        rows = await (await conn.execute("SELECT DISTINCT attempt FROM reflex.delivery")).fetchall()
        assert rows == [(0,)]


@pytest.mark.parametrize(("run_s", "leases"), [(0.001, 42), (1e-9, 802)])
async def test_what_is_claimed_ahead_is_the_work_of_a_short_run_and_bounded(
    database_url: str, run_s: float, leases: int
) -> None:
    """Fails without the bound in room(): the whole backlog would be claimed into the memory of one worker."""
    bench = Bench()
    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, bench.held, concurrency=2) as loop,
    ):
        loop.slots.run_s = run_s
        await publish(conn, 900)
        await eventually(lambda: len(loop.slots.waiting) == leases - 2)
        await asyncio.sleep(0.3)
        assert await count(conn, "lease") == leases


async def test_many_short_runs_take_few_exchanges(database_url: str) -> None:
    """Fails if an exchange goes out for what one pass of the event loop brings: here 20 of 2,000."""
    exchanges = 0

    async def busy(lease: Claimed) -> Settlement:
        until = time.perf_counter() + 0.0002
        while time.perf_counter() < until:
            pass
        return settled(lease)

    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, busy, concurrency=20, poll_interval_s=60) as loop,
    ):
        exchange_with = loop.exchange_with

        async def counted(
            conn: AsyncConnection[Any], settlements: list[Settlement], limit: int, *, full: bool = False
        ) -> Exchanged:
            nonlocal exchanges
            exchanges += 1
            return await exchange_with(conn, settlements, limit, full=full)

        loop.exchange_with = counted
        await publish(conn, 2000)
        loop.wake()
        await eventually(lambda: all_settled(conn, 2000))
        assert exchanges < 25


async def test_outcomes_survive_a_broken_connection(database_url: str) -> None:
    """Promise 9. Fails if `finished` is emptied before the exchange has succeeded."""
    bench = Bench()
    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, bench.held) as loop,
    ):
        await publish(conn, 4)
        await eventually(lambda: len(bench.started) == 4)
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'reflex worker'"
        )
        bench.gate.set()
        await eventually(lambda: all_settled(conn, 4))
        assert loop.slots.finished == []
        assert len(bench.started) == 4, "no run was done again: its outcome had been kept"


async def test_a_claim_whose_answer_was_lost_is_taken_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim commits, its answer never arrives: the lease has a living owner who does not know of it.

    Fails without adopt_strays(): the delivery would be stuck for as long as the worker lives.
    """
    real = queue.exchange
    lost: list[Claimed] = []

    async def losing(conn: AsyncConnection[Any], **rest: Any) -> Exchanged:
        exchanged = await real(conn, **rest)
        if exchanged.claimed and not lost:
            lost.extend(exchanged.claimed)
            raise psycopg.OperationalError("the answer was lost")
        return exchanged

    monkeypatch.setattr("reflex.worker.claim_loop.exchange", losing)
    async with await connect(database_url, name="t") as conn, looping(database_url, conn, at_once):
        await publish(conn, 3)
        await eventually(lambda: all_settled(conn, 3))
        assert lost


@pytest.mark.parametrize("is_lost", [False, True])
async def test_what_is_to_end_while_it_is_being_claimed_never_begins(
    database_url: str, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """PostgreSQL has given the lease, and the worker is told to end it before it is told that it has it; or is never
    told. Fails if it forgets what it does not know: nobody would tell it again."""
    real = queue.exchange
    cancelled: list[UUID] = []
    ran: list[UUID] = []

    async def attempt(lease: Claimed) -> Settlement:
        ran.append(lease.event_id)
        return settled(lease)

    async def meanwhile(conn: AsyncConnection[Any], *, worker_id: UUID, **rest: Any) -> Exchanged:
        exchanged = await real(conn, worker_id=worker_id, **rest)
        if exchanged.claimed and not cancelled:
            cancelled.append(exchanged.claimed[0].event_id)
            await cancel_delivery(here, exchanged.claimed[0].delivery_id)
            loop.cancel(await asked_cancellations(here, worker_id))
            if is_lost:
                raise psycopg.OperationalError("the answer was lost")
        return exchanged

    monkeypatch.setattr("reflex.worker.claim_loop.exchange", meanwhile)
    async with await connect(database_url, name="t") as here:
        await shop(here)
        ids = await publish(here, 3)
        async with looping(database_url, here, attempt) as loop:
            await eventually(lambda: all_settled(here, 3))
        rows = await (await here.execute("SELECT event_id FROM reflex.run WHERE outcome = 'cancelled'")).fetchall()
        assert rows == [(cancelled[0],)]
        assert sorted([*ran, *cancelled]) == sorted(ids)
        assert loop.asked == {}, "a later lease is none of its business"


async def test_a_settlement_that_postgresql_refuses_harms_no_neighbour(database_url: str) -> None:
    """Fails if the refused settlement is sent again and again: every other run of the worker would wait behind it."""

    async def attempt(lease: Claimed) -> Settlement:
        first = int(lease.event_id.int % 2)
        return settled(lease, output='"\\u0000"' if first else '"fine"')

    async with await connect(database_url, name="t") as conn, looping(database_url, conn, attempt, concurrency=50):
        ids = await publish(conn, 40)
        bad = sum(event_id.int % 2 for event_id in ids)
        await eventually(lambda: all_settled(conn, 40))
        assert await count(conn, "dead_letter") == bad
        rows = await (await conn.execute("SELECT DISTINCT reason FROM reflex.dead_letter")).fetchall()
        assert rows == ([("refused_by_database",)] if bad else [])


@pytest.mark.parametrize("bad", ["\x00", "\udcff"])
async def test_a_wait_that_cannot_be_written_harms_no_neighbour(database_url: str, bad: str) -> None:
    """Fails if the dead letter that is made of it keeps the wait, and if half a surrogate pair, which psycopg itself
    refuses, is no refusal: the loop ends, and so does the one of each worker that claims the delivery after it."""

    async def attempt(lease: Claimed) -> Settlement:
        if lease.event_id != ids[1]:
            return settled(lease)
        hour = timedelta(hours=1)
        return settled(lease, Outcome.WAITING, retry_in=hour, wait=Wait(WaitKind.TIME, f"said {bad}", hour))

    async with await connect(database_url, name="t") as conn:
        await shop(conn)
        ids = await publish(conn, 3)
        async with looping(database_url, conn, attempt):
            await eventually(lambda: all_settled(conn, 3))
        rows = await (await conn.execute("SELECT event_id, reason FROM reflex.dead_letter")).fetchall()
        assert rows == [(ids[1], "refused_by_database")]


async def test_draining_releases_at_once_finishes_what_it_can_and_gives_back_the_rest(database_url: str) -> None:
    """Promise 10. Fails if drain() does not stop claiming, or cancels what is running before the grace is over."""
    quick = asyncio.Event()

    async def attempt(lease: Claimed) -> Settlement:
        if lease.event_id == first:
            await quick.wait()
        else:
            await asyncio.sleep(3600)
        return settled(lease)

    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, attempt, concurrency=2) as loop,
    ):
        (first, second, *_) = await publish(conn, 5)
        await eventually(lambda: len(loop.slots.running) == 2)
        draining = asyncio.create_task(loop.drain(1.0, asyncio.Event()))
        await asyncio.sleep(0.1)
        quick.set()
        await draining
        await eventually(lambda: no_leases(conn))
        rows = await (await conn.execute("SELECT event_id, outcome FROM reflex.run ORDER BY outcome DESC")).fetchall()
        assert rows == [(first, "succeeded"), (second, "released")]
        rows = await (await conn.execute("SELECT DISTINCT attempt FROM reflex.delivery")).fetchall()
        assert rows == [(0,)]
        assert await count(conn, "delivery") == 4


async def no_leases(conn: AsyncConnection[Any]) -> bool:
    return await count(conn, "lease") == 0


async def test_a_run_that_swallows_its_cancellation_is_given_back_all_the_same(database_url: str) -> None:
    async def stubborn(lease: Claimed) -> Settlement:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await gate.wait()
                return settled(lease)

    gate = asyncio.Event()
    async with (
        await connect(database_url, name="t") as conn,
        looping(database_url, conn, stubborn) as loop,
    ):
        await publish(conn)
        await eventually(lambda: len(loop.slots.running) == 1)
        hurry = asyncio.Event()
        hurry.set()
        await loop.drain(60, hurry)
        await eventually(lambda: no_leases(conn))
        assert await count(conn, "delivery") == 1
        gate.set()


async def test_a_hot_trigger_does_not_starve_the_others(database_url: str) -> None:
    """Fails if the order of the trigger ids is not rotated from claim to claim."""
    order: list[int] = []

    async def attempt(lease: Claimed) -> Settlement:
        order.append(lease.trigger_id)
        return settled(lease)

    async with await connect(database_url, name="t") as conn:
        registered = await shop(conn, {"hot": "hot", "cold": "cold"})
        await publish(conn, 2000, type="hot")
        await publish(conn, 1, type="cold")
        worker_id = await enlisted(conn, registered)
        loop = make(database_url, registered, worker_id, attempt, 2, 0.1)
        running = asyncio.create_task(loop.run())
        await eventually(lambda: registered.trigger_ids["cold"] in order)
        assert order.index(registered.trigger_ids["cold"]) < 1000
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_another_workers_lease_is_none_of_its_business(database_url: str) -> None:
    async with await connect(database_url, name="t") as conn:
        registered = await shop(conn)
        await publish(conn)
        other = await enlisted(conn, registered)
        (lease,) = await claim(conn, other, list(registered.trigger_ids.values()))
        async with looping(database_url, conn, at_once):
            await asyncio.sleep(0.4)
            assert await count(conn, "lease") == 1
            assert lease.attempt == 1
