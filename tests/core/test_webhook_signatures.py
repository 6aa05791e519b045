"""Signatures of webhooks: against what the senders publish, and against their own libraries, both ways."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook as Standard

from reflex.core.webhook_signatures import (
    SCHEMES,
    Refusal,
    Scheme,
    SecretUnusable,
    SignatureRefused,
    sign_standard,
    verify,
)

NOW = 1_769_850_000
BODY = '{"type": "order.paid", "id": "evt_1", "note": "ünï"}'.encode()
STANDARD_SECRET = "whsec_" + base64.b64encode(b"a secret of two dozen b.").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another one of this size").decode()
SECRETS = {"standard": STANDARD_SECRET}
HMAC = Scheme("hmac", "x-shop-signature", "sig=", "sha512", "base64", "x-shop-time")
ALL = [*SCHEMES.values(), HMAC]


def secret_of(scheme: Scheme) -> str:
    return SECRETS.get(scheme.name, "geheim")


def signed(scheme: Scheme, body: bytes = BODY, at_s: int = NOW, secret: str | None = None) -> dict[str, str]:
    """The headers, made by the senders' own libraries where they have one."""
    secret = secret or secret_of(scheme)
    match scheme.name:
        case "standard":
            stamp = datetime.fromtimestamp(at_s, UTC)
            signature = Standard(secret).sign("msg_1", stamp, body.decode())
            return {"webhook-id": "msg_1", "webhook-timestamp": str(at_s), "webhook-signature": signature}
        case "slack":
            signature = SignatureVerifier(secret).generate_signature(timestamp=str(at_s), body=body)
            return {"x-slack-signature": signature or "", "x-slack-request-timestamp": str(at_s)}
        case "stripe":
            sign: Any = stripe.WebhookSignature.generate_signature_header
            return {"stripe-signature": sign(body.decode(), secret, at_s)}
        case "github":
            return {"x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}
        case "hmac":
            digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha512).digest()
            return {"x-shop-signature": "sig=" + base64.b64encode(digest).decode(), "x-shop-time": str(at_s)}


def refusal(
    scheme: Scheme, headers: dict[str, str], *, secrets: list[str] | None = None, body: bytes = BODY, now_s: int = NOW
) -> Refusal | None:
    try:
        verify(scheme, secrets or [secret_of(scheme)], headers, body, now_s=now_s, tolerance_s=300)
    except SignatureRefused as error:
        shown = str(error)
        assert secret_of(scheme) not in shown
        assert not any(value in shown for value in headers.values() if len(value) > 20)
        return error.refusal
    return None


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.name)
def test_what_the_sender_signs_is_taken_and_nothing_else(scheme: Scheme) -> None:
    """Fails if the body, the time, the id or the secret is left out of what is signed."""
    headers = signed(scheme)
    assert refusal(scheme, headers) is None
    assert refusal(scheme, headers, body=BODY + b" ") is Refusal.MISMATCH
    assert refusal(scheme, headers, body=b"") is Refusal.MISMATCH
    other = OTHER_SECRET if scheme.name == "standard" else "anders"
    assert refusal(scheme, headers, secrets=[other]) is Refusal.MISMATCH
    assert refusal(scheme, headers, secrets=[other, secret_of(scheme)]) is None
    for name in headers:
        assert refusal(scheme, {n: v for n, v in headers.items() if n != name}) is Refusal.NO_SIGNATURE
        damaged = refusal(scheme, {**headers, name: "1"})
        assert damaged in (Refusal.MALFORMED, Refusal.MISMATCH), name


@pytest.mark.parametrize("scheme", [s for s in ALL if s.name != "github"], ids=lambda scheme: scheme.name)
def test_a_signed_time_has_to_be_near(scheme: Scheme) -> None:
    """Fails without the window, or with one that is open on one side."""
    assert refusal(scheme, signed(scheme, at_s=NOW - 300)) is None
    assert refusal(scheme, signed(scheme, at_s=NOW + 300)) is None
    assert refusal(scheme, signed(scheme, at_s=NOW - 301)) is Refusal.TOO_OLD
    assert refusal(scheme, signed(scheme, at_s=NOW + 301)) is Refusal.TOO_NEW
    # A forger is not told whether the time was right.
    assert refusal(scheme, signed(scheme, at_s=NOW - 301), body=b"{}") is Refusal.MISMATCH


def test_one_of_several_signatures_is_enough() -> None:
    """A sender that changes its secret signs with both for a while."""
    for scheme, other in ((SCHEMES["standard"], OTHER_SECRET), (SCHEMES["stripe"], "anders")):
        name = scheme.header
        mine, theirs = signed(scheme), signed(scheme, secret=other)
        if scheme.name == "standard":
            both = f"v1a,xxxx v2 {theirs[name]} {mine[name]}"
        else:
            both = f"{theirs[name]},v0=00,{mine[name].partition(',')[2]}"
        assert refusal(scheme, {**mine, name: both}) is None
        flood = " ".join([theirs[name]] * 11 + [mine[name]])
        assert (
            refusal(scheme, {**mine, name: flood.replace(" ", " " if scheme.name == "standard" else ",")}) is not None
        )


def test_the_examples_that_senders_publish() -> None:
    """GitHub's documentation of X-Hub-Signature-256, and the specification of the Standard Webhooks."""
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-hub-signature-256": f"sha256={digest}"}
    verify(SCHEMES["github"], ["It's a Secret to Everybody"], headers, b"Hello, World!", now_s=0, tolerance_s=1)
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }  # fmt: skip
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    verify(SCHEMES["standard"], [secret], headers, b'{"test": 2432232314}', now_s=1614265330, tolerance_s=1)


def test_what_is_signed_here_the_library_of_the_standard_takes() -> None:
    now = datetime.now(UTC)
    headers = sign_standard([OTHER_SECRET, STANDARD_SECRET], id="msg_1", at_s=int(now.timestamp()), body=BODY)
    assert Standard(STANDARD_SECRET).verify(BODY, headers) == json.loads(BODY)
    assert Standard(OTHER_SECRET).verify(BODY, headers) == json.loads(BODY)
    late = int((now - timedelta(hours=1)).timestamp())
    assert (
        refusal(SCHEMES["standard"], sign_standard([STANDARD_SECRET], id="m", at_s=late, body=BODY), now_s=late) is None
    )


def test_a_body_that_is_no_text_is_signed_as_it_is() -> None:
    body = b"\xff\x00\xfe"
    assert refusal(SCHEMES["github"], signed(SCHEMES["github"], body), body=body) is None
    assert refusal(HMAC, signed(HMAC, body), body=body) is None
    headers = sign_standard([STANDARD_SECRET], id="msg_1", at_s=NOW, body=body)
    assert refusal(SCHEMES["standard"], headers, body=body) is None


@pytest.mark.parametrize("secret", ["whsec_", "whsec_ä", "not base64!", "====", "whsec_whsec_x"])
def test_a_secret_that_is_none_says_so_without_showing_itself(secret: str) -> None:
    with pytest.raises(SecretUnusable) as unusable:
        verify(SCHEMES["standard"], [secret], signed(SCHEMES["standard"]), BODY, now_s=NOW, tolerance_s=300)
    assert secret == "whsec_" or secret not in str(unusable.value)
