"""The plans of the look at awaited events: what it reads grows with what is new, not with what waits or was."""

from typing import Any

import psycopg

from tests.plans.partitioned import nodes
from tests.plans.test_plans import explain

ROWS = 20_000
FILL = f"""
INSERT INTO reflex.event (event_id, type, source, key, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'payment.received', 's', 'k' || n, now(), '{{}}' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.log (event_ids)
SELECT ARRAY[lpad(to_hex(n), 32, '0')::uuid] FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.awaited (trigger_id, event_id, number, type_low, type_high, key, position)
SELECT 1, md5(n::text)::uuid, 0, '{{payment.received}}', '{{payment.received}}', 'k' || n, 0
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.waiting (trigger_id, event_id, kind, reason)
SELECT trigger_id, event_id, 'event', '' FROM reflex.awaited;
UPDATE reflex.await_mark SET position = {ROWS} - 20;
"""  # noqa: E501


def read(plan: dict[str, Any], table: str) -> float:
    """How many rows the plan's nodes read of a table, those that they threw away included."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if node.get("Relation Name") == table
    )


def test_a_look_reads_what_is_new_and_whom_it_concerns(full: psycopg.Connection) -> None:
    """Fails without the index by key, and if the planner takes all of the log or of the waits to join them."""
    plan = explain(full, "find_awaited", {"appends": 500, "waits": 200})
    assert read(plan, "awaited") <= 200
    assert read(plan, "log") <= 50
    assert read(plan, "event") <= 50


def test_a_look_with_nothing_new_reads_next_to_nothing(full: psycopg.Connection) -> None:
    full.execute(f"UPDATE reflex.await_mark SET position = {ROWS}".encode())
    plan = explain(full, "find_awaited", {"appends": 500, "waits": 200})
    assert sum(read(plan, table) for table in ("awaited", "log", "event", "waiting")) <= 20


def test_where_an_event_stands_is_found_without_an_index(full: psycopg.Connection) -> None:
    """Fails if all of the log is read."""
    full.execute("UPDATE reflex.log SET placed_at = now() - interval '1 day' + position * interval '1 second'")
    full.execute("UPDATE reflex.event SET created_at = now() - interval '1 day' + interval '15000 seconds'")
    full.execute("VACUUM ANALYZE reflex.log")
    plan = explain(full, "place_of_event", {"event_id": f"{15_000:032x}"})
    assert read(plan, "log") <= 200
