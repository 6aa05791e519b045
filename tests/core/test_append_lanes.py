"""An append begins without lanes, and goes through them if a trigger is ordered: at this moment, not a while ago."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core import log
from reflex.core.database import connect, conninfo
from reflex.core.log import append
from reflex.core.queue import route_unrouted
from reflex.core.registration import Manifest, TriggerDefinition, register
from reflex.core.statements import statement
from reflex.core.workers import retire_triggers
from tests.core.test_lane_races import waits_for_a_lock
from tests.queue_fixtures import claim_ordered, count, enlisted, new_event, ordered_shop, publish, shop

WITHOUT_LANES, WITH_LANES = statement("append_events", without="lanes"), statement("append_events")
TABLES = {
    "event": "event_id, type, key, depth",
    "idempotency": "source, key, event_id",
    "delivery": "trigger_id, event_id, attempt",
    "scheduled": "trigger_id, event_id, lane_key",
    "unrouted": "type, event_id",
    "appended": "event_ids",
}


class Watched(AsyncConnection[Any]):
    """A connection that remembers which of the statements that append it ran."""

    ran: list[str]

    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        if query in (WITHOUT_LANES, WITH_LANES):
            self.ran.append(query)
        return await super().execute(query, *args, **options)

    def just_ran(self) -> list[str]:
        """What it ran since this was last asked."""
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Watched]:
    log.led_into_lanes.clear()
    async with await Watched.connect(conninfo(database_url, name="db"), autocommit=True) as conn:
        conn.ran = []
        yield conn


@pytest.fixture
async def looking(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(database_url, name="looking") as conn:
        yield conn


async def found(conn: AsyncConnection[Any], *tables: str) -> list[int]:
    return [await count(conn, table) for table in tables]


async def test_a_trigger_gets_its_order_and_loses_it_between_two_appends(db: Watched) -> None:
    """The hint is wrong both ways. Fails if the shorter statement stores what it cannot put into lanes, and if a hint
    is not taken back: the app would pay for lanes for as long as its process lives."""
    await shop(db)
    await publish(db)
    assert db.just_ran() == [WITHOUT_LANES]
    await ordered_shop(db, "source")
    await publish(db)
    assert db.just_ran() == [WITHOUT_LANES, WITH_LANES]
    await publish(db)
    assert db.just_ran() == [WITH_LANES]
    assert await found(db, "delivery", "ordered", "event") == [1, 2, 3]
    await shop(db)
    await publish(db)
    await publish(db)
    assert db.just_ran() == [WITH_LANES, WITHOUT_LANES]
    assert await found(db, "delivery", "ordered", "event") == [3, 2, 5]


async def test_a_trigger_that_was_ordered_is_retired(db: Watched) -> None:
    """Fails if a hint is taken for a route: the event would be nowhere, or in the lane of a trigger that is gone."""
    await ordered_shop(db, "source")
    await publish(db)
    registered = await register(db, Manifest("shop", (), (TriggerDefinition("new", ("order.paid",), 3, {}),)))
    await enlisted(db, registered)
    assert await retire_triggers(db, after=timedelta(microseconds=-1)) == ["pack"]
    db.just_ran()
    await publish(db)
    await publish(db)
    assert db.just_ran() == [WITH_LANES, WITHOUT_LANES]
    assert await found(db, "unrouted", "ordered", "event") == [2, 1, 3]


async def test_a_pattern_is_remembered_and_not_each_type_that_it_matches(db: Watched) -> None:
    """Fails if the types are remembered: each new one would cost a statement, and their number has no end."""
    await register(db, Manifest("shop", (), (TriggerDefinition("a", ("order.*",), 3, {}, "source"),)))
    for number in range(3):
        await publish(db, type=f"order.n{number}")
    await publish(db, type="invoice.sent")
    assert db.just_ran() == [WITHOUT_LANES, WITH_LANES, WITH_LANES, WITH_LANES, WITHOUT_LANES]
    assert log.led_into_lanes == {"order.*"}


async def test_what_is_remembered_has_a_bound(db: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if patterns are only ever added."""
    monkeypatch.setattr(log, "MAX_PATTERNS", 2)
    types = [f"t{number}" for number in range(10)]
    await register(db, Manifest("shop", (), (TriggerDefinition("a", tuple(types), 3, {}, "source"),)))
    for type in types:
        await publish(db, type=type)
        assert len(log.led_into_lanes) <= 2
    assert await count(db, "ordered") == 10


