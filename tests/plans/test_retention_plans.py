"""The plans of retention and replay on 100,000 events: a portion reads what it looks at, wherever in the log it is."""

import itertools
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from reflex.core.log_filter import LogFilter
from tests.plans.partitioned import leaves, split
from tests.plans.test_log_plans import PREPARED, explain, scanned_whole
from tests.plans.test_read_plans import rows_read

# Five triggers that have run all events between them but the last 25,000, which wait.
FILL = """
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition)
SELECT 1, 't' || n, 3, '{}' FROM generate_series(1, 5) AS n;
INSERT INTO reflex.route (pattern, trigger_id, low, high)
SELECT 'order.*', n, 'order.', 'order.~' FROM generate_series(1, 5) AS n;
CREATE TEMP TABLE filling AS SELECT n, lpad(to_hex(n), 32, '0')::uuid AS event_id FROM generate_series(1, 100000) AS n;
INSERT INTO reflex.event (event_id, type, source, time, payload)
SELECT event_id, 'order.created', 's', now(), '{}' FROM filling;
INSERT INTO reflex.log (event_ids, placed_at)
SELECT array_agg(event_id ORDER BY n), now() - make_interval(hours => 10001 - min(n) / 10)
FROM filling GROUP BY n / 10 ORDER BY min(n);
INSERT INTO reflex.idempotency (source, key, event_id) SELECT 's', md5(n::text), event_id FROM filling WHERE n % 2 = 0;
INSERT INTO reflex.unrouted (type, event_id) SELECT 'order.created', event_id FROM filling WHERE n % 10 = 0;
INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome)
SELECT 1 + n % 5, event_id, 1, 1, event_id, now(), 'succeeded' FROM filling WHERE n <= 75000;
INSERT INTO reflex.delivery (trigger_id, event_id) SELECT 1 + n % 3, event_id FROM filling WHERE n > 75000;
INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason)
SELECT 1 + n % 5, event_id, 1, 1, 'failed' FROM filling WHERE n % 10 = 7;
INSERT INTO reflex.ordered (trigger_id, key, position, event_id)
SELECT 5, 'k', n, event_id FROM filling WHERE n > 75000;
INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
SELECT 4, event_id, now() FROM filling WHERE n > 75000;
INSERT INTO reflex.step (trigger_id, event_id, fingerprint, occurrence, kind, position, result, lease_epoch)
SELECT 1, event_id, '', 1, 'tool_call', 1, '1', 1 FROM filling WHERE n > 75000;
INSERT INTO reflex.replayed (event_id, trigger_id, lease_epoch)
SELECT event_id, 1 + n % 5, 1 FROM filling WHERE n <= 60000;
INSERT INTO reflex.session (session_id, position, place, seen_at)
SELECT n::text, 1, 1, now() - make_interval(hours => n) FROM generate_series(1, 20000) AS n;
"""
BIG = ("event", "log", "idempotency", "unrouted", "run", "delivery", "dead_letter", "ordered", "scheduled", "step",
       "session", "replayed")  # fmt: skip
END = {"position": 10_001, "place": 1}


@pytest.fixture(scope="module")
def filled(shared_database_url: str) -> Iterator[psycopg.Connection]:
    """One database for the module: nothing here changes it. What it knows of its tables is that they are empty."""
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        split(conn, 100_000)
        for table in itertools.chain.from_iterable(map(leaves, BIG)):
            conn.execute(f"ALTER TABLE reflex.{table} SET (autovacuum_enabled = off)".encode())
        conn.execute("VACUUM ANALYZE")
        conn.execute(FILL)
        yield conn


# The order counts: once analyzed, the statistics stay.
@pytest.fixture(scope="module", params=PREPARED)
def full(request: pytest.FixtureRequest, filled: psycopg.Connection) -> psycopg.Connection:
    for command in PREPARED[request.param].split("; "):
        filled.execute(command.encode())
    return filled


def big_scans(plan: list[dict[str, Any]]) -> set[str]:
    return scanned_whole(plan) & set(BIG)


