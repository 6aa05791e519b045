"""What stateful filters let through, with several workers at once."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.journal import LeaseLost
from reflex.core.log_reading import log_bounds
from reflex.core.passing import Limit, let_through, sweep_gathered
from reflex.core.queue import exchange
from reflex.core.replaying import Replay, find_trigger, replay_span
from reflex.core.settlement import Claimed, Outcome
from tests.core.log_fixtures import place_all
from tests.core.test_gathering import claimed, waits_for_lock
from tests.queue_fixtures import claim, count, settled

HOUR = timedelta(hours=1)
ONE = [Limit("s", 1, HOUR, "one an hour")]
TWO = [Limit("s", 2, HOUR, "two an hour")]


async def settle(conn: AsyncConnection[Any], worker_id: UUID, lease: Claimed, outcome: Outcome) -> None:
    done = settled(lease, outcome, forget_steps=True, retry_in=timedelta(0) if outcome is Outcome.RETRY else None)
    await exchange(conn, worker_id=worker_id, settlements=[done], trigger_ids=[], limit=0)


async def test_of_two_that_ask_at_once_one_is_let_through(
    db: AsyncConnection[Any], other: AsyncConnection[Any], three: AsyncConnection[Any]
) -> None:
    """Two open transactions. Fails without lock_subjects: neither sees that the other was let through."""
    _, _, leases = await claimed(db, 2)
    async with db.transaction():
        assert await let_through(db, leases[0], ONE) is None
        beside = asyncio.create_task(let_through(other, leases[1], ONE))
        await waits_for_lock(three)
    assert await beside == "one an hour"
    assert await count(db, "passed") == 1


async def test_ten_at_once_keep_to_their_limit(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails as the test before does, and if the time is that of the beginning of a transaction that waited."""
    _, _, leases = await claimed(db, 10)
    connections = [await connect(database_url, name=f"asks {n}") for n in range(5)]
    try:
        for turn in range(0, 10, 5):
            asked = [let_through(conn, lease, TWO) for conn, lease in zip(connections, leases[turn:], strict=False)]
            await asyncio.gather(*asked)
    finally:
        for conn in connections:
            await conn.close()
    assert await count(db, "passed") == 2
    assert await count(db, "step WHERE result->>'refused' = 'two an hour'") == 8
    assert await count(db, "step WHERE kind = 'filter'") == 10


async def test_a_delivery_is_asked_once_whatever_becomes_of_the_others(db: AsyncConnection[Any]) -> None:
    """A retry, another worker's attempt: fails without the step, or if a retry forgets it."""
    worker_id, trigger_id, leases = await claimed(db, 2)
    first, second = leases
    assert await let_through(db, first, ONE) is None
    assert await let_through(db, second, ONE) == "one an hour"
    await db.execute("DELETE FROM reflex.passed")
    assert await let_through(db, second, ONE) == "one an hour"
    await settle(db, worker_id, first, Outcome.RETRY)
    await db.execute(
        "INSERT INTO reflex.delivery SELECT trigger_id, event_id, attempt, lease_epoch FROM reflex.scheduled"
    )
    await db.execute("DELETE FROM reflex.scheduled")
    (again,) = await claim(db, worker_id, [trigger_id])
    await db.execute(
        "INSERT INTO reflex.passed VALUES (gen_random_uuid(), %s, 's', now(), now() + interval '1 h')", [trigger_id]
    )
    assert again.lease_epoch == 2
    assert await let_through(db, again, ONE) is None
    with pytest.raises(LeaseLost):
        await let_through(db, first._replace(event_id=UUID(int=0)), TWO)


async def test_a_replay_is_asked_anew_and_does_not_stand_in_its_own_way(db: AsyncConnection[Any]) -> None:
    """Fails if the settlement, or the replay, keeps what was decided; and if an event is its own duplicate."""
    worker_id, trigger_id, leases = await claimed(db, 2)
    decided = [await let_through(db, lease, ONE) for lease in leases]
    assert decided == [None, "one an hour"]
    for lease, refused in zip(leases, decided, strict=True):
        await settle(db, worker_id, lease, Outcome.SKIPPED if refused else Outcome.SUCCEEDED)
    assert await count(db, "step") == 0
    await place_all(db)
    span = await replay_span(db, after=(await log_bounds(db)).start)
    async for _ in Replay(db, await find_trigger(db, "pack"), span):
        pass
    again = await claim(db, worker_id, [trigger_id])
    assert [await let_through(db, lease, ONE) for lease in again] == [None, "one an hour"]
    assert await count(db, "passed") == 1


async def test_what_one_limit_refuses_does_not_count_for_another(db: AsyncConnection[Any]) -> None:
    """Fails if limits are asked one after the other: a duplicate would take the place of an event that is none."""
    _, _, leases = await claimed(db, 3)
    same, another = Limit("text x", 1, HOUR, "duplicate"), Limit("text y", 1, HOUR, "duplicate")
    rate = Limit("user", 2, HOUR, "too many")
    assert await let_through(db, leases[0], [rate, same]) is None
    assert await let_through(db, leases[1], [rate, same]) == "duplicate"
    assert await let_through(db, leases[2], [rate, another]) is None


async def test_what_was_let_through_is_forgotten_when_its_time_is_over(db: AsyncConnection[Any]) -> None:
    _, _, leases = await claimed(db, 2)
    assert await let_through(db, leases[0], ONE) is None
    assert await sweep_gathered(db) == (0, 0)
    await db.execute("UPDATE reflex.passed SET passed_at = now() - interval '2 h', expires_at = now() - interval '1 h'")
    assert await let_through(db, leases[1], ONE) is None
    assert await sweep_gathered(db) == (1, 0)
