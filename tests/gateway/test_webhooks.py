"""POST /webhooks/{name}: signed with the senders' own libraries, stored once, and nothing secret in a log."""

import asyncio
import base64
import hashlib
import hmac
import io
import time
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from datetime import UTC, datetime
from typing import Any

import httpx2
import orjson
import pytest
import stripe
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook

from reflex.core.database import connect
from reflex.core.errors import DatabaseUnavailable
from reflex.core.registration import EventType, Manifest, register
from reflex.core.settings import Settings
from reflex.core.webhook_signatures import SCHEMES
from reflex.core.webhooks import WebhookDefinition, WebhookRow, forget_webhook
from reflex.gateway import webhooks
from reflex.gateway.app import create_app
from tests.gateway.gateways import in_process, problem_of, settings_for
from tests.gateway.test_metrics import scrape
from tests.gateway.test_openapi import check

SECRET = "whsec_" + base64.b64encode(b"the secret of the standard").decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"and the one that follows it").decode()
GITHUB_SECRET = "It's-a-Secret-to-Everybody"
HOOKS = (
    WebhookDefinition("std", SCHEMES["standard"], "std.{event}", "payload.data.id", 60),
    WebhookDefinition("github", SCHEMES["github"], "github.{event}", "payload.repository.full_name"),
    WebhookDefinition("slack", SCHEMES["slack"], "slack.{event}"),
    WebhookDefinition("stripe", SCHEMES["stripe"], "stripe.{event}"),
    WebhookDefinition("bare", SCHEMES["github"], "bare"),
)
STRICT = {"type": "object", "required": ["never"]}


@pytest.fixture(params=["open"])
def settings(database_url: str, request: pytest.FixtureRequest) -> Settings:
    return settings_for(database_url, access=request.param, max_payload_bytes=20_000)


@pytest.fixture
async def client(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx2.AsyncClient]:
    monkeypatch.setenv("REFLEX_WEBHOOK_STD_SECRET", SECRET)
    monkeypatch.setenv("REFLEX_WEBHOOK_GITHUB_SECRET", GITHUB_SECRET)
    monkeypatch.setenv("REFLEX_WEBHOOK_SLACK_SECRET", "slacksecret")
    monkeypatch.setenv("REFLEX_WEBHOOK_STRIPE_SECRET", "stripesecret")
    async with await connect(database_url, name="test") as conn:
        await register(conn, Manifest("hooks", (EventType("github.push", STRICT),), (), webhooks=HOOKS))
    async with in_process(create_app(settings)) as client:
        yield client


async def log_of(conn: AsyncConnection[DictRow]) -> list[DictRow]:
    cursor = await conn.execute("SELECT * FROM reflex.event ORDER BY event_id")
    return await cursor.fetchall()


