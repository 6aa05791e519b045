"""Who gets what from a gateway that wants keys: every route and every operation of the WebSocket, for everybody who may
come. The table is written out by hand: what a new route lets in has to be decided here, too."""

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import orjson
import pytest
from psycopg import AsyncConnection
from starlette.routing import Route, WebSocketRoute
from websockets.exceptions import InvalidStatus

from reflex.core.api_keys import KeyScope, revoke_api_key
from reflex.core.database import connect
from reflex.core.registration import Manifest, register
from reflex.core.settings import Settings
from reflex.core.webhook_signatures import SCHEMES
from reflex.core.webhooks import WebhookDefinition
from reflex.gateway.app import create_app
from reflex.gateway.live.frames import CLIENT_FRAMES
from tests.gateway.gateways import in_process, problem_of, served, settings_for
from tests.gateway.key_fixtures import LONG_AGO, bearer, new_key
from tests.gateway.live.clients import Client, connected
from tests.gateway.test_bound_keys import left_behind
from tests.gateway.test_webhooks import GITHUB_SECRET, github
from tests.queue_fixtures import shop

Conn = AsyncConnection[Any]
# Nothing of it may be in an answer to somebody who is bound to other events.
TYPE = "order.created"
OTHERS = "invoice.*"
BODY = b'{"ref": "main"}'


class Line(NamedTuple):
    """A route, the scopes of which a key needs one, and what is answered.

    `url` names ids of what is in the database; the same for everybody. `bound`: to a key with every scope that is bound
    to other events. Who is let in and changes something comes last, so that its answer shows that nobody else did.
    """

    route: str
    url: str
    scopes: str
    let_in: int
    bound: int | str
    body: Mapping[str, str | bool] | None = None
    headers: Mapping[str, str] = {}


EVERYBODY = ""
MATRIX = (
    Line("POST /events", "/events", "publish", 202, "type_not_allowed", {"type": TYPE}),
    Line("POST /webhooks/{name}", "/webhooks/github", EVERYBODY, 401, 401, {"ref": "main"}),
    Line("POST /webhooks/{name}", "/webhooks/github", EVERYBODY, 202, 202, None, github(BODY)),
    Line("GET /ws", "/ws", "publish read", 426, 426),
    Line("GET /events", "/events", "read", 200, 200),
    Line("GET /events", f"/events?type={TYPE}", "read", 200, "type_not_allowed"),
    # A stream has no end, so its answer is one that only who is let in can get.
    Line("GET /events/stream", "/events/stream?after=nonsense", "read", 400, 400),
    Line("GET /events/stream", f"/events/stream?after=nonsense&type={TYPE}", "read", 400, "type_not_allowed"),
    Line("GET /events/{id}", "/events/{event_0}", "read", 200, 404),
    Line("GET /event-types", "/event-types", "read", 200, 200),
    Line("GET /triggers", "/triggers", "read", 200, "key_is_bound"),
    Line("GET /schedules", "/schedules", "read", 200, "key_is_bound"),
    Line("GET /dead-letters", "/dead-letters", "read", 200, 200),
    Line("GET /dead-letters/{id}", "/dead-letters/{dead_0}", "read", 200, 404),
    Line("GET /approvals", "/approvals", "read", 200, 200),
    Line("GET /approvals/{id}", "/approvals/{approval_0}", "read", 200, 404),
    Line("GET /effects", "/effects", "read", 200, 200),
    Line("GET /waiting", "/waiting", "read", 200, 200),
    Line("POST /approvals/{id}", "/approvals/{approval_0}", "operate", 200, 404,
         {"decision": "approve", "digest": "{digest_0}"}),
    # The delivery of the effect runs, which only who is let in hears.
    Line("POST /effects/{id}/resolve", "/effects/{effect_0}/resolve", "operate", 409, 404, {"done": False}),
    Line("POST /deliveries/{id}/cancel", "/deliveries/{waiting_1}/cancel", "operate", 200, 404),
    Line("POST /dead-letters/{id}/retry", "/dead-letters/{dead_0}/retry", "operate", 200, 404),
    Line("DELETE /dead-letters/{id}", "/dead-letters/{dead_1}", "operate", 200, 404),
    Line("POST /dead-letters/retry", "/dead-letters/retry", "operate", 200, 200, {"all": True}),
    Line("DELETE /dead-letters", "/dead-letters?all=true", "operate", 200, 200),
    Line("POST /triggers/{name}/replay", "/triggers/die/replay", "operate", 200, "key_is_bound", {"since": "1d"}),
    Line("GET /health", "/health", EVERYBODY, 200, 200),
    Line("GET /health/ready", "/health/ready", EVERYBODY, 200, 200),
    Line("GET /health/detailed", "/health/detailed", "read", 200, "key_is_bound"),
    Line("GET /metrics", "/metrics", "read", 200, "key_is_bound"),
    Line("GET /openapi.json", "/openapi.json", EVERYBODY, 200, 200),
    Line("GET /asyncapi.json", "/asyncapi.json", EVERYBODY, 200, 200),
    Line("GET /docs", "/docs", EVERYBODY, 200, 200),
)  # fmt: skip

