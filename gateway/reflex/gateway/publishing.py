"""The way of an event into the log, whatever door it came through: check it, then store it with others."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from reflex.core import envelope, telemetry
from reflex.core.errors import EventRejected, Saturated
from reflex.core.events import NewEvent
from reflex.core.settings import Settings
from reflex.gateway.access import OPEN, Grant
from reflex.gateway.group_commit import EventStore
from reflex.gateway.metrics import GatewayMetrics
from reflex.gateway.schemas import PayloadSchemas

__all__ = ["Publisher"]


class Publisher:
    """What POST /events, the WebSocket and webhooks share: one set of checks and one group commit."""

    def __init__(
        self, settings: Settings, *, schemas: PayloadSchemas, store: EventStore, metrics: GatewayMetrics | None = None
    ) -> None:
        self._max_payload_bytes = settings.max_payload_bytes
        self._schemas = schemas
        self._store = store
        self._metrics = metrics or GatewayMetrics()

    def refused(self, code: str) -> None:
        """A frame was refused, with this code. What is answered with a status is counted where it gets its status."""
        self._metrics.refused.add((code,))

    def check(
        self,
        data: object,
        grant: Grant,
        *,
        at: str = "",
        source: str | None = None,
        idempotency_key: str | None = None,
        trace_context: str | None = None,
    ) -> NewEvent:
        """One event as a client sent it, read by the rules of the envelope and the schema of its type.

        Args:
            data: From `strict_json.parse`.
            grant: Of whoever sent it.
            at: Where it was in the request, as a JSON Pointer.
            source: Of an event that names none. The only one that the key is bound to goes before it.

        Raises:
            EventRejected: With the field that is wrong. NotAllowed: The key is bound to others; it hears nothing of the
                schemas of other types.
        """
        source = grant.within.own_source or source
        if source is not None and isinstance(data, dict):
            fields = cast("dict[str, Any]", data)
            data = fields if fields.get("source") is not None else {**fields, "source": source}
        event, payload = envelope.read(
            data,
            max_payload_bytes=self._max_payload_bytes,
            at=at,
            idempotency_key=idempotency_key,
            trace_context=trace_context,
        )
        grant.check_event(event.type, event.source, at=at)
        self._schemas.check(event.type, payload, at=at)
        return event

    async def store(
        self, events: Sequence[NewEvent], trace_context: str | None = None, grant: Grant = OPEN
    ) -> Mapping[UUID, UUID]:
        """Store all of them or none; returns after the commit. See `EventStore` for what, and `GroupCommit.append`
        and `Grant.spend` for what it raises."""
        spent = await grant.spend(len(events))
        try:
            return await self._store_all(events, trace_context)
        except (Saturated, EventRejected):
            if spent is not None:
                spent.give_back()
            raise

    async def _store_all(self, events: Sequence[NewEvent], trace_context: str | None) -> Mapping[UUID, UUID]:
        began = time.perf_counter()
        if not telemetry.enabled():
            stored = await self._store.append(events)
        else:
            types = {event.type for event in events}
            name = types.pop() if len(types) == 1 else "batch"
            with telemetry.send_span(name, count=len(events), stored=trace_context):
                here = telemetry.trace_context()
                # A CloudEvent in a batch may belong to a trace of its own.
                own = [event._replace(trace_context=here) if event.trace_context == trace_context else event
                       for event in events]  # fmt: skip
                stored = await self._store.append(own)
                trace_context = here
        self._metrics.stored(
            events, stored, took_s=time.perf_counter() - began, knows=self._schemas.knows, trace_context=trace_context
        )
        return stored
