"""The plans of what finds the deliveries that an event ends: by the event's own key, and by those of lanes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.plans.test_awaiting_plans import read
from tests.plans.test_plans import explain

ROWS = 20_000
KEYS = 5_000
# Trigger 1 has no order, trigger 2 has one by what the payload says. Half of trigger 1's deliveries are put off.
# The key `hot` has many events and few open deliveries, all of trigger 4.
FILL = f"""
INSERT INTO reflex.event (event_id, type, source, key, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.created', 's', 'k' || n % {KEYS}, now(),
       jsonb_build_object('order', 'k' || n % {KEYS})
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO reflex.delivery (trigger_id, event_id) SELECT 1, event_id FROM reflex.event WHERE key < 'k3';
INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
SELECT 1, event_id, now() FROM reflex.event WHERE key >= 'k3';
INSERT INTO reflex.lane (trigger_id, key, pending, head) SELECT DISTINCT 2, key, {ROWS // KEYS}, 0 FROM reflex.event;
INSERT INTO reflex.ordered (trigger_id, key, position, event_id)
SELECT 2, key, row_number() OVER (ORDER BY event_id), event_id FROM reflex.event;
INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
SELECT 3, event_id, 1, 1, gen_random_uuid() FROM reflex.event;
INSERT INTO reflex.event (event_id, type, source, key, time, payload)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.created', 's', 'hot', now(), '{{}}'
FROM generate_series({ROWS} + 1, 2 * {ROWS}) AS n;
INSERT INTO reflex.delivery (trigger_id, event_id)
SELECT 4, event_id FROM reflex.event WHERE key = 'hot' ORDER BY event_id LIMIT 20;
"""


TABLES = ("event", "delivery", "scheduled", "ordered", "lease")


def asked(trigger_id: int, key_path: str, key: str = "k42") -> dict[str, Any]:
    return {
        "trigger_id": trigger_id, "key": key, "key_path": key_path,
        "before": f"{2**127:032x}", "accepted_at": datetime.now(UTC) + timedelta(hours=1),
        "limit": 100,
    }  # fmt: skip


@pytest.mark.parametrize("trigger_id", [1, 2])
def test_an_events_own_key_leads_to_the_deliveries(full: psycopg.Connection, trigger_id: int) -> None:
    """Fails if the condition hides the key from its index: all of the trigger's deliveries would be looked at."""
    plan = explain(full, "open_of_key", asked(trigger_id, "key"))
    assert plan["Actual Rows"] == ROWS // KEYS
    assert sum(read(plan, table) for table in TABLES) <= 50


def test_another_key_of_an_ordered_trigger_leads_to_its_lane(full: psycopg.Connection) -> None:
    """Fails without the condition on the key of `ordered`."""
    plan = explain(full, "open_of_key", asked(2, "payload.order"))
    assert plan["Actual Rows"] == ROWS // KEYS
    assert sum(read(plan, table) for table in TABLES) <= 50


def test_a_key_with_many_events_is_found_from_the_few_that_are_open(full: psycopg.Connection) -> None:
    """Fails if the events of the key are gone through whatever is open."""
    plan = explain(full, "open_of_key", asked(4, "key", "hot"))
    assert plan["Actual Rows"] == 20
    assert sum(read(plan, table) for table in TABLES) <= 100
