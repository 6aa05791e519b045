"""The plans of what gateways look up for Prometheus and for the list of triggers, on tables of 20,000 rows: they count
up to a limit, no further."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from reflex.core.figures import TABLES
from tests.plans.test_read_plans import FILL, explain, rows_read

# All of it belongs to one trigger of two, as after a day without workers.
ONE_TRIGGER = """
UPDATE reflex.delivery SET trigger_id = 1; UPDATE reflex.scheduled SET trigger_id = 1;
UPDATE reflex.lease SET trigger_id = 1; UPDATE reflex.dead_letter SET trigger_id = 1;
UPDATE reflex.run SET trigger_id = 1;
INSERT INTO reflex.appended (event_ids) SELECT ARRAY[event_id] FROM reflex.event;
INSERT INTO reflex.ordered (trigger_id, key, position, event_id)
SELECT 1, 'k' || n % 500, n, lpad(to_hex(n), 32, '0')::uuid FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.waiting (trigger_id, event_id, lane_key, kind, reason)
SELECT 1, event_id, NULL, 'event', 'none came' FROM reflex.event;
"""
LIMIT = 1000
PARAMETERS: dict[str, Any] = {
    "limit": LIMIT, "lease_timeout": timedelta(seconds=10), "now": None, "tables": list(TABLES),
}  # fmt: skip


@pytest.fixture(scope="module")
def full(shared_database_url: str) -> Iterator[psycopg.Connection]:
    """One database for the module: nothing here writes to it."""
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        conn.execute(FILL.encode())
        conn.execute(ONE_TRIGGER.encode())
        conn.execute("VACUUM (FULL, ANALYZE)")
        yield conn


def test_a_look_counts_no_further_than_its_limit(full: psycopg.Connection) -> None:
    """Fails without any one of the limits; and without the order of what is counted: the planner then takes the whole
    table once for each trigger that has nothing in it."""
    plan = explain(full, "figures", PARAMETERS)
    for table in ("delivery", "ordered", "scheduled", "lease", "dead_letter", "waiting"):
        # Leases are counted for their trigger, and once more for those that nobody owns.
        assert rows_read(plan, table) <= 2 * LIMIT + 20, table
    for table in ("event", "run"):
        assert rows_read(plan, table) <= 20, table


def test_the_triggers_are_listed_without_reading_what_they_have_to_do(full: psycopg.Connection) -> None:
    """Fails without any one of the limits, and without any one of the orders: as above."""
    parameters = {"count_limit": LIMIT, "lease_timeout": timedelta(seconds=10), "now": None}
    plan = explain(full, "list_triggers", parameters)
    for table in ("delivery", "ordered", "scheduled", "lease", "dead_letter", "waiting"):
        assert rows_read(plan, table) <= LIMIT, table


def test_tables_are_looked_at_and_not_read(full: psycopg.Connection) -> None:
    plan = explain(full, "table_figures", PARAMETERS)
    assert rows_read(plan, "unrouted") <= LIMIT
    assert rows_read(plan, "appended") <= LIMIT + 1
    assert rows_read(plan, "event") <= 1
