"""The plans of what budgets ask, on a hundred thousand budgets of keys, runs and trees: each is found by an index."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from reflex.core.statements import statement

EVENT_ID = "00000000-0000-0000-0000-000000000001"
FILL = f"""
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition) VALUES (1, 'a', 5, '{{}}');
INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
VALUES (1, '{EVENT_ID}', 1, 1, '{EVENT_ID}');
INSERT INTO reflex.spend (trigger_id, scope, subject, quantity, period, window_at, ends_at, allowed, spent, refused_at,
                          expires_at)
SELECT n % 2, CASE n % 2 WHEN 0 THEN 'tree' ELSE 'run' END, 'subject ' || n, 'usd', '', 'epoch', NULL, 5, 1,
       CASE WHEN n % 5000 = 0 THEN now() END, now() + interval '1 day'
FROM generate_series(1, 100000) AS n;
INSERT INTO reflex.spend (trigger_id, scope, subject, quantity, period, window_at, ends_at, allowed, expires_at)
SELECT 1, 'trigger', '', 'usd', 'day in UTC', date_trunc('day', now(), 'UTC') - n * interval '1 day',
       date_trunc('day', now(), 'UTC') + (1 - n) * interval '1 day', 5, now() + interval '7 days'
FROM generate_series(0, 7) AS n;
"""


@pytest.fixture(scope="module")
def full(shared_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        conn.execute(FILL.encode())
        conn.execute("VACUUM ANALYZE")
        yield conn


def read_rows(conn: psycopg.Connection, name: str, parameters: dict[str, Any]) -> int:
    """How many rows of `spend` the statement really read, in a transaction that is undone."""
    with conn.transaction(force_rollback=True):
        row = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON, TIMING off) " + statement(name), parameters).fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])

    def read(node: dict[str, Any]) -> int:
        own = 0
        if node.get("Relation Name") == "spend" and "Scan" in node["Node Type"]:
            own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        return int(own) + sum(map(read, node.get("Plans", [])))

    return read(plan[0]["Plan"])


def test_a_reservation_reads_the_budgets_that_it_asks_for(full: psycopg.Connection) -> None:
    """Fails if the window is not part of what the row is found by, or without the unique constraint."""
    asked: dict[str, Any] = {
        "owner": [0, 1], "scope": ["tree", "trigger"], "subject": ["subject 4000", ""], "quantity": ["usd", "usd"],
        "period": ["", "day in UTC"], "zone": [None, "UTC"], "every": [None, None], "amount": [1, 1],
        "allowed": [5, 5], "trigger_id": 1, "event_id": EVENT_ID, "lease_epoch": 1, "force": False, "now": None,
        "reservation_id": EVENT_ID,
    }  # fmt: skip
    with full.transaction(force_rollback=True):
        found = full.execute(statement("reserve"), asked).fetchall()
        assert [row[1] for row in found] == [True, True]
    assert read_rows(full, "reserve", asked) <= 4


def test_a_settlement_reads_the_budgets_of_its_call(full: psycopg.Connection) -> None:
    shares = {"spend_id": [7, 3], "amount": [1, 1], "cost": [1, 1], "reservation_id": EVENT_ID, "again": False}
    assert read_rows(full, "settle_spend", shares) <= 4


def test_a_look_reads_what_it_shows(full: psycopg.Connection) -> None:
    """Fails without either of the small indexes: `reflex status` would get slower with each key and each tree."""
    assert len(full.execute(statement("list_budgets"), {"limit": 100, "now": None}).fetchall()) == 21
    assert read_rows(full, "list_budgets", {"limit": 100, "now": None}) <= 60


def test_what_is_not_old_is_not_read(full: psycopg.Connection) -> None:
    """The chore that forgets runs every few seconds. Fails without the index on expires_at."""
    assert read_rows(full, "forget_spend", {"limit": 1000, "now": None}) == 0