def standard(body: bytes, id: str = "msg_1", *, secret: str = SECRET, late_s: float = 0) -> dict[str, str]:
    at = datetime.fromtimestamp(int(time.time() - late_s), UTC)
    signature = Webhook(secret).sign(id, at, body.decode())
    return {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def github(body: bytes, id: str = "72d3162e", event: str = "push") -> dict[str, str]:
    digest = hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": id, "x-github-event": event}


def slack(body: bytes) -> dict[str, str]:
    stamp = str(int(time.time()))
    signature = SignatureVerifier("slacksecret").generate_signature(timestamp=stamp, body=body)
    return {"x-slack-request-timestamp": stamp, "x-slack-signature": signature or ""}


def stripe_headers(body: bytes) -> dict[str, str]:
    sign: Any = stripe.WebhookSignature.generate_signature_header
    return {"stripe-signature": sign(body.decode(), "stripesecret")}


async def test_each_scheme_is_stored_once_however_often_it_is_sent(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    """A sender that heard nothing sends the same again, signed anew. Fails without its id as the idempotency key."""
    bodies: dict[str, tuple[bytes, Any]] = {
        "std": (b'{"type": "order.paid", "data": {"id": 7, "amount": 1.10}}', standard),
        "github": (b'{"repository": {"full_name": "a/b"}}', github),
        "slack": (b'{"type": "event_callback", "event_id": "Ev1", "event": {"type": "app_mention"}}', slack),
        "stripe": (b'{"id": "evt_1", "type": "charge.refunded"}', stripe_headers),
    }
    for name, (body, sign) in bodies.items():
        first, again = [
            await client.post(
                f"/webhooks/{name}", content=body, headers=sign(body) | {"content-type": "application/json"}
            )
            for _ in range(2)
        ]
        check("POST", "/webhooks/{name}", first)
        assert (first.status_code, again.status_code) == (202, 202), first.text
        assert again.json() == {**first.json(), "duplicate": True}
    stored = await log_of(conn)
    assert [(row["type"], row["source"], row["key"]) for row in stored] == [
        # The schema of github.push refuses it: it is in the log all the same, for its sender can do nothing about it.
        ("std.order.paid", "webhook:std", "7"), ("github.push", "webhook:github", "a/b"),
        ("slack.app_mention", "webhook:slack", None), ("stripe.charge.refunded", "webhook:stripe", None),
    ]  # fmt: skip
    assert [row["payload"] for row in stored] == [orjson.loads(body) for body, _ in bodies.values()]
    text = await (await conn.execute("SELECT payload::text AS p FROM reflex.event WHERE type LIKE 'std%'")).fetchone()
    assert text is not None
    assert "1.10" in text["p"]


async def test_what_is_not_rightly_signed_is_refused_alike_and_the_log_knows_why(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if an answer tells a forger which check failed, or if a secret or a signature is logged."""
    body = b'{"type": "a"}'
    good = standard(body)
    monkeypatch.setattr(webhooks, "LOG_AGAIN_S", 0.0)
    cases = [
        ({}, "no_signature"), ({**good, "webhook-signature": "v1,!"}, "malformed"),
        ({**good, "webhook-id": "msg_2"}, "mismatch"), (standard(body + b" "), "mismatch"),
        (standard(body, secret=NEXT_SECRET), "mismatch"), (standard(body, late_s=90), "too_old"),
        (standard(body, late_s=-90), "too_new"),
    ]  # fmt: skip
    answers: set[bytes] = set()
    for headers, why in cases:
        with redirect_stdout(io.StringIO()) as said:
            answer = await client.post("/webhooks/std", content=body, headers=headers)
        assert problem_of(answer)["status"] == 401
        check("POST", "/webhooks/{name}", answer)
        answers.add(answer.content)
        line = said.getvalue()
        assert f"check={why}" in line
        assert "webhook=std" in line
        for secret in (SECRET, SECRET[6:], *[value for value in headers.values() if "v1," in value]):
            assert secret not in line
            assert secret not in answer.text
    assert len(answers) == 1
    assert await log_of(conn) == []
    assert (await client.post("/webhooks/std", content=body, headers=good)).status_code == 202


async def test_forgers_do_not_fill_the_log(client: httpx2.AsyncClient) -> None:
    with redirect_stdout(io.StringIO()) as said:
        for _ in range(20):
            assert (await client.post("/webhooks/github", content=b"{}")).status_code == 401
    assert said.getvalue().count("webhook refused") == 1


async def test_two_secrets_are_good_while_one_takes_the_place_of_the_other(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"{}"
    monkeypatch.setenv("REFLEX_WEBHOOK_STD_SECRET", f"{NEXT_SECRET}, {SECRET}")
    for number, secret in enumerate((SECRET, NEXT_SECRET)):
        headers = standard(body, f"msg_{number}", secret=secret)
        assert (await client.post("/webhooks/std", content=body, headers=headers)).status_code == 202
    monkeypatch.setenv("REFLEX_WEBHOOK_STD_SECRET", NEXT_SECRET)
    assert (await client.post("/webhooks/std", content=body, headers=standard(body, "msg_9"))).status_code == 401


async def test_without_its_secret_a_webhook_is_put_off_and_not_taken(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 and not 401: the sender keeps trying, and what it sent is not lost once the secret is there."""
    for variable in (None, "not base64!"):
        if variable is not None:
            monkeypatch.setenv("REFLEX_WEBHOOK_STD_SECRET", variable)
        name = "bare" if variable is None else "std"
        with redirect_stdout(io.StringIO()) as said:
            answer = await client.post(f"/webhooks/{name}", content=b"{}", headers=standard(b"{}") | github(b"{}"))
        assert (problem_of(answer)["status"], answer.headers["retry-after"]) == (503, "60")
        check("POST", "/webhooks/{name}", answer)
        assert f"REFLEX_WEBHOOK_{name.upper()}_SECRET" in said.getvalue()
        assert "base64!" not in said.getvalue()


async def test_what_is_not_declared_is_not_there_and_what_is_forgotten_neither(
    client: httpx2.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "BELIEVED_S", 0.0)
    answer = await client.post("/webhooks/nobody", content=b"{}")
    check("POST", "/webhooks/{name}", answer)
    assert problem_of(answer)["status"] == 404
    body = b"{}"
    assert (await client.post("/webhooks/github", content=body, headers=github(body))).status_code == 202
    async with await connect(database_url, name="test") as conn:
        assert await forget_webhook(conn, "github")
        assert not await forget_webhook(conn, "github")
        assert (await client.post("/webhooks/github", content=body, headers=github(body))).status_code == 404
        other = WebhookDefinition("new", SCHEMES["github"], "new")
        await register(conn, Manifest("other", (), (), webhooks=(other,)))
    assert (await client.post("/webhooks/new", content=body)).status_code == 503
    assert problem_of(await client.get("/webhooks/std"))["status"] == 405


async def test_however_many_come_at_once_the_database_is_asked_once(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if each of those that wait for a database that is away asks it again, one after the other."""
    asked, begun, gate = 0, asyncio.Event(), asyncio.Event()

    async def list_webhooks(_: object) -> list[WebhookRow]:
        nonlocal asked
        asked += 1
        begun.set()
        await gate.wait()
        raise DatabaseUnavailable("it is away")

    monkeypatch.setattr(webhooks, "list_webhooks", list_webhooks)
    sent = [asyncio.create_task(client.post("/webhooks/github", content=b"{}")) for _ in range(10)]
    await begun.wait()
    await asyncio.sleep(0.05)
    gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*sent)} == {503}
    assert asked == 1


async def test_slack_is_told_that_the_address_is_ours_if_it_has_signed_the_question(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    body = b'{"type": "url_verification", "challenge": "3eZbrw1a", "token": "x"}'
    assert (await client.post("/webhooks/slack", content=body)).status_code == 401
    answer = await client.post("/webhooks/slack", content=body, headers=slack(body))
    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1a"})
    check("POST", "/webhooks/{name}", answer)
    answer = await client.post("/webhooks/github", content=body, headers=github(body, "another", "ping"))
    assert answer.status_code == 202
    assert [row["type"] for row in await log_of(conn)] == ["github.ping"]


async def test_any_body_is_kept_and_one_that_is_too_large_is_not(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    bodies = [b"\xff\x00", b"hello", b'{"a": "\\u0000"}', b"[1]", b'{"a": NaN}', b""]
    for number, body in enumerate(bodies):
        headers = github(body, str(number))
        assert (await client.post("/webhooks/github", content=body, headers=headers)).status_code == 202, body
    kept = [row["payload"] for row in await log_of(conn)]
    assert base64.b64decode(kept[0]["body_base64"]) == bodies[0]
    assert kept[3] == {"body": [1]}
    assert [kept[number]["body_text"].encode() for number in (1, 2, 4, 5)] == [bodies[n] for n in (1, 2, 4, 5)]
    for body in (b'{"a": "' + b"x" * 20_000 + b'"}', b"x" * 5_000_000):
        answer = await client.post("/webhooks/github", content=body, headers=github(body, "large"))
        assert problem_of(answer)["status"] == 413


async def test_what_a_webhook_refuses_is_counted_as_what_other_clients_are_refused(client: httpx2.AsyncClient) -> None:
    """Fails if POST /events is the only door whose refusals count, or if what is taken counts as well."""
    body, large = b'{"type": "a"}', b'{"a": "' + b"x" * 20_000 + b'"}'
    assert (await client.post("/webhooks/std", content=body, headers=standard(body))).status_code == 202
    for _ in range(2):
        assert (await client.post("/webhooks/std", content=body)).status_code == 401
    assert (await client.post("/webhooks/github", content=large, headers=github(large))).status_code == 413
    assert (await client.post("/webhooks/bare", content=body, headers=github(body))).status_code == 503
    assert (await client.post("/webhooks/nobody", content=body)).status_code == 404
    assert (await client.get("/webhooks/std")).status_code == 405
    found = await scrape(client)
    refused = {key[1]: value for key, value in found.items() if key[0] == "reflex_publishes_refused_total"}
    assert refused == {"signature_refused": 2, "payload_too_large": 1, "webhook_not_ready": 1, "not_found": 1}


@pytest.mark.parametrize("settings", ["keys"], indirect=True)
async def test_the_signature_is_the_key_where_api_keys_are_wanted(client: httpx2.AsyncClient) -> None:
    body = b"{}"
    assert (await client.post("/events", json={"type": "a"})).status_code == 401
    assert (await client.post("/webhooks/github", content=body, headers=github(body))).status_code == 202
    assert problem_of(await client.post("/webhooks/github", content=body))["code"] == "signature_refused"


async def test_the_last_app_that_registers_a_name_has_it_and_the_log_says_so(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    hook = WebhookDefinition("std", SCHEMES["standard"], "a")
    async with await connect(database_url, name="test") as db:
        with redirect_stdout(io.StringIO()) as said:
            for app in ("one", "one", "two", "two"):
                await register(db, Manifest(app, (), (), webhooks=(hook,)))
    assert said.getvalue().count("another app's before") == 1
    row = await (await conn.execute("SELECT app.name FROM reflex.webhook JOIN reflex.app USING (app_id)")).fetchone()
    assert row == {"name": "two"}
