"""Each check of workers and of what they work on, made to fail by what becomes of a fleet."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from psycopg import AsyncConnection

from reflex.core.checks import fleet, vacuum
from reflex.core.checks.checkup import Level
from reflex.core.database import connect
from reflex.core.ids import new_id
from reflex.core.lanes import WhenDead
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.registration import Manifest, register
from reflex.core.schedules import Missed, Overlap, ScheduleDefinition
from reflex.core.settlement import Outcome
from reflex.core.workers import Incarnation, enlist
from tests.checking import checked, only_problem
from tests.queue_fixtures import claim, claim_ordered, enlisted, new_event, ordered_shop, publish, settled, shop

ALERTS = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"
HOURLY = ScheduleDefinition("hourly", {"every_s": 3600}, "Every hour", Missed.ONCE, Overlap.ALLOW, "tick", "{}", None)


async def aged(conn: AsyncConnection[Any], table: str, column: str, by: timedelta) -> None:
    """Put a moment back, in all rows."""
    await conn.execute(f"UPDATE reflex.{table} SET {column} = {column} - %s".encode(), [by])


async def test_a_worker_that_is_silent_and_what_it_held(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if a late heartbeat passes, if its runs are not seen to be nobody's, or if they are as bad with another
    worker alive, which frees them."""
    made = await checked("workers", database_url)
    assert (made.level, made.says) == (Level.NOTE, "none is alive")
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    assert (await checked("workers", database_url)).says == "1 worker with 10 slots, of shop"
    await publish(db, 2)
    await claim(db, worker_id, list(registered.trigger_ids.values()))
    assert (await checked("workers", database_url)).level is Level.OK
    await aged(db, "worker", "heartbeat_at", timedelta(seconds=45))
    made = await checked("workers", database_url)
    silent = only_problem(made, Level.WARNING)
    assert str(worker_id) in silent.says
    assert "holds 2 deliveries" in silent.means
    assert silent.cure == ["kill -KILL 1  # on host, if it is still there", "reflex worker --app shop"]
    assert "2 runs without a live owner, and no worker" in only_problem(made, Level.ERROR).says
    await enlisted(db, registered)
    made = await checked("workers", database_url)
    assert [problem.level for problem in made.problems] == [Level.WARNING, Level.WARNING]
    assert "2 runs without a live owner" in made.problems[1].says


