"""The plans of approvals among 20,000 that were decided: what people look at is found by an index."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from reflex.core.restriction import UNRESTRICTED
from tests.plans.test_read_plans import explain, rows_read

FILL = """
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition) VALUES (1, 'refunds', 5, '{}');
INSERT INTO reflex.event (event_id, type, source, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.broken', 's', now(), '{}' FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.approval (approval_id, trigger_id, event_id, fingerprint, occurrence, tool, tool_call_id, arguments,
                             digest, edits_allowed, created_at, expires_at, decision, decided_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 1, lpad(to_hex(n), 32, '0')::uuid, sha256(n::text::bytea), 0, 'refund', 'c',
       '{}', sha256(n::text::bytea), false, now(), now() + interval '7 days',
       CASE WHEN n > 20 THEN 'approved' END, CASE WHEN n > 20 THEN now() END
FROM generate_series(1, 20000) AS n;
INSERT INTO reflex.step (trigger_id, event_id, fingerprint, occurrence, kind, position, result, lease_epoch)
SELECT trigger_id, event_id, fingerprint, occurrence, 'wait', 0, '{}', 1 FROM reflex.approval;
"""
ALL: dict[str, Any] = {
    "approval_id": None, "before_id": None, "trigger": None, "pending": False, "decided": False, "limit": 50,
    **UNRESTRICTED.parameters(),
}  # fmt: skip


@pytest.fixture(scope="module")
def full(shared_database_url: str) -> Iterator[psycopg.Connection]:
    """One database for the module: nothing here writes to it."""
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        conn.execute(FILL)
        conn.execute("VACUUM ANALYZE")
        yield conn


def test_pending_approvals_are_found_behind_any_number_of_decided_ones(full: psycopg.Connection) -> None:
    """Fails without ix_approval_pending: the pending ones are the oldest here."""
    plan = explain(full, "list_approvals", {**ALL, "pending": True})
    assert rows_read(plan, "approval") <= 20
    assert rows_read(plan, "step") <= 20


@pytest.mark.parametrize("given", [{}, {"decided": True}, {"before_id": "00000000-0000-0000-0000-000000004000"}])
def test_a_page_reads_about_as_many_rows_as_it_shows(full: psycopg.Connection, given: dict[str, Any]) -> None:
    plan = explain(full, "list_approvals", {**ALL, **given})
    assert rows_read(plan, "approval") <= 60
    assert rows_read(plan, "step") <= 60
    assert rows_read(plan, "event") <= 60
