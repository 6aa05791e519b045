"""Payloads against the schemas that apps registered, and how fast and how safely a gateway follows the registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.errors import EventRejected
from reflex.gateway import schemas
from reflex.gateway.app import create_app
from reflex.gateway.schemas import PayloadSchemas, compile_schema
from tests.faults import FaultProxy
from tests.gateway.gateways import in_process, post, problem_of, register_app, settings_for
from tests.processes import eventually

ORDER: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^[A-Z][0-9]+$"},
        "amount": {"type": "number", "minimum": 0},
        "placed_at": {"type": "string", "format": "date-time"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"sku/~": {"type": "string"}}}},
    },
    "required": ["order_id"],
    "additionalProperties": False,
}


async def test_a_payload_that_fits_is_taken_and_one_that_does_not_is_refused_field_by_field(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    await register_app(database_url, {"order.created": ORDER})
    async with in_process(create_app(settings_for(database_url))) as client:
        good = {"order_id": "A1", "amount": 2, "placed_at": "2026-01-31T12:00:00Z", "lines": [{"sku/~": "x"}]}
        assert (await post(client, {"type": "order.created", "payload": good})).status_code == 202
        bad = {"order_id": "secret", "amount": -1, "placed_at": "secret", "lines": [{}, {"sku/~": 5}], "more": 1}
        problem = problem_of(await post(client, {"type": "order.created", "payload": bad}))
        one = problem_of(await post(client, {"type": "order.created", "payload": {}}))
    assert (problem["status"], problem["code"]) == (422, "payload_rejected")
    assert sorted(error["field"] for error in problem["errors"]) == [
        "/payload", "/payload/amount", "/payload/lines/1/sku~1~0", "/payload/order_id", "/payload/placed_at",
    ]  # fmt: skip
    assert "secret" not in str(problem), "values of the payload stay out of error messages"
    assert (one["code"], one["errors"][0]["field"]) == ("payload_rejected", "/payload")
    assert '"order_id" is a required property' in one["detail"]
    cursor = await conn.execute("SELECT count(*) AS events FROM reflex.event")
    assert await cursor.fetchone() == {"events": 1}


async def test_a_batch_names_the_events_whose_payloads_do_not_fit(database_url: str) -> None:
    await register_app(database_url, {"order.created": ORDER})
    async with in_process(create_app(settings_for(database_url))) as client:
        events = [{"type": "order.created", "payload": {"order_id": id}} for id in ("A1", "a", 5)]
        problem = problem_of(await post(client, events))
    assert [error["field"] for error in problem["errors"]] == ["/1/payload/order_id", "/2/payload/order_id"]


async def test_a_payload_is_good_if_the_schema_of_any_app_accepts_it(database_url: str) -> None:
    for app, field in (("one", "a"), ("two", "b")):
        await register_app(database_url, {"x": {"type": "object", "required": [field]}}, app=app)
    async with in_process(create_app(settings_for(database_url))) as client:
        for payload, status in (({"a": 1}, 202), ({"b": 1}, 202), ({"c": 1}, 422)):
            assert (await post(client, {"type": "x", "payload": payload})).status_code == status


@pytest.mark.parametrize("told", ["by NOTIFY", "by polling"])
async def test_a_running_gateway_follows_the_registry(
    database_url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without LISTEN, and without the second load."""
    if told == "by NOTIFY":
        monkeypatch.setattr(schemas, "POLL_INTERVAL_S", 600)
    else:
        monkeypatch.setattr(schemas, "POLL_INTERVAL_S", 0.05)
        monkeypatch.setattr(schemas, "REGISTRY_CHANNEL", "silence")
    async with in_process(create_app(settings_for(database_url))) as client:
        assert await status_of(client, "x", {"a": 1}) == 202
        await register_app(database_url, {"x": {"required": ["b"]}})
        await eventually(lambda: refused(client, "x", {"a": 1}))
        await register_app(database_url, {"x": {"required": ["a"]}})
        await eventually(lambda: refused(client, "x", {"b": 1}))
        assert await status_of(client, "x", {"a": 1}) == 202


async def status_of(client: httpx2.AsyncClient, type: str, payload: dict[str, Any]) -> int:
    return (await post(client, {"type": type, "payload": payload})).status_code


async def refused(client: httpx2.AsyncClient, type: str, payload: dict[str, Any]) -> bool:
    return await status_of(client, type, payload) == 422


