"""The plans of the hot statements on full tables: an unused index shows here before it shows at night."""

import json
from typing import Any

import psycopg
import pytest

from reflex.core.statements import statement
from tests.plans.partitioned import nodes

ROWS = 50_000
HOT = ("delivery", "event", "lease", "scheduled", "unrouted", "run", "dead_letter")

FILL = f"""
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition) VALUES (1, 'a', 5, '{{}}'), (1, 'b', 5, '{{}}');
INSERT INTO reflex.worker (worker_id, app_id, trigger_ids, host, pid, slots)
VALUES ('00000000-0000-0000-0000-000000000001', 1, '{{1,2}}', 'h', 1, 10);
INSERT INTO reflex.event (event_id, type, source, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.created', 's', now(), '{{}}' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.delivery (trigger_id, event_id)
SELECT 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
SELECT 3, lpad(to_hex(n), 32, '0')::uuid, now() + n * interval '1 s' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome)
SELECT 1, lpad(to_hex(n), 32, '0')::uuid, 1, 1, gen_random_uuid(), now(), 'succeeded'
FROM generate_series(1, {ROWS}) AS n;
"""


def explain(
    conn: psycopg.Connection, name: str, parameters: dict[str, Any], *, without: str | None = None
) -> dict[str, Any]:
    """Run a statement in a transaction that is undone; the plan with what it really did."""
    with conn.transaction(force_rollback=True):
        row = conn.execute(
            "EXPLAIN (ANALYZE, FORMAT JSON, TIMING off) " + statement(name, without=without),
            parameters,
        ).fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    return plan[0]["Plan"]


def scanned_whole(plan: dict[str, Any]) -> list[str]:
    return [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"
            and node.get("Relation Name") in HOT and node["Actual Rows"] > 1000]  # fmt: skip


SETTLE = {
    name: [] for name in ("trigger_id", "event_id", "lease_epoch", "outcome", "error", "output", "usage", "retry_in",
                          "reason", "trace_id")
} | {"worker_id": "00000000-0000-0000-0000-000000000001"}  # fmt: skip


@pytest.mark.parametrize("limit", [1, 100, 1000])
def test_a_claim_reads_what_it_takes(full: psycopg.Connection, limit: int) -> None:
    """Fails if the rows are named by `(trigger_id, event_id) IN (SELECT …)`: the planner then scans them all."""
    plan = explain(full, "settle_and_claim", {**SETTLE, "claim_trigger_id": [1, 2], "limit": limit})
    assert scanned_whole(plan) == []
    read = [n["Actual Rows"] for n in nodes(plan) if n.get("Relation Name") == "delivery" and "Index" in n["Node Type"]]
    assert read, "the pending deliveries are found by their index"
    assert max(read) <= limit


def test_settling_finds_its_leases_by_key(full: psycopg.Connection) -> None:
    ids = [f"{n:032x}" for n in range(1, 101)]
    full.execute(
        "INSERT INTO reflex.lease SELECT 1, event_id, 1, 1, '00000000-0000-0000-0000-000000000001' FROM reflex.event"
    )
    full.execute("ANALYZE reflex.lease")
    settled = {"trigger_id": [1] * 100, "event_id": ids, "lease_epoch": [1] * 100, "outcome": ["succeeded"] * 100}
    with full.transaction(force_rollback=True):
        full.execute("DELETE FROM reflex.run")
        plan = explain(full, "settle_and_claim", {**SETTLE, **settled, "claim_trigger_id": [], "limit": 0})
    assert scanned_whole(plan) == []


def test_promoting_reads_what_is_due(full: psycopg.Connection) -> None:
    assert scanned_whole(explain(full, "promote_scheduled", {"now": None, "limit": 1000})) == []


def test_what_agents_used_up_is_summed_without_looking_at_other_runs(full: psycopg.Connection) -> None:
    """Fails without the index of runs that used something."""
    assert scanned_whole(explain(full, "usage_of_triggers", {"now": None, "within": "1 day"})) == []


def test_the_agenda_scans_nothing(full: psycopg.Connection) -> None:
    """Asked every second. Fails without the index by time."""
    assert scanned_whole(explain(full, "agenda", {})) == []


@pytest.mark.parametrize("without", [None, "lanes"])
def test_appending_scans_nothing(full: psycopg.Connection, without: str | None) -> None:
    """Fails if an append without lanes still prepares for some: each table that it could write to costs it time."""
    full.execute("INSERT INTO reflex.route (pattern, trigger_id, low, high) VALUES ('x', 1, 'x', 'x')")
    given: dict[str, list[Any]] = {
        name: [] for name in ("key", "time", "idempotency_key", "correlation_id", "causation_id", "depth",
                              "trace_context", "available_at", "delay", "reply_to")
    }  # fmt: skip
    ids = [f"{n:032x}" for n in range(10**9, 10**9 + 100)]
    given |= {"event_id": ids, "type": ["x"] * 100, "source": ["s"] * 100, "payload": ["{}"] * 100}
    plan = explain(full, "append_events", {**given, "route_type": ["x"], "route_pattern": ["x"]}, without=without)
    assert scanned_whole(plan) == []
    written = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "ModifyTable"}
    assert ("lane" in written) == ("ordered" in written) == (without is None)
    assert {"event", "delivery"} <= written
