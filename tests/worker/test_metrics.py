"""What a worker counts, after known runs on a real database."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.ids import new_id
from reflex.core.series import Distribution, Labels, Reading
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.worker.claim_loop import ClaimLoop
from reflex.worker.metrics import WorkerMetrics
from tests.processes import eventually
from tests.queue_fixtures import count, enlisted, is_quiet, publish, settled, shop

Attempt = Callable[[Claimed], Awaitable[Settlement]]


def by_name(readings: list[Reading]) -> dict[str, dict[Labels, Any]]:
    found: dict[str, dict[Labels, Any]] = {}
    for name, labels, value in readings:
        found.setdefault(name, {})[labels] = sum(value.counts) if isinstance(value, Distribution) else value
    return found


@asynccontextmanager
async def looping(
    url: str, conn: AsyncConnection[Any], attempt: Attempt, metrics: WorkerMetrics, *, concurrency: int = 4
) -> AsyncGenerator[ClaimLoop]:
    registered = await shop(conn, {"pack": "order.created", "ship": "order.packed"})
    ids = registered.trigger_ids
    loop = ClaimLoop(
        url, worker_id=await enlisted(conn, registered), trigger_ids=list(ids.values()),
        trigger_names={id: name for name, id in ids.items()}, concurrency=concurrency, poll_interval_s=0.1,
        attempt=attempt, metrics=metrics,
    )  # fmt: skip
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await loop.slots.stop()


async def test_each_settled_run_counts_once_with_its_outcome(database_url: str, db: AsyncConnection[Any]) -> None:
    """Fails if skipped ones have a duration, or a dead one counts without its reason."""
    outcomes = iter([Outcome.SUCCEEDED] * 4 + [Outcome.DEAD] * 2 + [Outcome.SKIPPED] * 3 + [Outcome.RETRY])

    async def attempt(lease: Claimed) -> Settlement:
        match outcome := next(outcomes, Outcome.SUCCEEDED):
            case Outcome.DEAD:
                return settled(lease, outcome, error="boom", reason="rejected")
            case Outcome.RETRY:
                return settled(lease, outcome, error="later", retry_in=timedelta(hours=1))
            case _:
                return settled(lease, outcome)

    metrics = WorkerMetrics("shop")
    async with looping(database_url, db, attempt, metrics):
        await publish(db, 10)

        async def done() -> bool:
            return await count(db, "run") == 10 and await count(db, "lease") == 0

        await eventually(done)
        # The exchange is counted when its answer is here, a moment after its commit.
        await eventually(lambda: sum(by_name(metrics.read())["reflex_runs_total"].values()) == 10)
    found = by_name(metrics.read())
    assert found["reflex_runs_total"] == {
        ("shop", "pack", "succeeded"): 4, ("shop", "pack", "dead"): 2, ("shop", "pack", "skipped"): 3,
        ("shop", "pack", "retry"): 1,
    }  # fmt: skip
    assert found["reflex_deliveries_died_total"] == {("shop", "pack", "rejected"): 2}
    assert found["reflex_run_duration_seconds"] == {("shop", "pack"): 7}
    assert found["reflex_outcomes_discarded_total"] == {("shop",): 0}
    assert {kind for _, kind in found["reflex_exchange_duration_seconds"]} >= {"claim", "both"}


async def test_slots_are_used_while_runs_go_on_and_free_afterwards(database_url: str, db: AsyncConnection[Any]) -> None:
    gate = asyncio.Event()

    async def held(lease: Claimed) -> Settlement:
        await gate.wait()
        return settled(lease)

    metrics = WorkerMetrics("shop")
    async with looping(database_url, db, held, metrics):
        await publish(db, 3)
        used, free = ("shop", "used"), ("shop", "free")
        await eventually(lambda: by_name(metrics.read())["reflex_slots"] == {used: 3, free: 1})
        gate.set()
        await eventually(lambda: by_name(metrics.read())["reflex_slots"] == {used: 0, free: 4})
        await eventually(lambda: is_quiet(db))


async def test_an_outcome_that_came_too_late_is_no_run(database_url: str, db: AsyncConnection[Any]) -> None:
    """Fails if runs are counted when they end, and not when they are settled."""
    gate = asyncio.Event()

    async def held(lease: Claimed) -> Settlement:
        await gate.wait()
        return settled(lease)

    metrics = WorkerMetrics("shop")
    async with looping(database_url, db, held, metrics) as loop:
        await publish(db)
        await eventually(lambda: len(loop.slots.running) == 1)
        loop.accepting = False
        await db.execute("UPDATE reflex.lease SET lease_epoch = lease_epoch + 1")
        gate.set()
        await eventually(lambda: by_name(metrics.read())["reflex_outcomes_discarded_total"] == {("shop",): 1})
    assert "reflex_runs_total" not in by_name(metrics.read())


async def test_what_postgresql_refuses_counts_as_the_dead_letter_that_it_becomes(
    database_url: str, db: AsyncConnection[Any]
) -> None:
    """Fails if the settlement that was asked for is counted instead of the one that holds."""

    async def attempt(lease: Claimed) -> Settlement:
        return settled(lease, output="this is no JSON")

    metrics = WorkerMetrics("shop")
    async with looping(database_url, db, attempt, metrics):
        await publish(db)
        await eventually(lambda: "reflex_deliveries_died_total" in by_name(metrics.read()))
    found = by_name(metrics.read())
    assert found["reflex_runs_total"] == {("shop", "pack", "dead"): 1}
    assert found["reflex_deliveries_died_total"] == {("shop", "pack", "refused_by_database"): 1}


async def test_what_was_not_begun_is_no_run_and_what_gave_way_was_given_back() -> None:
    metrics = WorkerMetrics("shop")
    metrics.triggers = {1: "pack"}
    one = Settlement(1, new_id(), 1, Outcome.SUCCEEDED)
    gave_way = Settlement(1, new_id(), 1, Outcome.SUCCEEDED)
    not_begun = Settlement(1, new_id(), 1, Outcome.RELEASED, reason="not_begun")
    with_another = one._replace(event_id=new_id(), with_it=(one,))
    exchanged = queue.Exchanged([], frozenset(), conflicts=(gave_way,))
    metrics.exchanged([with_another, gave_way, not_begun], exchanged, limit=0, took_s=0.001)
    found = by_name(metrics.read())
    assert found["reflex_runs_total"] == {("shop", "pack", "succeeded"): 2, ("shop", "pack", "released"): 1}
    assert found["reflex_exchange_duration_seconds"] == {("shop", "settle"): 1}


def test_what_models_take_adds_up_by_model() -> None:
    metrics = WorkerMetrics("shop")
    metrics.answered("pack", "openai:a", input_tokens=10, output_tokens=3, usd=Decimal("0.25"))
    metrics.answered("pack", "openai:a", input_tokens=5, output_tokens=1, usd=Decimal("0.5"))
    metrics.answered("pack", "local", input_tokens=7, output_tokens=2, usd=None)
    found = by_name(metrics.read())
    assert found["reflex_model_requests_total"] == {("shop", "pack", "openai:a"): 2, ("shop", "pack", "local"): 1}
    assert found["reflex_model_tokens_total"]["shop", "pack", "openai:a", "input"] == 15
    assert found["reflex_model_tokens_total"]["shop", "pack", "openai:a", "output"] == 4
    assert found["reflex_model_cost_usd_total"] == {("shop", "pack", "openai:a"): 0.75}
