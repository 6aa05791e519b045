"""Records of the log and contexts, as a worker would have them."""

from datetime import UTC, datetime
from typing import Any

from reflex.agent.context import AgentContext, read_event
from reflex.agent.publishing import RunLimits
from reflex.core.events import Event
from reflex.core.ids import DeliveryId, new_id


def make_record(
    type: str = "order.created",
    payload: dict[str, Any] | None = None,
    *,
    source: str = "shop",
    key: str | None = None,
    correlation_id: str | None = None,
    depth: int = 0,
) -> Event:
    return Event(
        event_id=new_id(),
        type=type,
        source=source,
        key=key,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        payload=payload or {},
        correlation_id=correlation_id,
        causation_id=None,
        depth=depth,
        trace_context=None,
    )


def make_context(
    record: Event | None = None, *, trigger: str = "t", limits: RunLimits | None = None, **options: Any
) -> AgentContext:
    record = record or make_record()
    return AgentContext(
        read_event(record),
        trigger=trigger,
        delivery_id=DeliveryId(1, record.event_id),
        limits=limits or RunLimits(),
        **options,
    )
