"""Keys that are bound to types and sources: what they may publish, and that nothing else exists for them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.ids import new_id
from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.registration import Registered
from reflex.core.settings import Settings
from reflex.core.settlement import Outcome
from reflex.gateway.app import create_app
from tests.approval_fixtures import asking, settle
from tests.gateway.gateways import in_process, problem_of, register_app, served, settings_for
from tests.gateway.key_fixtures import bearer, new_key
from tests.gateway.live.clients import connected
from tests.gateway.live.streams import base_url, stream
from tests.queue_fixtures import claim, enlisted, new_event, settled, shop

Conn = AsyncConnection[Any]
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(database_url, access="keys")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with in_process(create_app(settings)) as client:
        yield client


async def test_a_bound_key_publishes_what_it_is_bound_to(
    client: httpx2.AsyncClient, database_url: str, db: Conn
) -> None:
    """Fails when one way in does not ask; when the schema of a type that is not its own is explained to a key; and when
    a batch does not say which event it is."""
    await register_app(database_url, {"invoice.paid": {"type": "object", "required": ["cents"]}})
    secret = await new_key(db, "publish", types=["order.*"], sources=["shop", "till"])
    one = {"type": "order.created", "source": "shop"}

    async def publish(body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, str) else json.dumps(body)
        return await client.post(
            "/events", content=content, headers={"content-type": "application/json"} | bearer(secret) | headers
        )

    assert (await publish(one)).status_code == 202
    assert (await publish([one, {**one, "source": "till"}])).status_code == 202
    key = secret[4:12]
    for body, code, field, shown in [
        ({**one, "type": "invoice.paid"}, "type_not_allowed", "/type", "invoice.paid"),
        ({**one, "source": "web"}, "source_not_allowed", "/source", "web"),
        ({"type": "order.created"}, "source_not_allowed", "/source", "http"),
        ([one, one, {**one, "type": "invoice.paid"}], "type_not_allowed", "/2/type", "invoice.paid"),
        ([one, {**one, "source": "web"}], "source_not_allowed", "/1/source", "web"),
    ]:
        answer = await publish(body)
        said = problem_of(answer)
        assert (answer.status_code, said["code"], said["errors"][0]["field"]) == (403, code, field), said
        assert f"API key {key} " in said["detail"]
        assert repr(shown) in said["detail"]
    several = problem_of(await publish([{**one, "type": "a"}, one, {**one, "type": "b"}]))
    assert (several["status"], several["code"]) == (403, "type_not_allowed")
    assert [error["field"] for error in several["errors"]] == ["/0/type", "/2/type"]
    mixed = problem_of(await publish([{**one, "type": "a"}, {**one, "payload": 1}]))
    assert (mixed["status"], mixed["code"]) == (422, "event_rejected")
    lines = problem_of(await publish(f'{json.dumps(one)}\n{{"type": "a", "source": "shop"}}', **NDJSON))
    assert (lines["status"], lines["errors"][0]["field"]) == (403, "/1/type")
    assert lines["errors"][0]["reason"].startswith("line 2: ")
    row = await (await db.execute("SELECT count(*) FROM reflex.event")).fetchone()
    assert row == (3,)


async def test_the_only_source_of_a_key_is_that_of_events_that_name_none(client: httpx2.AsyncClient, db: Conn) -> None:
    secret = await new_key(db, "publish", sources=["shop"])
    answer = await client.post("/events", json={"type": "a", "source": None}, headers=bearer(secret))
    assert answer.status_code == 202
    rows = await (await db.execute("SELECT source FROM reflex.event")).fetchall()
    assert rows == [("shop",)]


async def test_cloud_events_are_no_way_around_it(client: httpx2.AsyncClient, db: Conn) -> None:
    """Coming in, each by itself and in a batch, and going out. Fails if these are checked without the key."""
    secret = bearer(await new_key(db, "publish", "read", types=["order.*"]))
    one = {"specversion": "1.0", "id": "1", "source": "shop", "type": "order.created"}
    other = {**one, "id": "2", "type": "invoice.paid"}
    single, batch = "application/cloudevents+json", "application/cloudevents-batch+json"

    async def publish(body: Any, kind: str, key: dict[str, str] = secret) -> httpx2.Response:
        return await client.post("/events", content=json.dumps(body), headers={"content-type": kind} | key)

    for body, kind, field in [(other, single, "/type"), ([one, other], batch, "/1/type")]:
        said = problem_of(await publish(body, kind))
        assert (said["status"], said["code"], said["errors"][0]["field"]) == (403, "type_not_allowed", field)
    ids = {key: f"ce-{key}" for key in other}
    headers = {ids[key]: value for key, value in other.items()} | {"content-type": "application/json"} | secret
    assert problem_of(await client.post("/events", content="{}", headers=headers))["status"] == 403
    assert (await publish(one, single)).status_code == 202
    foreign = (await publish(other, single, bearer(await new_key(db, "publish")))).json()["id"]
    assert (await client.get(f"/events/{foreign}", headers={"accept": single} | secret)).status_code == 404


async def test_a_duplicate_of_another_type_says_nothing_of_its_deliveries(client: httpx2.AsyncClient, db: Conn) -> None:
    """Fails when `wait` answers with the output of an event that the key may not see."""
    event = {"type": "invoice.paid", "source": "shop", "id": "1"}
    first = await client.post("/events", json=event, headers=bearer(await new_key(db, "publish")))
    secret = await new_key(db, "publish", types=["order.*"])
    again = {**event, "type": "order.created"}
    answer = await client.post("/events?wait=5", json=again, headers=bearer(secret))
    assert (answer.status_code, answer.json()["id"]) == (202, first.json()["id"])
    assert answer.json().keys() == {"id", "see", "duplicate"}


async def left_behind(db: Conn, registered: Registered, type: str) -> dict[str, str]:
    """An event of the type with one delivery that is dead, one of which an effect is not known, and one that waits for
    an approval; their ids."""
    event = new_event(type, source="shop" if type == "order.created" else "back-office")
    follow_up = new_event("order.packed" if type != "order.created" else "invoice.sent", source="shop",
                          causation_id=event.event_id, correlation_id=str(event.event_id))  # fmt: skip
    await append(db, [event, follow_up])
    worker_id = await enlisted(db, registered)
    leases = await claim(db, worker_id, list(registered.trigger_ids.values()))
    own = {lease.trigger_id: lease for lease in leases if lease.event_id == event.event_id}
    die, charge, ask = (own[id] for id in registered.trigger_ids.values() if id in own)
    await exchange(
        db, worker_id=worker_id, settlements=[settled(die, Outcome.DEAD, error="boom", reason="failed")],
        trigger_ids=[], limit=0,
    )  # fmt: skip
    document = {"tool": "charge", "arguments": {}, "key": "k1", "call": "00", "why": "the line was cut"}
    await journal_step(db, charge.delivery_id, 1, Step(StepKind.INTENT, b"x", 0, 2, json.dumps(document)))
    settlement = await asking(db, ask)
    await settle(db, worker_id, settlement)
    assert settlement.wait
    return {
        "event": str(event.event_id),
        "follow_up": str(follow_up.event_id),
        "dead": str(die.delivery_id),
        "effect": f"{charge.delivery_id}.2",
        "waiting": str(ask.delivery_id),
        "approval": str(settlement.wait.asks[0].approval_id),
        "digest": settlement.wait.asks[0].digest.hex(),
    }


@pytest.mark.parametrize("bound", [{"types": ["order.created"]}, {"sources": ["shop"]}], ids=["types", "sources"])
async def test_for_a_bound_key_other_events_and_all_about_them_do_not_exist(
    client: httpx2.AsyncClient, db: Conn, bound: dict[str, Any]
) -> None:
    """Fails when one of the routes is not narrowed, or answers 403 where there is something and 404 where there is
    nothing; and when an operator's key reaches beyond its bounds."""
    patterns = {f"{kind}-{what}": f"{kind}.{end}" for kind, end in (("order", "created"), ("invoice", "paid"))
                for what in ("die", "charge", "ask")}  # fmt: skip
    registered = await shop(db, patterns)
    ours = await left_behind(db, registered, "order.created")
    theirs = await left_behind(db, registered, "invoice.paid")
    secret = await new_key(db, "read", "operate", **bound)

    async def get(path: str, **params: str) -> Any:
        answer = await client.get(path, params=params, headers=bearer(secret))
        assert answer.status_code == 200, answer.text
        return answer.json()

    seen = {event["id"] for event in (await get("/events"))["events"]}
    assert ours["event"] in seen
    assert not seen & {theirs["event"]}
    detail = await get(f"/events/{ours['event']}")
    assert len(detail["deliveries"]) == 3
    assert [each["id"] for each in detail["follow_ups"]] == ([] if "types" in bound else [ours["follow_up"]])
    assert [each["id"] for each in (await get("/dead-letters"))["dead_letters"]] == [ours["dead"]]
    assert (await get(f"/dead-letters/{ours['dead']}"))["id"] == ours["dead"]
    assert [each["id"] for each in (await get("/effects"))["effects"]] == [ours["effect"]]
    assert [each["id"] for each in (await get("/approvals"))["approvals"]] == [ours["approval"]]
    assert (await get(f"/approvals/{ours['approval']}"))["id"] == ours["approval"]
    assert [each["id"] for each in (await get("/waiting", limit="1"))["waiting"]] == [ours["waiting"]]
    if "types" in bound:
        assert [each["type"] for each in (await get("/event-types"))["event_types"]] == ["order.created"]

    for path in ("/triggers", "/schedules", "/health/detailed"):
        answer = await client.get(path, headers=bearer(secret))
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "key_is_bound")

    decision = {"decision": "approve", "digest": theirs["digest"]}
    nothing, delivery = str(new_id()), theirs["dead"].partition("-")[0]
    for method, path, there, body in [
        ("GET", "/events/{}", theirs["event"], None),
        ("GET", "/dead-letters/{}", theirs["dead"], None),
        ("POST", "/dead-letters/{}/retry", theirs["dead"], None),
        ("DELETE", "/dead-letters/{}", theirs["dead"], None),
        ("GET", "/approvals/{}", theirs["approval"], None),
        ("POST", "/approvals/{}", theirs["approval"], decision),
        ("POST", "/effects/{}/resolve", theirs["effect"], {"done": False}),
        ("POST", "/deliveries/{}/cancel", theirs["waiting"], None),
    ]:
        missing = nothing if there in (theirs["event"], theirs["approval"]) else f"{delivery}-{nothing}"
        missing += ".2" if "effects" in path else ""
        answers = [
            await client.request(method, path.format(id), json=body, headers=bearer(secret)) for id in (there, missing)
        ]
        hidden, absent = (
            problem_of(answer)["detail"].replace(id, "ID") for answer, id in zip(answers, (there, missing), strict=True)
        )
        assert [answer.status_code for answer in answers] == [404, 404], (path, answers[0].text)
        assert hidden.replace(theirs["event"], "EVENT") == absent.replace(nothing, "EVENT"), path

    for type in ("invoice.*", "invoice.paid") if "types" in bound else ():
        for path in ("/events", "/dead-letters", "/events/stream"):
            async with asyncio.timeout(20):  # a stream that is not refused has no end
                answer = await client.get(path, params={"type": type}, headers=bearer(secret))
            assert (answer.status_code, problem_of(answer)["code"]) == (403, "type_not_allowed"), path
    if "sources" in bound:
        answer = await client.get("/events", params={"source": "back-office"}, headers=bearer(secret))
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "source_not_allowed")
    answer = await client.get("/events", params={"type": "order..x"}, headers=bearer(secret))
    assert (answer.status_code, problem_of(answer)["code"]) == (400, "query_rejected")

    retried = await client.post("/dead-letters/retry", json={"all": True}, headers=bearer(secret))
    assert retried.json() == {"retried": 1, "limit_reached": False}
    left = await (await db.execute("SELECT event_id FROM reflex.dead_letter")).fetchall()
    assert left == [(UUID(theirs["event"]),)]
    nothing_said = await client.post("/dead-letters/retry", json={}, headers=bearer(secret))
    assert nothing_said.status_code == 400, "a bound is no filter"


