"""Traces: OpenTelemetry spans that join gateway to worker through the trace context stored with the event.

Set up only when someone listens: LOGFIRE_TOKEN (logfire) or OTEL_EXPORTER_OTLP_ENDPOINT (any collector). Otherwise
the API's no-op tracer stays in place and `enabled()` is False, so hot paths skip spans altogether.

Attribute names follow the messaging conventions; those of models come from pydantic-ai.
"""

import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = [
    "configure_traces",
    "enabled",
    "mark_failed",
    "process_span",
    "send_span",
    "trace_context",
    "trace_id",
    "valid_trace_context",
]

TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
PROPAGATOR: Final = TraceContextTextMapPropagator()
ATTRIBUTES: Final = {"messaging.system": "postgresql"}


def enabled() -> bool:
    """Whether spans go anywhere."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def configure_traces(service: str) -> Callable[[], object]:
    """Set up tracing if the environment asks for it. Returns what to call before the process ends."""
    if os.environ.get("LOGFIRE_TOKEN"):
        import logfire

        logfire.configure(service_name=service, console=False, inspect_arguments=False)
        return logfire.shutdown
    if any(os.environ.get(f"OTEL_EXPORTER_OTLP_{which}ENDPOINT") for which in ("", "TRACES_")):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are read by Resource.create and win.
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
        provider = TracerProvider(resource=Resource.create(named))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        return provider.shutdown
    return lambda: None


def valid_trace_context(header: str | None) -> str | None:
    """A W3C traceparent as it came in, or None if it is none: a bad one is ignored, as the standard says."""
    return header if header and TRACEPARENT.fullmatch(header) else None


def trace_id(stored: str | None) -> str | None:
    """The trace id of a stored trace context."""
    return stored[3:35] if stored else None


def trace_context() -> str | None:
    """The current span as a traceparent, to be stored with an event."""
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def parent(stored: str | None) -> Context | None:
    return PROPAGATOR.extract({"traceparent": stored}) if stored else None


@contextmanager
def send_span(event_type: str, *, count: int, stored: str | None) -> Generator[Span]:
    """Around the acceptance of events; `stored` is the client's traceparent."""
    attributes: dict[str, str | int] = {
        **ATTRIBUTES,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": event_type,
    }
    if count > 1:
        attributes["messaging.batch.message_count"] = count
    tracer = trace.get_tracer("reflex.gateway")
    with tracer.start_as_current_span(
        f"send {event_type}", parent(stored), kind=SpanKind.PRODUCER, attributes=attributes
    ) as span:
        yield span


@contextmanager
def process_span(
    trigger: str, *, event_type: str, event_id: str, delivery_id: str, attempt: int, worker_id: str,
    correlation_id: str | None, stored: str | None,
) -> Generator[Span]:  # fmt: skip
    """Around one run, as the child of the span that sent the event. An exception that leaves it marks it as failed."""
    attributes: dict[str, str | int] = {
        **ATTRIBUTES,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": event_type,
        "messaging.destination.subscription.name": trigger,
        "messaging.message.id": event_id,
        "messaging.client.id": worker_id,
        "reflex.delivery_id": delivery_id,
        "reflex.attempt": attempt,
    }
    if correlation_id:
        attributes["messaging.message.conversation_id"] = correlation_id
    tracer = trace.get_tracer("reflex.worker")
    with tracer.start_as_current_span(
        f"process {trigger}", parent(stored), kind=SpanKind.CONSUMER, attributes=attributes,
        record_exception=False, set_status_on_exception=False,
    ) as span:  # fmt: skip
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
            raise


def mark_failed(span: Span, error: str) -> None:
    """Say that the operation failed, with the first line of why."""
    first = error.partition("\n")[0]
    span.set_attribute("error.type", first.partition(":")[0])
    span.set_status(Status(StatusCode.ERROR, first[:300]))
