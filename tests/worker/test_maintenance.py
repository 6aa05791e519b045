"""The standing loops."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from structlog.testing import capture_logs

import reflex.worker.maintenance as maintenance_module
from reflex.core.batches import Gathering
from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.partitions import list_partitions
from reflex.core.periods import DAY, Periods
from reflex.core.queue import exchange
from reflex.core.retention import take_turn
from reflex.core.settlement import Outcome
from reflex.worker.maintenance import Maintenance
from tests.core.log_fixtures import place_all
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, new_event, publish, settled, shop


@asynccontextmanager
async def maintained(
    url: str, *, lease_timeout_s: float = 1, keep: timedelta | None = None
) -> AsyncGenerator[Maintenance]:
    maintenance = Maintenance(url, lease_timeout_s=lease_timeout_s, periods=Periods(keep))
    running = asyncio.create_task(maintenance.run())
    try:
        yield maintenance
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def held_by_the_dead(conn: AsyncConnection[Any]) -> None:
    """A delivery that was claimed by a worker whose heartbeat is an hour old."""
    registered = await shop(conn)
    await publish(conn)
    worker_id = await enlisted(conn, registered)
    await claim(conn, worker_id, list(registered.trigger_ids.values()))
    await conn.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")


async def test_what_is_due_becomes_pending_when_it_is_due(database_url: str) -> None:
    """Fails if the loop sleeps its longest time instead of until the next one is due."""
    async with await connect(database_url, name="t") as conn:
        await shop(conn)
        await append(conn, [new_event(delay=timedelta(seconds=0.4)), new_event(delay=timedelta(hours=1))])
        async with maintained(database_url):
            await eventually(lambda: pending(database_url, 1), timeout_s=5)
            assert await count(conn, "scheduled") == 1


async def pending(url: str, expected: int) -> bool:
    async with await connect(url, name="t") as conn:
        return await count(conn, "delivery") == expected


async def test_nobody_is_declared_dead_right_after_an_outage(database_url: str) -> None:
    """After an outage every heartbeat is old. Fails without `steady_since`: the first worker back would reap all the
    others, and everything they do would be done twice."""
    async with await connect(database_url, name="t") as conn:
        await held_by_the_dead(conn)
        async with maintained(database_url, lease_timeout_s=2):
            await asyncio.sleep(1)
            assert await count(conn, "worker") == 1
            await eventually(lambda: pending(database_url, 1), timeout_s=10)
            assert await count(conn, "worker") == 0


async def test_after_a_freeze_it_waits_too(database_url: str) -> None:
    """A suspended machine: everyone's heartbeat is old when it wakes. Fails if a gap between rounds is not noticed."""
    now = 1000.0
    async with await connect(database_url, name="t") as conn:
        registered = await shop(conn)
        await enlisted(conn, registered)
        maintenance = Maintenance(database_url, lease_timeout_s=60)
        maintenance.steady_since = now
        clock = iter([now + 100, now + 100, now + 100, now + 500])
        original = maintenance_module.boot_clock
        maintenance_module.boot_clock = lambda: next(clock, now + 500)
        running = asyncio.create_task(maintenance.rounds(conn))
        try:
            await eventually(lambda: maintenance.steady_since == now + 500)
        finally:
            maintenance_module.boot_clock = original
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert await count(conn, "worker") == 1


async def test_who_wakes_a_chore_while_it_is_at_it_is_not_forgotten(database_url: str) -> None:
    """Two deliveries are cancelled one right after the other. Fails if the chore's own answer, not before long, counts
    for more than who came meanwhile."""
    called = 0

    async def cancel(conn: AsyncConnection[Any]) -> None:
        nonlocal called
        called += 1
        if called == 1:
            maintenance.wake("cancel")

    maintenance = Maintenance(database_url, lease_timeout_s=60, cancel=cancel)
    running = asyncio.create_task(maintenance.run())
    try:
        await eventually(lambda: called == 2, timeout_s=5)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_registration_routes_what_was_unrouted_at_once(database_url: str) -> None:
    """Promise 2. Fails if wake() does not bring the routing forward."""
    async with await connect(database_url, name="t") as conn, maintained(database_url) as maintenance:
        await publish(conn, 3)
        await asyncio.sleep(0.3)
        await shop(conn)
        maintenance.wake()
        await eventually(lambda: pending(database_url, 3), timeout_s=3)


