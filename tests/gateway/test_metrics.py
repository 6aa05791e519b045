"""GET /metrics of a gateway: exact counts after known requests, and what the database says."""

import asyncio
from typing import Any

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from psycopg import AsyncConnection

from reflex.core.figures import read_figures
from reflex.core.settings import Settings
from reflex.gateway import metrics
from reflex.gateway.app import create_app
from tests.faults import FaultProxy
from tests.gateway.gateways import in_process, post, register_app, served, settings_for
from tests.gateway.key_fixtures import bearer, new_key
from tests.gateway.stories import tell
from tests.processes import eventually

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def scrape(client: httpx2.AsyncClient) -> dict[tuple[str, ...], float]:
    """By name and values of labels, in the order of the labels' names."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_what_was_published_is_counted_exactly(client: httpx2.AsyncClient, database_url: str) -> None:
    """Fails if a batch counts as one, a duplicate as accepted, or a request twice in the histogram."""
    await register_app(database_url, {"order.created": {"type": "object"}})
    before = await scrape(client)
    assert before["reflex_events_duplicate_total",] == 0
    assert before["reflex_ingest_duration_seconds_count",] == 0
    await post(client, {"type": "order.created"})
    await post(client, [{"type": "order.created"}, {"type": "order.packed"}, {"type": "order.created"}])
    for _ in range(3):
        await post(client, {"type": "order.created", "id": "once"})
    await post(client, [{"type": "order.packed", "id": "once"}, {"type": "order.packed"}])
    found = await scrape(client)
    assert found["reflex_events_accepted_total", "order.created"] == 4
    # The id was used before with this source: what has it is a duplicate, whatever its type.
    assert found["reflex_events_accepted_total", "order.packed"] == 2
    assert found["reflex_events_duplicate_total",] == 3
    assert found["reflex_ingest_duration_seconds_count",] == 6
    assert found["reflex_ingest_duration_seconds_sum",] > 0
    assert found["reflex_buffered_events",] == 0


async def test_what_was_refused_is_counted_by_reason(client: httpx2.AsyncClient) -> None:
    """Fails if the door to the network counts (a GET that is refused), or each of a batch's reasons."""
    await post(client, b"{")
    await post(client, {"type": "a b"})
    await post(client, [{"type": "a b"}, {"type": 3}, {"type": "a"}])
    await client.post("/events", content=b"x")
    await client.get("/events?limit=0")
    await client.post("/dead-letters/retry", json={})
    found = await scrape(client)
    refused = {key[1]: value for key, value in found.items() if key[0] == "reflex_publishes_refused_total"}
    assert refused == {"malformed_json": 1, "event_rejected": 2, "unsupported_media_type": 1}
    assert not [key for key in found if key[0] == "reflex_events_accepted_total"]


