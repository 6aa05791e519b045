"""POST /webhooks/{name}: what another system sends and has signed becomes an event. The signature is the key; an API
key is not asked for."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reflex.core.errors import NotFound
from reflex.core.settings import Settings
from reflex.core.webhook_events import Payload, event_of, read_body
from reflex.core.webhook_signatures import SecretUnusable, SignatureRefused, verify
from reflex.core.webhooks import WebhookDefinition, list_webhooks, secret_variable, secrets_in
from reflex.gateway.bodies import Bodies
from reflex.gateway.connections import read
from reflex.gateway.ingest import single_answer
from reflex.gateway.problems import RequestRefused
from reflex.gateway.publishing import Publisher

__all__ = ["Webhooks"]

# What an app registers is taken so soon; a flood of names that are none costs one read in this time.
BELIEVED_S: Final = 1.0
# Who forges signatures must not fill the log: one line for each reason in this time.
LOG_AGAIN_S: Final = 10.0
# The same whatever was wrong: who forges learns nothing, and the owner can look into the log.
REFUSED: Final = "the webhook is not accepted: its signature is missing or wrong, or too far from now; see the log"

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.webhooks")


class Webhooks:
    """The ASGI endpoint."""

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`environment` holds the secrets; `clock` is what signed times are held against."""
        self._publisher = publisher
        self._max_nesting = settings.max_nesting
        self._max_payload_bytes = settings.max_payload_bytes
        self._bodies = Bodies(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        self._environment = environment
        self._clock = clock
        self._known: Mapping[str, WebhookDefinition] = {}
        self._known_until = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        webhook = await self._find(request)
        secrets = self._secrets(webhook.name)
        raw: dict[bytes, bytes] = dict(scope["headers"])
        body = await self._bodies.read(raw, receive)
        if body is None:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw.items()}
        self._verify(webhook, secrets, headers, body)
        payload = read_body(body, headers.get("content-type", ""), max_nesting=self._max_nesting)
        answer = challenge_of(webhook, payload) or await self._store(webhook, headers, body, payload)
        await answer(scope, receive, send)

    async def _store(
        self, webhook: WebhookDefinition, headers: Mapping[str, str], body: bytes, payload: Payload
    ) -> Response:
        if (size := len(payload.text.encode())) > self._max_payload_bytes:
            detail = f"the payload is {size} bytes; the limit is {self._max_payload_bytes} (REFLEX_MAX_PAYLOAD_BYTES)"
            raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "payload_too_large", detail)
        event = event_of(
            webhook.name, webhook.scheme, webhook.type, webhook.key, payload=payload, headers=headers, body=body
        )
        stored = await self._publisher.store([event])
        return Response(single_answer(event.event_id, stored[event.event_id]), 202, media_type="application/json")

    async def _find(self, request: Request) -> WebhookDefinition:
        """The webhook of the request's path, as it was in the database a moment ago.

        Raises:
            NotFound: There is none of that name.
            DatabaseUnavailable, Saturated: As for `read`.
        """
        if asyncio.get_running_loop().time() >= self._known_until:
            # One read for all who wait; if it fails, for all of them.
            if self._reading is None:
                self._reading = asyncio.create_task(self._read(request))
                self._reading.add_done_callback(self._has_read)
            await asyncio.shield(self._reading)
        name: str = request.path_params["name"]
        if (webhook := self._known.get(name)) is None:
            raise NotFound(f"there is no webhook {name[:100]!r}; an app declares one, and its worker registers it")
        return webhook

    async def _read(self, request: Request) -> None:
        began = asyncio.get_running_loop().time()
        rows = await read(request, list_webhooks)
        self._known = {row.definition.name: row.definition for row in rows}
        self._known_until = began + BELIEVED_S

    def _has_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # those who waited have heard of it; asyncio would log one that nobody asks for

    def _secrets(self, name: str) -> list[str]:
        variable = secret_variable(name)
        if secrets := secrets_in(self._environment, variable):
            return secrets
        self._refusals.say(name, "no_secret", f"{variable} is not set in the environment of this gateway")
        raise unconfigured()

    def _verify(self, webhook: WebhookDefinition, secrets: list[str], headers: Mapping[str, str], body: bytes) -> None:
        try:
            verify(webhook.scheme, secrets, headers, body, now_s=self._clock(), tolerance_s=webhook.tolerance_s)
        except SignatureRefused as error:
            self._refusals.say(webhook.name, error.refusal, str(error))
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, error.code, REFUSED) from None
        except SecretUnusable as error:
            self._refusals.say(webhook.name, error.code, f"{secret_variable(webhook.name)}: {error}")
            raise unconfigured() from None


class Refusals:
    """Log lines about what was refused, not one for each request."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def say(self, webhook: str, check: str, why: str) -> None:
        """Only what Reflex itself has written: no header, no body, no secret."""
        now = time.monotonic()
        since, left_out = self._said.get((webhook, check), (-LOG_AGAIN_S, 0))
        if now - since < LOG_AGAIN_S:
            self._said[webhook, check] = since, left_out + 1
            return
        self._said[webhook, check] = now, 0
        more: dict[str, Any] = {"others_since": left_out} if left_out else {}
        log.warning("webhook refused", webhook=webhook, check=str(check), reason=why, **more)


def challenge_of(webhook: WebhookDefinition, payload: Payload) -> Response | None:
    """Slack asks whether the address is ours before it sends anything there."""
    challenge = payload.value.get("challenge")
    if (
        webhook.scheme.name != "slack"
        or payload.value.get("type") != "url_verification"
        or not isinstance(challenge, str)
    ):
        return None
    return Response(orjson.dumps({"challenge": challenge}), media_type="application/json")


def unconfigured() -> RequestRefused:
    # 503: the sender tries again, and nothing is lost if the secret is there by then.
    detail = "this gateway cannot check the webhook's signature: its secret is not set up; see the log"
    return RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "webhook_not_ready", detail, headers={"retry-after": "60"})
