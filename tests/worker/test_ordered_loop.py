"""The claim loop with ordered triggers: one at a time for each key, and what stops a batch."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.queue import Exchanged
from reflex.core.reaping import reap
from reflex.core.registration import Manifest, Registered, TriggerDefinition, register
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.worker.claim_loop import ClaimLoop
from tests.processes import eventually
from tests.queue_fixtures import claim_ordered, count, enlisted, is_quiet, new_event, ordered_shop, settled

Attempt = Callable[[Claimed], Awaitable[Settlement]]
LANE = "SELECT pending, running FROM reflex.lane WHERE key = 'a'"


class Runs:
    """What ran when: by key, in the order of the starts; and whether a key ever had two runs at a time."""

    def __init__(self) -> None:
        self.started: list[Claimed] = []
        self.now: list[str | None] = []
        self.overlapped = False
        self.gate = asyncio.Event()

    async def quick(self, lease: Claimed) -> Settlement:
        self.overlapped = self.overlapped or lease.lane_key in self.now
        self.started.append(lease)
        self.now.append(lease.lane_key)
        try:
            await asyncio.sleep(0)
        finally:
            self.now.remove(lease.lane_key)
        return settled(lease)

    async def held(self, lease: Claimed) -> Settlement:
        self.started.append(lease)
        await self.gate.wait()
        return settled(lease)

    def of(self, key: str) -> list[UUID]:
        return [lease.event_id for lease in self.started if lease.lane_key == key]


@asynccontextmanager
async def looping(
    url: str, conn: AsyncConnection[Any], registered: Registered, attempt: Attempt, *, concurrency: int = 4
) -> AsyncGenerator[ClaimLoop]:
    loop = ClaimLoop(
        url,
        worker_id=await enlisted(conn, registered),
        trigger_ids=list(registered.trigger_ids.values()),
        ordered_ids=[registered.trigger_ids["pack"]],
        trigger_names={trigger_id: name for name, trigger_id in registered.trigger_ids.items()},
        concurrency=concurrency,
        poll_interval_s=0.1,
        attempt=attempt,
    )
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await loop.slots.stop()


async def publish(conn: AsyncConnection[Any], keys: str, type: str = "order.created") -> list[UUID]:
    events = [new_event(type, key=key) for key in keys]
    await append(conn, events)
    return [event.event_id for event in events]


async def fetch(conn: AsyncConnection[Any], query: str) -> list[Any]:
    return await (await conn.execute(query.encode())).fetchall()


async def test_a_key_runs_one_at_a_time_in_order_and_takes_one_slot(database_url: str) -> None:
    """Fails if take() makes a batch of each delivery: those of one lane would run in parallel."""
    runs = Runs()
    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        async with looping(database_url, conn, registered, runs.quick) as loop:
            loop.slots.run_s = 0.001
            events = await publish(conn, "ab" * 30)
            await eventually(lambda: is_quiet(conn))
        assert runs.of("a") == events[::2]
        assert runs.of("b") == events[1::2]
        assert not runs.overlapped


async def test_a_long_run_holds_one_slot_and_its_key_and_no_more(database_url: str) -> None:
    """Fails if a claim takes a run of deliveries of a lane whose runs are long, or if a lane counts for its rows."""
    runs = Runs()
    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        async with looping(database_url, conn, registered, runs.held, concurrency=2):
            await publish(conn, "aaabbbc")
            await eventually(lambda: len(runs.started) == 2)
            await asyncio.sleep(0.3)
            assert [lease.lane_key for lease in runs.started] == ["a", "b"]
            assert await count(conn, "lease") == 2
            runs.gate.set()
            await eventually(lambda: is_quiet(conn))


async def test_after_a_long_run_the_next_of_its_key_begins_when_that_is_settled(database_url: str) -> None:
    """Fails if a batch goes on whatever its runs take: the next one would begin before what this one did is stored."""
    runs = Runs()
    unsettled: list[int] = []

    async def attempt(lease: Claimed) -> Settlement:
        unsettled.append(len(loop.slots.finished))
        await asyncio.sleep(0.03)
        return await runs.quick(lease)

    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        events = await publish(conn, "aaa")
        async with looping(database_url, conn, registered, attempt) as loop:
            loop.slots.run_s = 0.0001
            await eventually(lambda: is_quiet(conn))
        assert runs.of("a") == events
        assert unsettled == [0, 0, 0]


async def test_after_a_failure_nothing_of_the_batch_begins(database_url: str) -> None:
    """Fails if the batch goes on after a retry: the next delivery would overtake the one that failed."""
    runs = Runs()

    async def attempt(lease: Claimed) -> Settlement:
        settlement = await runs.quick(lease)
        if lease.event_id == events[1] and lease.attempt == 1:
            return settlement._replace(outcome=Outcome.RETRY, error="x", retry_in=timedelta(hours=1))
        return settlement

    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        events = await publish(conn, "aaaa")
        async with looping(database_url, conn, registered, attempt) as loop:
            loop.slots.run_s = 0.001
            await eventually(lambda: lane_is(conn, 3, 0))
            await asyncio.sleep(0.3)
        assert runs.of("a") == events[:2]
        assert await fetch(conn, "SELECT attempt FROM reflex.ordered ORDER BY position") == [(1,), (0,), (0,)]
        assert await fetch(conn, "SELECT outcome FROM reflex.run ORDER BY outcome") == [("retry",), ("succeeded",)]


async def lane_is(conn: AsyncConnection[Any], *expected: int) -> bool:
    return await fetch(conn, LANE) == [expected]


async def test_draining_gives_a_lane_back_in_its_order(database_url: str) -> None:
    """Promise 10. Fails if drain() gives back what runs only: the lane would stay claimed until it is reaped."""
    runs = Runs()
    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        async with looping(database_url, conn, registered, runs.held) as loop:
            loop.slots.run_s = 0.001
            events = await publish(conn, "aaa")
            await eventually(lambda: len(runs.started) == 1)
            assert await lane_is(conn, 0, 3)
            await loop.drain(0, asyncio.Event())
            await eventually(lambda: lane_is(conn, 3, 0))
        worker_id = await enlisted(conn, registered)
        again = await claim_ordered(conn, worker_id, registered)
        assert [(lease.event_id, lease.attempt) for lease in again] == [(event_id, 1) for event_id in events]
        assert await fetch(conn, "SELECT outcome FROM reflex.run") == [("released",)]


async def test_a_lane_that_was_lost_does_not_go_on_here(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker was taken for dead, and hears of it when it settles the first of three. However slow the machine is,
    that was a short run.

    Fails without abandon(): it would run the other two while another worker does so, too.
    """
    monkeypatch.setattr("reflex.worker.slots.SHORT_RUN_S", 3600)
    runs = Runs()
    first, second = asyncio.Event(), asyncio.Event()

    async def attempt(lease: Claimed) -> Settlement:
        runs.started.append(lease)
        await (first if lease.event_id == events[0] else second).wait()
        return settled(lease)

    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        events = await publish(conn, "aaa")
        async with looping(database_url, conn, registered, attempt) as loop:
            loop.slots.run_s = 0.001
            await eventually(lambda: len(runs.started) == 1)
            assert await lane_is(conn, 0, 3)
            await conn.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
            await reap(conn, lease_timeout=timedelta(minutes=1))
            first.set()
            await eventually(lambda: not loop.slots.running)
            second.set()
            await asyncio.sleep(0.2)
        assert runs.of("a") == events[:2], "the second had begun when the first was found to be lost"
        assert await lane_is(conn, 3, 0)


