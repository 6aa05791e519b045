"""Stopping cleanly, alone and as several processes under one: promise 10."""

import asyncio
import os
import signal
import time

from tests.acceptance.shop import Shop
from tests.processes import eventually


async def test_a_drain_claims_no_more_and_lets_what_runs_finish(shop: Shop) -> None:
    """Fails with: a drain that does not stop accepting; a grace of nothing."""
    async with shop.worker(concurrency=2) as worker:
        (running,) = await shop.publish({"sleep_s": 2})
        await shop.has_started(running)
        worker.terminate()
        await worker.says("draining")
        (late,) = await shop.publish({})
        assert await worker.exited() == 0
    assert await shop.outcomes(running) == [(1, "succeeded")]
    delivery = await shop.delivery(late)
    assert (delivery.state, delivery.attempt, delivery.runs) == ("pending", 0, [])
    assert await shop.count("FROM reflex.worker") == 0


async def test_what_exceeds_the_grace_is_released_at_once_and_keeps_its_attempt(shop: Shop) -> None:
    """Fails with: a release that counts the attempt; leases that are left to the reaper."""
    async with shop.two_workers(drain_grace_s=1) as workers:
        (event_id,) = await shop.publish({"sleep_s": 60})
        leaving, staying = workers.who(await shop.has_started(event_id))
        leaving.terminate()
        asked_at = time.monotonic()
        again = await shop.has_started(event_id, times=2)
        assert time.monotonic() - asked_at < 4  # the grace and a little; the reaper would take ten seconds
        assert (again.pid, again.attempt) == (staying.pid, 1)
        assert await leaving.exited() == 0
        assert await shop.outcomes(event_id) == [(1, "released")]


async def test_a_second_signal_releases_without_waiting_for_the_grace(shop: Shop) -> None:
    """Fails with: a second signal that is taken for the first."""
    async with shop.worker(drain_grace_s=60) as worker:
        (event_id,) = await shop.publish({"sleep_s": 60})
        await shop.has_started(event_id)
        worker.terminate()
        await worker.says("draining")
        worker.terminate()
        assert await worker.exited(timeout_s=4) == 0
    delivery = await shop.delivery(event_id)
    assert (delivery.state, delivery.attempt) == ("pending", 0)
    assert await shop.outcomes(event_id) == [(1, "released")]


async def test_a_second_signal_ends_a_worker_whose_agent_blocks_the_event_loop(shop: Shop) -> None:
    """Fails with: signals that only the event loop hears (add_signal_handler)."""
    async with shop.worker() as worker:
        (event_id,) = await shop.publish({"block_s": 60})
        await shop.has_started(event_id)
        worker.terminate()
        await asyncio.sleep(0.2)  # two signals at once are one; nothing says when the first was noticed
        worker.terminate()
        await worker.exited(timeout_s=5)
    # What it held is left to the reaper: the process had no way to give it back.
    assert (await shop.delivery(event_id)).state == "running"


async def test_a_killed_process_is_replaced_and_one_signal_drains_them_all(shop: Shop) -> None:
    """Fails with: a supervisor that does not start anew, or that ends before its children have drained."""
    async with shop.worker(processes=2, concurrency=1) as parent:
        first, second = await pids(shop)
        os.kill(first, signal.SIGKILL)

        async def replaced() -> set[int]:
            now = await pids(shop) - {first}
            return now if len(now) == 2 else set()

        now = await eventually(replaced, what="a new process")
        assert second in now
        running = await shop.publish({"sleep_s": 2}, {"sleep_s": 2})
        await asyncio.gather(*map(shop.has_started, running))
        assert {run.pid for run in shop.started()} == now
        parent.terminate()
        assert await parent.exited() == 0
        assert not any(map(lives, now))
    for event_id in running:
        assert await shop.outcomes(event_id) == [(1, "succeeded")]


async def test_no_process_outlives_a_parent_that_was_killed(shop: Shop) -> None:
    """They drain: what runs is finished. Fails without the parent-death signal."""
    async with shop.worker(processes=2) as parent:
        children = await pids(shop)
        (running,) = await shop.publish({"sleep_s": 1})
        await shop.has_started(running)
        os.kill(parent.pid, signal.SIGKILL)
        await eventually(lambda: not any(map(lives, children)), what="the end of the children")
    assert await shop.outcomes(running) == [(1, "succeeded")]
    assert await shop.count("FROM reflex.worker") == 0


async def pids(shop: Shop) -> set[int]:
    cursor = await shop.conn.execute("SELECT pid FROM reflex.worker")
    return {pid for (pid,) in await cursor.fetchall()}


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
