"""CloudEvents at POST /events and GET /events/{id}: read by their own rules, checked by those of every event."""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from reflex.core import cloud_events, envelope
from reflex.core.cloud_event_fields import to_fields, wrongly_named
from reflex.core.cloud_events import CloudEvent
from reflex.core.errors import EventRejected
from reflex.core.events import NewEvent
from reflex.core.rows import to_json
from reflex.core.strict_json import parse
from reflex.gateway.access import Grant
from reflex.gateway.bodies import MediaType
from reflex.gateway.problems import BatchRejected
from reflex.gateway.publishing import Publisher

__all__ = ["CloudEvents", "answer", "is_wanted"]

VARY: Final = {"cache-control": "no-store", "vary": "accept"}


class CloudEvents:
    """Turns CloudEvents into events of the log."""

    def __init__(self, publisher: Publisher, *, max_nesting: int) -> None:
        self._publisher = publisher
        self._max_nesting = max_nesting

    def read_one(
        self,
        kind: MediaType,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        grant: Grant,
        idempotency_key: bytes | None,
        trace_context: str | None,
    ) -> NewEvent:
        """The one event of a request.

        Raises:
            EventRejected: `field` is the attribute that is wrong; in the binary mode its header.
        """
        key = None
        if idempotency_key is not None:
            key = envelope.check_idempotency_key(idempotency_key.decode("latin-1"))
        if kind is MediaType.CLOUD_EVENT:
            value = parse(body, max_nesting=self._max_nesting)
            if isinstance(value, list):
                raise EventRejected(f"must be one JSON object; an array of CloudEvents is {cloud_events.BATCH_TYPE}")
            return self.check(value, grant, idempotency_key=key, trace_context=trace_context)
        try:
            event = cloud_events.from_headers(headers, body, max_nesting=self._max_nesting - 1)
        except EventRejected as error:
            raise named(error, "", in_headers=True) from None
        return self._checked(event, grant, key, trace_context, in_headers=True)

    def check(
        self,
        value: object,
        grant: Grant,
        *,
        at: str = "",
        idempotency_key: str | None = None,
        trace_context: str | None = None,
    ) -> NewEvent:
        """One event of the JSON format, checked; see `Publisher.check`."""
        event = cloud_events.from_json(value, at=at)
        return self._checked(event, grant, idempotency_key, trace_context, at=at)

    def _checked(
        self,
        event: CloudEvent,
        grant: Grant,
        idempotency_key: str | None,
        trace_context: str | None,
        *,
        at: str = "",
        in_headers: bool = False,
    ) -> NewEvent:
        fields, own = to_fields(event)
        try:
            return self._publisher.check(
                fields, grant, at=at, idempotency_key=idempotency_key, trace_context=own or trace_context
            )
        except EventRejected as error:
            raise named(error, at, in_headers=in_headers) from None


def named(error: EventRejected, at: str, *, in_headers: bool) -> EventRejected:
    if isinstance(error, BatchRejected):
        return BatchRejected([wrongly_named(each, at, in_headers=in_headers) for each in error.errors])
    return wrongly_named(error, at, in_headers=in_headers)


def is_wanted(request: Request) -> bool:
    """Whether the client would rather have a CloudEvent: it says so by name, and gives JSON no higher a weight."""
    weights: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).lower().split(","):
        kind, *parameters = [each.strip() for each in part.split(";")]
        weights[kind] = next((weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    wanted = weights.get(cloud_events.CONTENT_TYPE, 0.0)
    return wanted > 0 and wanted >= weights.get("application/json", 0.0)


def weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def answer(event: CloudEvent) -> Response:
    """The event in the JSON format."""
    return Response(to_json(cloud_events.to_json(event)), 200, VARY, cloud_events.CONTENT_TYPE)
