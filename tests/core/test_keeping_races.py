"""Partitions come and go while events are stored, claimed, settled, put off and read: nobody notices."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.database import connect
from reflex.core.keeping import Keeping
from reflex.core.log import append
from reflex.core.partitions import list_partitions
from reflex.core.periods import DAY, Periods
from reflex.core.settlement import Outcome
from tests.core.log_fixtures import place_all
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, is_quiet, new_event, settled, shop

ROUNDS = 6


class Traffic:
    """What gateways and workers do, without pause."""

    def __init__(self, url: str, trigger_id: int, worker_id: UUID) -> None:
        self.url = url
        self.trigger_id = trigger_id
        self.worker_id = worker_id
        self.stored: set[UUID] = set()
        self.succeeded: list[UUID] = []
        self.storing = True
        self.open = True

    async def store(self) -> None:
        async with await connect(self.url, name="gateway") as conn:
            while self.storing:
                events = [new_event(idempotency_key=f"{len(self.stored) + n}-{id(conn)}") for n in range(5)]
                ids = await append(conn, events)
                assert set(ids) == set(ids.values())
                self.stored.update(ids)
                await asyncio.sleep(0.01)

    async def work(self) -> None:
        """Every fifth delivery is put off first."""
        async with await connect(self.url, name="worker") as conn:
            while self.open:
                leases = await claim(conn, self.worker_id, [self.trigger_id], 10)
                settlements = [
                    settled(lease, Outcome.RETRY, retry_in=timedelta(milliseconds=50))
                    if lease.event_id.int % 5 == 0 and lease.attempt == 1
                    else settled(lease)
                    for lease in leases
                ]
                if settlements:
                    done = await queue.exchange(
                        conn, worker_id=self.worker_id, settlements=settlements, trigger_ids=[], limit=0
                    )
                    assert not done.stale
                self.succeeded += [s.event_id for s in settlements if s.outcome is Outcome.SUCCEEDED]
                await queue.promote_scheduled(conn)
                await asyncio.sleep(0.002)

    async def look(self) -> None:
        """What is open has its event, in whichever table it is."""
        missing = """
        SELECT count(*) FROM (
            SELECT event_id FROM reflex.delivery UNION ALL SELECT event_id FROM reflex.scheduled
            UNION ALL SELECT event_id FROM reflex.lease
        ) AS open WHERE NOT EXISTS (SELECT FROM reflex.event WHERE event.event_id = open.event_id)
        """
        async with await connect(self.url, name="reader") as conn:
            while self.open:
                row = await (await conn.execute(missing)).fetchone()
                assert row == (0,)
                await asyncio.sleep(0.005)


async def test_nothing_that_is_open_loses_its_event_while_partitions_come_and_go(
    db: AsyncConnection[Any], database_url: str
) -> None:
    """Each round makes partitions for today and drops all of them, as if it were two months later.

    Fails if what is needed is not moved, or moved after the drop; or if an insert is under way into the
    rest while the partition is made that its event belongs to.
    """
    registered = await shop(db)
    trigger_id = registered.trigger_ids["pack"]
    traffic = Traffic(database_url, trigger_id, await enlisted(db, registered))
    flows: list[Callable[[], Awaitable[None]]] = [*[traffic.store] * 2, *[traffic.work] * 2, traffic.look]
    tasks = [asyncio.ensure_future(flow()) for flow in flows]
    try:
        dropped = moved = 0
        for _ in range(ROUNDS):
            await place_all(db)
            for now in (datetime.now(UTC), datetime.now(UTC) + 60 * DAY):
                keeping = Keeping(Periods(30 * DAY), now=now)
                while await keeping.portion(db):
                    pass
                dropped += len(keeping.done.dropped)
                moved += sum(each.moved for each in keeping.done.dropped)
            for table in ("event", "run"):  # those of two months later, or the next round's cannot be made
                for part in await list_partitions(db, table):
                    if part.since is not None and part.since > datetime.now(UTC) + 30 * DAY:
                        await db.execute(f"DROP TABLE reflex.{part.name}".encode())
            await asyncio.sleep(0.05)
        traffic.storing = False
        await eventually(lambda: is_quiet(db), timeout_s=60, what="a queue that is empty")
    finally:
        traffic.storing = traffic.open = False
        await asyncio.gather(*tasks)
    assert sorted(traffic.succeeded) == sorted(traffic.stored)
    assert dropped >= ROUNDS
    assert moved > 0
    assert await count(db, "event") < len(traffic.stored)
