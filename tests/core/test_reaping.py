"""What becomes of the deliveries that were lost together with one that kills its workers."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core import reaping
from reflex.core.lanes import promote_lanes
from reflex.core.log import append
from reflex.core.queue import exchange, promote_scheduled
from reflex.core.reaping import reap
from reflex.core.registration import Registered
from tests.queue_fixtures import claim, claim_ordered, count, enlisted, is_quiet, new_event, ordered_shop, settled, shop

SIZE = 12
TURNS = """
SELECT available_at - min(available_at) OVER () FROM (
    SELECT available_at FROM reflex.scheduled
    UNION ALL
    SELECT available_at FROM reflex.lane WHERE available_at IS NOT NULL
) AS waiting
ORDER BY available_at
"""
NEXT_TURN = (
    "SELECT least((SELECT min(available_at) FROM reflex.scheduled), (SELECT min(available_at) FROM reflex.lane))"
)


async def given(db: AsyncConnection[Any], *, ordered: bool, max_attempts: int = 3) -> tuple[Registered, list[UUID]]:
    """Deliveries of which none is in another one's lane."""
    registered = await (ordered_shop if ordered else shop)(db, max_attempts=max_attempts)
    events = [new_event(key=f"k{number}") for number in range(SIZE)]
    await append(db, events)
    return registered, [event.event_id for event in events]


async def claimed_by_one_worker(db: AsyncConnection[Any], registered: Registered) -> tuple[UUID, list[Any]]:
    worker_id = await enlisted(db, registered)
    if await count(db, "lane"):
        return worker_id, await claim_ordered(db, worker_id, registered, limit=100)
    return worker_id, await claim(db, worker_id, list(registered.trigger_ids.values()), limit=100)


async def lost(db: AsyncConnection[Any]) -> None:
    await db.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
    await reap(db, lease_timeout=timedelta(minutes=1))


async def turns(db: AsyncConnection[Any]) -> list[float]:
    """In how many seconds what is put off is due, after the first of it."""
    return [row[0].total_seconds() for row in await (await db.execute(TURNS)).fetchall()]


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_what_kills_its_workers_takes_nothing_else_with_it(db: AsyncConnection[Any], ordered: bool) -> None:
    """All are claimed at once, and one of them kills its worker. Fails if what was lost twice is claimed together once
    more: all of it would be dead. The first loss, which most often is nobody's fault, costs no time."""
    registered, (poison, *_) = await given(db, ordered=ordered)
    waited: list[list[float]] = []
    while not await is_quiet(db):
        worker_id, leases = await claimed_by_one_worker(db, registered)
        if poison in {lease.event_id for lease in leases}:
            await lost(db)
            waited.append(await turns(db))
        elif leases:
            done = [settled(lease) for lease in leases]
            await exchange(db, worker_id=worker_id, settlements=done, trigger_ids=[], limit=0)
        else:
            row = await (await db.execute(NEXT_TURN)).fetchone()
            assert row is not None
            await promote_scheduled(db, now=row[0])
            await promote_lanes(db, now=row[0])
    died = await (await db.execute("SELECT event_id, reason FROM reflex.dead_letter")).fetchall()
    assert died == [(poison, "worker_lost")]
    cursor = await db.execute("SELECT count(*) FROM reflex.run WHERE outcome = 'succeeded'")
    assert await cursor.fetchone() == (SIZE - 1,)
    assert waited[:2] == [[], [float(second) for second in range(SIZE - 1)]]


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_the_last_attempt_is_made_apart_and_all_turns_come_in_time(
    db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    """Of two attempts the second is the last. Fails if only what was lost before comes in turns; and without the
    bound: the more a worker held, the later the last of it would come back."""
    monkeypatch.setattr(reaping, "LONGEST_APART", timedelta(seconds=SIZE / 2))
    registered, _ = await given(db, ordered=ordered, max_attempts=2)
    await claimed_by_one_worker(db, registered)
    await lost(db)
    assert await turns(db) == [number / 2 for number in range(SIZE - 1)]


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_turns_are_further_apart_each_time(
    db: AsyncConnection[Any], ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what takes longer to kill its worker than a turn. Fails if it does not matter how often it was lost."""
    monkeypatch.setattr(reaping, "LONGEST_APART", timedelta(minutes=5))
    registered, _ = await given(db, ordered=ordered, max_attempts=9)
    found: list[list[float]] = []
    for _ in range(4):
        await claimed_by_one_worker(db, registered)
        await lost(db)
        found.append((await turns(db))[:3])
        await db.execute("UPDATE reflex.scheduled SET available_at = now() - interval '1 s'")
        await db.execute("UPDATE reflex.lane SET available_at = now() - interval '1 s' WHERE available_at IS NOT NULL")
        await promote_scheduled(db)
        await promote_lanes(db)
    assert found == [[], [0, 1, 2], [0, 4, 8], [0, 9, 18]]


async def test_an_attempt_that_failed_was_not_lost(db: AsyncConnection[Any]) -> None:
    """Fails if the second attempt is taken for a second loss: a restart would put off what has had a retry."""
    registered, _ = await given(db, ordered=False, max_attempts=9)
    await db.execute("UPDATE reflex.delivery SET attempt = 1, lease_epoch = 1")
    await db.execute(
        "INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome) "
        "SELECT trigger_id, event_id, 1, 1, gen_random_uuid(), now(), 'retry' FROM reflex.delivery"
    )
    await claimed_by_one_worker(db, registered)
    await lost(db)
    assert (await count(db, "delivery"), await count(db, "scheduled")) == (SIZE, 0)
