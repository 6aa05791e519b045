"""Errors as HTTP: every one leaves as a problem document (RFC 9457), and only here is it decided with which status."""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from reflex.core.approvals import ApprovalOver
from reflex.core.cursors import CursorExpired, CursorRejected
from reflex.core.errors import Conflict, DatabaseUnavailable, EventRejected, NotFound, ReflexError, Saturated
from reflex.core.limits import BatchOverQuota, LimitReached
from reflex.core.pages import QueryRejected
from reflex.core.restriction import NotAllowed
from reflex.core.strict_json import MalformedJson
from reflex.gateway.metrics import count_refusal

__all__ = [
    "MEDIA_TYPE",
    "BatchRejected",
    "CatchAll",
    "RequestRefused",
    "describe_any",
    "describe_error",
    "exception_handlers",
    "problem",
    "problem_document",
]

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final[dict[type[ReflexError], HTTPStatus]] = {
    MalformedJson: HTTPStatus.BAD_REQUEST,
    QueryRejected: HTTPStatus.BAD_REQUEST,
    CursorRejected: HTTPStatus.BAD_REQUEST,
    CursorExpired: HTTPStatus.GONE,
    NotAllowed: HTTPStatus.FORBIDDEN,
    EventRejected: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    ApprovalOver: HTTPStatus.GONE,
    Conflict: HTTPStatus.CONFLICT,
    LimitReached: HTTPStatus.TOO_MANY_REQUESTS,
    BatchOverQuota: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Saturated: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
TITLES: Final = {
    "malformed_json": "The body is not valid JSON",
    "event_rejected": "The event is not accepted; nothing was stored",
    "payload_rejected": "The payload does not fit the schema of its type; nothing was stored",
    "unknown_type": "Nothing knows this type of event; nothing was stored",
    "frame_rejected": "The frame is no operation; nothing was done",
    "query_rejected": "The question makes no sense",
    "cursor_rejected": "The cursor is none of this log",
    "cursor_expired": "The log was dropped up to a later place",
    "decision_rejected": "The decision is not accepted; nothing was changed",
    "already_decided": "Somebody has decided before; that decision stands",
    "digest_differs": "The decision is about another call; nothing was changed",
    "approval_over": "Nobody waits for this decision any more",
    "delivery_running": "The delivery is being worked on; nothing was changed",
    "not_cancellable": "The delivery cannot be cancelled",
    "saturated": "The gateway is busy; nothing was stored",
    "database_unavailable": "The database does not answer",
    "stopping": "The gateway is stopping",
    "key_refused": "No valid API key came with the request",
    "scope_missing": "The API key may not do this",
    "signature_refused": "The webhook is not accepted; nothing was stored",
    "webhook_not_ready": "The webhook cannot be checked yet; nothing was stored",
    "key_is_bound": "The API key is bound to some events",
    "type_not_allowed": "The API key is bound to other types of events",
    "source_not_allowed": "The API key is bound to other sources of events",
    "rate_reached": "The API key publishes more events a second than it may; nothing was stored",
    "quota_reached": "The API key has published all that it may today; nothing was stored",
    "batch_over_quota": "The batch is larger than what the API key may publish in a day; nothing was stored",
}
RETRY_LATER: Final = {"retry-after": "1"}
SHOWN_LENGTH: Final = 500

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class BatchRejected(EventRejected):
    """Several reasons at once. `code` is theirs if they agree."""

    def __init__(self, errors: Sequence[EventRejected], *, left_out: int = 0) -> None:
        more = f" (and {left_out} more)" if left_out else ""
        super().__init__(f"{len(errors)} reasons{more}; see errors")
        self.errors = errors
        codes = {error.code for error in errors}
        self.code = codes.pop() if len(codes) == 1 else EventRejected.code  # pyright: ignore[reportAttributeAccessIssue]


class RequestRefused(Exception):
    """A request that is refused for its form, before anyone looks at the events in it."""

    def __init__(self, status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


def problem_document(status: int, code: str, detail: str, *, errors: Sequence[EventRejected] = ()) -> dict[str, Any]:
    """What went wrong, for people and programs. `errors` name the fields by JSON Pointers into the request."""
    document: dict[str, Any] = {
        "type": f"urn:reflex:problem:{code}",
        "title": TITLES.get(code) or HTTPStatus(status).phrase,
        "status": int(status),
        "detail": _short(detail),
        "code": code,
    }
    if errors:
        document["errors"] = [{"field": _short(e.field), "reason": _short(e.reason)} for e in errors]
    return document


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[EventRejected] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
    document = problem_document(status, code, detail, errors=errors)
    return Response(orjson.dumps(document), status, headers, MEDIA_TYPE)


def describe_error(error: ReflexError) -> dict[str, Any]:
    """The problem document of an error that Reflex raised, the same for every way in.

    Raises:
        ReflexError: The same one: it is none that a client can be told.
    """
    status = status_of(error)
    if status is None:
        raise error
    errors: Sequence[EventRejected] = ()
    if isinstance(error, BatchRejected):
        errors = error.errors
        if len(agreed := {status_of(each) for each in errors}) == 1:
            status = agreed.pop() or status
    elif isinstance(error, EventRejected):
        errors = [error]
    document = problem_document(status, error.code, str(error), errors=errors)
    if isinstance(error, LimitReached):  # a WebSocket has no headers that could say it
        document["retry_after_s"] = error.retry_after_s
    return document


def describe_any(error: Exception) -> dict[str, Any]:
    """The same of whatever was raised; of a defect without its internals."""
    match error:
        case ReflexError():
            return describe_error(error)
        case RequestRefused():
            return problem_document(error.status, error.code, error.detail)
        case _:
            detail = "this is a defect of the gateway, not of the event; its log has the traceback"
            return problem_document(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)


def status_of(error: ReflexError) -> HTTPStatus | None:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def exception_handlers() -> dict[Any, ExceptionHandler]:
    """For Starlette: what makes a response of each kind of error."""
    return {ReflexError: on_reflex_error, RequestRefused: on_request_refused, HTTPException: on_http_exception}


async def on_reflex_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReflexError)
    document = describe_error(error)
    count_refusal(request, error.code)
    headers = RETRY_LATER if document["status"] == HTTPStatus.SERVICE_UNAVAILABLE else None
    if isinstance(error, Saturated | LimitReached):
        headers = {"retry-after": str(error.retry_after_s)}
    return Response(orjson.dumps(document), document["status"], headers, MEDIA_TYPE)


async def on_request_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    count_refusal(request, error.code)
    return problem(error.status, error.code, error.detail, headers=error.headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself answers: no such path, no such method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    detail = error.detail
    path = request.scope["path"][:SHOWN_LENGTH]
    if error.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is nothing at {path}; GET /docs says what there is"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names the methods of the first route with this path only.
        headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
        detail = f"{request.method[:20]} is not possible at {path}; allowed: {headers['Allow']}"
    code = HTTPStatus(error.status_code).name.lower()
    return problem(error.status_code, code, detail, headers=headers)


class CatchAll:
    """The net below everything: an error that nobody expected is logged and answered without its internals.

    Starlette's own would raise it once more for the server to log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception:
            log.exception("request failed", method=scope["method"], path=scope["path"][:SHOWN_LENGTH])
            if not started:
                detail = "this is a defect of the gateway, not of the request; its log has the traceback"
                answer = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)
                await answer(scope, receive, send)
        except asyncio.CancelledError:
            # The grace of a stopping gateway is over. Left to hypercorn, the client would read a 500.
            if not started:
                detail = "the gateway stopped before the request was done; whether it took effect is not known"
                answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, "stopping", detail, headers=RETRY_LATER)
                await answer(scope, receive, send)
            raise


def _allowed_methods(request: Request) -> set[str]:
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return methods


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
