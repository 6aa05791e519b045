"""What the database says of the system, after known work."""

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.figures import TABLES, read_figures
from reflex.core.lanes import WhenDead
from reflex.core.log import append
from reflex.core.metrics import FAMILIES, Origin
from reflex.core.series import Labels
from reflex.core.settlement import Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.queue_fixtures import claim, claim_ordered, enlisted, new_event, ordered_shop, publish, settled, shop

LEASE_TIMEOUT = timedelta(seconds=10)


async def figures(conn: AsyncConnection[Any], *, later: timedelta = timedelta()) -> dict[str, dict[Labels, float]]:
    """By name and labels, at a later moment."""
    cursor = await conn.execute("SELECT now()")
    row = await cursor.fetchone()
    assert row
    found: dict[str, dict[Labels, float]] = {}
    for name, labels, value in await read_figures(conn, lease_timeout=LEASE_TIMEOUT, now=row[0] + later):
        assert isinstance(value, float)
        assert len(labels) == len(FAMILIES[name].labels)
        found.setdefault(name, {})[labels] = value
    return found


async def test_an_empty_database_has_all_that_needs_no_trigger(db: AsyncConnection[Any]) -> None:
    found = await figures(db)
    nothing = {"reflex_ownerless_runs", "reflex_oldest_ownerless_run_seconds", "reflex_unrouted_events",
               "reflex_log_unplaced_appends", "reflex_log_placing_lag_seconds"}  # fmt: skip
    assert {name: found[name] for name in nothing} == {name: {(): 0.0} for name in nothing}
    for name in ("reflex_table_rows", "reflex_table_dead_tuples"):
        assert found[name].keys() == {(table,) for table in TABLES}
    ahead = found["reflex_partitions_ahead_seconds"]
    assert ahead.keys() == {("event",), ("run",)}
    assert all(0 < seconds <= 48 * 3600 for seconds in ahead.values())
    later = (await figures(db, later=timedelta(hours=48)))["reflex_partitions_ahead_seconds"]
    assert all(seconds <= 0 for seconds in later.values())
    assert found.keys() == nothing | {
        "reflex_partitions_ahead_seconds",
        "reflex_table_rows",
        "reflex_table_dead_tuples",
    }


async def test_each_delivery_counts_where_it_is(db: AsyncConnection[Any]) -> None:
    """Fails if waiting ones count as scheduled as well, or one trigger's as another's."""
    registered = await shop(db, {"pack": "order.created", "ship": "order.packed"})
    pack = registered.trigger_ids["pack"]
    worker_id = await enlisted(db, registered)
    await publish(db, 5)
    await publish(db, 2, "order.packed")
    await publish(db, 3, "nobody.knows")
    leases = await claim(db, worker_id, [pack], limit=4)
    wait = Wait(WaitKind.TIME, "a while", timedelta(hours=1))
    settlements = [
        settled(leases[0], Outcome.RETRY, error="later", retry_in=timedelta(hours=1)),
        settled(leases[1], Outcome.WAITING, retry_in=wait.at_most, wait=wait),
        settled(leases[2], Outcome.DEAD, error="boom", reason="rejected"),
    ]
    await queue.exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    found = await figures(db, later=timedelta(seconds=5))
    assert found["reflex_deliveries"] == {
        ("shop", "pack", "pending"): 1, ("shop", "pack", "scheduled"): 1, ("shop", "pack", "waiting"): 1,
        ("shop", "pack", "running"): 1, ("shop", "ship", "pending"): 2, ("shop", "ship", "scheduled"): 0,
        ("shop", "ship", "waiting"): 0, ("shop", "ship", "running"): 0,
    }  # fmt: skip
    assert found["reflex_dead_letters"] == {("shop", "pack", "rejected"): 1}
    assert found["reflex_unrouted_events"] == {(): 3}
    assert found["reflex_trigger_workers"] == {("shop", "pack"): 1, ("shop", "ship"): 1}
    assert found["reflex_workers"] == {("shop", "live"): 1}
    assert found["reflex_ownerless_runs"] == {(): 0}
    oldest = found["reflex_oldest_pending_seconds"]
    assert 5 <= oldest["shop", "pack"] < 30
    assert 5 <= oldest["shop", "ship"] < 30


