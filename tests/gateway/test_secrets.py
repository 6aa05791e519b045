"""Secrets stay secret: whatever is refused, and whatever goes wrong, they are in no answer, no log and no span."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx2
import pytest
from psycopg import AsyncConnection
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from reflex.core import api_keys
from reflex.core.api_keys import KeyScope, StoredKey
from reflex.core.registration import Manifest, register
from reflex.core.webhook_signatures import SCHEMES, SignatureRefused, verify
from reflex.core.webhooks import WebhookDefinition
from tests.acceptance.test_traces import collecting
from tests.faults import FaultProxy
from tests.gateway.key_fixtures import bad_secrets, bearer, new_key
from tests.gateway.live.clients import connected
from tests.processes import eventually, gateway

Conn = AsyncConnection[Any]
WEBHOOK_SECRET, COLLECTOR_TOKEN, COOKIE = (secrets.token_hex(20) for _ in range(3))
# Python runs it before anything else in the folder's processes: one route with a defect that has the request at hand.
DEFECT = """
import reflex.core.reads

async def list_triggers(conn, **_):
    raise RuntimeError("a defect")

reflex.core.reads.list_triggers = list_triggers
"""
ENV = {
    "REFLEX_ACCESS": "keys", "REFLEX_LOG_LEVEL": "debug", "REFLEX_WEBHOOK_GITHUB_SECRET": WEBHOOK_SECRET,
    "OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{COLLECTOR_TOKEN}",
}  # fmt: skip


def signed(body: bytes, secret: str) -> dict[str, str]:
    return {"x-hub-signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password)}@{host}"))


class Everything:
    """All that a client, a reader of logs and a collector of traces could see."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def answered(self, what: str, answer: httpx2.Response) -> httpx2.Response:
        self.places[f"the answer to {what}"] = f"{answer.headers!r} {answer.text}"
        return answer

    def holds_none_of(self, hidden: Mapping[str, str]) -> None:
        assert all(len(secret) > 8 for secret in hidden.values())
        found = [f"{name} is in {place}" for place, text in self.places.items()
                 for name, secret in hidden.items() if secret in text]  # fmt: skip
        assert not found


