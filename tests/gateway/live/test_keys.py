"""REFLEX_ACCESS=keys for what stays open: how a WebSocket shows its key, what it may do, and how it ends with it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import orjson
import pytest
from psycopg import AsyncConnection
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from reflex.core.api_keys import KeyScope, revoke_api_key
from reflex.core.database import connect
from reflex.core.log import append
from reflex.gateway import keyring
from reflex.gateway.live.closing import CloseCode
from tests.faults import FaultProxy
from tests.gateway.gateways import served, settings_for
from tests.gateway.key_fixtures import bad_secrets, bearer, new_key
from tests.gateway.live.clients import Address, Client, connected, raw
from tests.gateway.live.streams import base_url, stream
from tests.gateway.live.test_websocket import answer
from tests.processes import eventually
from tests.queue_fixtures import new_event

Conn = AsyncConnection[Any]
LINE = "Where is my order?"


@pytest.fixture
async def address(database_url: str) -> AsyncGenerator[Address]:
    async with served(settings_for(database_url, access="keys", allowed_origins="https://shop.example")) as address:
        yield address


async def refused(address: Address, **options: Any) -> tuple[int, dict[str, Any], str | None]:
    """The status, the problem and the challenge of a handshake that comes to nothing."""
    with pytest.raises(InvalidStatus) as failed:
        async with connected(address, **options):
            pass
    response = failed.value.response
    problem: dict[str, Any] = orjson.loads(response.body or b"")
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, problem, response.headers.get("www-authenticate")


def offering(*protocols: str) -> dict[str, Any]:
    return {"subprotocols": [Subprotocol(protocol) for protocol in protocols]}


async def test_a_handshake_without_a_valid_key_or_scope_is_refused_as_http(address: Address, writer: Conn) -> None:
    """Fails when the WebSocket is accepted first, when its key is not looked at, and when the answer tells what was
    wrong."""
    problems: list[dict[str, Any]] = []
    bad = await bad_secrets(writer, ["publish", "read"])
    for why, secret in bad.items():
        headers = {name: value.encode().decode("latin-1") for name, value in bearer(secret).items()}
        ways = [{"additional_headers": headers}]
        if secret and secret.isascii():
            ways.append(offering("reflex", f"reflex.key.{secret}"))
        for way in ways:
            status, problem, challenge = await refused(address, **way)
            assert (status, problem["code"], challenge) == (401, "key_refused", "Bearer"), why
            problems.append(problem)
    assert problems.count(problems[0]) == len(problems)
    status, problem, _ = await refused(address, additional_headers=bearer(await new_key(writer, "operate")))
    assert (status, problem["code"]) == (403, "scope_missing")
    assert "has not the scope publish or read" in problem["detail"]
    secret = await new_key(writer, "read")
    elsewhere = {"origin": "https://evil.example", "additional_headers": bearer(secret)}
    assert (await refused(address, **elsewhere))[1]["code"] == "origin_refused"
    both = offering("reflex", f"reflex.key.{secret}", f"reflex.key.{await new_key(writer, 'read')}")
    assert (await refused(address, **both))[0] == 401


async def test_a_page_shows_its_key_as_a_subprotocol_and_never_gets_it_back(address: Address, writer: Conn) -> None:
    """Fails when the gateway answers with the key, or with a protocol that was not offered."""
    secret = await new_key(writer, "read")
    page: dict[str, Any] = {"origin": "https://shop.example"}
    async with connected(address, **offering("reflex", f"reflex.key.{secret}"), **page) as client:
        assert client.connection.subprotocol == "reflex"
    async with connected(address, **offering(f"reflex.key.{secret}", "reflex"), **page) as client:
        assert client.connection.subprotocol == "reflex"
    async with raw(address, sec_websocket_protocol=f"reflex.key.{secret}") as client:
        head: bytes = client.head  # pyright: ignore[reportAttributeAccessIssue]
        assert b"sec-websocket-protocol" not in head.lower()
        assert secret.encode() not in head
    async with connected(address, additional_headers=bearer(secret)) as client:
        assert client.connection.subprotocol is None


async def test_an_open_gateway_takes_the_same_subprotocols(database_url: str) -> None:
    """Fails when a page that shows a key cannot talk to a gateway that wants none."""
    nonsense = offering("reflex", "reflex.key.nonsense")
    async with served(settings_for(database_url)) as address, connected(address, **nonsense) as client:
        assert client.connection.subprotocol == "reflex"
        await client.say("publish", event={"type": "a"})
        await client.hear("published")


@pytest.mark.parametrize("scopes", [("publish",), ("read",), ("publish", "read"), ("operate", "publish")])
async def test_each_operation_needs_its_scope(address: Address, writer: Conn, scopes: tuple[str, ...]) -> None:
    """Fails when an operation is done without its scope, or refused with it; and when a client that only publishes gets
    no replies."""
    may_publish, may_read = KeyScope.PUBLISH in scopes, KeyScope.READ in scopes
    secret = await new_key(writer, *scopes)
    async with connected(address, additional_headers=bearer(secret)) as client:

        async def is_refused(id: str | None, needed: str) -> None:
            frame = await client.hear("refused")
            assert frame.get("id") == id
            problem = frame["problem"]
            assert (problem["status"], problem["code"]) == (403, "scope_missing")
            assert f"the API key {secret[4:12]} has not the scope {needed}" in problem["detail"]

        await client.say("ping", id="1")
        assert (await client.hear("pong"))["id"] == "1"
        await client.say("subscribe", id="all", include=["progress"])
        if may_read:
            await client.hear("subscribed")
            await client.say("unsubscribe", id="all")
            await client.hear("unsubscribed")
        else:
            await is_refused("all", "read")
            await client.say("unsubscribe", id="all")
            assert (await client.hear("refused"))["problem"]["code"] == "not_found"
        for id in (None, "2"):
            await (client.type(LINE) if id is None else client.say("publish", id=id, event={"type": "a"}))
            if may_publish:
                published = await client.hear("published")
                await answer(writer, published, client)
                assert (await client.hear("reply"))["event_id"] == published["event_id"]
            else:
                await is_refused(id, "publish")
    stored = await (await writer.execute("SELECT count(*) FROM reflex.event WHERE source LIKE 'ws:%'")).fetchone()
    assert stored == (2 if may_publish else 0,)


async def test_a_revoked_key_ends_its_open_connections_and_no_others(
    address: Address, writer: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when open connections are not looked after, when the first one that ends takes the look at the others with
    it, and when those of another key end, too."""
    monkeypatch.setattr(keyring, "KNOWN_S", 0.1)
    ours, theirs = await new_key(writer, "publish", "read"), await new_key(writer, "read")
    url = base_url(address)
    async with AsyncExitStack() as stack:

        async def socket(secret: str) -> Client:
            return await stack.enter_async_context(connected(address, additional_headers=bearer(secret)))

        one, two, other = await socket(ours), await socket(ours), await socket(theirs)
        async with connected(address, additional_headers=bearer(ours)):
            pass
        await one.say("subscribe", id="all")
        cursor = (await one.hear("subscribed"))["cursor"]
        mine = await stack.enter_async_context(stream(url, secret=ours))
        another = await stack.enter_async_context(stream(url, secret=theirs))
        await revoke_api_key(writer, ours)
        closing = await one.hear("closing")
        assert (closing["code"], closing["cursors"]) == (4401, {"all": cursor})
        for client in (one, two):
            code, reason = await client.is_closed()
            assert code == CloseCode.KEY_ENDED
            assert "the API key is not valid any more" in reason
        assert await mine.ends() == {"reason": "key_ended", "cursor": mine.id}
        await append(writer, [new_event("a")])
        assert [event["type"] for event in await another.events(1)] == ["a"]
        await other.say("ping")
        await other.hear("pong")
    assert (await refused(address, additional_headers=bearer(ours)))[0] == 401


