"""CloudEvents at the gateway: all three ways in, and the way out."""

from typing import Any

import httpx2
import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core import telemetry
from reflex.core.settings import Settings
from reflex.gateway.app import create_app
from tests.gateway.gateways import in_process, post, problem_of, register_app
from tests.gateway.test_openapi import check

CE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
COMMON = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ORDER: dict[str, Any] = {
    "specversion": "1.0", "id": "A234-1234", "source": "https://shop.example/orders", "type": "order.created",
    "subject": "A1", "time": "2026-01-31T12:00:00.5+02:00", "correlationid": "checkout-7", "traceparent": TRACE,
    "sequence": 7, "partitionkey": "p", "data": {"order_id": "A1", "amount": 2.5},
}  # fmt: skip


async def log_of(conn: AsyncConnection[DictRow]) -> list[DictRow]:
    cursor = await conn.execute("SELECT * FROM reflex.event ORDER BY event_id")
    return await cursor.fetchall()


async def send(client: httpx2.AsyncClient, event: CloudEvent, *, binary: bool) -> httpx2.Response:
    message = to_binary_event(event) if binary else to_structured_event(event)
    return await client.post("/events", content=message.body, headers=message.headers)


@pytest.mark.parametrize("binary", [True, False])
async def test_what_the_sdk_sends_is_stored_once_and_comes_out_as_it_was(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], binary: bool
) -> None:
    event = CloudEvent(
        {"id": "ä %", "type": "order.created", "source": "/a", "subject": "A1 ü", "tenant": "t é%"}, {"a": 1}
    )
    first, again = [await send(client, event, binary=binary) for _ in range(2)]
    assert first.status_code == 202, first.text
    assert again.json() == {"id": first.json()["id"], "duplicate": True}
    [stored] = await log_of(conn)
    assert (stored["source"], stored["key"], stored["time"]) == ("/a", "A1 ü", event.get_time())
    assert stored["payload"] == {"a": 1, "cloudevents": {"tenant": "t é%"}}
    answer = await client.get(f"/events/{first.json()['id']}", headers={"accept": CE})
    assert (answer.status_code, answer.headers["content-type"]) == (200, CE)
    theirs = from_structured_event(HTTPMessage(dict(answer.headers), answer.content))
    assert theirs.get_attributes() == event.get_attributes() | {"datacontenttype": "application/json"}
    assert theirs.get_data() == {"a": 1}


async def test_every_attribute_has_its_place(client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]) -> None:
    response = await post(client, orjson.dumps(ORDER), content_type=f"{CE}; charset=utf-8")
    assert response.status_code == 202, response.text
    [stored] = await log_of(conn)
    assert (stored["source"], stored["type"], stored["key"]) == ("https://shop.example/orders", "order.created", "A1")
    assert (stored["correlation_id"], stored["trace_context"]) == ("checkout-7", TRACE)
    assert stored["time"].isoformat() == "2026-01-31T10:00:00.500000+00:00"
    assert stored["payload"] == {**ORDER["data"], "cloudevents": {"sequence": 7, "partitionkey": "p"}}
    plain = await client.get(f"/events/{response.json()['id']}")
    assert plain.json()["payload"] == stored["payload"]
    check("GET", "/events/{id}", plain)
    answer = await client.get(f"/events/{response.json()['id']}", headers={"accept": CE})
    plain = {name: value for name, value in ORDER.items() if name not in answer.json().keys() - COMMON}
    check("GET", "/events/{id}", httpx2.Response(200, json=plain, headers={"content-type": CE}))
    assert answer.json() == {**ORDER, "time": "2026-01-31T10:00:00.500000Z", "datacontenttype": "application/json"}


