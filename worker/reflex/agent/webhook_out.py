"""Webhooks that go out: events, or whatever an agent says, to another system's address; signed as the Standard Webhooks
have it.

    Trigger("tell-partner", type_filter("order.*"), WebhookOut("https://partner.example/hook", secret_env="PARTNER"))
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic_core import to_json

from reflex.agent.context import AgentContext
from reflex.agent.signals import Reject, Retry
from reflex.agent.webhook_post import WebhookFailed, beginning, posted
from reflex.core.webhook_signatures import sign_standard
from reflex.core.webhooks import secrets_in

__all__ = ["WebhookFailed", "WebhookOut", "send_webhook"]

TIMEOUT: Final = timedelta(seconds=15)
LONGEST_TIMEOUT: Final = timedelta(minutes=5)
# As for a model's: what waits longer should be looked at instead.
LONGEST_WAIT: Final = timedelta(days=1)
SHOWN_ANSWER: Final = 300
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
OURS: Final = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection",
                         "webhook-id", "webhook-timestamp", "webhook-signature"})  # fmt: skip
# Statuses that mean "not now". Every other one from 400 to 499 will be the same again.
ASKS_FOR_TIME: Final = (429, 503)
TRY_AGAIN: Final = (408, 425)


class WebhookOut:
    """An agent that sends its event to an address.

    The receiver gets `{"type", "timestamp", "data"}`, and may get it several times: each time with the same
    `webhook-id`, that of the delivery.

    Args:
        url: The address, or a function of the context that gives it: a customer's, say.
        secret_env: The variable that holds the secret, base64 after `whsec_`. Several, with commas or blanks between,
            sign all, for a receiver that changes from one to another.
        payload: A function of the context that gives what is sent instead; anything that can be written as JSON.
        headers: Sent as well.
        timeout: For the whole of one attempt.

    Raises:
        TypeError, ValueError: An argument makes no sense.
    """

    def __init__(
        self,
        url: str | Callable[[AgentContext], str],
        *,
        secret_env: str,
        payload: Callable[[AgentContext], Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        if isinstance(url, str):
            checked_url(url)
        elif not callable(url):
            raise TypeError(f"WebhookOut: url is {url!r}; pass an address, or a function of the context")
        if not VARIABLE.fullmatch(secret_env):
            raise ValueError("WebhookOut: secret_env is the name of a variable and not the secret itself; write "
                             "'PARTNER_SECRET'")  # fmt: skip
        if payload is not None and not callable(payload):
            raise TypeError(f"WebhookOut: payload is {payload!r}; pass a function of the context")
        self.url = url
        self.secret_env = secret_env
        self.payload = payload
        self.headers = checked_headers(headers)
        self.timeout = checked_timeout(timeout)

    async def __call__(self, ctx: AgentContext) -> dict[str, Any]:
        return await send_webhook(
            ctx,
            self.url if isinstance(self.url, str) else self.url(ctx),
            event_payload(ctx) if self.payload is None else self.payload(ctx),
            secret_env=self.secret_env,
            id=str(ctx.delivery_id),
            headers=self.headers,
            timeout=self.timeout,
        )

    def __repr__(self) -> str:
        return f"WebhookOut({shown(self.url) if isinstance(self.url, str) else self.url!r})"


async def send_webhook(
    ctx: AgentContext,
    url: str,
    payload: Any,
    *,
    secret_env: str,
    id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: timedelta = TIMEOUT,
) -> dict[str, Any]:
    """Send one webhook, once. What is to become of one that is not taken is decided by what is raised.

    Args:
        payload: Anything that can be written as JSON.
        id: The `webhook-id`: by default `ctx.idempotency_key`. A run that sends several gives each its own, the same in
            every attempt.

    Returns:
        `webhook_id`, `status` and `duration_ms`: to be the run's output.

    Raises:
        Reject: The receiver does not want it, now or ever; or the address is none that may be sent to.
        Retry: The receiver asks for time.
        WebhookFailed: Nobody answered, not in time, or with an error of its own; the retry policy decides.
        SecretUnusable: The secret is no base64.
        ValueError: The payload cannot be written as JSON, or a header is one that Reflex sets.
    """
    try:
        address = checked_url(url)
    except ValueError as error:
        raise Reject(str(error)) from None
    headers = checked_headers(headers)
    body = to_json(payload, inf_nan_mode="null")
    secrets = secrets_in(os.environ, secret_env)
    if not secrets:
        raise WebhookFailed(f"{secret_env} is not set in the environment of this worker; it holds the webhook's secret")
    webhook_id = ctx.idempotency_key if id is None else id
    signed = sign_standard(secrets, id=webhook_id, at_s=int(time.time()), body=body)
    sent = {
        **headers,
        "content-type": "application/json",
        "user-agent": "reflex",
        "accept-encoding": "identity",
        **signed,
    }
    where = shown(url)
    began = time.perf_counter()
    limit = asyncio.timeout(timeout.total_seconds())
    try:
        async with limit, posted(address, body, sent, allow_private=ctx.limits.private_webhooks) as response:
            status = response.status_code
            answer = b"" if 200 <= status < 300 else await beginning(response)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise WebhookFailed(f"{where} did not answer within {timeout.total_seconds():g} s; it may have taken the "
                            "webhook") from error  # fmt: skip
    duration_ms = round((time.perf_counter() - began) * 1000, 1)
    if not 200 <= status < 300:
        raise refusal(where, status, response.headers.get("retry-after"), answer, duration_ms)
    ctx.log.info("webhook sent", webhook_id=webhook_id, status=status, duration_ms=duration_ms)
    return {"webhook_id": webhook_id, "status": status, "duration_ms": duration_ms}


def refusal(where: str, status: int, retry_after: str | None, answer: bytes, duration_ms: float) -> Exception:
    """What a status other than 2xx means."""
    text = " ".join(answer.decode("utf-8", "replace").split())[:SHOWN_ANSWER]
    said = f"{where} answered {status} after {duration_ms:g} ms" + (f": {text}" if text else "")
    if status in ASKS_FOR_TIME:
        return Retry(wait_of(retry_after), said)
    if 300 <= status < 400:
        return Reject(f"{said}; redirects are not followed: name the address that it moved to")
    if status == 410:
        return Reject(f"{said}; it wants no more of these: remove the trigger, or change its address")
    if 400 <= status < 500 and status not in TRY_AGAIN:
        return Reject(f"{said}; the same webhook will be refused again")
    return WebhookFailed(said)


def wait_of(retry_after: str | None) -> timedelta | None:
    """What a Retry-After header asks for, in seconds or as a date; None if it is neither."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdecimal():
        return min(timedelta(seconds=int(retry_after[:9])), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(moment - datetime.now(UTC), timedelta(0)), LONGEST_WAIT)