async def test_a_key_that_expires_ends_its_connections_though_the_database_is_away(
    database_url: str, writer: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a connection outlives its key because nobody can be asked, and when one whose key is valid ends
    because nobody can be asked; when nothing is asked any more after a failure; and when a key that cannot be looked up
    is called wrong."""
    monkeypatch.setattr(keyring, "KNOWN_S", 0.2)
    monkeypatch.setattr(keyring, "AGAIN_S", 0.1)
    monkeypatch.setattr(keyring, "WAIT_S", 0.2)
    kept: list[str] = []
    keep_watching = keyring.Keyring._keep_watching

    def watched_keep(self: keyring.Keyring, key_ids: Sequence[str]) -> None:
        keep_watching(self, key_ids)
        kept.extend(key_ids)

    monkeypatch.setattr(keyring.Keyring, "_keep_watching", watched_keep)
    async with FaultProxy(database_url) as proxy, served(settings_for(proxy.url, access="keys")) as address:
        brief = await new_key(writer, "read", lasts=timedelta(seconds=1))
        lasting = await new_key(writer, "read")
        async with (
            connected(address, additional_headers=bearer(brief)) as ends,
            connected(address, additional_headers=bearer(lasting)) as stays,
        ):
            await proxy.refuse()
            assert (await ends.is_closed())[0] == CloseCode.KEY_ENDED
            status, problem, _ = await refused(address, additional_headers=bearer(await new_key(writer, "read")))
            assert (status, problem["code"]) == (503, "database_unavailable")
            await eventually(lambda: lasting[4:12] in kept)
            await stays.say("ping")
            await stays.hear("pong")
            await proxy.pass_through()
            await revoke_api_key(writer, lasting)
            assert (await stays.is_closed())[0] == CloseCode.KEY_ENDED


async def test_what_is_being_stored_when_the_key_ends_is_stored_and_said(
    address: Address, database_url: str, writer: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the end of a key cuts off the answers to what was published before."""
    monkeypatch.setattr(keyring, "KNOWN_S", 0.1)
    secret = await new_key(writer, "publish")
    ended = asyncio.Event()
    end_if_over = keyring.end_if_over

    def watched_end(watched: keyring.Watched) -> None:
        end_if_over(watched)
        if watched.ends_at <= asyncio.get_running_loop().time():
            ended.set()

    monkeypatch.setattr(keyring, "end_if_over", watched_end)
    async with connected(address, additional_headers=bearer(secret)) as client:
        await client.say("publish", id="1", event={"type": "a"})
        await client.hear("published")
        async with writer.transaction():
            await writer.execute("LOCK TABLE reflex.event IN EXCLUSIVE MODE")
            await client.say("publish", id="2", event={"type": "a"})
            await client.say("ping")
            await client.hear("pong")
            async with await connect(database_url, name="other") as other:
                await revoke_api_key(other, secret)
            await asyncio.wait_for(ended.wait(), 10)
        assert (await client.hear("published"))["id"] == "2"
        assert (await client.is_closed())[0] == CloseCode.KEY_ENDED


async def test_connections_are_looked_after_since_their_key_was_looked_up_and_until_they_close(
    database_url: str, writer: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a connection counts from when it was opened: a key that was known for a while would last twice as long
    as others. And when one that has ended is still watched: the memory of them would grow."""
    monkeypatch.setattr(keyring, "KNOWN_S", 60.0)
    memories: list[keyring.Keyring] = []
    enter = keyring.Keyring.__aenter__

    async def watched_enter(self: keyring.Keyring) -> keyring.Keyring:
        memories.append(self)
        return await enter(self)

    monkeypatch.setattr(keyring.Keyring, "__aenter__", watched_enter)
    async with served(settings_for(database_url, access="keys")) as address:
        secret = await new_key(writer, "read")
        async with connected(address, additional_headers=bearer(secret)):
            pass
        (memory,) = memories
        await eventually(lambda: not memory._watched)
        known = memory._known[secret[4:12]]
        async with (
            connected(address, additional_headers=bearer(secret)),
            connected(address, additional_headers=bearer(secret)),
            stream(base_url(address), secret=secret),
        ):
            watched = memory._watched[secret[4:12]]
            assert (len(watched.ends), watched.look_at) == (3, known.fresh_until)
        await eventually(lambda: not memory._watched)
