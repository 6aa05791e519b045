"""GET /events/stream: the log as server-sent events, for a browser's EventSource and for anything that reads lines."""

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Final

import orjson
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from reflex.core.cursors import Cursor
from reflex.core.log_reading import LoggedEvent
from reflex.core.settings import Settings
from reflex.gateway.access import KEY_ENDED, grant_of
from reflex.gateway.live.admission import Admission, ConnectionRefused
from reflex.gateway.live.filters import read_filter
from reflex.gateway.live.hub import Hub, hub_of
from reflex.gateway.live.outbox import Outbox, OutboxClosed, portions
from reflex.gateway.live.subscription import Subscription
from reflex.gateway.problems import RequestRefused
from reflex.gateway.query import Parameter, read_query

__all__ = ["PARAMETERS", "EventSource"]

PARAMETERS: Final = (
    Parameter("type", "text", "A type, or a prefix such as `order.*`; several with commas between them.", "order.*"),
    Parameter("source", "text", "Where it came from.", "shop"),
    Parameter("key", "text", "What it is about.", "A1"),
    Parameter("correlation_id", "text", "The chain of events it belongs to.", "checkout-7"),
    Parameter("after", "text", "Begin after this cursor: the `id` of an event of the stream.", "AQAAAAAAAAAqAAE"),
)
# What a browser waits before it connects again.
RETRY_MS: Final = 2000
# A client that takes nothing for so long is gone, or as good as gone.
SEND_TIMEOUT_S: Final = 30.0


class EventSource:
    """The ASGI endpoint."""

    def __init__(self, settings: Settings, admission: Admission) -> None:
        self._settings = settings
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        values = read_query(request, PARAMETERS)
        # A browser that connects again repeats the first address, and adds how far it has come.
        resumed = request.headers.get("last-event-id")
        after = resumed or values.get("after")
        field = "Last-Event-ID" if resumed else "after"
        asked = read_filter(
            types=values["type"].split(",") if "type" in values else (),
            sources=(values["source"],) if "source" in values else (),
            key=values.get("key"),
            correlation_id=values.get("correlation_id"),
        )
        outbox = Outbox(max_frames=self._settings.live_buffer_events, max_chars=self._settings.live_buffer_bytes)
        subscription = Subscription(
            grant_of(scope).narrowed(asked),
            outbox,
            render=frame_of,
            cursor=Cursor.parse(after, field=field) if after else None,
        )
        hub = hub_of(request.app)
        address = request.client.host if request.client else ""
        try:
            with self._admission.place(address, "sse"), grant_of(scope).lasting(lambda: outbox.close(KEY_ENDED)):
                async with hub.subscription(subscription, field=field):
                    frames = self._frames(hub, subscription)
                    response = EventSourceResponse(frames, ping=0, sep="\n", send_timeout=SEND_TIMEOUT_S)
                    await response(scope, receive, send)
        except ConnectionRefused as refused:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            raise RequestRefused(status, "saturated", refused.reason, headers={"retry-after": "5"}) from None
        except SendTimeoutError:
            pass  # the connection is closed, and its client resumes if it is still there

    async def _frames(self, hub: Hub, subscription: Subscription) -> AsyncGenerator[bytes]:
        # An id without data moves the place from which a browser resumes, and no event is seen.
        yield f"retry: {RETRY_MS}\nid: {subscription.sent}\n\n".encode()
        while True:
            try:
                waiting = await subscription.outbox.take(within_s=self._settings.live_heartbeat_s)
            except OutboxClosed as closed:
                told = orjson.dumps({"reason": closed.reason, "cursor": str(subscription.sent)}).decode()
                yield f"event: closing\ndata: {told}\n\n".encode()
                return
            if not waiting:
                subscription.sent = hub.position(subscription)
                yield f": heartbeat\nid: {subscription.sent}\n\n".encode()
            for portion in portions(waiting):
                yield "".join([frame for frame, _, _ in portion]).encode()
                subscription.sent = portion[-1][2]


def frame_of(event: LoggedEvent) -> str:
    """JSON as PostgreSQL and orjson write it has no line breaks, so one `data` line holds it."""
    return f"id: {event.place}\ndata: {event.json}\n\n"
