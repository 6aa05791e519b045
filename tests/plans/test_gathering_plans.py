"""The plans of what stateful filters and gathering triggers ask for: by subject and by event, among many."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.plans.partitioned import nodes
from tests.plans.test_plans import explain

ROWS = 50_000
TABLES = ("passed", "batch", "gathered", "event", "lease", "scheduled", "delivery", "step")
FILL = f"""
INSERT INTO reflex.event (event_id, type, source, key, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.created', 's', 'k' || n, now(), '{{}}' FROM generate_series(1, {ROWS}) n;
INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
SELECT 1, lpad(to_hex(n), 32, '0')::uuid, 1, 1, gen_random_uuid() FROM generate_series(1, {ROWS}) n;
INSERT INTO reflex.passed (event_id, trigger_id, subject, passed_at, expires_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 's' || n % 500, now(), now() + interval '1 h' + n * interval '1 s'
FROM generate_series(1, {ROWS}) n;
INSERT INTO reflex.batch (trigger_id, event_id, subject, events, sealed, due_at)
SELECT 1, lpad(to_hex(n), 32, '0')::uuid, 'b' || n, 5, false, now() + interval '1 h' + n * interval '1 s'
FROM generate_series(1, {ROWS} / 5) n;
INSERT INTO reflex.gathered (event_id, trigger_id, subject, accepted_at, batch_id)
SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 'b' || n / 5, now(), lpad(to_hex(1 + n / 5), 32, '0')::uuid
FROM generate_series(1, {ROWS} / 2) n;
INSERT INTO reflex.gathered (event_id, trigger_id, subject, accepted_at, expires_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 's' || n % 50, now() - n * interval '1 s',
       now() + interval '1 h' + n * interval '1 s'
FROM generate_series({ROWS} / 2 + 1, {ROWS}) n;
"""
IDS = [f"{n:032x}" for n in range(1, 101)]


@pytest.fixture(scope="module")
def full(shared_database_url: str) -> Iterator[psycopg.Connection]:
    """Filled once: what is explained is undone."""
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        conn.execute(FILL.encode())
        conn.execute("VACUUM ANALYZE")
        yield conn


def rows_read(plan: dict[str, Any]) -> int:
    return sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(plan)
        if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"]
    )


def test_a_filter_counts_no_more_than_its_limit(full: psycopg.Connection) -> None:
    """Fails without ix_passed_subject, and without the LIMIT."""
    asked = {"subject": ["s1", "s2"], "within": ["1 h", "1 h"], "most": [10, 20]}
    plan = explain(full, "look_at_passed", {"trigger_id": 1, "event_id": IDS[0], "fingerprint": b"x", **asked})
    assert rows_read(plan) <= 31


def test_what_is_settled_to_gather_is_found_by_key(full: psycopg.Connection) -> None:
    """Fails without the primary key of `gathered`, and without ix_batch_subject."""
    ones = [1] * 100
    plan = explain(full, "look_at_leases", {"trigger_id": ones, "event_id": IDS, "lease_epoch": ones})
    assert rows_read(plan) <= 300
    plan = explain(full, "open_batches", {"trigger_id": ones, "subject": [f"b{n}" for n in range(1, 101)]})
    assert rows_read(plan) <= 500


def test_a_window_reads_the_nearest(full: psycopg.Connection) -> None:
    """Fails without ix_gathered_subject, and without the limits on both sides."""
    span: dict[str, Any] = {"first_at": ["now"], "last_at": ["now"], "within": ["1 day"], "most": [9]}
    plan = explain(full, "gathered_nearby", {"trigger_id": [1], "subject": ["s1"], **span})
    assert rows_read(plan) <= 20


def test_a_batch_is_found_by_its_delivery(full: psycopg.Connection) -> None:
    """Fails without ix_gathered_batch_id."""
    holder = {"trigger_id": 1, "event_id": IDS[7]}
    assert rows_read(explain(full, "seal_batch", holder)) <= 1
    assert rows_read(explain(full, "batch_events", holder)) <= 10
    ended = {"trigger_id": [1] * 10, "event_id": IDS[:10]}
    assert rows_read(explain(full, "end_batches", ended)) <= 150


def test_the_sweep_looks_at_what_is_over(full: psycopg.Connection) -> None:
    """Fails without the indexes by time: it is asked every few seconds."""
    assert rows_read(explain(full, "sweep_gathered", {"limit": 1000})) <= 5