async def test_what_is_refused_leaves_no_secret_anywhere(database_url: str, db: Conn, tmp_path: Path) -> None:
    """Fails when a key, a signature, a password or a header of a request gets into a log, an answer or a span: with a
    dump of the headers in the log of a request that is refused, and with tracebacks that show variables."""
    (tmp_path / "sitecustomize.py").write_text(DEFECT)
    hook = WebhookDefinition("github", SCHEMES["github"], "github.{event}")
    await register(db, Manifest("hooks", (), (), webhooks=(hook,)))
    good, lame, bound = [
        await new_key(db, *KeyScope),
        await new_key(db, "operate"),
        await new_key(db, "publish", types=["a"]),
    ]
    keys = {"good": good, "without the scope": lame, "bound": bound}
    keys |= {why: key for why, key in (await bad_secrets(db, list(KeyScope))).items() if key and key.isascii()}
    body = b'{"type": "order.created"}'
    forged, genuine = signed(body, "another"), signed(body, WEBHOOK_SECRET)
    everything = Everything()
    spans: list[str] = []
    async with FaultProxy(database_url) as proxy, collecting() as collector:
        collector.take = lambda request: spans.append(str(request))
        env = {**ENV, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        async with gateway(proxy.url, tmp_path, env=env) as process, httpx2.AsyncClient(base_url=process.url) as client:

            async def ask(why: str, method: str, path: str, **request: Any) -> int:
                return everything.answered(
                    f"{method} {path} ({why})", await client.request(method, path, timeout=20, **request)
                ).status_code

            json = {"content-type": "application/json", "cookie": f"session={COOKIE}"}
            for why, key in keys.items():
                shown = json | bearer(key)
                for path in ("/events?limit=0", "/event-types", "/nothing", "/dead-letters/1", "/metrics?x=1"):
                    await ask(why, "GET", path, headers=shown)
                await ask(why, "POST", "/events", headers=shown, content=body)
                await ask(why, "POST", "/events", headers=shown, content=b'{"type": ')
                await ask(why, "POST", "/events", headers=shown | {"idempotency-key": '""'}, content=body)
                await ask(why, "PUT", "/events", headers=shown, content=body)
                await ask(why, "POST", "/webhooks/github", headers=shown | forged, content=body)
                await ask(f"Basic, {why}", "GET", "/events", headers=json | {"authorization": f"Basic {key}"})
            await handshake(process.url, good)
            await nonsense(process.url, f"GET / HTTP/1.1\r\nauthorization: Bearer {good}\x00\r\n\r\n")
            await nonsense(process.url, f"GET /{good} NONSENSE\r\nauthorization: Bearer {good}\r\n\r\n")
            assert await ask("defect", "GET", "/triggers", headers=json | bearer(good)) == 500
            assert await ask("genuine", "POST", "/webhooks/github", headers=json | genuine, content=body) == 202
            await eventually(lambda: spans, what="a span")
            unknown = await new_key(db, *KeyScope)
            await proxy.refuse()
            for path in ("/events", "/health/detailed", "/health/ready"):
                assert await ask("no database", "GET", path, headers=json | bearer(unknown)) == 503
            await process.says("cannot read the schemas")
        everything.places |= {"the log": process.log, "the spans": "".join([*spans, *map(str, collector.metrics)])}
        wrong = secrets.token_hex(20)
        url = with_password(database_url, wrong)
        async with gateway(url, tmp_path, env=env) as process, httpx2.AsyncClient(base_url=process.url) as client:
            answer = await client.get("/health/ready", headers=bearer(good), timeout=20)
            everything.answered("GET /health/ready (wrong password)", answer)
            await process.says("cannot read the schemas")
        everything.places["the log with a wrong password"] = process.log
    # So that what is looked through is what should be.
    log = everything.places["the log"]
    assert all(
        said in log for said in ("request failed", "RuntimeError", "a defect", "webhook refused", "events stored")
    )
    everything.holds_none_of(
        {f"the key ({why})": key.partition("_")[2].partition("_")[2] or key for why, key in keys.items()}
        | {"the key that could not be looked up": unknown[13:], "the cookie": COOKIE}
        | {"the secret of the webhook": WEBHOOK_SECRET, "its signature": genuine["x-hub-signature-256"][7:]}
        | {"the forged signature": forged["x-hub-signature-256"][7:], "the token of the collector": COLLECTOR_TOKEN}
        | {"the wrong password": wrong, "the password": urlsplit(database_url).password or wrong}
    )


async def handshake(url: str, key: str) -> None:
    """Both ways in which a WebSocket may show its key; whether it is let in does not matter."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    ways: list[dict[str, Any]] = [{"additional_headers": bearer(key)}]
    ways.append({"subprotocols": [Subprotocol("reflex"), Subprotocol(f"reflex.key.{key}")]})
    for way in ways:
        said = ""
        try:
            async with connected(address, **way) as client:
                await client.say("subscribe", id="1", key=3)
                said = str(await client.hear("error"))
        except InvalidStatus as refused:
            said = (refused.response.body or b"").decode()
        assert said
        assert key not in said


async def nonsense(url: str, request: str) -> None:
    """What is no HTTP."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request.encode())
    await writer.drain()
    writer.write_eof()
    assert b"rfx_" not in await asyncio.wait_for(reader.read(), 20)
    writer.close()


@pytest.mark.parametrize("says", [True, False])
def test_what_compares_in_constant_time_is_what_decides(says: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when `==` decides, which takes longer the more of a secret is right."""
    secret, body = "rfx_00000000_" + "0" * 32, b"{}"
    key = StoredKey("00000000", hashlib.sha256(secret.encode()).digest(), frozenset(), None)
    right, wrong = signed(body, "secret"), signed(body, "another")
    assert (key.is_of(secret.encode()), key.is_of(b"x")) == (True, False)

    def compare(a: bytes, b: bytes) -> bool:
        return says

    monkeypatch.setattr(api_keys, "compare_digest", compare)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert (key.is_of(secret.encode()), key.is_of(b"x")) == (says, says)
    for headers in (right, wrong):
        try:
            verify(SCHEMES["github"], ["secret"], headers, body, now_s=0, tolerance_s=60)
        except SignatureRefused:
            assert not says
        else:
            assert says
