"""What the gateway accepts is there, whatever happens next: promises 1 and 2."""

import asyncio

import httpx2

from reflex.core.database import connect
from tests.acceptance.shop import Shop
from tests.customers import Customers
from tests.processes import eventually, gateway
from tests.queue_fixtures import shop as register_shop


async def test_what_a_killed_gateway_has_accepted_is_in_the_log_with_its_deliveries(shop: Shop) -> None:
    """Promise 1. Fails with: an answer that does not wait for the commit; deliveries made after it."""
    await register_shop(shop.conn, {"pack": "order.created", "bill": "order.*"})
    async with gateway(shop.database_url, shop.folder) as killed:
        # Nobody repeats anything: what was answered is all that they know.
        customers = Customers(
            [killed.url], lambda n: {"type": "order.created", "payload": {"n": n}}, customers=16, persistent=False,
            pause_s=0,
        )  # fmt: skip
        async with customers, await connect(shop.database_url, name="test") as holding:
            await eventually(lambda: len(customers.accepted) > 300, what="300 accepted events")
            async with holding.transaction():
                await holding.execute("LOCK TABLE reflex.event IN SHARE MODE")
                await eventually(lambda: shop.count("FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
                # Customers press on while commits have to wait: whoever is answered now was promised too much.
                await asyncio.sleep(0.3)
                await killed.kill()
    assert not customers.wrong
    accepted = list(customers.accepted.values())
    assert await shop.count("FROM reflex.event WHERE event_id = ANY(%s)", accepted) == len(accepted)
    # Never one without the other, accepted or not.
    assert await shop.count("FROM reflex.delivery") == 2 * await shop.count("FROM reflex.event")
    assert await shop.count("FROM reflex.delivery WHERE event_id = ANY(%s)", accepted) == 2 * len(accepted)


async def test_events_that_nobody_knows_wait_for_their_trigger_where_they_can_be_seen(shop: Shop) -> None:
    """Promise 2. Fails with: no loop that routes unrouted events; events without a route that are not noted."""
    async with gateway(shop.database_url, shop.folder) as front, httpx2.AsyncClient(base_url=front.url) as client:

        async def post(type: str) -> str:
            answer = await client.post("/events", json={"type": type})
            assert answer.status_code == 202, answer.text
            return answer.json()["id"]

        async def look(id: str) -> dict[str, object]:
            return (await client.get(f"/events/{id}")).json()

        wanted, strange = await post("order.created"), await post("weather.changed")
        for id in (wanted, strange):
            seen = await look(id)
            assert (seen["unrouted"], seen["deliveries"]) == (True, [])
        types = (await client.get("/event-types")).json()["event_types"]
        assert {row["type"]: row["unrouted"] for row in types} == {"order.created": 1, "weather.changed": 1}

        async with shop.worker():

            async def succeeded() -> bool:
                deliveries = (await look(wanted))["deliveries"]
                assert isinstance(deliveries, list)
                return [delivery["state"] for delivery in deliveries] == ["succeeded"]

            await eventually(succeeded, what="a run of the event that was there before its trigger")
            assert (await look(wanted))["unrouted"] is False
            assert (await look(strange))["unrouted"] is True