# Of the WebSocket: what is sent, and by scope what is heard: the kind of the frame, or the code of what is refused.
OPERATIONS: Mapping[str, tuple[Mapping[str, Any] | str, dict[str, str]]] = {
    "line": ("Where is my order?", {"publish": "published", "read": "scope_missing", "bound": "type_not_allowed"}),
    "publish": (
        {"op": "publish", "id": "1", "event": {"type": TYPE}},
        {"publish": "published", "read": "scope_missing", "bound": "type_not_allowed"},
    ),
    "subscribe": (
        {"op": "subscribe", "id": "1", "types": ["order.*"]},
        {"publish": "scope_missing", "read": "subscribed", "bound": "type_not_allowed"},
    ),
    "unsubscribe": (
        {"op": "unsubscribe", "id": "2"}, {"publish": "not_found", "read": "not_found", "bound": "not_found"},
    ),
    "ping": ({"op": "ping"}, {"publish": "pong", "read": "pong", "bound": "pong"}),
}  # fmt: skip


@pytest.fixture
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REFLEX_WEBHOOK_GITHUB_SECRET", GITHUB_SECRET)
    return settings_for(database_url, access="keys")


async def strangers(db: Conn, elsewhere: str) -> dict[str, str | None]:
    """Who has no key of this database that is valid now, though each has every scope."""
    revoked = await new_key(db, *KeyScope)
    await revoke_api_key(db, revoked)
    right = await new_key(db, *KeyScope)
    async with await connect(elsewhere, name="tests") as other:
        foreign = await new_key(other, *KeyScope)
    return {
        "nobody": None,
        "expired": await new_key(db, *KeyScope, lasts=LONG_AGO),
        "revoked": revoked,
        "of another database": foreign,
        "mistyped": right[:-1] + ("a" if right[-1] != "a" else "b"),
        "of no form": "rfx-nothing-of-ours",
    }


async def key_holders(db: Conn) -> dict[str, str]:
    """A key for each scope, and one that is bound; in the order in which they ask."""
    bound = await new_key(db, *KeyScope, types=[OTHERS])
    scopes = {str(scope): await new_key(db, scope) for scope in (KeyScope.PUBLISH, KeyScope.READ)}
    return {"bound": bound, **scopes, "operate": await new_key(db, KeyScope.OPERATE)}


async def told(db: Conn) -> dict[str, str]:
    """The ids of what is in the database, twice."""
    registered = await shop(db, {name: TYPE for name in ("die", "charge", "ask")})
    await register(db, Manifest("hooks", (), (), webhooks=(
        WebhookDefinition("github", SCHEMES["github"], "github.{event}"),
    )))  # fmt: skip
    twice = [await left_behind(db, registered, TYPE) for _ in range(2)]
    return {f"{name}_{number}": id for number, ids in enumerate(twice) for name, id in ids.items()}


