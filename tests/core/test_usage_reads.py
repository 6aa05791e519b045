"""What agents have used up, summed."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection

from reflex.core.usage_reads import UsageRow, usage_of_triggers
from tests.queue_fixtures import shop

RUN = (
    "INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, finished_at, outcome, "
    "usage) VALUES (%s, gen_random_uuid(), 1, 1, gen_random_uuid(), now(), now() - %s::interval, %s, %s::jsonb)"
)


async def test_each_trigger_has_its_sum_of_the_last_day(db: AsyncConnection[Any]) -> None:
    """Fails if what was replayed counts twice, runs that failed are left out, or older ones are not."""
    ids = (await shop(db, {"pack": "order.created", "ship": "order.packed", "plain": "order.*"})).trigger_ids
    used = '"requests": 3, "tool_calls": 1, "input_tokens": 30, "output_tokens": 9'
    again = '"replayed_requests": 2, "replayed_input_tokens": 20, "replayed_output_tokens": 6'
    for name, before, outcome, usage in (
        ("pack", "1 hour", "retry", f'{{{used}, "cost_usd": 0.5}}'),
        ("pack", "1 minute", "succeeded", f'{{{used}, {again}, "cost_usd": 0.5, "replayed_cost_usd": 0.25}}'),
        ("pack", "2 days", "succeeded", f'{{{used}, "cost_usd": 7}}'),
        ("ship", "1 minute", "dead", f"{{{used}}}"),
        ("plain", "1 minute", "succeeded", None),
    ):
        await db.execute(RUN, [ids[name], before, outcome, usage])
    assert await usage_of_triggers(db) == [
        UsageRow("pack", "shop", 2, 4, 40, 12, Decimal("0.75"), 0),
        UsageRow("ship", "shop", 1, 3, 30, 9, None, 1),
    ]
    assert [row.runs for row in await usage_of_triggers(db, within=timedelta(days=3))] == [3, 1]
