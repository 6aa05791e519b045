"""Events that a run publishes: checked by the gateway's own rules, and given their place in the chain of causes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from pydantic import ValidationError
from pydantic_core import to_json

from reflex.agent.step_limit import MAX_STEP_BYTES
from reflex.core import envelope, strict_json
from reflex.core.errors import EventRejected, ReflexError
from reflex.core.events import BaseEvent, Event, NewEvent
from reflex.core.ids import new_id

__all__ = ["PublishError", "RunLimits", "caused_event"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PublishError(ReflexError):
    """An event that cannot be published as it is, or one too many of them. Trying the run again would not help."""

    code = "publish"


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run may produce, and where to."""

    max_depth: int = 16
    max_published: int = 1000
    max_payload_bytes: int = 1024 * 1024
    max_nesting: int = 64
    max_output_bytes: int = 256 * 1024
    max_state_bytes: int = 256 * 1024
    max_memory_bytes: int = 1024 * 1024
    max_step_bytes: int = MAX_STEP_BYTES
    private_webhooks: bool = False


def caused_event(
    event: BaseEvent | str,
    payload: dict[str, Any] | None,
    *,
    cause: Event,
    trigger: str,
    key: str | None,
    source: str | None,
    delay: timedelta | float | None,
    trace_context: str | None,
    limits: RunLimits,
) -> NewEvent:
    """The event to append, one deeper than `cause`.

    Raises:
        PublishError: It breaks a rule that the gateway has for a client's events, or the chain is too long.
        TypeError: The arguments make no event.
    """
    correlation_id = cause.correlation_id or str(cause.event_id)
    if cause.depth >= limits.max_depth:
        raise PublishError(
            f"trigger {trigger!r} published an event because of {cause.type!r}, which already has {cause.depth} events "
            f"behind it: triggers that cause one another are stopped at {limits.max_depth} (REFLEX_MAX_DEPTH); "
            f"all events of the chain have the correlation id {correlation_id}"
        )
    type = event.type if isinstance(event, BaseEvent) else event
    text = orjson.dumps(
        {
            "type": type,
            "source": f"agent:{trigger}" if source is None else source,
            "key": key,
            "delay": delay.total_seconds() if isinstance(delay, timedelta) else delay,
            "payload": orjson.Fragment(payload_text(event, payload)),
        }
    )
    try:
        data = strict_json.parse(text, max_nesting=limits.max_nesting)
        new, decoded = envelope.read(data, max_payload_bytes=limits.max_payload_bytes, trace_context=trace_context)
    except EventRejected as error:
        raise PublishError(f"the event {type!r} cannot be published: {error}") from None
    if isinstance(event, BaseEvent):
        check_reads_back(event, decoded)
    return new._replace(correlation_id=correlation_id, causation_id=cause.event_id, depth=cause.depth + 1)


def payload_text(event: BaseEvent | str, payload: dict[str, Any] | None) -> bytes:
    if not isinstance(event, BaseEvent | str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"publish() takes an event object, or a type and a payload, not {event!r}")
    if not isinstance(event, str):
        if payload is not None:
            raise TypeError("publish(): an event object brings its own payload; pass it alone, or a type and a payload")
        payload_of = event.payload_json
    else:
        payload_of = lambda: to_json({} if payload is None else payload).decode()  # noqa: E731
    try:
        return payload_of().encode()
    except ValueError as error:
        type = event if isinstance(event, str) else event.type
        raise PublishError(f"the payload of {type!r} cannot be written as JSON: {error}") from error


def check_reads_back(event: BaseEvent, payload: dict[str, Any]) -> None:
    """An event that its own class refuses would be a dead letter of every trigger that wants it; here it has a line."""
    try:
        event.from_record(Event(new_id(), event.type, "", None, EPOCH, payload, None, None, 0, None))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = "/".join(str(part) for part in first["loc"])
        raise PublishError(f"{type(event).__name__} does not read what it writes: {field}: {first['msg']}") from error
