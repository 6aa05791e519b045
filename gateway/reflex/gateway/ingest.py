"""POST /events: read, check, store, answer 202. The answer is sent after the commit and never before."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from reflex.core import envelope, telemetry
from reflex.core.errors import EventRejected
from reflex.core.events import NewEvent
from reflex.core.pages import QueryRejected
from reflex.core.settings import Settings
from reflex.core.strict_json import parse
from reflex.gateway.access import Grant, grant_of
from reflex.gateway.bodies import Bodies, MediaType, discard, media_type
from reflex.gateway.cloud_events import CloudEvents
from reflex.gateway.live.hub import hub_of
from reflex.gateway.live.waiting import publish_and_wait
from reflex.gateway.problems import BatchRejected, RequestRefused
from reflex.gateway.publishing import Publisher
from reflex.gateway.query import Parameter, read_query

__all__ = ["WAIT", "Ingest"]

WAIT: Final = Parameter(
    "wait", "text", "Answer when every delivery of the event is settled, or after so many seconds. For one event.", "30"
)
SECONDS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)

BATCHES: Final = (MediaType.NDJSON, MediaType.CLOUD_EVENTS)
MAX_ERRORS: Final = 20
# Checking a large batch takes tens of milliseconds; other requests get their turn in between.
EVENTS_A_TURN: Final = 200
# Blank lines are free, but a body of nothing else would keep the process busy.
LINES_AN_EVENT: Final = 10


class Ingest:
    """The ASGI endpoint: one event, or a batch that is stored as a whole or not at all."""

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._max_nesting = settings.max_nesting
        self._max_batch = settings.max_batch
        self._bodies = Bodies(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        self._publisher = publisher
        self._cloud_events = CloudEvents(publisher, max_nesting=settings.max_nesting)
        self._max_wait_s = settings.max_wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait_s = self._wait_s(Request(scope)) if scope["query_string"] else None
        grant = grant_of(scope)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        kind = media_type(headers)
        body = await self._bodies.read(headers, receive)
        if body is None:
            return
        trace_context = telemetry.valid_trace_context(headers.get(b"traceparent", b"").decode("latin-1"))
        idempotency_key = headers.get(b"idempotency-key")
        if kind in BATCHES or (kind is MediaType.JSON and body.lstrip()[:1] == b"["):
            if idempotency_key is not None:
                raise EventRejected("an Idempotency-Key header is for one event; in a batch give each an `id`")
            if wait_s is not None:
                raise QueryRejected("is for one event, not for a batch", field="wait")
            events = await self._read_batch(body, kind, trace_context, grant)
            answer = batch_answer(events, await self._publisher.store(events, trace_context, grant) if events else {})
        else:
            if kind is MediaType.JSON:
                event = self._read_one(body, idempotency_key, trace_context, grant)
            else:
                event = self._cloud_events.read_one(kind, scope["headers"], body, grant, idempotency_key, trace_context)
                trace_context = event.trace_context  # its own, if it brought one along
            if wait_s is not None:
                await self._answer_when_settled(event, trace_context, wait_s, scope, receive, send)
                return
            stored = await self._publisher.store([event], trace_context, grant)
            answer = single_answer(event.event_id, stored[event.event_id])
        await send(
            {
                "type": "http.response.start",
                "status": HTTPStatus.ACCEPTED.value,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    def _wait_s(self, query: Request) -> float | None:
        """How long the request waits for the deliveries of its event; longer than the limit counts as the limit."""
        wait = read_query(query, (WAIT,)).get("wait")
        if wait is None:
            return None
        seconds = float(wait) if SECONDS.fullmatch(wait) else 0.0
        if seconds <= 0:
            raise QueryRejected(f"is {wait[:80]!r}; it must be a number of seconds such as 30", field="wait")
        return min(seconds, self._max_wait_s)

    async def _answer_when_settled(
        self, event: NewEvent, trace_context: str | None, wait_s: float, scope: Scope, receive: Receive, send: Send
    ) -> None:
        hub = hub_of(scope["app"])
        waiting = asyncio.create_task(
            publish_and_wait(hub, self._publisher, event, trace_context, grant_of(scope), wait_s=wait_s)
        )
        gone = asyncio.create_task(discard(receive))
        await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
        try:
            if waiting.done():
                await waiting.result()(scope, receive, send)
        finally:
            # Or the client is gone, and nobody listens: what was stored runs all the same.
            for task in (waiting, gone):
                task.cancel()
            await asyncio.gather(waiting, gone, return_exceptions=True)

    def _read_one(
        self, body: bytes, idempotency_key: bytes | None, trace_context: str | None, grant: Grant
    ) -> NewEvent:
        client_id = None
        if idempotency_key is not None:
            client_id = envelope.check_idempotency_key(idempotency_key.decode("latin-1"))
        data = parse(body, max_nesting=self._max_nesting)
        return self._publisher.check(data, grant, idempotency_key=client_id, trace_context=trace_context)

    async def _read_batch(
        self, body: bytes, kind: MediaType, trace_context: str | None, grant: Grant
    ) -> list[NewEvent]:
        """The events of an array, or of the lines of an NDJSON body.

        Raises:
            EventRejected: For the first few events that are wrong, each with its place in the batch.
            RequestRefused: There are too many.
        """
        values: Sequence[Any]
        if kind is MediaType.NDJSON:
            if (lines_sent := body.count(b"\n")) > LINES_AN_EVENT * self._max_batch:
                raise self._too_many(f"{lines_sent} lines")
            lines = body.split(b"\n")
            numbers = [number for number, line in enumerate(lines, 1) if not line.isspace() and line]
            values = [lines[number - 1] for number in numbers]
        else:
            # The array around the events is one level more.
            parsed: object = parse(body, max_nesting=self._max_nesting + 1)
            if not isinstance(parsed, list):
                raise EventRejected("must be a JSON array of CloudEvents")
            values = cast("list[Any]", parsed)
            numbers = None
        if len(values) > self._max_batch:
            raise self._too_many(f"{len(values)} events")
        if not values and kind is not MediaType.CLOUD_EVENTS:
            raise EventRejected("the batch is empty; send at least one event")
        events: list[NewEvent] = []
        errors: list[EventRejected] = []
        for index, value in enumerate(values):
            at = f"/{index}"
            try:
                if numbers is not None:
                    value = parse(value, max_nesting=self._max_nesting, at=at)
                check = self._cloud_events.check if kind is MediaType.CLOUD_EVENTS else self._publisher.check
                events.append(check(value, grant, at=at, trace_context=trace_context))
            except EventRejected as error:
                errors += placed(error, numbers[index] if numbers else None)
                if len(errors) >= MAX_ERRORS:
                    break
            if index % EVENTS_A_TURN == EVENTS_A_TURN - 1:
                await asyncio.sleep(0)
        if errors:
            raise errors[0] if len(errors) == 1 else BatchRejected(errors[:MAX_ERRORS])
        return events

    def _too_many(self, what: str) -> RequestRefused:
        detail = f"a batch of {what}; the limit is {self._max_batch} events (REFLEX_MAX_BATCH); nothing was stored"
        return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "batch_too_large", detail)


def single_answer(own: UUID, stored: UUID) -> bytes:
    if own == stored:
        return b'{"id":"%b"}' % str(own).encode()
    return b'{"id":"%b","duplicate":true}' % str(stored).encode()


def batch_answer(events: Sequence[NewEvent], stored: Mapping[UUID, UUID]) -> bytes:
    """The ids in the order of the batch, and the places of those that the log had already."""
    ids = [stored[event.event_id] for event in events]
    duplicates = [index for index, (event, id) in enumerate(zip(events, ids, strict=True)) if event.event_id != id]
    return orjson.dumps({"ids": ids, "duplicates": duplicates})


def placed(error: EventRejected, line: int | None) -> Sequence[EventRejected]:
    """The single reasons of an error; those of NDJSON say in which line of the body."""
    reasons = error.errors if isinstance(error, BatchRejected) else [error]
    if line is None:
        return reasons
    return [type(reason)(f"line {line}: {reason.reason}", field=reason.field) for reason in reasons]