async def test_types_that_nobody_registered_are_named_up_to_a_number(
    client: httpx2.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without the cap; and with one that counts registered types, which then would not be told apart."""
    monkeypatch.setattr(metrics, "MAX_UNKNOWN_TYPES", 2)
    await post(client, [{"type": f"noise.n{number}"} for number in range(5)])
    await register_app(database_url, {"order.created": {"type": "object"}})

    async def is_told_apart() -> bool:
        await post(client, {"type": "order.created"})
        return ("reflex_events_accepted_total", "order.created") in await scrape(client)

    await eventually(is_told_apart)
    found = await scrape(client)
    assert found["reflex_events_accepted_total", "noise.n0"] == 1
    assert ("reflex_events_accepted_total", "noise.n2") not in found
    assert found["reflex_events_accepted_total", "other"] >= 3


async def test_an_exemplar_leads_to_the_trace_of_the_request(client: httpx2.AsyncClient) -> None:
    """Fails if the client's trace context is not handed on. The classic text has no place for exemplars."""
    await post(client, {"type": "a"})
    await post(client, {"type": "a"}, traceparent=TRACED)
    answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for family in read_openmetrics(answer.text)
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [TRACED[3:35]]
    classic = await client.get("/metrics")
    assert classic.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert TRACED[3:35] not in classic.text
    assert (await client.get("/metrics?x=1")).status_code == 400


async def test_the_numbers_of_the_database_are_beside_those_of_the_gateway(
    client: httpx2.AsyncClient, db: AsyncConnection[Any]
) -> None:
    await tell(db)
    found = await scrape(client)
    assert found["reflex_database_up",] == 1
    assert found["reflex_deliveries", "shop", "running", "run"] == 1
    assert found["reflex_deliveries", "shop", "scheduled", "retry"] == 1
    assert found["reflex_dead_letters", "shop", "failed", "die"] == 1
    assert found["reflex_unrouted_events",] == 2


async def test_several_who_scrape_cost_one_look(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if each scrape asks the database; and if what is known is never thrown away."""
    looks = 0

    async def counted(conn: Any, **given: Any) -> Any:
        nonlocal looks
        looks += 1
        return await read_figures(conn, **given)

    monkeypatch.setattr(metrics, "read_figures", counted)
    await asyncio.gather(*(scrape(client) for _ in range(5)))
    await scrape(client)
    assert looks == 1
    monkeypatch.setattr(metrics, "FRESH_S", 0)
    await tell(db)
    assert (await scrape(client))["reflex_unrouted_events",] == 2
    assert looks == 2


async def test_a_database_that_is_away_is_a_number_too(database_url: str) -> None:
    """What the gateway counted is still shown. Fails if the scrape fails with the database, or shows old figures."""
    async with FaultProxy(database_url) as proxy, in_process(create_app(settings_for(proxy.url))) as client:
        await post(client, {"type": "a"})
        assert (await scrape(client))["reflex_database_up",] == 1
        await proxy.refuse()
        refused = await post(client, {"type": "a"})
        assert refused.status_code == 503

        async def is_down() -> Any:
            found = await scrape(client)
            return found if found["reflex_database_up",] == 0 else None

        found = await eventually(is_down)
        assert found["reflex_events_accepted_total", "a"] == 1
        assert found["reflex_publishes_refused_total", "database_unavailable"] == 1
        assert ("reflex_unrouted_events",) not in found


async def test_a_gateway_that_wants_keys_shows_its_numbers_to_readers(
    database_url: str, db: AsyncConnection[Any]
) -> None:
    """Fails if the route needs no scope, or a key that was refused is not counted."""
    publisher, reader = await new_key(db, "publish"), await new_key(db, "read")
    async with in_process(create_app(settings_for(database_url, access="keys"))) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=bearer(publisher))).status_code == 403
        assert (await post(client, {"type": "a"})).status_code == 401
        assert (await client.post("/events", json={"type": "a"}, headers=bearer(reader))).status_code == 403
        assert (await client.post("/events", json={"type": "a"}, headers=bearer(publisher))).status_code == 202
        client.headers.update(bearer(reader))
        found = await scrape(client)
        assert found["reflex_publishes_refused_total", "key_refused"] == 1
        assert found["reflex_publishes_refused_total", "scope_missing"] == 1
        assert found["reflex_events_accepted_total", "a"] == 1


async def test_who_is_connected_is_counted_by_kind(settings: Settings) -> None:
    """Fails if a connection is not taken off, or frames that are refused are not counted."""
    async with served(settings) as (host, port):
        base = f"http://{host}:{port}"
        async with httpx2.AsyncClient(base_url=base, timeout=30) as client:
            async with (
                client.stream("GET", "/events/stream") as stream,
                client.websocket(f"ws://{host}:{port}/ws") as ws,
            ):
                assert stream.status_code == 200
                await ws.receive_text()
                found = await scrape(client)
                assert found["reflex_connections", "sse"] == 1
                assert found["reflex_connections", "websocket"] == 1
                assert found["reflex_subscriptions",] == 2
                await ws.send_text('{"op": "publish", "id": "1", "event": {"type": "a b"}}')
                await ws.receive_text()
                await ws.send_text('{"op": "publish", "id": "2", "event": {"type": "a"}}')
                await ws.receive_text()
            found = await scrape(client)
            assert found["reflex_publishes_refused_total", "event_rejected"] == 1
            assert found["reflex_events_accepted_total", "a"] == 1

            async def all_gone() -> bool:
                found = await scrape(client)
                return (found["reflex_connections", "sse"], found["reflex_connections", "websocket"]) == (0, 0)

            await eventually(all_gone)