async def test_live_readers_are_narrowed_and_the_websocket_stays(database_url: str, db: Conn) -> None:
    """Fails when a stream or a subscription hands on what the key may not see, from memory or from the database; when a
    line or an event that is refused ends the connection; and when replies to what was published do not come."""
    async with served(settings_for(database_url, access="keys")) as address:
        secret = await new_key(db, "publish", "read", types=["order.*"], sources=["shop"])
        async with (
            connected(address, additional_headers=bearer(secret)) as client,
            stream(base_url(address), secret=secret) as streamed,
        ):
            await client.say("subscribe", id="all")
            await client.hear("subscribed")
            await append(db, [new_event("invoice.paid", source="shop"), new_event("order.a", source="web"),
                              new_event("order.b", source="shop")])  # fmt: skip
            assert (await client.hear("event"))["event"]["type"] == "order.b"
            assert [event["type"] for event in await streamed.events(1)] == ["order.b"]
            await client.say("subscribe", id="old", tail=10, types=["*"])
            await client.hear("subscribed")
            assert (await client.hear("event"))["event"]["type"] == "order.b"
            await client.say("subscribe", id="no", types=["invoice.*"])
            refused = (await client.hear("refused"))["problem"]
            assert (refused["status"], refused["code"]) == (403, "type_not_allowed")
            await client.say("publish", id="1", event={"type": "invoice.paid"})
            refused = await client.hear("refused")
            assert (refused["id"], refused["problem"]["code"]) == ("1", "type_not_allowed")
            assert refused["problem"]["errors"][0]["field"] == "/event/type"
            await client.say("publish", id="2", event={"type": "order.c", "source": "web"})
            assert (await client.hear("refused"))["problem"]["code"] == "source_not_allowed"
            await client.type("Where is my order?")
            assert (await client.hear("refused"))["problem"]["code"] == "type_not_allowed"
            await client.say("publish", id="3", event={"type": "order.d"})
            heard = [await client.hear() for _ in range(3)]
            assert sorted(frame["op"] for frame in heard) == ["event", "event", "published"]
            assert {frame["event"]["source"] for frame in heard if frame["op"] == "event"} == {"shop"}
            await client.say("ping")
            await client.hear("pong")
