"""REFLEX_ACCESS=keys over HTTP: every route, every scope, and everything that is no valid key."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg import AsyncConnection
from starlette.routing import Route, WebSocketRoute

from reflex.core.api_keys import KeyScope, find_api_keys, list_api_keys, revoke_api_key
from reflex.core.errors import ConfigurationError
from reflex.core.settings import Settings
from reflex.gateway import keyring
from reflex.gateway.access import Access, Guard
from reflex.gateway.app import create_app
from reflex.gateway.group_commit import GroupCommit
from reflex.gateway.openapi import document
from reflex.gateway.operations import OPERATIONS
from tests.faults import FaultProxy
from tests.gateway.gateways import in_process, post, problem_of, settings_for
from tests.gateway.key_fixtures import bad_secrets, bearer, new_key
from tests.gateway.live.readers import Gate
from tests.processes import eventually

# The last is signed instead.
OPEN_PATHS = {"/health", "/health/ready", "/docs", "/openapi.json", "/asyncapi.json", "/webhooks/{name}"}
Conn = AsyncConnection[Any]


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(database_url, access="keys")


def requests() -> list[tuple[tuple[KeyScope, ...], dict[str, Any]]]:
    """One request for each operation, and the scopes that it says it needs. A stream would not end, so its answer is
    one that only who is let in can get."""
    found: list[tuple[tuple[KeyScope, ...], dict[str, Any]]] = []
    for operation in OPERATIONS:
        url = operation.path.replace("{id}", f"1-{uuid4()}" if "letters" in operation.path else str(uuid4()))
        request: dict[str, Any] = {"method": operation.method, "url": url}
        if operation.name == "streamEvents":
            request["params"] = {"nonsense": "1"}
        if operation.method == "POST":
            request["json"] = {"type": "a"} if operation.path == "/events" else {"all": True}
        found.append((operation.scopes, request))
    return found


def test_every_route_has_its_scopes_and_open_is_only_what_is_meant_to_be(settings: Settings) -> None:
    """Fails when a route is not guarded, or one more is open."""
    open_paths: set[str] = set()
    for route in create_app(settings).routes:
        match route:
            case WebSocketRoute():
                assert route.path == "/ws"  # its own tests show that it asks for a key
            case Route():
                if not isinstance(route.app, Guard):
                    open_paths.add(route.path)
            case _:
                pytest.fail(f"{route!r} is of a kind that nobody guards")
    assert open_paths == OPEN_PATHS
    with pytest.raises(KeyError):
        Access(settings).guard([Route("/new", lambda _: None, methods=["GET"])], {})


def test_the_scopes_are_those_that_were_decided() -> None:
    """Fails when an operation moves from one scope to another."""
    for operation in OPERATIONS:
        if operation.path in OPEN_PATHS:
            assert operation.scopes == ()
        elif operation.path == "/ws":
            assert operation.scopes == (KeyScope.PUBLISH, KeyScope.READ)
        elif operation.method == "GET":
            assert operation.scopes == (KeyScope.READ,)
        else:
            expected = KeyScope.PUBLISH if operation.path == "/events" else KeyScope.OPERATE
            assert operation.scopes == (expected,)


async def test_every_operation_with_every_scope_and_without_a_valid_key(
    database_url: str, settings: Settings, db: Conn
) -> None:
    """Fails when a scope is not looked at, lets in too much or too little; and with each check of a key left out:
    its digest, its expiry, its revocation, the form of its secret."""
    secrets: dict[tuple[KeyScope, ...], str] = {(scope,): await new_key(db, scope) for scope in KeyScope}
    secrets[tuple(KeyScope)] = await new_key(db, *KeyScope)
    bad = await bad_secrets(db, list(KeyScope))
    bodies: set[bytes] = set()
    async with in_process(create_app(settings)) as client, in_process(create_app(settings_for(database_url))) as open:
        for needed, request in requests():
            usual = await open.request(**request)
            assert usual.status_code not in (401, 403), request
            for scopes, secret in secrets.items():
                answer = await client.request(**request, headers=bearer(secret))
                if not needed or set(needed) & set(scopes):
                    assert answer.status_code == usual.status_code, (request, scopes, answer.text)
                    continue
                said = problem_of(answer)
                assert (said["status"], said["code"]) == (403, "scope_missing"), (request, scopes)
                assert f"has not the scope {' or '.join(needed)}" in said["detail"]
                assert secret[13:] not in answer.text
            for why, secret in bad.items():
                # As bytes: what is not ASCII comes, too.
                headers = [(name.encode(), value.encode()) for name, value in bearer(secret).items()]
                answer = await client.request(**request, headers=headers)
                if not needed:
                    assert answer.status_code == usual.status_code, (request, why)
                    continue
                assert problem_of(answer)["code"] == "key_refused", (request, why)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                bodies.add(answer.content)
    assert len(bodies) == 1, "the answer says what was wrong with the key"


async def test_a_key_is_shown_once_and_in_one_way(settings: Settings, db: Conn) -> None:
    """Fails when the scheme has to be written like in the documentation, HEAD is forgotten, the address or a cookie is
    looked at, or the first of several keys counts."""
    secret = await new_key(db, "read")
    good = ("authorization", f"Bearer {secret}")
    async with in_process(create_app(settings)) as client:
        for header in (f"Bearer {secret}", f"bearer   {secret}", f"BEARER {secret}"):
            assert (await client.get("/triggers", headers={"authorization": header})).status_code == 200
        assert (await client.head("/triggers", headers=[good])).status_code == 200
        assert (await client.head("/triggers")).status_code == 401
        for headers in (
            [good, good],
            [good, ("authorization", "Basic YTpi")],
            [("authorization", secret)],
            [("authorization", f"Basic {secret}")],
            [("authorization", f"Bearer {secret} {secret}")],
            [("cookie", f"key={secret}")],
            [("sec-websocket-protocol", f"reflex, reflex.key.{secret}")],
        ):
            assert (await client.get("/triggers", headers=headers)).status_code == 401, headers
        assert (await client.get("/triggers", params={"key": secret})).status_code == 401


async def test_a_page_of_an_allowed_site_asks_first_without_a_key_and_then_shows_it(
    database_url: str, db: Conn
) -> None:
    """Fails when the question that a browser asks before (it never has a key) wants one, and when a page cannot read
    why it was refused."""
    site = {"origin": "https://shop.example"}
    settings = settings_for(database_url, access="keys", allowed_origins="https://shop.example")
    async with in_process(create_app(settings)) as client:
        asked = site | {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
        before = await client.options("/triggers", headers=asked)
        assert (before.status_code, before.headers["access-control-allow-headers"]) == (200, "authorization")
        shown = await client.get("/triggers", headers=site | bearer(await new_key(db, "read")))
        nothing = await client.get("/triggers", headers=site)
        assert (shown.status_code, nothing.status_code) == (200, 401)
        for answer in (before, shown, nothing):
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"


async def test_an_open_gateway_asks_for_nothing_and_looks_at_nothing(database_url: str) -> None:
    """Fails when a wrong key is refused where none is wanted."""
    async with in_process(create_app(settings_for(database_url))) as client:
        for secret in (None, "nonsense", f"rfx_00000000_{'0' * 32}"):
            assert (await client.get("/triggers", headers=bearer(secret))).status_code == 200


def test_keys_want_a_database(database_url: str) -> None:
    """Fails when a gateway starts that could never let anybody in."""
    settings = settings_for(database_url, access="keys").model_copy(update={"database_url": None})
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        create_app(settings, store=GroupCommit(database_url, max_buffered_events=10))


async def test_requests_cost_no_query_while_their_key_is_known(
    settings: Settings, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without the memory of keys, without that of unknown ids, and when each of many at once asks for itself."""
    monkeypatch.setattr(keyring, "KNOWN_S", 60.0)
    monkeypatch.setattr(keyring, "UNKNOWN_S", 60.0)
    gate = Gate(find_api_keys)
    monkeypatch.setattr(keyring, "find_api_keys", gate)
    secret = await new_key(db, "publish")
    wrong, unknown = secret[:13] + secret[:12:-1], f"rfx_00000000_{secret[13:]}"
    async with in_process(create_app(settings)) as client:

        async def status(secret: str) -> int:
            return (await client.post("/events", json={"type": "a"}, headers=bearer(secret))).status_code

        gate.close()
        first = asyncio.create_task(status(secret))
        await eventually(lambda: gate.held)
        many = [asyncio.create_task(status(each)) for each in (secret, wrong, unknown, unknown) * 5]
        await asyncio.sleep(0)
        gate.open()
        assert await first == 202
        assert await asyncio.gather(*many) == [202, 401, 401, 401] * 5
        assert gate.calls <= 2
        calls = gate.calls
        assert await asyncio.gather(*map(status, (secret, wrong, unknown))) == [202, 401, 401]
        assert gate.calls == calls