def event_payload(ctx: AgentContext) -> dict[str, Any]:
    """The event, as the Standard Webhooks propose."""
    record = ctx.event.meta
    assert record is not None  # AgentContext has seen to that
    return {"type": record.type, "timestamp": record.time, "data": record.payload}


def checked_url(url: str) -> SplitResult:
    """Raises ValueError, without what may be secret in it, if it is no address that a webhook could go to."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
        parts = SplitResult("", "", "", "", "")
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a webhook's url has to be one such as https://partner.example/hooks, in ASCII")
    if "@" in parts.netloc:
        raise ValueError("a webhook's url holds a user or a password; a secret belongs into secret_env or a header")
    return parts


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    given = {name.lower(): value for name, value in (headers or {}).items()}
    if taken := sorted(given.keys() & OURS):
        raise ValueError(f"a webhook's headers name {', '.join(taken)}, which Reflex sets")
    return given


def checked_timeout(timeout: object) -> timedelta:
    if not isinstance(timeout, timedelta):
        raise TypeError(f"a webhook's timeout is {timeout!r}; pass a timedelta, as in timedelta(seconds=15)")
    if not timedelta(0) < timeout <= LONGEST_TIMEOUT:
        raise ValueError(f"a webhook's timeout is {timeout}; it must be longer than nothing, and five minutes at most")
    return timeout


def shown(url: str) -> str:
    """Where to, for logs and errors. Paths of webhooks are often secrets themselves."""
    parts: Sequence[str] = urlsplit(url)[:2]
    return "://".join(parts)
