"""Webhooks that come in: what gateways take at `POST /webhooks/<name>`. Constructing one registers it with the app
being loaded.

    Webhook(name="github", scheme="github", type="github.{event}", key="payload.repository.full_name")
    Webhook(name="shop", type="shop.{event}", scheme=hmac_scheme("X-Shopify-Hmac-Sha256", encoding="base64",
            id_header="X-Shopify-Webhook-Id", event_header="X-Shopify-Topic"))
"""

from datetime import timedelta
from typing import Any, ClassVar, Final, Literal, cast

from reflex.agent.declarations import Declaration, checked_name
from reflex.core.webhook_events import checked_path, checked_template
from reflex.core.webhook_signatures import ALGORITHMS, SCHEMES, Scheme
from reflex.core.webhooks import WebhookDefinition

__all__ = ["Webhook", "hmac_scheme"]

LONGEST_TOLERANCE: Final = timedelta(days=1)


class Webhook(Declaration):
    """Takes what another system sends to `/webhooks/<name>` and signs, and makes an event of each.

    The secret is not here: it is `REFLEX_WEBHOOK_<NAME>_SECRET` in the environment of the gateways.

    Args:
        name: Unique in the whole installation: it is the address.
        type: The type of the events. `{event}` is the sender's name for what happened, `{payload.…}` what the payload
            has there.
        scheme: How it is signed: `"standard"`, `"github"`, `"slack"`, `"stripe"`, or one that `hmac_scheme` makes.
        key: Where in the payload the key of the event is, as in `"payload.repository.full_name"`. Without it events
            have none.
        tolerance: How far a signed time may be from the gateway's clock. Not every scheme signs one.

    Raises:
        TypeError, ValueError: An argument makes no sense; the sentence names the webhook.
    """

    __slots__ = ("definition",)
    kind: ClassVar = "webhook"

    def __init__(
        self,
        name: str,
        *,
        type: str,
        scheme: Literal["standard", "github", "slack", "stripe"] | Scheme = "standard",
        key: str | None = None,
        tolerance: timedelta = timedelta(minutes=5),
    ) -> None:
        checked_name(self.kind, name)
        try:
            checked_template(text("type", type))
            if key is not None:
                checked_path(text("key", key))
            given = checked_scheme(scheme)
            seconds = checked_tolerance(tolerance)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"webhook {name!r}: {error}") from None
        self.definition = WebhookDefinition(name, given, type, key, seconds)
        super().__init__(name)

    def __repr__(self) -> str:
        return f"Webhook({self.name!r}, {self.definition.scheme.name}: {self.definition.type})"


def hmac_scheme(
    header: str,
    *,
    algorithm: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256",
    encoding: Literal["hex", "base64"] = "hex",
    prefix: str = "",
    time_header: str | None = None,
    id_header: str | None = None,
    id_path: str | None = None,
    event_header: str | None = None,
    event_path: str | None = None,
) -> Scheme:
    """The scheme of a sender that signs its body with an HMAC.

    Args:
        header: The header that holds the signature, after `prefix`.
        time_header: A header with the seconds since 1970, if what is signed is `<time>.<body>`.
        id_header, id_path: Where the sender's id of a delivery is, the same in each of its tries: a header, or a path
            such as `"payload.id"`. Without either, two bodies that are equal are one event.
        event_header, event_path: Where the sender's name of the event is; by default `payload.type`.

    Raises:
        ValueError: An argument makes no sense.
    """
    if algorithm not in ALGORITHMS or encoding not in ("hex", "base64"):
        raise ValueError(f"hmac_scheme: {algorithm!r} in {encoding!r} is not known; write one of "
                         f"{', '.join(ALGORITHMS)}, in 'hex' or 'base64'")  # fmt: skip
    for given in (header, time_header, id_header, event_header):
        if given is not None and not (given and given.isascii() and given.replace("-", "").isalnum()):
            raise ValueError(f"hmac_scheme: {given!r} is no header's name")
    id_parts, event_parts = (
        () if path is None else tuple(checked_path(path).split(".")[1:]) for path in (id_path, event_path)
    )
    return Scheme(
        "hmac", header.lower(), prefix, algorithm, encoding, lower(time_header), lower(id_header), id_parts,
        lower(event_header), (event_parts,) if event_parts else (("type",),),
    )  # fmt: skip


def lower(name: str | None) -> str | None:
    return None if name is None else name.lower()


def text(argument: str, given: object) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{argument} is {given!r}; pass a text")
    return given


def checked_scheme(scheme: Any) -> Scheme:
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        known = ", ".join(map(repr, SCHEMES))
        raise ValueError(f"scheme is {scheme!r}; it must be one of {known}, or made by hmac_scheme()")
    return SCHEMES[cast("str", scheme)]


def checked_tolerance(tolerance: object) -> float:
    if not isinstance(tolerance, timedelta):
        raise TypeError(f"tolerance is {tolerance!r}; pass a timedelta, as in timedelta(minutes=5)")
    if not timedelta(0) < tolerance <= LONGEST_TOLERANCE:
        raise ValueError(f"tolerance is {tolerance}; it must be longer than nothing, and a day at most")
    return tolerance.total_seconds()
