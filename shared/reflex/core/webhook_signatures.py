"""How those who send webhooks sign them, and whether a signature is right. Pure: secrets, headers and bytes come in.

standard   webhook-signature: v1,<base64> …       of  <webhook-id>.<webhook-timestamp>.<body>
github     X-Hub-Signature-256: sha256=<hex>      of  <body>
slack      X-Slack-Signature: v0=<hex>            of  v0:<X-Slack-Request-Timestamp>:<body>
stripe     Stripe-Signature: t=<time>,v1=<hex>,…  of  <time>.<body>
hmac       what `Scheme` says                     of  <body>, or <time>.<body>
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from reflex.core.errors import ReflexError

__all__ = ["SCHEMES", "Refusal", "Scheme", "SecretUnusable", "SignatureRefused", "sign_standard", "verify"]

STANDARD_PREFIX: Final = "whsec_"
SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
# A header with more than these is not from whom it says it is; each costs a comparison for each secret.
MAX_SIGNATURES: Final = 10
ALGORITHMS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


class Refusal(StrEnum):
    """Which check failed. For the log, and not for the sender."""

    NO_SIGNATURE = "no_signature"  # the header is not there, or another one that the scheme needs
    MALFORMED = "malformed"  # it is there and not of the scheme's form
    MISMATCH = "mismatch"  # no secret gives this signature: a forger, or another secret
    TOO_OLD = "too_old"  # rightly signed, but long ago: a replay, or a clock that is wrong
    TOO_NEW = "too_new"


class SignatureRefused(ReflexError):
    """The signature is not right. Its text says why without the signature."""

    code = "signature_refused"

    def __init__(self, refusal: Refusal, why: str) -> None:
        super().__init__(why)
        self.refusal = refusal


class SecretUnusable(ReflexError):
    """A secret is not of the form that the scheme wants. The text does not show it."""

    code = "secret_unusable"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to sign. Headers are in lower case.

    Attributes:
        name: One of the names above.
        header: Where the signature is, after `prefix`.
        time_header: Where the time is that was signed, in seconds; None if the scheme signs none.
        id_header: Where the sender's id of the delivery is; the same in each of its tries.
        id_path: Where it is in the body instead.
        event_header: Where the sender's name of the event is.
        event_paths: Where it is in the body instead; the first that is there.
    """

    name: Literal["standard", "github", "slack", "stripe", "hmac"]
    header: str
    prefix: str = ""
    algorithm: str = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    time_header: str | None = None
    id_header: str | None = None
    id_path: tuple[str, ...] = ()
    event_header: str | None = None
    event_paths: tuple[tuple[str, ...], ...] = (("type",),)

    def key(self, secret: str) -> bytes:
        """The key of a secret.

        Raises:
            SecretUnusable: It is none of this scheme.
        """
        if self.name != "standard":
            return secret.encode()
        try:
            text = secret.removeprefix(STANDARD_PREFIX)
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise SecretUnusable("a secret of the Standard Webhooks is base64, usually after whsec_")
        return key


SCHEMES: Final[Mapping[str, Scheme]] = {
    "standard": Scheme(
        "standard", "webhook-signature", encoding="base64", time_header="webhook-timestamp", id_header="webhook-id"
    ),
    "github": Scheme(
        "github", "x-hub-signature-256", "sha256=", id_header="x-github-delivery", event_header="x-github-event"
    ),
    "slack": Scheme(
        "slack", "x-slack-signature", "v0=", time_header="x-slack-request-timestamp", id_path=("event_id",),
        event_paths=(("event", "type"), ("type",)),
    ),
    "stripe": Scheme("stripe", "stripe-signature", id_path=("id",)),
}  # fmt: skip


class Signed(NamedTuple):
    """What the headers say: what was signed, when, and with what result."""

    content: bytes
    signatures: Sequence[bytes]
    at_s: int | None


def verify(
    scheme: Scheme,
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float,
    tolerance_s: float,
) -> None:
    """Return if one of the secrets gives one of the signatures.

    Args:
        secrets: Several while one takes the place of another.
        headers: By names in lower case.
        now_s: Seconds since 1970.
        tolerance_s: How far a signed time may be from now, in both directions.

    Raises:
        SignatureRefused: It is not signed, wrongly, or not now.
        SecretUnusable: A secret is none of this scheme.
    """
    keys = [scheme.key(secret) for secret in secrets]
    signed = signed_by(scheme, headers, body)
    right = False
    for key in keys:
        expected = hmac.new(key, signed.content, ALGORITHMS[scheme.algorithm]).digest()
        for signature in signed.signatures:
            right |= hmac.compare_digest(expected, signature)
    if not right:
        raise SignatureRefused(Refusal.MISMATCH, f"no secret gives the signature in {scheme.header}")
    # After the signature: that it is late is said of what is genuine only.
    if signed.at_s is not None and abs(late_s := now_s - signed.at_s) > tolerance_s:
        refusal = Refusal.TOO_OLD if late_s > 0 else Refusal.TOO_NEW
        when = "before" if late_s > 0 else "after"
        raise SignatureRefused(refusal, f"signed {abs(late_s):.0f} s {when} now; {tolerance_s:g} s are allowed")


def signed_by(scheme: Scheme, headers: Mapping[str, str], body: bytes) -> Signed:
    given = needed(headers, scheme.header)
    if scheme.name == "stripe":
        parts = [part.strip().partition("=")[::2] for part in given.split(",")]
        time = next((value for name, value in parts if name == "t"), "")
        return Signed(
            f"{seconds(time)}.".encode() + body, signatures([v for n, v in parts if n == "v1"], scheme), int(time)
        )
    time = None if scheme.time_header is None else needed(headers, scheme.time_header)
    at_s = None if time is None else seconds(time)
    if scheme.name == "standard":
        texts = [text.removeprefix("v1,") for text in given.split() if text.startswith("v1,")]
        before = f"{needed(headers, 'webhook-id')}.{time}."
    else:
        texts = [given.removeprefix(scheme.prefix)] if given.startswith(scheme.prefix) else []
        before = f"v0:{time}:" if scheme.name == "slack" else "" if time is None else f"{time}."
    return Signed(before.encode() + body, signatures(texts, scheme), at_s)


def needed(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise SignatureRefused(Refusal.NO_SIGNATURE, f"there is no {name} header")
    return value


def seconds(text: str) -> int:
    if not SECONDS.fullmatch(text):
        raise SignatureRefused(Refusal.MALFORMED, "the signed time is no number of seconds")
    return int(text)


def signatures(texts: Sequence[str], scheme: Scheme) -> Sequence[bytes]:
    """The signatures as bytes; those that are none are left out."""
    found: list[bytes] = []
    for text in texts[:MAX_SIGNATURES]:
        try:
            found.append(base64.b64decode(text, validate=True) if scheme.encoding == "base64" else bytes.fromhex(text))
        except ValueError:
            continue
    if not found:
        raise SignatureRefused(Refusal.MALFORMED, f"the {scheme.header} header holds no signature of its form")
    return found


def sign_standard(secrets: Sequence[str], *, id: str, at_s: int, body: bytes) -> dict[str, Any]:
    """The headers of the Standard Webhooks for a body, signed with each of the secrets.

    Raises:
        SecretUnusable: One is no base64.
    """
    scheme = SCHEMES["standard"]
    content = f"{id}.{at_s}.".encode() + body
    made = [hmac.new(scheme.key(secret), content, hashlib.sha256).digest() for secret in secrets]
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in made),
    }
