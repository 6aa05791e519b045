"""Firing schedules: once in the fleet, whoever dies in between, and as the policies say. Time is a parameter."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from reflex.core.database import connect
from reflex.core.queue import exchange
from reflex.core.schedules import Missed, Overlap, ScheduleDefinition, register_schedules
from reflex.core.settlement import Outcome
from reflex.worker.timers import Timers, fire
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, settled, shop

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hourly(name: str = "tick", **fields: Any) -> ScheduleDefinition:
    given: dict[str, Any] = {
        "spec": {"every_s": 3600},
        "missed": Missed.ONCE,
        "overlap": Overlap.ALLOW,
        "key": None,
        **fields,
    }
    return ScheduleDefinition(name=name, description="every hour", type="tick", payload='{"n": 1}', **given)


async def scheduled(conn: AsyncConnection[Any], *schedules: ScheduleDefinition) -> list[int]:
    """An app with a trigger for their events, and these schedules since START."""
    app = await shop(conn, {"on-tick": "tick"})
    return list((await register_schedules(conn, app.app_id, schedules, now=START)).values())


async def events(conn: AsyncConnection[Any]) -> list[dict[str, Any]]:
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute("SELECT * FROM reflex.event ORDER BY time, source")
    return await cursor.fetchall()


async def state(conn: AsyncConnection[Any], name: str = "tick") -> dict[str, Any]:
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute("SELECT * FROM reflex.schedule WHERE name = %s", [name])
    row = await cursor.fetchone()
    assert row is not None
    return row


async def test_a_fire_appends_the_event_with_its_planned_time_and_moves_on(database_url: str) -> None:
    """Fails if an interval goes on from when it was fired instead of when it was planned: it would drift."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly(key="K7"))
        assert await fire(conn, ids, now=START + HOUR - timedelta(seconds=1)) != [], "its first fire is planned"
        assert (await events(conn), (await state(conn))["next_at"]) == ([], START + HOUR)
        assert await fire(conn, ids, now=START + HOUR - timedelta(seconds=1)) == []
        (fired,) = await fire(conn, ids, now=START + HOUR + timedelta(seconds=7))
        (event,) = await events(conn)
        assert fired.event_ids == [event["event_id"]]
        assert (event["type"], event["source"], event["key"], event["time"]) == (
            "tick",
            "timer:tick",
            "K7",
            START + HOUR,
        )
        assert (event["payload"], event["correlation_id"], event["causation_id"]) == ({"n": 1}, None, None)
        assert await count(conn, "delivery") == 1
        after = await state(conn)
        assert (after["next_at"], after["last_at"]) == (START + 2 * HOUR, START + HOUR)
        assert (after["last_event_id"], after["fired"], after["skipped"]) == (event["event_id"], 1, 0)


async def test_what_came_due_before_anybody_planned_it_is_not_lost(database_url: str) -> None:
    """A worker registers and dies; the next one starts hours later. Fails if the first fire is counted from the first
    look instead of the registration."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly(), hourly("cron", spec={"cron": "30 * * * *", "tz": "UTC"}))
        await fire(conn, ids, now=START + 5 * HOUR)
        assert [(e["source"], e["time"]) for e in await events(conn)] == [
            ("timer:cron", START + 4.5 * HOUR),
            ("timer:tick", START + 5 * HOUR),
        ]


async def test_of_two_workers_that_look_at_once_one_fires_and_the_other_does_not_wait(database_url: str) -> None:
    """Fails without SKIP LOCKED (the second waits) and without FOR UPDATE (it waits for the idempotency key)."""
    async with await connect(database_url, name="a") as one, await connect(database_url, name="b") as two:
        ids = await scheduled(one, hourly())
        await fire(one, ids, now=START)
        await two.execute("SET lock_timeout = '200ms'")
        async with one.transaction():
            assert len(await fire(one, ids, now=START + HOUR)) == 1
            assert await fire(two, ids, now=START + HOUR) == [], "the first one has not committed"
        assert await fire(two, ids, now=START + HOUR) == []
        assert len(await events(one)) == 1


async def test_a_worker_that_dies_between_event_and_commit_loses_nothing_and_repeats_nothing(database_url: str) -> None:
    """Fails if the event is appended, or next_at moved, in a transaction of its own."""
    async with await connect(database_url, name="a") as dying, await connect(database_url, name="b") as other:
        ids = await scheduled(other, hourly())
        with pytest.raises(psycopg.OperationalError):
            await fire_and_die(dying, other, ids)
        assert await events(other) == []
        await eventually(lambda: fired_once(other, ids))
        assert [event["time"] for event in await events(other)] == [START + HOUR]
        assert await count(other, "delivery") == 1


async def fire_and_die(conn: AsyncConnection[Any], other: AsyncConnection[Any], ids: list[int]) -> None:
    async with conn.transaction():
        assert len((await fire(conn, ids, now=START + HOUR))[0].event_ids) == 1
        await other.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
        await conn.execute("SELECT")


async def fired_once(conn: AsyncConnection[Any], ids: list[int]) -> bool:
    """The ended connection's locks are gone a moment after it."""
    return bool(await fire(conn, ids, now=START + HOUR))


