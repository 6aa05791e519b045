"""The query of deploy/kubernetes/keda.yaml, executed: what it counts, and that it stays cheap."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.registration import EventType, Manifest, Registered, TriggerDefinition, register
from reflex.core.settlement import Outcome
from tests.deploy.resources import resource
from tests.queue_fixtures import claim, claim_ordered, enlisted, new_event, publish, settled, shop

SCALED = resource("ScaledObject", "reflex-worker", "keda.yaml")
QUERY = SCALED["spec"]["triggers"][0]["metadata"]["query"]
# The largest number that matters: more workers than may be are never asked for.
ENOUGH = SCALED["spec"]["maxReplicaCount"] * 200


async def wanted(conn: AsyncConnection[Any]) -> int:
    cursor = await conn.execute(QUERY.encode())
    (row,) = await cursor.fetchall()
    assert len(row) == 1, "KEDA takes one number"
    return row[0]


async def test_nothing_to_do_is_zero_and_not_null(db: AsyncConnection[Any]) -> None:
    assert await wanted(db) == 0
    await shop(db)
    assert await wanted(db) == 0


async def test_what_is_due_and_what_runs_count_and_what_is_over_or_put_off_does_not(db: AsyncConnection[Any]) -> None:
    """Fails with the backlog alone: ten deliveries that run would be no reason for a worker."""
    registered = await shop(db)
    (pack,) = registered.trigger_ids.values()
    await publish(db, 10)
    assert await wanted(db) == 10
    worker_id = await enlisted(db, registered)
    leases = await claim(db, worker_id, [pack], limit=4)
    assert await wanted(db) == 10
    leases += await claim(db, worker_id, [pack], limit=10)
    assert (len(leases), await wanted(db)) == (10, 10)

    later = timedelta(hours=1)
    done = [settled(leases[0]), settled(leases[1], Outcome.DEAD, reason="failed", error="it did")]
    done += [settled(leases[2], Outcome.RETRY, retry_in=later), settled(leases[3], Outcome.RETRY, retry_in=later)]
    await exchange(db, worker_id=worker_id, settlements=done, trigger_ids=[pack], limit=0)
    assert await wanted(db) == 6
    # Before a worker has seen that it is due: with none that could see it, one has to be started.
    await db.execute(
        "UPDATE reflex.scheduled SET available_at = now() - interval '1 second' "
        "WHERE event_id = (SELECT min(event_id::text)::uuid FROM reflex.scheduled)"
    )
    assert await wanted(db) == 7


async def test_a_key_of_an_ordered_trigger_is_work_for_one_slot(db: AsyncConnection[Any]) -> None:
    """Fails if each delivery counts: a thousand of one key would call for workers that have nothing to do."""
    pack = TriggerDefinition("pack", ("order.created",), 3, {}, "key")
    registered = await register(db, Manifest("shop", (EventType("order.created", {}),), (pack,)))
    await append(db, [new_event(key=key) for key in "AAAAABBBBB" for _ in range(3)])
    assert await wanted(db) == 2
    worker_id = await enlisted(db, registered)
    leases = await claim_ordered(db, worker_id, registered, limit=1, rows=5)
    assert {lease.lane_key for lease in leases} == {leases[0].lane_key}
    assert len(leases) > 1
    assert await wanted(db) == 2, "one runs, one is ready"
    await db.execute("UPDATE reflex.lane SET available_at = now() + interval '1 hour' WHERE ready")
    assert await wanted(db) == 1
    await db.execute("UPDATE reflex.lane SET available_at = now() WHERE available_at IS NOT NULL")
    assert await wanted(db) == 2


async def test_work_of_a_trigger_that_nobody_knows_any_more_calls_for_no_worker(db: AsyncConnection[Any]) -> None:
    registered = await shop(db, {"pack": "order.created", "label": "order.created"})
    await publish(db, 3)
    assert await wanted(db) == 6
    await retired(db, registered, "label")
    assert await wanted(db) == 3


async def retired(db: AsyncConnection[Any], registered: Registered, name: str) -> None:
    await db.execute(
        "UPDATE reflex.trigger SET retired_at = now() WHERE trigger_id = %s", [registered.trigger_ids[name]]
    )


FILL = """
    INSERT INTO reflex.app (name) VALUES ('shop');
    INSERT INTO reflex.trigger (app_id, name, max_attempts, definition)
    SELECT 1, 'trigger ' || n, 5, '{}' FROM generate_series(1, 4) AS n;
    INSERT INTO reflex.delivery (trigger_id, event_id)
    SELECT 1 + n % 4, gen_random_uuid() FROM generate_series(1, 100000) AS n;
    INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
    SELECT 1 + n % 4, gen_random_uuid(), now() + interval '1 hour' * (n % 20 - 10)
    FROM generate_series(1, 40000) AS n;
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT 1, n::text, 1, n FROM generate_series(1, 40000) AS n;
    INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
    SELECT 1 + n % 4, gen_random_uuid(), 1, 1, gen_random_uuid() FROM generate_series(1, 5000) AS n;
"""


@pytest.fixture
def full(database_url: str) -> psycopg.Connection:
    conn = psycopg.connect(database_url, autocommit=True)
    conn.execute(FILL.encode())
    conn.execute("VACUUM ANALYZE")
    return conn


def test_it_is_cheap_however_much_there_is(full: psycopg.Connection) -> None:
    """KEDA asks every few seconds, for ever. Fails without the limits, or the orders: all there is would be read."""
    with full:
        row = full.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {QUERY}".encode()).fetchone()
        answer = full.execute(QUERY.encode()).fetchone()
    assert row
    assert answer
    assert answer[0] > ENOUGH
    plan = row[0][0]["Plan"]
    tables = ("delivery", "scheduled", "lane", "lease")
    read = {
        table: sum(rows_read(node) for node in nodes(plan) if node.get("Relation Name") == table) for table in tables
    }
    assert read["delivery"] <= 20_100
    assert read["scheduled"] <= 5_100
    assert read["lane"] <= 5_100
    assert read["lease"] == 5_000
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 15_000


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def rows_read(node: dict[str, Any]) -> float:
    """What was looked at, that which a filter then threw away included."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return (node["Actual Rows"] + removed) * node["Actual Loops"]
