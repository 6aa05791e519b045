"""The clock as a source of events: fired once by a fleet whose workers die, and delayed events that are not early."""

import asyncio
import shutil
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx2

from tests.acceptance.shop import Shop
from tests.processes import ReflexProcess, eventually, gateway, worker

TICKING = Path(__file__).with_name("ticking.py")


def ticking(shop: Shop) -> AbstractAsyncContextManager[ReflexProcess]:
    return worker(shop.database_url, shop.folder, app="ticking", env={"REFLEX_LEASE_TIMEOUT_S": "1"})


async def test_every_second_has_one_event_whichever_worker_lives(shop: Shop) -> None:
    """Two workers; one is killed, the other too, and a third comes after a while.

    Fails with: rows taken without their lock and events without their idempotency key (a second twice); next_at
    committed before its event (a second missing after a kill); intervals that go on from when they were fired.
    """
    shutil.copy(TICKING, shop.folder)
    async with ticking(shop) as first, ticking(shop) as second:
        await ticks(shop, 2)
        await first.kill()
        await ticks(shop, 4)
        await second.kill()
    so_far = await shop.count("FROM reflex.event WHERE source = 'timer:second'")
    await asyncio.sleep(1)
    async with ticking(shop):
        await ticks(shop, so_far + 3)
    cursor = await shop.conn.execute(
        "SELECT event.time, schedule.started_at FROM reflex.event, reflex.schedule "
        "WHERE event.source = 'timer:second' AND schedule.name = 'second' ORDER BY event.event_id"
    )
    rows: list[tuple[datetime, datetime]] = await cursor.fetchall()
    started_at = rows[0][1]
    assert [time for time, _ in rows] == [started_at + timedelta(seconds=n) for n in range(1, len(rows) + 1)]
    noted = [line.split()[0] for line in (shop.folder / "ticks.txt").read_text().splitlines()]
    assert {datetime.fromisoformat(time) for time in noted} <= {time for time, _ in rows}


async def ticks(shop: Shop, expected: int) -> None:
    """Wait for so many ticks in the log."""

    async def there() -> bool:
        return await shop.count("FROM reflex.event WHERE source = 'timer:second'") >= expected

    await eventually(there, what=f"{expected} ticks")


async def test_a_delayed_event_is_delivered_when_it_is_due_and_not_before_also_after_a_restart(shop: Shop) -> None:
    """The gateway that took it stops, and the worker that was there is killed; another one runs it. So that nobody has
    to wait for an hour, the time is brought forward once the second worker lives.

    Fails with: a promotion that does not look at available_at; a delay that is kept in a process.
    """
    async with gateway(shop.database_url, shop.folder) as front, httpx2.AsyncClient() as client:
        answer = await client.post(f"{front.url}/events", json={"type": "order.created", "delay": "PT1H"})
        event_id = UUID(answer.json()["id"])
    for again in range(2):
        async with shop.worker() as running:
            (other,) = await shop.publish({})
            await shop.becomes("succeeded", other)

            async def is_routed() -> bool:
                return bool((await shop.event(event_id)).deliveries)

            # It was there before any trigger: the worker gives it one in a moment.
            await eventually(is_routed)
            delayed = await shop.delivery(event_id)
            assert (delayed.state, delayed.runs) == ("pending", [])
            assert delayed.available_at == (await shop.event(event_id)).available_at
            if not again:
                await running.kill()
                continue
            due = "UPDATE reflex.scheduled SET available_at = now() + interval '1 s' RETURNING available_at"
            row = await (await shop.conn.execute(due)).fetchone()
            assert row is not None
            ran = await shop.becomes("succeeded", event_id)
            assert ran.runs[0].started_at >= row[0]
