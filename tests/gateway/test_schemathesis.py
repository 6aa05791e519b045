"""/openapi.json as a promise: requests that are made from it, right ones and wrong ones, and what is answered held
against it.

By itself the same requests are made each time. FUZZ_EXAMPLES=500 makes that many others of each kind.
"""

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
import requests
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from reflex.core.api_keys import KeyScope
from reflex.core.database import connect
from reflex.core.registration import Manifest, register
from reflex.core.webhook_signatures import SCHEMES
from reflex.core.webhooks import WebhookDefinition
from reflex.gateway.app import create_app
from reflex.gateway.openapi import document
from reflex.gateway.operations import OPERATIONS
from tests.gateway.gateways import in_process, settings_for
from tests.gateway.key_fixtures import bearer, new_key
from tests.gateway.test_bound_keys import left_behind
from tests.gateway.test_webhooks import GITHUB_SECRET, github
from tests.queue_fixtures import shop

# The gateway draws random numbers in its thread meanwhile, which Hypothesis takes for those of a strategy.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

GIVEN = os.environ.get("FUZZ_EXAMPLES")
EXAMPLES, WITH_NO_USE = int(GIVEN or 10), 2
# A stream has no end. What it refuses has tests of its own.
NAMES = [operation.name for operation in OPERATIONS if operation.path != "/events/stream"]
WEBHOOK = "/webhooks/{name}"
# That making requests takes long, or many attempts.
EVERY_COMPLAINT: list[Any] = list(HealthCheck)
RULES: list[Any] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


class Gateway(NamedTuple):
    """One that wants keys, in a thread of its own. `ids`: by path, of something that is there."""

    send: Callable[[Case[Any], dict[str, str]], httpx2.Response]
    key: dict[str, str]
    ids: dict[str, str]


@pytest.fixture(scope="module")
def gateway(shared_database_url: str) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch, start_blocking_portal() as portal:
        patch.setenv("REFLEX_WEBHOOK_GITHUB_SECRET", GITHUB_SECRET)
        key, ids = portal.call(told, shared_database_url)
        app = create_app(settings_for(shared_database_url, access="keys"))
        with portal.wrap_async_context_manager(in_process(app)) as client:
            yield Gateway(sender(portal, client), key, ids)


async def told(database_url: str) -> tuple[dict[str, str], dict[str, str]]:
    """A key with every scope, and the ids."""
    async with await connect(database_url, name="tests") as db:
        registered = await shop(db, dict.fromkeys(("die", "charge", "ask"), "order.created"))
        hook = WebhookDefinition("github", SCHEMES["github"], "github.{event}")
        await register(db, Manifest("hooks", (), (), webhooks=(hook,)))
        ids = await left_behind(db, registered, "order.created")
        key = await new_key(db, *KeyScope)
    return bearer(key), {
        "/events/{id}": ids["event"],
        "/dead-letters/{id}": ids["dead"],
        "/dead-letters/{id}/retry": ids["dead"],
        "/approvals/{id}": ids["approval"],
        "/effects/{id}/resolve": ids["effect"],
        "/deliveries/{id}/cancel": ids["waiting"],
        WEBHOOK: "github",
    }


def sender(
    portal: BlockingPortal, client: httpx2.AsyncClient
) -> Callable[[Case[Any], dict[str, str]], httpx2.Response]:
    def send(case: Case[Any], headers: dict[str, str]) -> httpx2.Response:
        made = requests.Request(**case.as_transport_kwargs("http://gateway")).prepare()
        body = made.body if isinstance(made.body, bytes) else str(made.body or "").encode()
        made.headers.update(headers)
        if case.operation.path == WEBHOOK:
            made.headers.update(github(body))
        named = [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in made.headers.items()]
        request = client.build_request(made.method or "", made.url or "", content=body, headers=named)
        return portal.call(client.send, request)

    return send


def promises() -> Any:
    """The document without its answers to anything else: each has to be named. And without keys: none are made up."""
    whole = copy.deepcopy(document())
    for methods in whole["paths"].values():
        for operation in methods.values():
            del operation["responses"]["default"]
            operation.pop("security", None)
    return schemathesis.openapi.from_dict(whole)


PROMISES = promises()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_answered_is_what_was_promised(gateway: Gateway, name: str) -> None:
    """Fails when an answer has a status, a content type or a form that the description does not name, when a body that
    it rules out is taken, and with any 5xx."""
    operation = PROMISES.find_operation_by_id(name)
    right, wrong = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    place: dict[str, str] = {}
    if id := gateway.ids.get(operation.path):
        # With an id that is made up there is nothing to be found.
        ask(gateway, operation, right, headers=gateway.key, examples=WITH_NO_USE)
        place = {operation.path.partition("{")[2].partition("}")[0]: id}
    ask(gateway, operation, right, headers={}, examples=WITH_NO_USE, place=place)
    ask(gateway, operation, right, headers=gateway.key, examples=EXAMPLES, place=place)
    # Whatever is sent to a webhook is right, if it is signed.
    if (operation.query or operation.body) and operation.path != WEBHOOK:
        ask(gateway, operation, wrong, headers=gateway.key, examples=EXAMPLES, place=place)


def ask(
    gateway: Gateway,
    operation: Any,
    mode: GenerationMode,
    *,
    headers: dict[str, str],
    examples: int,
    place: dict[str, str] | None = None,
) -> None:
    """Make so many requests, of which each answer has to keep the promises."""
    # Of a query string much is right that a schema rules out: `limit=07` is a number there.
    rules = [*RULES, checks.negative_data_rejection] if operation.body and operation.path != WEBHOOK else RULES

    @settings(
        max_examples=examples,
        derandomize=GIVEN is None,
        deadline=None,
        database=None,
        suppress_health_check=EVERY_COMPLAINT,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(case=operation.as_strategy(mode, **({"path_parameters": place} if place else {})))
    def hold(case: Case[Any]) -> None:
        case.validate_response(gateway.send(case, headers), checks=rules)

    hold()