async def test_event_and_next_fire_commit_together(database_url: str) -> None:
    """Fails without the transaction in fire(): the event is in the log, and the schedule is due again."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly())
        await conn.execute("ALTER TABLE reflex.schedule ADD CONSTRAINT nothing_moves CHECK (next_at IS NULL)")
        with pytest.raises(psycopg.errors.CheckViolation):
            await fire(conn, ids, now=START + HOUR)
        assert await events(conn) == []


async def test_a_planned_time_has_one_event_even_if_somebody_sets_it_back_by_hand(database_url: str) -> None:
    """Fails without the idempotency key; and without the schedule's id in it, where two apps have one of that name."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly())
        app = await shop(conn, {"on-tick": "tick"}, app="another")
        ids += (await register_schedules(conn, app.app_id, [hourly()], now=START)).values()
        await fire(conn, ids, now=START + HOUR)
        stored = await events(conn)
        assert len(stored) == 2
        await conn.execute("UPDATE reflex.schedule SET next_at = next_at - interval '1 hour'")
        await fire(conn, ids, now=START + HOUR)
        assert await events(conn) == stored
        row = await state(conn)
        assert row["last_event_id"] in {event["event_id"] for event in stored}
        assert row["next_at"] == START + 2 * HOUR


async def test_what_was_missed_is_made_up_for_as_each_schedule_says(database_url: str) -> None:
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, *(hourly(policy, missed=policy) for policy in Missed))
        await fire(conn, ids, now=START + 4.5 * HOUR)
        found = {policy.value: [] for policy in Missed}
        for event in await events(conn):
            found[event["source"].removeprefix("timer:")].append((event["time"] - START) / HOUR)
        assert found == {"once": [4], "skip": [], "all": [1, 2, 3, 4]}
        counted = {policy: await state(conn, policy) for policy in found}
        assert {policy: (row["fired"], row["skipped"]) for policy, row in counted.items()} == {
            "once": (1, 3), "skip": (0, 4), "all": (4, 0)
        }  # fmt: skip
        assert {row["next_at"] for row in counted.values()} == {START + 5 * HOUR}


async def test_a_schedule_that_may_not_overlap_waits_for_its_last_event_wherever_it_is(database_url: str) -> None:
    """Pending, running, waiting for a retry; then finished. Fails without each of the three tables."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly(overlap=Overlap.SKIP))
        app = await shop(conn, {"on-tick": "tick", "on-other": "other"})
        worker_id = await enlisted(conn, app)
        trigger_ids = list(app.trigger_ids.values())

        async def next_hour(hour: int) -> int:
            (fired,) = await fire(conn, ids, now=START + hour * HOUR)
            assert len(fired.event_ids) + fired.skipped == 1
            return len(fired.event_ids)

        assert await next_hour(1) == 1
        assert await next_hour(2) == 0, "pending"
        (lease,) = await claim(conn, worker_id, trigger_ids)
        assert await next_hour(3) == 0, "running"
        later = settled(lease, Outcome.RETRY, retry_in=HOUR)
        await exchange(conn, worker_id=worker_id, settlements=[later], trigger_ids=[], limit=0)
        assert await next_hour(4) == 0, "will be retried"
        await conn.execute("DELETE FROM reflex.scheduled")
        assert await next_hour(5) == 1
        row = await state(conn)
        assert (row["fired"], row["skipped"], row["last_at"]) == (2, 3, START + 5 * HOUR)


async def test_overlapping_is_allowed_unless_it_is_forbidden(database_url: str) -> None:
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly())
        for hour in (1, 2):
            await fire(conn, ids, now=START + hour * HOUR)
        assert await count(conn, "delivery") == 2


async def test_a_retired_schedule_does_not_fire(database_url: str) -> None:
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly())
        await conn.execute("UPDATE reflex.schedule SET retired_at = now()")
        assert await fire(conn, ids, now=START + HOUR) == []


@asynccontextmanager
async def timing(url: str, ids: list[int]) -> AsyncGenerator[Timers]:
    """The loop, which polls once a minute: what happens sooner happens because somebody knew when, or woke it."""
    timers = Timers(url, schedule_ids=ids, poll_interval_s=60)
    running = asyncio.create_task(timers.run())
    try:
        yield timers
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_schedule_that_this_code_cannot_read_is_left_to_others_and_stops_nobody(database_url: str) -> None:
    """Fails if an error of one schedule ends the round, or if it is taken again and again."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly("moon", spec={"moon": "full"}), hourly())
        async with timing(database_url, ids) as timers:
            await eventually(lambda: has_events(conn, 1))
            assert timers.schedule_ids == ids[1:]
        row = await state(conn, "moon")
        assert (row["next_at"], row["fired"]) == (None, 0)


async def test_the_loop_sleeps_until_the_next_fire_is_due(database_url: str) -> None:
    """Fails if it sleeps for its poll interval instead."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly())
        await fire(conn, ids, now=START + HOUR)
        await conn.execute("UPDATE reflex.schedule SET next_at = now() + interval '300 ms'")
        async with timing(database_url, ids):
            await eventually(lambda: has_events(conn, 2), timeout_s=10)


async def test_the_loop_looks_again_when_it_is_woken(database_url: str) -> None:
    """A registration that changes a schedule wakes it. Fails if wake() does nothing."""
    async with await connect(database_url, name="t") as conn:
        ids = await scheduled(conn, hourly())
        async with timing(database_url, ids) as timers:
            await eventually(lambda: has_events(conn, 1), timeout_s=10)
            await conn.execute("UPDATE reflex.schedule SET next_at = now()")
            timers.wake()
            await eventually(lambda: has_events(conn, 2), timeout_s=10)


async def has_events(conn: AsyncConnection[Any], expected: int) -> bool:
    return await count(conn, "event") == expected
