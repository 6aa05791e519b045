"""/ws: admits a connection, reads what its address says, and lets the conversation begin."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from reflex.core.api_keys import KeyScope
from reflex.core.cursors import Cursor, CursorExpired, CursorRejected
from reflex.core.errors import DatabaseUnavailable, Saturated
from reflex.core.log_reading import log_bounds
from reflex.core.settings import Settings
from reflex.gateway.access import PROTOCOL, Access, Grant
from reflex.gateway.connections import NO_DATABASE
from reflex.gateway.live.admission import Admission, ConnectionRefused, OriginRefused
from reflex.gateway.live.closing import OUTBOX_REASONS, CloseCode
from reflex.gateway.live.conversation import Conversation, Opening, Services
from reflex.gateway.live.frames import QUERY
from reflex.gateway.live.protocol import complaint
from reflex.gateway.live.sessions import Session
from reflex.gateway.live.stream import RECEIPTS, Receipts
from reflex.gateway.problems import problem
from reflex.gateway.publishing import Publisher

__all__ = ["NEEDED", "WebSocket", "routes"]

# One of them lets a client connect; each operation needs its own.
NEEDED: Final = (KeyScope.PUBLISH, KeyScope.READ)
UPGRADE: Final = {"upgrade": "websocket", "connection": "upgrade"}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class WebSocket:
    """The ASGI endpoint."""

    def __init__(self, settings: Settings, access: Access, admission: Admission, publisher: Publisher) -> None:
        self._settings = settings
        self._access = access
        self._admission = admission
        self._publisher = publisher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # that it wants to connect
        try:
            self._admission.check_origin(scope["headers"])
        except OriginRefused as refused:
            answer = problem(refused.status, "origin_refused", str(refused))
            await answer(scope, receive, send)
            return
        grant = await self._access.grant(scope, NEEDED)  # what it raises is answered as HTTP
        # Never the key, which a browser offers as another subprotocol.
        chosen = PROTOCOL if PROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        try:
            with self._admission.place(scope["client"][0] if scope["client"] else ""):
                await self._talk(grant, scope, receive, send)
        except ConnectionRefused as refused:
            await send({"type": "websocket.close", "code": int(refused.code), "reason": refused.reason})
        except Exception:
            log.exception("a websocket broke")
            await send({"type": "websocket.close", "code": int(CloseCode.FAILED), "reason": "a defect of the gateway"})

    async def _talk(self, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        if getattr(state, "hub", None) is None:
            raise ConnectionRefused(CloseCode.FULL, NO_DATABASE)
        services = Services(self._settings, self._publisher, state.hub, state.sessions, state.progress)
        if services.hub.stopping:
            raise ConnectionRefused(*OUTBOX_REASONS["stopping"])
        query = read_query(scope["query_string"])
        receipts = scope.get("state", {}).get(RECEIPTS) or Receipts(lambda: None)
        try:
            opening = (await self._open(services, query))._replace(grant=grant)
            conversation = Conversation(services, opening, receive=receive, send=send, receipts=receipts)
            await conversation.run()
        except CursorRejected as error:
            raise ConnectionRefused(CloseCode.BAD_QUERY, str(error)) from None
        except (DatabaseUnavailable, Saturated) as error:
            reason = "stopping" if services.hub.stopping else error.code
            raise ConnectionRefused(*OUTBOX_REASONS[reason]) from None

    async def _open(self, services: Services, query: Mapping[str, str]) -> Opening:
        token, after = query.get("session"), query.get("after")
        if token is None:
            if after is not None:
                raise bad_query("after", "goes with session; a subscription has an `after` of its own")
            return Opening(Session.new(), key=query.get("key"))
        session = Session.parse(token)
        if session is None:
            raise bad_query("session", "is not one that a welcome gave")
        known = await services.sessions.find(session.id)
        cursor = known if after is None else Cursor.parse(after)
        resumed = cursor is not None
        if after is None and cursor is not None:
            # What is older than the log is gone; the rest of its replies is still there.
            bounds = await services.hub.read_in_turn(log_bounds)
            try:
                bounds.check(cursor)
            except CursorExpired:
                cursor, resumed = bounds.start, False
        return Opening(session, cursor, known is not None, query.get("key"), resumed)


def read_query(query_string: bytes) -> dict[str, str]:
    """The parameters of the address, each checked by its schema.

    Raises:
        ConnectionRefused: One is unknown, given twice, or makes no sense.
    """
    values: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, encoding="utf-8"):
        if name not in QUERY:
            raise bad_query(name[:60], f"is unknown; there are {', '.join(QUERY)}")
        if name in values:
            raise bad_query(name, "is given twice")
        wrong = complaint(value, QUERY[name][1])
        if wrong or "\0" in value:
            raise bad_query(name, wrong[1] if wrong else "contains a NUL character")
        values[name] = value
    return values


def bad_query(name: str, reason: str) -> ConnectionRefused:
    return ConnectionRefused(CloseCode.BAD_QUERY, f"{name}: {reason}")


async def upgrade_required(_: Request) -> Response:
    """A request without an upgrade: somebody opened the address in a browser, or a proxy does not pass it on."""
    detail = (
        "this address speaks WebSocket, and what came is a plain request; use a WebSocket client, and let a proxy in "
        "between pass the upgrade on. GET /docs says more"
    )
    return problem(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", detail, headers=UPGRADE)


def routes(endpoint: WebSocket) -> list[BaseRoute]:
    app: Any = endpoint
    return [WebSocketRoute("/ws", app), Route("/ws", upgrade_required, methods=["GET"])]