@pytest.mark.parametrize("after", [0, 5_000, 9_000])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_portion_of_a_pass_reads_what_it_looks_at(full: psycopg.Connection, after: int, dry_run: bool) -> None:
    """Fails if a table is joined as a whole: without OFFSET 0, or the index on the event of an idempotency key."""
    plan = explain(full, "prune_events", {**END, "after": after, "limit": 500, "runs": True, "dry_run": dry_run})
    assert big_scans(plan) == set()
    assert 1 <= rows_read(plan, "log") <= 1100
    assert 500 <= rows_read(plan, "event") <= 1100
    for table in ("run", "step", "idempotency", "unrouted", "delivery", "dead_letter", "ordered", "scheduled",
                  "replayed"):  # fmt: skip
        # A ctid names a row in each partition.
        assert rows_read(plan, table) <= 600 * (5 + (len(leaves(table)) if table == "run" else 0)), table


def test_a_pass_over_nothing_reads_next_to_nothing(full: psycopg.Connection) -> None:
    """Nothing in the log is old, and nothing is left from before it. Fails if it looks for old events by their ids."""
    plan = explain(
        full, "prune_events", {"position": 0, "place": 0, "after": 0, "limit": 500, "runs": True, "dry_run": False}
    )
    assert big_scans(plan) == set()
    assert sum(rows_read(plan, table) for table in BIG) <= 1
    plan = explain(full, "log_before", {"age": "9999999 hours", "now": None})
    assert big_scans(plan) == set()
    assert rows_read(plan, "log") <= 20
    plan = explain(full, "forget_sessions", {"age": "9999999 hours", "now": None, "limit": 500})
    assert big_scans(plan) == set()
    assert rows_read(plan, "session") == 0


def test_dropping_the_order_and_finding_a_time_read_no_more_than_a_few_rows(full: psycopg.Connection) -> None:
    """Fails if the log is scanned for the time: there is no index of it."""
    plan = explain(full, "log_before", {"age": "2500 hours", "now": None})
    assert big_scans(plan) == set()
    assert rows_read(plan, "log") <= 25
    plan = explain(full, "drop_log", {"position": 5_000, "place": 3})
    assert big_scans(plan) == set()
    assert rows_read(plan, "log") <= 1


def test_the_latest_events_are_found_without_reading_what_is_before_them(full: psycopg.Connection) -> None:
    """Fails if the beginning of the log is only asked when all of it was read."""
    plan = explain(full, "tail_log", {**LogFilter().parameters(), "count": 5, "appends": 100})
    assert big_scans(plan) == set()
    assert rows_read(plan, "log") <= 100


@pytest.mark.parametrize("filter", [LogFilter(), LogFilter(types=("order.paid",)), LogFilter(sources=("s",), key="k")])
def test_a_portion_of_a_replay_reads_what_it_looks_at(full: psycopg.Connection, filter: LogFilter) -> None:
    """Fails if an event, a delivery or a run is not looked up by its key."""
    bounds = {"position": 5_000, "place": 5, "end_position": 10_001, "end_place": 1, "limit": 500, "most": 500}
    plan = explain(full, "events_to_replay", {"trigger": 3, **filter.parameters(), **bounds})
    assert big_scans(plan) == set()
    assert rows_read(plan, "log") <= 502
    assert 500 <= rows_read(plan, "event") <= 520
    for table in ("run", "unrouted", "delivery", "dead_letter", "ordered", "scheduled"):
        assert rows_read(plan, table) <= 520, table


@pytest.mark.parametrize("first", [1, 80_000])  # without a journal, and with one
def test_making_deliveries_reads_nothing_but_their_steps(full: psycopg.Connection, first: int) -> None:
    """Fails if the journals of all deliveries are looked through for those of a few."""
    ids = [UUID(int=n) for n in range(first, first + 750) if n % 3]
    columns = {"event_id": ids, "lease_epoch": [1] * 500, "lane_key": [None] * 500, "available_at": [None] * 500}
    plan = explain(full, "replay_events", {"trigger": 1, **columns})
    assert big_scans(plan) == set()
    assert rows_read(plan, "step") <= 2 * 500  # found, and deleted


def test_a_worker_reads_one_row_to_learn_that_its_run_is_of_a_replay(full: psycopg.Connection) -> None:
    """Fails if the mark is not looked up by its key."""
    for event_id, found in ((UUID(int=1), 1), (UUID(int=90_001), 0)):
        plan = explain(full, "is_replay", {"trigger_id": 2, "event_id": event_id, "lease_epoch": 2})
        assert big_scans(plan) == set()
        assert rows_read(plan, "replayed") == found