async def test_it_goes_on_after_its_connection_was_cut(database_url: str) -> None:
    """Promise 9. Fails if an error ends the loop."""
    async with await connect(database_url, name="t") as conn, maintained(database_url):
        await shop(conn)
        await asyncio.sleep(0.3)
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'reflex maintenance' "
            "AND datname = current_database()"
        )
        await append(conn, [new_event(delay=timedelta(seconds=0.1))])
        await eventually(lambda: pending(database_url, 1))


async def test_what_is_old_goes_when_nobody_else_has_the_turn(database_url: str) -> None:
    """Somebody replays. Fails if the other chores wait for it, or if a pass that had to be left is not begun anew."""
    async with await connect(database_url, name="t") as conn, await connect(database_url, name="u") as other:
        await publish(conn, 3, "weather.changed")
        await place_all(conn)
        await conn.execute("UPDATE reflex.log SET placed_at = now() - interval '1 hour'")
        await shop(conn)
        async with other.transaction():
            await take_turn(other)
            async with maintained(database_url, keep=timedelta(seconds=10)):
                await append(conn, [new_event(delay=timedelta(seconds=0.3))])
                await eventually(lambda: pending(database_url, 1), timeout_s=5)
                assert await count(conn, "event") == 4
        async with maintained(database_url, keep=timedelta(seconds=10)):
            await eventually(lambda: remaining(database_url, 1), timeout_s=5)
            await publish(conn, 2, "weather.changed")
            await place_all(conn)
            await conn.execute("UPDATE reflex.log SET placed_at = now() - interval '1 hour'")
            await eventually(lambda: remaining(database_url, 1), timeout_s=5)


async def test_without_a_setting_everything_is_kept_and_there_are_partitions_for_what_comes(database_url: str) -> None:
    """Fails if a default is made up; or if only those who drop partitions make them."""
    async with await connect(database_url, name="t") as conn:
        await publish(conn, 1, "weather.changed")
        await place_all(conn)
        await conn.execute("UPDATE reflex.log SET placed_at = now() - interval '9 years'")
        maintenance = Maintenance(database_url, lease_timeout_s=1)
        while await maintenance.keep(conn) == 0.0:
            pass
        assert await count(conn, "event") == 1
        for table in ("event", "run"):
            ends = [part.until for part in await list_partitions(conn, table) if part.until]
            assert max(ends) > datetime.now(UTC) + 180 * DAY


async def test_retention_that_fails_is_in_nobodys_way(database_url: str) -> None:
    """Fails if an error of one chore begins all of them anew: what died is never reaped, for nobody is declared dead
    right after a beginning."""
    async with await connect(database_url, name="t") as conn:
        await held_by_the_dead(conn)
        await conn.execute("ALTER TABLE reflex.session RENAME TO not_there")
        with capture_logs() as said:
            async with maintained(database_url, keep=timedelta(days=1)):
                await eventually(lambda: pending(database_url, 1), timeout_s=10)
        failed = [line for line in said if line["log_level"] == "error"]
        assert [line["event"].partition(";")[0] for line in failed] == [
            "could not remove what is old, or make partitions"
        ]


async def remaining(url: str, expected: int) -> bool:
    async with await connect(url, name="t") as conn:
        return await count(conn, "event") == expected


async def test_what_was_gathered_and_nobody_hands_over_is_delivered_again(database_url: str) -> None:
    """Fails if nobody sweeps."""
    async with await connect(database_url, name="t") as conn:
        registered = await shop(conn)
        (trigger_id,) = registered.trigger_ids.values()
        await publish(conn, 2)
        worker_id = await enlisted(conn, registered)
        leases = await claim(conn, worker_id, [trigger_id])
        terms = Gathering("s", 2, max_interval=timedelta(hours=1))
        gathering = [settled(lease, Outcome.SKIPPED, gathers=terms) for lease in leases]
        await exchange(conn, worker_id=worker_id, settlements=gathering, trigger_ids=[], limit=0)
        (holder,) = await claim(conn, worker_id, [trigger_id])
        await exchange(conn, worker_id=worker_id, settlements=[settled(holder)], trigger_ids=[], limit=0)
        await conn.execute("UPDATE reflex.batch SET due_at = due_at - interval '2 hours'")
        async with maintained(database_url):
            await eventually(lambda: pending(database_url, 1), timeout_s=10)
        assert await count(conn, "gathered") == 0
