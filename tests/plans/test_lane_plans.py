"""The plans of the statements of lanes, on a hundred thousand keys and on a hundred thousand deliveries of one key."""

from typing import Any

import psycopg
import pytest

from reflex.core.reaping import LONGEST_APART
from tests.plans.partitioned import nodes
from tests.plans.test_plans import explain

ROWS = 100_000
WORKER = "00000000-0000-0000-0000-000000000001"
TABLES = ("lane", "ordered", "lease", "event", "worker", "trigger", "dead_letter", "run")
FILL = f"""
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition, key_path) VALUES (1, 'a', 5, '{{}}', '{{key}}');
INSERT INTO reflex.route (pattern, trigger_id, low, high, key_path)
VALUES ('order.created', 1, 'order.created', 'order.created', '{{key}}');
INSERT INTO reflex.worker (worker_id, app_id, trigger_ids, host, pid, slots)
VALUES ('{WORKER}', 1, '{{1}}', 'h', 1, 10);
INSERT INTO reflex.event (event_id, type, source, key, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.created', 's', CASE WHEN %(hot)s THEN 'hot' ELSE 'k' || n END, now(),
       '{{}}'
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.ordered (trigger_id, key, position, event_id)
SELECT 1, key, row_number() OVER (ORDER BY event_id), event_id FROM reflex.event;
INSERT INTO reflex.lane (trigger_id, key, pending, head)
SELECT trigger_id, key, count(*), min(position) FROM reflex.ordered GROUP BY trigger_id, key;
"""
CLAIM = {"worker_id": WORKER, "claim_trigger_id": [1], "lanes": 100, "rows": 400}


@pytest.fixture(params=["spread", "hot"])
def full(request: pytest.FixtureRequest, database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as conn, psycopg.ClientCursor(conn) as cursor:
        cursor.execute(FILL.encode(), {"hot": request.param == "hot"})
        conn.execute("VACUUM ANALYZE")
        yield conn


def read(plan: dict[str, Any]) -> dict[str, int]:
    """How many rows were read of each table, found ones and others."""
    counts: dict[str, int] = {}
    for node in nodes(plan):
        table = node.get("Relation Name") or indexed(node)
        if table in TABLES and "Scan" in node["Node Type"]:
            rows = (
                node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
            )
            counts[table] = counts.get(table, 0) + round(rows * node["Actual Loops"])
    return counts


def indexed(node: dict[str, Any]) -> str | None:
    """The table of a bitmap index scan, which has no name of it."""
    return next((table for table in TABLES if node.get("Index Name", "").removeprefix("pk_") == table), None)


def test_statements_read_what_they_change(full: psycopg.Connection) -> None:
    """At most three times what they return: the claim looks up each lane by the ready index, by its place and by its
    key, and one delivery more of each, to know what is next.

    Fails without the partial indexes of `lane`, with a claim that sorts a lane (`ORDER BY attempt`), and if the lanes
    to claim are named by `(trigger_id, key) IN (SELECT …)` instead of by their places.
    """
    claiming(full)
    settling(full)
    taking(full)
    appending(full)
    standing_loops(full)


def claiming(full: psycopg.Connection) -> None:
    plan = explain(full, "claim_lanes", CLAIM)
    claimed = read(plan)
    assert 100 <= claimed["ordered"] <= 3 * 401, claimed
    assert claimed["lane"] <= 3 * 101, claimed


def settling(full: psycopg.Connection) -> None:
    with full.transaction(force_rollback=True):
        leases = claim(full)
        assert len(leases) in (100, 400)
        settled = read(explain(full, "settle_lanes", {**settlements(leases), "wake": False, "standstill": "5s"}))
        assert settled["lease"] <= 3 * len(leases), settled
        assert settled["lane"] <= 3 * 100, settled
        assert "ordered" not in settled


def taking(full: psycopg.Connection) -> None:
    """Fails if what stands behind a run is sorted or joined before it is limited, or looked for in all of the lane."""
    with full.transaction(force_rollback=True):
        (lease, *_) = claim(full)
        full.execute(
            "INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome) "
            "SELECT trigger_id, event_id, 1, 1, event_id, now(), 'released' "
            "FROM reflex.ordered ORDER BY position DESC LIMIT 50000"
        )
        full.execute("ANALYZE reflex.run")
        mine = {"trigger_id": lease[0], "event_id": lease[1], "lease_epoch": lease[3], "mates": [], "limit": 100}
        in_place = {"trigger_id": [lease[0]], "event_id": [lease[1]], "lane_key": ["hot"], "position": [1], "limit": 20,
                    "after_event_id": [lease[1]]}  # fmt: skip
        seen = [f"{n:032x}" for n in range(700, 800)]
        for name, parameters in (
            ("take_inbox", {**mine, "only": None}),
            ("take_inbox", {**mine, "only": seen}),
            ("came_meanwhile", mine),
            ("newer_in_lanes", in_place),
        ):
            looked_at = read(explain(full, name, parameters))
            assert max(looked_at.get(table, 0) for table in ("ordered", "event", "run")) <= 3 * 101, (name, looked_at)


def appending(full: psycopg.Connection) -> None:
    given: dict[str, list[Any]] = {
        name: [] for name in ("time", "idempotency_key", "correlation_id", "causation_id", "depth", "trace_context",
                              "available_at", "delay", "reply_to")
    }  # fmt: skip
    given |= {
        "event_id": [f"{n:032x}" for n in range(10**9, 10**9 + 100)], "type": ["order.created"] * 100,
        "source": ["s"] * 100, "payload": ["{}"] * 100, "key": [f"k{n}" for n in range(100)],
    }  # fmt: skip
    route = {"route_type": ["order.created"], "route_pattern": ["order.created"]}
    assert read(explain(full, "append_events", {**given, **route})).get("lane", 0) <= 300
    # That it can do nothing without lanes is known before the events are looked at.
    plan = explain(full, "append_events", {**given, **route}, without="lanes")
    assert [node["Actual Loops"] for node in nodes(plan) if node.get("Alias") == "t"] == [0]


def standing_loops(full: psycopg.Connection) -> None:
    for name, parameters in (
        ("promote_lanes", {"now": None, "limit": 1000}),
        ("sweep_lanes", {"limit": 1000}),
        ("leave_lanes", {"limit": 1000}),
    ):
        assert read(explain(full, name, parameters)).get("lane", 0) <= 3, name
    with full.transaction(force_rollback=True):
        leases = claim(full)
        reaping = {"trigger_id": None, "event_id": None, "longest": LONGEST_APART}
        full.execute("DELETE FROM reflex.worker")
        reaped = read(explain(full, "reap_lanes", reaping))
        assert reaped["lane"] <= 4 * 101, reaped
        assert reaped["lease"] <= 4 * len(leases), reaped
        assert "ordered" not in reaped


def claim(conn: psycopg.Connection) -> list[Any]:
    from reflex.core.statements import statement

    return [row for row in conn.execute(statement("claim_lanes"), CLAIM).fetchall() if row[1] is not None]


def settlements(leases: list[Any]) -> dict[str, Any]:
    empty: dict[str, list[Any]] = {name: [] for name in ("error", "output", "usage", "retry_in", "reason", "trace_id")}
    return empty | {
        "trigger_id": [row[0] for row in leases],
        "event_id": [row[1] for row in leases],
        "lease_epoch": [row[3] for row in leases],
        "outcome": ["succeeded"] * len(leases),
        "lane_key": [row[14] for row in leases],
    }