async def test_a_lane_whose_claim_was_not_heard_of_is_taken_up_in_order(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if own_leases does not sort, or leaves the lane out: two of one key would run at once."""
    runs = Runs()
    real = queue.exchange
    lost: list[Claimed] = []

    async def losing(conn: AsyncConnection[Any], **rest: Any) -> Exchanged:
        exchanged = await real(conn, **rest)
        if exchanged.claimed and not lost:
            lost.extend(exchanged.claimed)
            raise psycopg.OperationalError("the answer was lost")
        return exchanged

    monkeypatch.setattr("reflex.worker.claim_loop.exchange", losing)
    async with await connect(database_url, name="t") as conn:
        registered = await ordered_shop(conn)
        events = await publish(conn, "aaa")
        async with looping(database_url, conn, registered, runs.quick) as loop:
            loop.slots.run_s = 0.001
            await eventually(lambda: is_quiet(conn))
        assert runs.of("a") == events
        assert not runs.overlapped


async def test_ordered_and_other_deliveries_do_not_starve_each_other(database_url: str) -> None:
    """Fails if lanes are always claimed first, and if they always come last."""
    runs = Runs()
    async with await connect(database_url, name="t") as conn:
        pack = TriggerDefinition("pack", ("order.created",), 3, {}, "key")
        other = TriggerDefinition("other", ("other",), 3, {})
        registered = await register(conn, Manifest("shop", (), (pack, other)))
        await append(conn, [new_event("order.created", key=f"k{n}") for n in range(40)])
        await publish(conn, "x" * 40, "other")
        async with looping(database_url, conn, registered, runs.quick, concurrency=1) as loop:
            loop.slots.run_s = 1.0
            await eventually(lambda: len(runs.started) >= 20)
        ordered = [lease.lane_key is not None for lease in runs.started[:20]]
        assert 5 <= sum(ordered) <= 15
