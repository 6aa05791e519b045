"""The plans of what runs with a state ask for: a hundred keys are found by their key among many."""

from typing import Any

import psycopg

from tests.plans.partitioned import nodes
from tests.plans.test_plans import explain

ROWS = 50_000
KEYS = [f"k{n}" for n in range(100)]
FILL = f"""
INSERT INTO reflex.event (event_id, type, source, key, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.created', 's', 'k' || n, now(), '{{}}' FROM generate_series(1, {ROWS}) n;
INSERT INTO reflex.state (trigger_id, key, version, schema_version, data)
SELECT 1, 'k' || n, nextval('reflex.state_version'), 1, '{{}}' FROM generate_series(1, {ROWS}) n;
"""


def rows_read(plan: dict[str, Any]) -> int:
    return sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(plan)
        if node.get("Relation Name") in ("state", "event") and "Scan" in node["Node Type"]
    )


def test_states_are_found_by_their_keys(full: psycopg.Connection) -> None:
    """Fails without the primary key of `state`, and with a key that is compared in another
    collation than its index has."""
    loaded = explain(full, "load_state", {"trigger_id": 1, "event_id": f"{7:032x}", "key_path": "key"})
    assert rows_read(loaded) == 2
    given: dict[str, Any] = {"trigger_id": [1] * 100, "key": KEYS}
    held = explain(full, "hold_states", {**given, "version": list(range(1, 101)), "standstill": "5s"})
    assert rows_read(held) <= 100
    written = {"holds": [True] * 100, "schema_version": [1] * 100, "data": ["{}"] * 100}
    plan = explain(full, "write_states", {**given, **written, "messages": [None] * 100, "usage": [None] * 100})
    assert rows_read(plan) <= 200
