"""The plans of the reads on a log of 20,000 events: what is asked for is found by an index, whatever the log holds."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from reflex.core.dead_letters import DeadLetterFilter
from reflex.core.ids import first_id_at
from reflex.core.reads import FIRST_ID, LAST_ID
from reflex.core.restriction import UNRESTRICTED
from reflex.core.statements import statement
from tests.plans.partitioned import leaves, nodes, split

# `old.type` and key `old` make up a quarter of the log each, all of it at the old end: the primary key would have to
# be walked over everything newer.
FILL = """
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition)
SELECT 1, 'trigger-' || n, 5, '{}' FROM generate_series(1, 20) AS n;
INSERT INTO reflex.event (event_id, type, source, key, time, payload, correlation_id)
SELECT lpad(to_hex(n), 32, '0')::uuid, CASE WHEN n < 5000 THEN 'old.type' ELSE 'new.type' || n % 5 END, 's',
       CASE WHEN n < 5000 THEN 'old' ELSE 'k' || n % 500 END, now(), '{}',
       CASE WHEN n < 5000 THEN 'old' ELSE 'c' || n / 10 END
FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.unrouted SELECT type, event_id FROM reflex.event WHERE type = 'new.type1';
INSERT INTO reflex.delivery (trigger_id, event_id)
SELECT 1 + n % 20, lpad(to_hex(n), 32, '0')::uuid FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
SELECT 1 + n % 20, lpad(to_hex(n), 32, '0')::uuid, now() + n * interval '1 s' FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
SELECT 1 + n % 20, lpad(to_hex(n), 32, '0')::uuid, 1, 1, gen_random_uuid() FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome)
SELECT 1 + n % 20, lpad(to_hex(n), 32, '0')::uuid, 1, 1, gen_random_uuid(), now(), 'succeeded'
FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason, died_at)
SELECT 1 + n % 20, lpad(to_hex(n), 32, '0')::uuid, 1, 1, 'failed', now() - n * interval '1 s'
FROM generate_series(1, 20000) AS n;
"""
PARTITIONS = len(leaves("event"))
EVENT_ID = "00000000-0000-0000-0000-000000000fa0"  # number 4,000
NEAR_THE_END = "00000000-0000-0000-0000-000000004e00"  # number 19,968


@pytest.fixture(scope="module")
def full(shared_database_url: str) -> Iterator[psycopg.Connection]:
    """One database for the module: nothing here writes to it."""
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        split(conn, 20_000)
        conn.execute(FILL)
        conn.execute("VACUUM ANALYZE")
        yield conn


def explain(conn: psycopg.Connection, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan, with what each really read."""
    explained = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON, TIMING off) " + statement(name)
    row = conn.execute(explained, parameters, prepare=False).fetchone()
    assert row is not None

    return nodes(row[0][0]["Plan"])