async def test_deliveries_that_nobody_takes(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if a worker of another app counts, if the wait does not, or if a slow worker is taken for none."""
    registered = await shop(db)
    await publish(db)
    made = await checked("deliveries", database_url)
    assert "no worker of app shop is alive" in only_problem(made, Level.WARNING).says
    await enlisted(db, await shop(db, {"other": "nothing.comes"}, app="warehouse"))
    await aged(db, "event", "created_at", timedelta(minutes=3))
    made = await checked("deliveries", database_url)
    assert only_problem(made, Level.ERROR).cure == ["reflex worker --app shop"]
    await enlisted(db, registered)
    made = await checked("deliveries", database_url)
    assert (made.level, made.says) == (Level.OK, "1 pending, 0 running, 0 scheduled")
    await aged(db, "event", "created_at", timedelta(minutes=3))
    made = await checked("deliveries", database_url)
    assert "a delivery of pack (shop) has waited for 6 min" in only_problem(made, Level.WARNING).says
    await db.execute("UPDATE reflex.worker SET trigger_ids = '{}'")
    made = await checked("deliveries", database_url)
    assert "no live worker of app shop knows it" in only_problem(made, Level.ERROR).says


async def test_events_that_no_trigger_wants_are_a_note(db: AsyncConnection[Any], database_url: str) -> None:
    await publish(db, 2, "nobody.knows")
    made = await checked("deliveries", database_url)
    assert "2 events that no trigger wants" in only_problem(made, Level.NOTE).says


async def test_dead_letters_and_the_keys_they_hold(db: AsyncConnection[Any], database_url: str) -> None:
    assert (await checked("dead-letters", database_url)).level is Level.OK
    registered = await ordered_shop(db, when_dead=WhenDead.HOLD)
    worker_id = await enlisted(db, registered)
    await append(db, [new_event(key="A")])
    leases = await claim_ordered(db, worker_id, registered)
    dead = [settled(lease, Outcome.DEAD, error="boom", reason="rejected") for lease in leases]
    await exchange(db, worker_id=worker_id, settlements=dead, trigger_ids=[], limit=0)
    problem = only_problem(await checked("dead-letters", database_url), Level.WARNING)
    assert problem.says == "1 dead letter of pack (shop); 1 key held"
    assert problem.cure[0] == "reflex dead-letters list --app shop --trigger pack"


async def test_a_log_in_which_events_get_no_place(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if it is a problem while nobody reads, or none while somebody does."""
    await publish(db)
    await aged(db, "event", "created_at", timedelta(minutes=5))
    made = await checked("log", database_url)
    assert (made.level, made.says) == (Level.OK, "1 append without a place, and nobody reads")
    async with await connect(database_url, name="reflex gateway: follow"):
        problem = only_problem(await checked("log", database_url), Level.WARNING)
        assert problem.says == "the log is 5 min behind, with 1 connection that should follow it"
        await aged(db, "event", "created_at", timedelta(minutes=-5))
        assert (await checked("log", database_url)).level is Level.OK


async def test_a_model_that_fails(db: AsyncConnection[Any], database_url: str) -> None:
    assert (await checked("models", database_url)).level is Level.OK
    await db.execute(
        "INSERT INTO reflex.circuit (model, failures, reason, open_until) "
        "VALUES ('openai:gpt', 5, '503 Service Unavailable', now() + interval '1 min')"
    )
    problem = only_problem(await checked("models", database_url), Level.WARNING)
    assert problem.says == "the model openai:gpt has failed 5 times in a row"
    assert "503 Service Unavailable" in problem.means


async def test_schedules_that_do_not_fire(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if a worker that does not have the schedule counts, or if one that is overdue passes."""
    registered = await register(db, Manifest("shop", (), (), (HOURLY,)))
    await enlisted(db, registered)
    problem = only_problem(await checked("schedules", database_url), Level.WARNING)
    assert "no live worker of app shop has it" in problem.says
    ids = list(registered.schedule_ids.values())
    await enlist(db, Incarnation(new_id(), registered.app_id, [], "host", 1, 10, ids))
    made = await checked("schedules", database_url)
    assert (made.level, made.says) == (Level.OK, "1 schedule")
    await db.execute("UPDATE reflex.schedule SET next_at = now() + interval '30 min'")
    assert (await checked("schedules", database_url)).says == "1 schedule, the next fires in 30 min"
    await aged(db, "schedule", "next_at", timedelta(minutes=40))
    problem = only_problem(await checked("schedules", database_url), Level.WARNING)
    assert "hourly of shop is overdue by 10 min" in problem.says
    await db.execute("UPDATE reflex.schedule SET retired_at = now()")
    assert (await checked("schedules", database_url)).level is Level.OK


async def test_budgets_that_are_used_up(db: AsyncConnection[Any], database_url: str) -> None:
    registered = await shop(db)
    await db.execute(
        "INSERT INTO reflex.spend (trigger_id, scope, subject, quantity, period, window_at, ends_at, allowed, spent, "
        "expires_at) VALUES (%s, 'trigger', '', 'usd', 'day', date_trunc('day', now()), now() + interval '3 h', 2.5, "
        "2.5, now() + interval '2 d')",
        [registered.trigger_ids["pack"]],
    )
    assert (await checked("budgets", database_url)).says == "1 budget in use, none used up"
    await db.execute("UPDATE reflex.spend SET refused_at = now()")
    problem = only_problem(await checked("budgets", database_url), Level.WARNING)
    assert problem.says == "the budget of pack is used up: 2.5 usd of 2.5"
    assert problem.cure[0].startswith("reflex budgets raise ")


def test_the_limits_are_those_of_the_alerts() -> None:
    """Fails if one of the two is changed alone: `reflex doctor` would not see what woke somebody up."""
    rules = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}

    def limit(alert: str) -> float:
        return float(re.findall(r"> (\d+)", rules[alert]["expr"])[0])

    assert limit("ReflexWorkerSilent") == fleet.SILENT_S
    assert limit("ReflexOldestPending") == fleet.LONG_PENDING_S
    assert limit("ReflexLogBehind") == fleet.LOG_BEHIND_S
    assert limit("ReflexDeadTuples") == vacuum.MANY_DEAD
    assert rules["ReflexNoLiveWorker"]["for"] == f"{fleet.UNSERVED_S / 60:.0f}m"