async def test_what_was_registered_while_the_connection_was_away_is_read_after_the_reconnect(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And until then the last schemas stay in force."""
    monkeypatch.setattr(schemas, "POLL_INTERVAL_S", 600)
    monkeypatch.setattr(schemas, "RECONNECT_S", 0.05)
    await register_app(database_url, {"x": {"required": ["a"]}})
    async with FaultProxy(database_url) as proxy, PayloadSchemas(proxy.url) as followed:
        await followed.wait_for_first_load(10)
        await proxy.refuse()
        await register_app(database_url, {"x": {"required": ["b"]}})
        followed.check("x", {"a": 1})
        await proxy.pass_through()
        await eventually(lambda: accepts(followed, {"b": 1}))


def accepts(followed: PayloadSchemas, payload: dict[str, Any]) -> bool:
    try:
        followed.check("x", payload)
    except EventRejected:
        return False
    return True


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"properties": {"a": {"pattern": "["}}},
        {"properties": {"a": {"pattern": "(?=lookahead)"}}},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$schema": "http://127.0.0.1:9/meta"},
    ],
)
async def test_a_schema_that_does_not_compile_stops_neither_its_type_nor_the_others(
    database_url: str, conn: AsyncConnection[DictRow], schema: dict[str, Any]
) -> None:
    """Seen to fail when compiling is not guarded: every request is then answered with 503."""
    await register_app(database_url, {"broken": schema, "fine": {"required": ["a"]}})
    async with in_process(create_app(settings_for(database_url))) as client:
        assert await status_of(client, "broken", {"a": 1}) == 202
        assert await status_of(client, "fine", {}) == 422
        assert await status_of(client, "fine", {"a": 1}) == 202


def test_a_schema_can_not_make_the_gateway_open_a_file(tmp_path: Path) -> None:
    """Seen to fail without `offline=True`."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    with pytest.raises(ValueError, match="Retrieval is disabled"):
        compile_schema({"$ref": file.as_uri()})


def test_patterns_that_only_a_backtracking_engine_can_match_do_not_compile() -> None:
    """One payload could keep such an engine busy for hours. Seen to fail without `RegexOptions()`."""
    with pytest.raises(ValueError, match="regex"):
        compile_schema({"properties": {"a": {"pattern": "^(?=a)b$"}}})


async def test_an_unknown_type_is_refused_where_the_gateway_is_told_to(database_url: str) -> None:
    await register_app(database_url, {"order.created": {}}, triggers={"users": "user.*"})
    async with in_process(create_app(settings_for(database_url, unknown_types="reject"))) as client:
        for type in ("order.created", "user.added", "user.x.y"):
            assert await status_of(client, type, {}) == 202
        for type in ("order.deleted", "user", "users.added"):
            problem = problem_of(await post(client, {"type": type}))
            assert (problem["status"], problem["code"]) == (422, "unknown_type")
            assert problem["errors"][0]["field"] == "/type"
            assert "GET /event-types" in problem["detail"]
        in_batch = problem_of(await post(client, [{"type": "user.added"}, {"type": "nobody"}]))
        assert in_batch["errors"][0]["field"] == "/1/type"


async def test_a_trigger_on_everything_makes_every_type_known(database_url: str) -> None:
    async with in_process(create_app(settings_for(database_url, unknown_types="reject"))) as client:
        assert await status_of(client, "whatever", {}) == 422
        await register_app(database_url, {}, triggers={"all": "*"})
        await eventually(lambda: accepted(client, "whatever"))


async def accepted(client: httpx2.AsyncClient, type: str) -> bool:
    return await status_of(client, type, {}) == 202


async def test_no_event_is_taken_unchecked_before_the_schemas_were_read(database_url: str) -> None:
    """The database comes up after the gateway, and the schemas cannot be read yet. Seen to fail without the guard."""
    await register_app(database_url, {"x": {"required": ["a"]}})
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("ALTER TABLE reflex.event_type RENAME TO hidden")
        async with in_process(create_app(settings_for(database_url))) as client:
            response = await post(client, {"type": "x"})
            assert problem_of(response)["status"] == 503
            assert "retry-after" in response.headers
            admin.execute("ALTER TABLE reflex.hidden RENAME TO event_type")
            await eventually(lambda: refused(client, "x", {}))