async def test_a_batch_is_stored_as_a_whole_each_in_its_own_trace(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the span of the request takes the place of the trace that an event brought along."""
    monkeypatch.setattr(telemetry, "enabled", lambda: True)
    monkeypatch.setattr(telemetry, "trace_context", lambda: "here")
    binary = {**ORDER, "id": "2", "data_base64": "AP8=", "datacontenttype": "image/png"}
    del binary["data"], binary["traceparent"]
    response = await post(client, orjson.dumps([ORDER, binary, ORDER]), content_type=BATCH)
    assert response.status_code == 202, response.text
    ids = response.json()["ids"]
    assert ids[0] == ids[2]
    assert response.json()["duplicates"] == [2]
    assert [row["trace_context"] for row in await log_of(conn)] == [TRACE, "here"]
    answer = (await client.get(f"/events/{ids[1]}", headers={"accept": CE})).json()
    assert (answer["data_base64"], answer["datacontenttype"], answer["id"]) == ("AP8=", "image/png", "2")
    assert (await post(client, b"[]", content_type=BATCH)).json() == {"ids": [], "duplicates": []}


async def test_what_is_wrong_is_named_by_its_attribute_and_nothing_is_stored(
    settings: Settings, conn: AsyncConnection[DictRow], database_url: str
) -> None:
    schema = {"type": "object", "properties": {"amount": {"type": "number"}, "order_id": {"type": "string"}}}
    await register_app(database_url, {"order.created": schema})
    async with in_process(create_app(settings)) as client:
        await refuse_all(client)
    assert await log_of(conn) == []


async def refuse_all(client: httpx2.AsyncClient) -> None:
    for change, status, field in [
        ({"specversion": "1.1"}, 422, "/specversion"), ({"subject": "x" * 513}, 422, "/subject"),
        ({"correlationid": "x" * 201}, 422, "/correlationid"), ({"time": "yesterday"}, 422, "/time"),
        ({"type": "not a type"}, 422, "/type"), ({"type": "reflex.dead_letter"}, 422, "/type"),
        ({"id": "x" * 201}, 422, "/id"), ({"data": {"amount": "2"}}, 422, "/data/amount"),
        ({"data": {"a": "\0"}}, 422, "/data/a"),
    ]:  # fmt: skip
        problem = problem_of(await post(client, orjson.dumps({**ORDER, **change}), content_type=CE))
        assert (problem["status"], problem["errors"][0]["field"]) == (status, field)
        problem = problem_of(await post(client, orjson.dumps([ORDER, {**ORDER, **change}]), content_type=BATCH))
        assert (problem["status"], problem["errors"][0]["field"]) == (status, f"/1{field}")
    both = {**ORDER, "data": {"amount": "2", "order_id": 3}}
    problem = problem_of(await post(client, orjson.dumps(both), content_type=CE))
    assert {error["field"] for error in problem["errors"]} == {"/data/amount", "/data/order_id"}
    headers = {"ce-id": "1", "ce-source": "/a", "ce-type": "order.created", "content-type": "application/json"}
    for change, body, status, field in [
        ({}, b"{}", 422, "ce-specversion"), ({"ce-specversion": "1.0"}, b"{", 400, ""),
        ({"ce-specversion": "1.0"}, b'{"amount": "2"}', 422, "/amount"),
        ({"ce-specversion": "1.0", "ce-subject": "x" * 513}, b"{}", 422, "ce-subject"),
        ({"ce-specversion": "1.0", "ce-time": "%32026"}, b"{}", 422, "ce-time"),
    ]:  # fmt: skip
        problem = problem_of(await client.post("/events", content=body, headers=headers | change))
        assert (problem["status"], problem["errors"][0]["field"]) == (status, field)
    for body, kind in [(b"[]", CE), (b"{}", BATCH), (b"1", CE), (b"[1]", BATCH)]:
        assert problem_of(await post(client, body, content_type=kind))["status"] == 422
    assert problem_of(await post(client, b"{}", content_type="application/cloudevents+avro"))["status"] == 415


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (CE, CE), (f"{CE};q=0.9, application/json;q=0.8", CE), (f"application/json, {CE}", CE),
        ("*/*", "application/json"),
        (f"application/json, {CE};q=0.5", "application/json"), (f"{CE};q=0", "application/json"),
        ("application/*", "application/json"), ("", "application/json"), (f"{CE};q=x", "application/json"),
    ],
)  # fmt: skip
async def test_json_stays_what_is_answered_unless_the_other_is_asked_for_by_name(
    client: httpx2.AsyncClient, accept: str, kind: str
) -> None:
    event_id = (await post(client, {"type": "a"})).json()["id"]
    answer = await client.get(f"/events/{event_id}", headers={"accept": accept})
    assert (answer.headers["content-type"], answer.headers["vary"]) == (kind, "accept")
    assert answer.json()["id"] == event_id


async def test_one_that_is_not_there_is_a_problem_in_either_form(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/events/0198a1b2-0000-7000-8000-000000000000", headers={"accept": CE})
    assert problem_of(answer)["status"] == 404


async def test_an_idempotency_key_is_the_id_or_is_refused(client: httpx2.AsyncClient) -> None:
    same = await post(client, orjson.dumps(ORDER), content_type=CE, idempotency_key=ORDER["id"])
    other = await post(client, orjson.dumps(ORDER), content_type=CE, idempotency_key="another")
    assert same.status_code == 202
    assert problem_of(other)["errors"][0]["field"] == "/id"