async def test_made_up_keys_take_a_bounded_place_and_keep_no_real_one_out(
    settings: Settings, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when what is known of ids is not bounded, when made-up ids push real ones out, or are queued without end;
    and when a real key that has to be looked at again is refused for them."""
    monkeypatch.setattr(keyring, "MOST_UNKNOWN", 3)
    monkeypatch.setattr(keyring, "MOST_ASKED", 2)
    gate = Gate(find_api_keys)
    monkeypatch.setattr(keyring, "find_api_keys", gate)
    secret = await new_key(db, "read")
    made_up = [f"rfx_{number:08}_{secret[13:]}" for number in range(10)]
    app = create_app(settings)
    async with in_process(app) as client:

        async def status(secret: str) -> int:
            return (await client.get("/triggers", headers=bearer(secret))).status_code

        assert await status(secret) == 200
        for each in made_up:
            assert await status(each) == 401
        memory: keyring.Keyring = app.state.keyring
        assert len(memory._unknown) == 3
        calls = gate.calls
        assert await status(secret) == 200
        assert gate.calls == calls
        monkeypatch.setattr(memory, "_unknown", {})
        gate.close()
        waiting = [asyncio.create_task(status(made_up[0]))]
        await eventually(lambda: gate.held)
        waiting += [asyncio.create_task(status(each)) for each in made_up[1:3]]
        await eventually(lambda: len(memory._asked) == 2)
        full = await client.get("/triggers", headers=bearer(made_up[3]))
        assert problem_of(full)["code"] == "saturated"
        assert full.headers["retry-after"] == "1"
        known = memory._known[secret[4:12]]
        memory._known[secret[4:12]] = known._replace(fresh_until=0)
        again = asyncio.create_task(status(secret))
        await eventually(lambda: len(memory._asked) == 3)
        gate.open()
        assert await asyncio.gather(*waiting, again) == [401, 401, 401, 200]


async def test_a_revoked_key_is_refused_once_what_was_known_is_old(
    settings: Settings, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a key that was right once is never asked for again; and a new one when an id that was unknown stays
    so."""
    monkeypatch.setattr(keyring, "KNOWN_S", 0.05)
    monkeypatch.setattr(keyring, "UNKNOWN_S", 0.05)
    secret = await new_key(db, "read")
    async with in_process(create_app(settings)) as client:

        async def status() -> int:
            return (await client.get("/triggers", headers=bearer(secret))).status_code

        assert await status() == 200
        await db.execute("ALTER TABLE reflex.api_key RENAME COLUMN key_id TO id; UPDATE reflex.api_key SET id = 'x'")
        await db.execute("ALTER TABLE reflex.api_key RENAME COLUMN id TO key_id")

        async def is_refused() -> bool:
            return await status() == 401

        await eventually(is_refused)
        await db.execute("UPDATE reflex.api_key SET key_id = %s", (secret[4:12],))

        async def is_let_in() -> bool:
            return await status() == 200

        await eventually(is_let_in)
        await revoke_api_key(db, secret)
        await eventually(is_refused)


async def test_a_key_expires_though_it_was_known_a_moment_before(
    settings: Settings, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when expiry is looked at only when the database is asked."""
    monkeypatch.setattr(keyring, "KNOWN_S", 60.0)
    secret = await new_key(db, "read", lasts=timedelta(seconds=0.5))
    async with in_process(create_app(settings)) as client:

        async def status() -> int:
            return (await client.get("/triggers", headers=bearer(secret))).status_code

        assert await status() == 200

        async def is_refused() -> bool:
            return await status() == 401

        await eventually(is_refused)


async def test_without_the_database_a_known_key_is_let_in_and_others_hear_that_it_is_not_known(
    database_url: str, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a key that cannot be looked up is called wrong, or a known one is asked for all the same."""
    monkeypatch.setattr(keyring, "WAIT_S", 0.2)
    known, other = await new_key(db, "publish"), await new_key(db, "publish")
    async with FaultProxy(database_url) as proxy:
        app = create_app(settings_for(proxy.url, access="keys"))
        async with in_process(app) as client:
            assert (await post(client, {"type": "a"}, **bearer(known))).status_code == 202
            await proxy.refuse()
            # It is let in, and what it says is looked at.
            assert (await post(client, b"{", **bearer(known))).status_code == 400
            answer = await post(client, b"{", **bearer(other))
            assert (answer.status_code, problem_of(answer)["code"]) == (503, "database_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert (await post(client, b"{", **bearer("nonsense"))).status_code == 401
            memory: keyring.Keyring = app.state.keyring
            memory._known[known[4:12]] = memory._known[known[4:12]]._replace(fresh_until=0)
            assert (await post(client, b"{", **bearer(known))).status_code == 503
            await proxy.pass_through()

            async def is_let_in() -> bool:
                return (await post(client, b"{", **bearer(other))).status_code == 400

            await eventually(is_let_in)


async def test_a_gateway_that_stops_leaves_nobody_waiting_and_notes_what_was_used(
    settings: Settings, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a request waits for ever for a key that nobody looks up any more; when uses are not noted; and when a
    request without its scope, or with a wrong secret, counts as a use."""
    used, unused, forged = await new_key(db, "read"), await new_key(db, "operate"), await new_key(db, "read")
    gate = Gate(find_api_keys)
    monkeypatch.setattr(keyring, "find_api_keys", gate)
    async with in_process(create_app(settings)) as client:
        for secret, status in ((used, 200), (unused, 403), (forged[:13] + used[13:], 401)):
            assert (await client.get("/triggers", headers=bearer(secret))).status_code == status
        gate.close()
        late = asyncio.create_task(client.get("/triggers", headers=bearer(await new_key(db, "read"))))
        await eventually(lambda: gate.held)
    async with asyncio.timeout(10):
        assert (await late).status_code == 503
    gate.open()
    assert [key.id for key in await list_api_keys(db) if key.last_used_at] == [used[4:12]]


def test_the_document_names_the_scopes() -> None:
    """Fails when the description says another thing than what is asked for."""
    whole = document()
    assert whole["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    for operation in OPERATIONS:
        described = whole["paths"][operation.path][operation.method.lower()]
        assert described.get("security", []) == [{"apiKey": [scope]} for scope in operation.scopes]
        assert {"401", "403", "503"} <= described["responses"].keys() or not operation.scopes