async def test_a_worker_that_falls_silent_shows_with_what_it_ran(db: AsyncConnection[Any]) -> None:
    """Fails if only workers without a row count as gone: nobody may be left to reap them."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db, 2)
    await claim(db, worker_id, list(registered.trigger_ids.values()))
    living = await figures(db, later=timedelta(seconds=9))
    assert living["reflex_ownerless_runs"] == {(): 0}
    assert living["reflex_oldest_ownerless_run_seconds"] == {(): 0}
    silent = await figures(db, later=timedelta(seconds=60))
    assert silent["reflex_ownerless_runs"] == {(): 2}
    assert 60 <= silent["reflex_oldest_ownerless_run_seconds"][()] < 90
    assert silent["reflex_workers"] == {("shop", "silent"): 1}
    assert silent["reflex_trigger_workers"] == {("shop", "pack"): 0}
    assert 60 <= silent["reflex_heartbeat_age_seconds"]["shop",] < 90
    await db.execute("DELETE FROM reflex.worker")
    gone = await figures(db)
    assert gone["reflex_ownerless_runs"] == {(): 2}
    assert "reflex_workers" not in gone


async def test_lanes_are_pending_and_a_held_key_is_shown(db: AsyncConnection[Any]) -> None:
    registered = await ordered_shop(db, when_dead=WhenDead.HOLD)
    worker_id = await enlisted(db, registered)
    await append(db, [new_event(key="A1") for _ in range(3)])
    found = await figures(db, later=timedelta(seconds=7))
    assert found["reflex_deliveries"]["shop", "pack", "pending"] == 3
    assert 7 <= found["reflex_oldest_pending_seconds"]["shop", "pack"] < 30
    assert found["reflex_held_keys"] == {("shop", "pack"): 0}
    lease, *_ = await claim_ordered(db, worker_id, registered, rows=1)
    dead = settled(lease, Outcome.DEAD, error="boom", reason="failed")
    await queue.exchange(db, worker_id=worker_id, settlements=[dead], trigger_ids=[], limit=0)
    found = await figures(db, later=timedelta(seconds=7))
    assert found["reflex_held_keys"] == {("shop", "pack"): 1}
    # Nobody could claim them, so they do not count as late.
    assert found["reflex_oldest_pending_seconds"] == {("shop", "pack"): 0}
    assert found["reflex_deliveries"]["shop", "pack", "pending"] == 2


async def test_what_is_in_no_position_of_the_log_is_late(db: AsyncConnection[Any]) -> None:
    await publish(db, 2)
    await publish(db, 2)
    found = await figures(db, later=timedelta(seconds=20))
    assert found["reflex_log_unplaced_appends"] == {(): 2}
    assert 20 <= found["reflex_log_placing_lag_seconds"][()] < 40
    await db.execute("DELETE FROM reflex.appended")
    assert (await figures(db))["reflex_log_placing_lag_seconds"] == {(): 0}


async def test_a_circuit_is_open_until_its_time_is_over(db: AsyncConnection[Any]) -> None:
    until = datetime.now(UTC) + timedelta(minutes=1)
    await db.execute(
        "INSERT INTO reflex.circuit (model, failures, reason, open_until) "
        "VALUES ('a', 5, '503', %s), ('b', 1, '503', NULL)",
        (until,),
    )
    assert (await figures(db))["reflex_circuit_open"] == {("a",): 1, ("b",): 0}
    assert (await figures(db, later=timedelta(minutes=2)))["reflex_circuit_open"] == {("a",): 0, ("b",): 0}


async def test_all_figures_of_the_table_are_found(db: AsyncConnection[Any]) -> None:
    """Fails for a name in the table that no statement gives; the other way round, reading it is an error."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    dead = settled(lease, Outcome.DEAD, error="boom", reason="failed")
    await queue.exchange(db, worker_id=worker_id, settlements=[dead], trigger_ids=[], limit=0)
    await db.execute("INSERT INTO reflex.circuit (model, failures, reason) VALUES ('a', 1, '503')")
    names = {name for name, family in FAMILIES.items() if family.origin is Origin.DATABASE}
    assert set(await figures(db)) == names - {"reflex_database_up"}
