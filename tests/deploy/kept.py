"""What has to be true of a database in the end, whatever became of servers and poolers meanwhile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from tests.customers import Customers
from tests.processes import eventually

__all__ = ["APP", "KEEPING", "kept", "order"]

KEEPING = Path(__file__).with_name("keeping.py")
APP = KEEPING.stem
SHOPS = 5
# Timers go on: only what came of orders has to come to rest.
OPEN = """
    SELECT count(*)
    FROM (
        SELECT event_id FROM reflex.delivery
        UNION ALL SELECT event_id FROM reflex.ordered
        UNION ALL SELECT event_id FROM reflex.scheduled
        UNION ALL SELECT event_id FROM reflex.lease
    ) AS open
    JOIN reflex.event USING (event_id)
    WHERE starts_with(type, 'order.')
"""


def order(number: int) -> Mapping[str, Any]:
    return {"type": "order.created", "payload": {"n": number, "shop": f"shop {number % SHOPS}"}}


async def number(conn: AsyncConnection[Any], query: str, *values: object) -> int:
    row = await (await conn.execute(query.encode(), values)).fetchone()
    assert row
    return int(row[0] or 0)


async def kept(conn: AsyncConnection[Any], customers: Customers) -> None:
    """Every accepted order is there once, ran to its end for each trigger, and what that did in the database was done
    once."""
    accepted = list(customers.accepted.values())
    assert not customers.wrong
    assert len(set(accepted)) == len(accepted) > 0

    async def at_rest() -> bool:
        return await number(conn, OPEN) == 0

    await eventually(at_rest, timeout_s=60, what="the end of all that came of orders")
    stored = await number(conn, "SELECT count(*) FROM reflex.event WHERE event_id = ANY(%s)", accepted)
    assert stored == len(accepted), "an accepted event is lost"
    # More may have been stored than the customers heard of, never less; each was asked for until it was accepted.
    assert await number(conn, "SELECT count(*) FROM reflex.event WHERE type = 'order.created'") == stored
    for type in ("order.reserved", "order.shipped"):
        numbers = "SELECT count(*) FROM reflex.event WHERE type = %s"
        distinct = "SELECT count(DISTINCT payload->>'n') FROM reflex.event WHERE type = %s"
        assert await number(conn, numbers, type) == await number(conn, distinct, type) == stored, type
    runs = "SELECT count(*) FROM reflex.run JOIN reflex.trigger USING (trigger_id) WHERE name = %s AND outcome = %s"
    for trigger in ("reserve", "ship", "tally"):
        assert await number(conn, runs, trigger, "succeeded") == stored, trigger
    assert await number(conn, "SELECT sum((data->>'count')::int) FROM reflex.state") == stored
    assert await number(conn, runs, "tick", "succeeded") > 0
    assert await number(conn, "SELECT count(*) FROM reflex.dead_letter") == 0
