"""`reflex budgets` and what `reflex status` says of them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
import pytest

from reflex.core.errors import NotFound
from reflex.core.pages import QueryRejected

Run = Callable[..., str]

# Of a day, of an hour that is over, of a tree that is used up and of one that is not; and a delivery that waits.
FILL = """
INSERT INTO reflex.app (name) VALUES ('shop');
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition) VALUES (1, 'pack', 5, '{}');
INSERT INTO reflex.spend (trigger_id, scope, subject, quantity, period, window_at, ends_at, allowed, spent, reserved,
                          refused_at, expires_at)
VALUES (1, 'trigger', '', 'usd', 'day', date_trunc('day', now()), date_trunc('day', now()) + interval '1 day', 5,
        4.125, 0.5, NULL, 'infinity'),
       (1, 'trigger', '', 'requests', '1:00:00', now() - interval '2 h', now() - interval '1 h', 9, 9, 0, now(),
        'infinity'),
       (0, 'tree', '018f0000-0000-7000-8000-000000000001', 'tokens', '', 'epoch', NULL, 1000, 1000, 0, now(),
        'infinity'),
       (0, 'tree', 'quiet', 'tokens', '', 'epoch', NULL, 1000, 10, 0, NULL, 'infinity');
INSERT INTO reflex.event (event_id, type, source, time, payload)
VALUES ('018f0000-0000-7000-8000-000000000001', 'order.created', 's', now(), '{}');
INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
VALUES (1, '018f0000-0000-7000-8000-000000000001', now() + interval '1 h');
INSERT INTO reflex.waiting (trigger_id, event_id, kind, reason)
VALUES (1, '018f0000-0000-7000-8000-000000000001', 'budget', 'used up');
"""


@pytest.fixture
def run(run: Callable[..., tuple[str, str]]) -> Run:
    """What a command prints, without what it says."""
    return lambda *arguments: run(*arguments)[0]


def test_what_agents_used_up_is_summed_in_the_status(run: Run, database_url: str) -> None:
    """Fails if a run without a price counts as one that costs nothing."""
    assert "used up by agents" not in run("status")
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(FILL.encode())
        for cost in (', "cost_usd": 0.0125', ""):
            usage = f'{{"requests": 2, "input_tokens": 30, "output_tokens": 7{cost}}}'
            conn.execute(
                "INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, "
                "usage) VALUES (1, gen_random_uuid(), 1, 1, gen_random_uuid(), now(), 'succeeded', %s)",
                [usage],
            )
    said = run("status")
    assert "used up by agents in the last 24 hours" in said
    table = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    assert ["pack", "shop", "2", "4", "60", "14", "0.0125 (and 1 runs without a price)"] in table
    (usage,) = orjson.loads(run("status", "--json"))["usage"]
    assert usage == {
        "trigger": "pack", "app": "shop", "runs": 2, "requests": 4, "input_tokens": 60, "output_tokens": 14,
        "cost_usd": "0.0125", "unpriced_runs": 1,
    }  # fmt: skip


def test_budgets_are_listed_shown_in_the_status_and_raised(run: Run, database_url: str) -> None:
    """Fails if a window that is over is shown, or a tree of which there is something left; and if what waits is not due
    when it may go on."""
    assert "nothing was spent of any budget" in run("budgets", "list")
    assert "in flight" not in run("status")
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(FILL.encode())
        if datetime.now(UTC).hour == 0:  # date_trunc is in the server's zone: both days are good enough
            conn.execute("UPDATE reflex.spend SET ends_at = now() + interval '1 day' WHERE period = 'day'")
        rows: list[dict[str, Any]] = orjson.loads(run("budgets", "list", "--json"))["budgets"]
        assert [(row["trigger"], row["scope"], row["spent"], row["refused_at"] is None) for row in rows] == [
            ("pack", "trigger", "4.125", True),
            (None, "tree", "1000", False),
        ]
        assert orjson.loads(run("status", "--json"))["budgets"] == rows
        table = [re.split(r"\s{2,}", line.strip()) for line in run("status").splitlines()]
        ends = next(line[8] for line in table if line[:2] == [str(rows[0]["id"]), "pack"])
        assert [str(rows[0]["id"]), "pack", "shop", "trigger", "4.125", "0.5", "5", "usd", ends] in table
        assert ends.startswith("day, ends in ")
        said = run("budgets", "raise", str(rows[1]["id"]), "500")
        assert said == f"budget {rows[1]['id']} is 1500 tokens now; 1 deliveries that waited are due\n"
        assert conn.execute("SELECT count(*) FROM reflex.delivery").fetchone() == (1,)
    with pytest.raises(NotFound, match="no budget 77"):
        run("budgets", "raise", "77", "1")
    for amount in ("0", "nan", "much"):
        with pytest.raises(QueryRejected, match=f"'{amount}' is no amount"):
            run("budgets", "raise", str(rows[1]["id"]), amount)
