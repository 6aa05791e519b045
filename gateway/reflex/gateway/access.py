"""Who may do what: the API key that a request came with, and the scopes that its operation needs.

With REFLEX_ACCESS=open, the default, nothing here is in the way of a request; `server.serve` then listens on loopback
addresses only.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from reflex.core.api_keys import KeyScope, StoredKey, key_id_of
from reflex.core.limits import UNLIMITED
from reflex.core.log_filter import LogFilter
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.settings import Settings
from reflex.gateway.allowances import Spent
from reflex.gateway.keyring import Keyring, Known
from reflex.gateway.problems import RequestRefused

__all__ = ["KEY_ENDED", "OPEN", "PROTOCOL", "PROTOCOL_KEY", "Access", "Grant", "grant_of"]

# What a WebSocket of a browser offers as subprotocols, since a page cannot set headers: this, and its key as another.
PROTOCOL: Final = "reflex"
PROTOCOL_KEY: Final = "reflex.key."
# Why a connection is ended; see live/closing.py.
KEY_ENDED: Final = "key_ended"

BEARER: Final = re.compile(rb"(?i:bearer) +([\x21-\x7e]+)")
GRANT: Final = "reflex.grant"
CHALLENGE: Final = {"www-authenticate": "Bearer"}
# The same whatever was wrong: who guesses learns nothing, and the owner can look.
NO_KEY: Final = (
    "this gateway wants a valid API key, as `Authorization: Bearer rfx_...`; none came, or one that was cut short or "
    "mistyped, has expired, or was revoked: `reflex keys list` says which are valid"
)


class Grant(NamedTuple):
    """What one request or connection may do. Without a key, that is everything: the gateway is open."""

    known: Known | None = None
    keyring: Keyring | None = None

    @property
    def key(self) -> StoredKey | None:
        return self.known.key if self.known else None

    @property
    def within(self) -> Restriction:
        """The events that there are for whoever asks."""
        key = self.key
        return key.restriction if key else UNRESTRICTED

    def check_event(self, type: str, source: str, *, at: str = "") -> None:
        """Whether the key may publish such an event. Raises NotAllowed, a 403, with the field below `at` that is
        wrong."""
        if (key := self.key) is not None:
            key.restriction.check(type, source, key_id=key.id, at=at)

    def narrowed(self, filter: LogFilter) -> LogFilter:
        """What a reader who asks for that may see. Raises NotAllowed, a 403, if that is nothing."""
        key = self.key
        if key is None or key.restriction == UNRESTRICTED:
            return filter
        types, sources = key.restriction.narrow(types=filter.types, sources=filter.sources, key_id=key.id)
        return filter._replace(types=types, sources=sources)

    def check_unbound(self) -> None:
        """Raises RequestRefused, a 403, if the key is bound to some events, and this is about all of them."""
        key = self.key
        if key is None or key.restriction == UNRESTRICTED:
            return
        detail = f"the API key {key.id} is bound to some types or sources of events, and this is about all of them"
        raise RequestRefused(HTTPStatus.FORBIDDEN, "key_is_bound", detail)

    def check(self, needed: Collection[KeyScope]) -> None:
        """Raises RequestRefused, a 403, if the key has none of the scopes that are needed."""
        key = self.key
        if key is None or not needed or not key.scopes.isdisjoint(needed):
            return
        has = ", ".join(sorted(key.scopes)) or "none"
        detail = (
            f"the API key {key.id} has not the scope {' or '.join(needed)}, which this needs; it has {has}. Scopes are "
            "given when a key is made: `reflex keys create --scope`"
        )
        raise RequestRefused(HTTPStatus.FORBIDDEN, "scope_missing", detail)

    async def spend(self, events: int) -> Spent | None:
        """Count that many events against the limits of the key, if it has any. What was not stored after all is given
        back.

        Raises:
            LimitReached: A 429. BatchOverQuota: A 413.
            DatabaseUnavailable: What is left has to be looked up, and cannot be.
        """
        key = self.key
        if key is None or key.limits == UNLIMITED or self.keyring is None:
            return None
        return await self.keyring.allowances.spend(key.id, key.limits, events)

    def lasting(self, end: Callable[[], None]) -> AbstractContextManager[None]:
        """For a connection that stays open: call `end` when the key is not valid any more."""
        key = self.key
        if self.known is None or key is None or self.keyring is None:
            return nullcontext()
        return self.keyring.watched(key.id, self.known, end)


OPEN: Final = Grant()


class Access:
    """Asks requests for their keys, if the gateway is to do so."""

    def __init__(self, settings: Settings) -> None:
        self.wants_keys = settings.access == "keys"

    async def grant(self, scope: Scope, needed: Collection[KeyScope]) -> Grant:
        """What a request or a WebSocket may do that needs one of these scopes.

        Raises:
            RequestRefused: No valid key came with it (401), or one without the scope (403).
            DatabaseUnavailable: It is not known whether the key is valid.
            Saturated: As many keys are being looked up as can be.
        """
        if not self.wants_keys:
            return OPEN
        shown = BEARER.fullmatch(shown_key(scope))
        secret = shown[1] if shown else b""
        key_id = key_id_of(secret.decode("ascii"))
        if key_id is None:
            raise no_key()
        keyring: Keyring = scope["app"].state.keyring
        known = await keyring.find(key_id)
        over = known.ends_at <= asyncio.get_running_loop().time()
        if known.key is None or over or not known.key.is_of(secret):
            raise no_key()
        grant = Grant(known, keyring)
        grant.check(needed)
        keyring.used(key_id)
        return grant

    def guard(
        self,
        routes: Sequence[BaseRoute],
        needed: Mapping[tuple[str, str], Sequence[KeyScope]],
        narrowed: Collection[tuple[str, str]] = (),
    ) -> Sequence[BaseRoute]:
        """The routes, with the keys of their requests looked at first. WebSockets do that by themselves, before they
        are accepted.

        Args:
            needed: By method and path, the scopes of which a request needs one. Nothing is left out by mistake: a
                route that is not in it is a KeyError.
            narrowed: Those that keep within what a key is bound to. All others refuse a key that is bound.
        """
        if not self.wants_keys:
            return routes
        return [self._guarded(route, needed, narrowed) if isinstance(route, Route) else route for route in routes]

    def _guarded(
        self,
        route: Route,
        needed: Mapping[tuple[str, str], Sequence[KeyScope]],
        narrowed: Collection[tuple[str, str]],
    ) -> Route:
        (method,) = (route.methods or set[str]()) - {"HEAD"}
        scopes = needed[method, route.path]
        if not scopes:
            return route
        guard = Guard(self, scopes, route.app, for_bound=(method, route.path) in narrowed)
        return Route(route.path, guard, methods=[method], name=route.name)


class Guard:
    """An ASGI app before another one."""

    def __init__(self, access: Access, needed: Sequence[KeyScope], app: ASGIApp, *, for_bound: bool) -> None:
        self._access = access
        self._for_bound = for_bound
        self._needed = needed
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant = await self._access.grant(scope, self._needed)
        if not self._for_bound:
            grant.check_unbound()
        scope[GRANT] = grant
        await self._app(scope, receive, send)


def grant_of(scope: Scope) -> Grant:
    """What the request may do."""
    return scope.get(GRANT, OPEN)


def shown_key(scope: Scope) -> bytes:
    """What a request shows as its key, as the header has it; empty if that is nothing, or several things."""
    shown = [value for name, value in scope["headers"] if name == b"authorization"]
    if not shown:
        protocols: Sequence[str] = scope.get("subprotocols", ())
        keys = [protocol.removeprefix(PROTOCOL_KEY) for protocol in protocols if protocol.startswith(PROTOCOL_KEY)]
        shown = [f"Bearer {key}".encode(errors="replace") for key in keys]
    return shown[0] if len(shown) == 1 else b""


def no_key() -> RequestRefused:
    return RequestRefused(HTTPStatus.UNAUTHORIZED, "key_refused", NO_KEY, headers=CHALLENGE)