def rows_read(plan: list[dict[str, Any]], relation: str) -> float:
    """How many rows of a table were looked at, those that a filter then threw away included."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
        * node["Actual Loops"]
        for node in plan
        if node.get("Relation Name") == relation
    )


def pages_read(plan: list[dict[str, Any]], relation: str) -> int:
    return sum(
        node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in plan if node.get("Relation Name") == relation
    )


ALL_IDS = {"from_id": FIRST_ID, "before_id": LAST_ID, "led_by": ""}
NO_FILTER = dict.fromkeys(("type_low", "type_high", "source", "key", "correlation_id")) | UNRESTRICTED.parameters()


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"type_low": "old.type", "type_high": "old.type", "led_by": "type"},
        {"type_low": "new.type3", "type_high": "new.type3", "led_by": "type"},
        {"type_low": "old.type", "type_high": "old.type", "led_by": "type", "before_id": EVENT_ID},
        {"type_low": "rare.", "type_high": "rare.\U0010ffff"},
        {"key": "old", "led_by": "key"},
        {"key": "old", "led_by": "key", "before_id": EVENT_ID},
        {"key": "k7", "led_by": "key"},
        {"correlation_id": "old", "led_by": "correlation_id"},
        {"correlation_id": "old", "led_by": "correlation_id", "before_id": EVENT_ID},
        {"correlation_id": "c1999", "led_by": "correlation_id"},
        {"type_low": "new.type3", "type_high": "new.type3", "led_by": "type", "from_id": NEAR_THE_END},
        {"from_id": first_id_at(datetime.now(UTC)), "before_id": first_id_at(datetime.now(UTC) + timedelta(hours=1))},
    ],
    ids=lambda filters: " ".join(filters) or "none",
)
def test_a_page_of_events_reads_about_as_many_rows_as_it_shows(
    full: psycopg.Connection, filters: dict[str, Any]
) -> None:
    """Fails with `led_by` never set, or with `=` for the pair of bounds: the planner walks the primary key from the
    newest event, through everything that is not of the old type."""
    plan = explain(full, "list_events", {**NO_FILTER, **ALL_IDS, "payload_limit": 1000, "limit": 50, **filters})
    assert rows_read(plan, "event") <= 50 + PARTITIONS  # each shows its first one, and one of them all others
    assert rows_read(plan, "unrouted") <= 50
    # Entries of an index that no bound kept out are not counted as rows anywhere, but as pages they are.
    assert pages_read(plan, "event") <= 60 + 2 * PARTITIONS


def test_one_event_is_found_by_keys_in_every_table(full: psycopg.Connection) -> None:
    """Fails if a branch of event_deliveries.sql asks for the event alone: the tables are keyed by trigger first."""
    plan = explain(full, "event_deliveries", {"event_id": EVENT_ID, "trigger_id": None, "run_limit": 100})
    for table in ("delivery", "scheduled", "lease", "dead_letter", "run"):
        # Before PostgreSQL 18 a twentieth of a row in each of twenty loops is rounded to none.
        assert round(rows_read(plan, table)) <= 1, table
    assert rows_read(explain(full, "get_event", {"event_id": EVENT_ID}), "event") == 1
    assert rows_read(explain(full, "event_follow_ups", {"event_id": EVENT_ID, "limit": 100}), "event") <= 5_001


def test_a_page_of_dead_letters_reads_about_as_many_rows_as_it_shows(full: psycopg.Connection) -> None:
    """Fails, once the cursor is deep in the list, with a comparison that begins with anything but died_at."""
    base = {**DeadLetterFilter().parameters(), "trigger_id": None, "event_id": None, "with_payload": False}
    base |= {"error_limit": 100, "limit": 51}
    first = explain(
        full, "list_dead_letters", {**base, **dict.fromkeys(("after_died_at", "after_trigger_id", "after_event_id"))}
    )
    assert rows_read(first, "dead_letter") <= 60
    row = full.execute("SELECT died_at FROM reflex.dead_letter ORDER BY died_at OFFSET 10000 LIMIT 1").fetchone()
    assert row is not None
    after = {"after_died_at": row[0], "after_trigger_id": 1, "after_event_id": EVENT_ID}
    assert rows_read(explain(full, "list_dead_letters", {**base, **after}), "dead_letter") <= 60


def test_a_portion_of_dead_letters_is_found_where_the_last_one_ended(full: psycopg.Connection) -> None:
    """Fails without the order of the keys: the portion would be sought from the beginning of the table."""
    parameters = {**DeadLetterFilter().parameters(), "until": datetime.now(UTC), "limit": 100}
    parameters |= {"after_trigger_id": 10, "after_event_id": EVENT_ID}
    assert rows_read(explain(full, "find_dead_letters", parameters), "dead_letter") <= 110


def test_the_types_that_wait_are_found_without_reading_every_event_that_waits(full: psycopg.Connection) -> None:
    """Fails with SELECT DISTINCT."""
    plan = explain(full, "count_unrouted_types", {"limit": 100, "count_limit": 10})
    assert rows_read(plan, "unrouted") <= 20


def test_the_overview_is_cheap_on_a_large_queue(full: psycopg.Connection) -> None:
    """Fails when tables are counted to the end; the time is a generous bound on what takes 10 ms."""
    plan = explain(full, "queue_numbers", {"count_limit": 1000, "now": None})
    assert max(rows_read(plan, table) for table in ("scheduled", "dead_letter", "unrouted")) <= 1100
    began = time.perf_counter()
    full.execute(statement("queue_numbers"), {"count_limit": 10_000, "now": None}, prepare=False).fetchone()
    assert time.perf_counter() - began < 1