def test_every_route_and_every_operation_has_its_line(settings: Settings) -> None:
    """Fails when a route or an operation is added, and nobody has decided here who may use it."""
    routes: set[str] = set()
    for route in create_app(settings).routes:
        if isinstance(route, WebSocketRoute):
            assert route.path == "/ws"
            continue
        assert isinstance(route, Route)
        routes |= {f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"}}
    assert {line.route for line in MATRIX} == routes
    assert OPERATIONS.keys() == {"line", *(frame.op for frame in CLIENT_FRAMES)}


async def test_every_route_for_everybody_who_may_come(settings: Settings, shared_database_url: str, db: Conn) -> None:
    """Fails when a route loses its guard or changes its scope, when one check of a key is left out, and when a bound
    key is let in where nothing is narrowed, or sees or changes what is there for others."""
    ids = await told(db)
    refused, holders = await strangers(db, shared_database_url), await key_holders(db)
    async with in_process(create_app(settings)) as client:
        for line in MATRIX:
            method, _ = line.route.split(" ", 1)
            content = BODY if method == "POST" else None
            if line.body is not None:
                content = json.dumps(
                    {
                        name: value.format(**ids) if isinstance(value, str) else value
                        for name, value in line.body.items()
                    }
                ).encode()
            for who, secret in {**refused, **holders}.items():
                wanted: int | str = line.let_in
                if line.scopes and who in refused:
                    wanted = "key_refused"
                elif who == "bound":
                    wanted = line.bound
                elif line.scopes and who not in line.scopes.split():
                    wanted = "scope_missing"
                headers = {"content-type": "application/json"} | bearer(secret) | dict(line.headers)
                url = line.url.format(**ids)
                answer = await client.request(method, url, content=content, headers=headers)
                case = f"{line.route} for {who}: {answer.status_code} {answer.text[:300]}"
                got = problem_of(answer)["code"] if isinstance(wanted, str) else answer.status_code
                assert got == wanted, case
                assert secret is None or secret not in answer.text, case
                if isinstance(wanted, str):
                    assert answer.status_code == (401 if wanted == "key_refused" else 403), case
                    assert answer.headers.get("www-authenticate") == ("Bearer" if wanted == "key_refused" else None)
                if who == "bound" and line.scopes and "type=" not in url and not isinstance(wanted, str):
                    assert TYPE not in answer.text, case
                if method == "GET":
                    head = await client.head(url, headers=headers)
                    assert (head.status_code, head.content) == (answer.status_code, b""), case


async def test_every_operation_of_the_websocket_for_everybody_who_may_come(
    settings: Settings, shared_database_url: str, db: Conn
) -> None:
    """Fails when the handshake lets somebody in, when an operation asks for no scope or another one, and when one
    forgets the bounds of a key."""
    await told(db)
    async with served(settings) as address, AsyncExitStack() as stack:
        holders = await key_holders(db)
        out = {**{who: (secret, 401) for who, secret in (await strangers(db, shared_database_url)).items()},
               "operate": (holders.pop("operate"), 403)}  # fmt: skip
        for who, (secret, status) in out.items():
            with pytest.raises(InvalidStatus) as failed:
                await stack.enter_async_context(connected(address, additional_headers=bearer(secret)))
            assert failed.value.response.status_code == status, who
        for who, secret in holders.items():
            client = await stack.enter_async_context(connected(address, additional_headers=bearer(secret)))
            heard = {name: await heard_of(client, sent) for name, (sent, _) in OPERATIONS.items()}
            assert heard == {name: wanted[who] for name, (_, wanted) in OPERATIONS.items()}, who


async def heard_of(client: Client, sent: Mapping[str, Any] | str) -> str:
    """What is answered: the kind of the frame, or the code of what is refused. Events come in between."""
    await client.type(sent if isinstance(sent, str) else orjson.dumps(sent).decode())
    while (frame := await client.hear())["op"] == "event":
        pass
    return frame["problem"]["code"] if frame["op"] == "refused" else frame["op"]