async def test_what_was_not_stored_without_lanes_has_used_nothing_up(db: Watched) -> None:
    """One batch of ordered and other events, with idempotency keys, in the caller's transaction.

    Fails if only the events are kept back, and not their keys: they would be taken for repeated ones and lost.
    """
    await ordered_shop(db, "source")
    await shop(db, {"bill": "order.paid"}, app="billing")
    batch = [new_event(idempotency_key="a"), new_event("order.paid", idempotency_key="b"), new_event()]
    async with db.transaction(force_rollback=True):
        await append(db, batch)
    assert await found(db, "event", "idempotency", "ordered", "delivery") == [0, 0, 0, 0]
    log.led_into_lanes.clear()
    db.just_ran()
    async with db.transaction():
        assert await append(db, batch) == {event.event_id: event.event_id for event in batch}
    assert db.just_ran() == [WITHOUT_LANES, WITH_LANES]
    again = [event._replace(event_id=new_event().event_id) for event in batch[:2]]
    assert list((await append(db, again)).values()) == [event.event_id for event in batch[:2]]
    assert await found(db, "event", "idempotency", "ordered", "delivery", "appended") == [3, 2, 2, 1, 1]


async def test_a_trigger_that_is_registered_between_the_two_statements_is_seen(
    db: Watched, other: AsyncConnection[Any], looking: AsyncConnection[Any]
) -> None:
    """The statement with lanes waits, as it begins, for a lock on their table that the other one does not need.

    Fails if the second statement goes by what the first one has found, or in its snapshot.
    """
    await ordered_shop(db, "source")
    async with other.transaction():
        await other.execute("LOCK TABLE reflex.lane IN ACCESS EXCLUSIVE MODE")
        appending = asyncio.create_task(publish(db))
        await waits_for_a_lock(looking, "db")
        await shop(other, {"bill": "order.created"}, app="billing")
        await ordered_shop(other, None)
        await register(other, Manifest("third", (), (TriggerDefinition("c", ("order.*",), 3, {}, "source"),)))
    await appending
    assert db.just_ran() == [WITHOUT_LANES, WITH_LANES]
    assert await found(db, "event", "delivery", "ordered", "appended") == [1, 2, 1, 1]
    assert log.led_into_lanes == {"order.*"}


async def test_an_event_that_came_while_its_ordered_trigger_was_being_registered_is_first(
    db: Watched, other: AsyncConnection[Any]
) -> None:
    """Fails if an append without lanes makes a delivery, or nothing, of what it does not find a route for."""
    async with other.transaction():
        registered = await ordered_shop(other, "source")
        events = await publish(db)
        assert db.just_ran() == [WITHOUT_LANES]
    events += await publish(db)
    assert db.just_ran() == [WITHOUT_LANES, WITH_LANES]
    assert await route_unrouted(db) == 1
    worker_id = await enlisted(db, registered)
    assert [lease.event_id for lease in await claim_ordered(db, worker_id, registered)] == events


async def test_where_nothing_is_ordered_both_statements_do_the_same(db: Watched) -> None:
    """Fails if what is left out does what others need: an unrouted event, say, or a place in the log."""
    await shop(db, {"pack": "order.created", "thank": "order.*", "all": "*"})
    events = [
        new_event(key="k", depth=3), new_event("order.paid", idempotency_key="a"), new_event(idempotency_key="a"),
        new_event(delay=timedelta(hours=1)), new_event(delay=timedelta(0)), new_event("reflex.reply"),
        new_event("reflex.dead_letter"), *(new_event("order.paid") for _ in range(120)),
    ]  # fmt: skip
    seen: list[Any] = []
    for hint in ([], ["*"]):
        log.led_into_lanes.update(hint)
        async with db.transaction(force_rollback=True):
            ids = await append(db, events)
            seen.append((ids, {table: await rows(db, table, columns) for table, columns in TABLES.items()}))
    assert db.just_ran() == [WITHOUT_LANES, WITH_LANES]
    assert seen[0] == seen[1]


async def rows(conn: AsyncConnection[Any], table: str, columns: str) -> list[Any]:
    return sorted(await (await conn.execute(f"SELECT {columns} FROM reflex.{table}".encode())).fetchall(), key=str)
