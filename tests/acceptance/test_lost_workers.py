"""Workers that are killed, blocked, frozen or murdered by what they run: promises 4, 6, 9 and 12.
`make consistency` blocks for a minute, with the lease timeout as it is by default."""

import asyncio
import os
import time

from reflex.core.database import connect
from tests.acceptance.shop import Shop

BLOCKED_S = float(os.environ.get("BLOCKED_SECONDS", "0"))


async def test_a_killed_workers_delivery_runs_elsewhere_within_15_seconds_at_defaults(shop: Shop) -> None:
    """Promises 4 and 9. What the lost run had published is not there; what its successor publishes is, once.

    Fails with: maintenance that does not reap; a reap that only removes the worker and leaves its leases.
    """
    async with shop.two_workers() as workers:
        asked = {"publish": "order.packed", "sleep_s": 60, "only_first": True}
        (event_id,) = await shop.publish(asked)
        run = await shop.has_started(event_id)
        lost, other = workers.who(run)
        await lost.kill()
        killed_at = time.monotonic()
        again = await shop.has_started(event_id, times=2, timeout_s=15)
        assert time.monotonic() - killed_at < 15
        assert (again.pid, again.attempt) == (other.pid, 2)
        await shop.becomes("succeeded", event_id)
    assert await shop.outcomes(event_id) == [(1, "lost"), (2, "succeeded")]
    assert await shop.count("FROM reflex.event WHERE causation_id = %s AND type = 'order.packed'", event_id) == 1


async def test_agent_code_that_blocks_longer_than_the_lease_timeout_keeps_its_lease(shop: Shop) -> None:
    """Promise 6. Another worker that could take the delivery is there all the time.

    Fails with: a heartbeat that beats from the event loop instead of a thread of its own.
    """
    block_s, timeouts = (BLOCKED_S, {}) if BLOCKED_S else (8, {"lease_timeout_s": 2})
    async with shop.two_workers(**timeouts) as workers:
        (event_id,) = await shop.publish({"block_s": block_s})
        run = await shop.has_started(event_id)
        delivery = await shop.becomes("succeeded", event_id, timeout_s=block_s + 22)
        assert [(r.attempt, r.outcome) for r in delivery.runs] == [(1, "succeeded")]
        assert delivery.runs[0].duration_ms > block_s * 1000
        assert shop.started(event_id) == [run]
        assert "declared dead" not in workers.first.log + workers.second.log


async def test_a_frozen_workers_late_outcome_changes_nothing_and_it_starts_anew(shop: Shop) -> None:
    """Promises 4 and 9. The frozen worker wakes with its run finished, publishing and settling after it was reaped.

    Fails with: no comparison of lease_epoch in settle_and_claim; events appended for settlements that were stale; a
    heartbeat that does not look whether its row was there.
    """
    async with shop.two_workers(lease_timeout_s=1, poll_interval_s=0.2) as workers:
        (event_id,) = await shop.publish({"publish": "order.packed", "sleep_s": [2.5, 4]})
        run = await shop.has_started(event_id)
        over_at = time.monotonic() + 2.6
        frozen, other = workers.who(run)
        frozen.freeze()
        again = await shop.has_started(event_id, times=2)
        assert again.pid == other.pid
        # When it thaws its run is over, while the second one is still going.
        await asyncio.sleep(over_at - time.monotonic())
        assert (await shop.delivery(event_id)).state == "running"
        async with await connect(shop.database_url, name="test") as holding, holding.transaction():
            # Its heart has to wait, or it might hear that it is dead before it settles.
            await holding.execute("LOCK TABLE reflex.worker IN SHARE MODE")
            frozen.thaw()
            await frozen.says("outcome discarded")
        await frozen.says("declared dead")
        delivery = await shop.becomes("succeeded", event_id)
        assert await shop.outcomes(event_id) == [(1, "lost"), (2, "succeeded")]
        assert [run.output and run.output.value for run in delivery.runs] == [None, {"attempt": 2}]
        assert await shop.count("FROM reflex.event WHERE causation_id = %s AND type = 'order.packed'", event_id) == 1
        await shop.is_quiet()

        # It works on, as somebody else.
        other.freeze()
        (later,) = await shop.publish({})
        assert (await shop.has_started(later)).pid == frozen.pid
        await shop.becomes("succeeded", later)
        other.thaw()


async def test_a_delivery_that_kills_its_workers_ends_as_a_dead_letter(shop: Shop) -> None:
    """Promise 12. `--processes 2`: what dies is started again, and other deliveries are served meanwhile.

    Fails with: a reap that gives the attempt back; a supervisor that starts nothing anew.
    """
    async with shop.worker(processes=2, lease_timeout_s=1) as parent:
        (poison,) = await shop.publish({"die": True})
        dead = await shop.becomes("dead", poison, timeout_s=60)
        assert (dead.reason, dead.attempt) == ("worker_lost", 3)
        assert [run.outcome for run in dead.runs] == ["lost", "lost", "lost"]
        assert len({run.pid for run in shop.started(poison)}) == 3
        assert await shop.count("FROM reflex.event WHERE type = 'reflex.dead_letter'") == 1
        (well,) = await shop.publish({})
        await shop.becomes("succeeded", well)
        assert parent.log.count("a worker process ended; starting another") == 3
