"""Schedules in the database: what registering them again changes, when they are retired, and what is listed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from reflex.core.ids import new_id
from reflex.core.registration import Manifest, Registered, register
from reflex.core.schedules import (
    Advance,
    Missed,
    Overlap,
    ScheduleDefinition,
    ScheduleRow,
    advance_schedules,
    list_schedules,
    register_schedules,
    retire_schedules,
)
from reflex.core.workers import Incarnation, enlist

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAILY = ScheduleDefinition(
    "daily", {"cron": "0 9 * * *", "tz": "UTC"}, "At 09:00 every day", Missed.ONCE, Overlap.ALLOW, "a.b", "{}", None
)


async def registered(db: AsyncConnection[Any], *schedules: ScheduleDefinition) -> Registered:
    return await register(db, Manifest("shop", (), (), schedules))


async def rows(db: AsyncConnection[Any]) -> list[ScheduleRow]:
    return await list_schedules(db, lease_timeout=timedelta(seconds=10))


async def enlisted(db: AsyncConnection[Any], app: Registered, *, schedule_ids: list[int]) -> None:
    await enlist(db, Incarnation(new_id(), app.app_id, [], "host", 1, 10, schedule_ids))


async def test_registering_again_keeps_the_next_fire_unless_its_times_changed(db: AsyncConnection[Any]) -> None:
    """Fails if next_at is planned anew at every start (a fleet that restarts often would never fire an hourly one), if
    a changed cron keeps the old one's, or if anything but the times counts as a change of them."""
    app = await registered(db, DAILY)
    (schedule_id,) = app.schedule_ids.values()
    await advance_schedules(db, [Advance(schedule_id, START + HOUR, None, None, 3, 1)])

    same_times = replace(DAILY, type="c.d", payload='{"x": 1}', key="K", missed=Missed.ALL)
    assert (await registered(db, same_times)).schedule_ids == app.schedule_ids
    (kept,) = await rows(db)
    assert (kept.next_at, kept.type, kept.key, kept.missed) == (START + HOUR, "c.d", "K", "all")

    changed = replace(DAILY, spec={"cron": "0 10 * * *", "tz": "UTC"})
    await register_schedules(db, app.app_id, [changed], now=START + 5 * HOUR)
    (anew,) = await rows(db)
    assert (anew.id, anew.next_at, anew.cron, anew.fired) == (schedule_id, None, "0 10 * * *", 3)
    assert await started_at(db) == START + 5 * HOUR


async def test_a_schedule_that_was_gone_starts_anew_when_it_comes_back(db: AsyncConnection[Any]) -> None:
    """What it would have done while no code had it was not missed. Fails if only a changed spec plans anew."""
    app = await registered(db, DAILY)
    (schedule_id,) = app.schedule_ids.values()
    await advance_schedules(db, [Advance(schedule_id, START, None, None, 0, 0)])
    await db.execute("UPDATE reflex.schedule SET retired_at = now()")
    await register_schedules(db, app.app_id, [DAILY], now=START + 100 * HOUR)
    (back,) = await rows(db)
    assert (back.next_at, back.retired_at) == (None, None)
    assert await started_at(db) == START + 100 * HOUR


async def test_registering_without_a_schedule_leaves_it_to_those_who_have_it(db: AsyncConnection[Any]) -> None:
    """Old and new code side by side. Fails if registering replaces the app's schedules."""
    await registered(db, DAILY)
    await registered(db)
    assert [(row.name, row.retired_at) for row in await rows(db)] == [("daily", None)]


async def test_a_schedule_is_retired_when_only_workers_without_it_live(db: AsyncConnection[Any]) -> None:
    """Fails without each of the conditions: an app that is down keeps its schedules, a deployment has time to happen,
    another app's workers do not count, and one worker that still knows it is enough."""
    await register(db, Manifest("other", (), ()))
    app = await registered(db, DAILY)
    (schedule_id,) = app.schedule_ids.values()
    at_once, minute = timedelta(seconds=-1), timedelta(minutes=1)
    await enlisted(db, replace(app, app_id=app.app_id - 1), schedule_ids=[])
    assert await retire_schedules(db, after=at_once) == [], "the app is down"
    await enlisted(db, app, schedule_ids=[])
    await db.execute("UPDATE reflex.worker SET started_at = now() - interval '1 hour'")
    assert await retire_schedules(db, after=minute) == [], "it was registered just now: its worker is about to enlist"
    await db.execute("UPDATE reflex.schedule SET registered_at = now() - interval '1 hour'")
    await db.execute("UPDATE reflex.worker SET started_at = now() WHERE app_id = %s", [app.app_id])
    assert await retire_schedules(db, after=minute) == [], "the deployment has only begun"
    await enlisted(db, app, schedule_ids=[schedule_id])
    assert await retire_schedules(db, after=at_once) == [], "a worker knows it"
    await db.execute("DELETE FROM reflex.worker WHERE schedule_ids <> '{}'")
    assert await retire_schedules(db, after=at_once) == ["daily"]
    assert await retire_schedules(db, after=at_once) == []


async def test_schedules_are_listed_with_how_many_live_workers_know_them(db: AsyncConnection[Any]) -> None:
    """Fails if a worker counts whose heartbeat stopped, or one that does not know the schedule."""
    often = replace(DAILY, name="often", spec={"every_s": 300.0}, description="every 5 minutes")
    app = await registered(db, DAILY, often)
    await enlisted(db, app, schedule_ids=[app.schedule_ids["daily"]])
    await enlisted(db, app, schedule_ids=list(app.schedule_ids.values()))
    await db.execute(
        "UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour' WHERE cardinality(schedule_ids) = 2"
    )
    daily, every = await rows(db)
    assert (daily.name, daily.app, daily.cron, daily.tz, daily.every_s) == ("daily", "shop", "0 9 * * *", "UTC", None)
    assert (daily.description, daily.live_workers, every.live_workers) == ("At 09:00 every day", 1, 0)
    assert (every.cron, every.tz, every.every_s, every.last_at, every.fired) == (None, None, 300.0, None, 0)


async def started_at(db: AsyncConnection[Any]) -> datetime:
    row = await (await db.execute("SELECT started_at FROM reflex.schedule")).fetchone()
    assert row is not None
    return row[0]
