"""One attempt: what user code does becomes a settlement, log lines with ids, and a span of the event's trace."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reflex.agent.context import AgentContext
from reflex.agent.filters import Filter, keyword_filter, type_filter
from reflex.agent.models import Models
from reflex.agent.publishing import RunLimits
from reflex.agent.signals import Reject, Retry
from reflex.agent.triggers import AgentFunction, Trigger
from reflex.core.events import BaseEvent, EventRegistry
from reflex.core.ids import new_id
from reflex.core.logs import configure_logs
from reflex.core.retry import RetryPolicy
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.worker.attempt import Attempts

ORDERS = type_filter("order.*")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lease(payload: dict[str, Any] | None = None, *, attempt: int = 1, type: str = "order.created") -> Claimed:
    return Claimed(
        1, new_id(), attempt, attempt, type, "test", "A1", datetime.now(UTC), payload or {}, None, None, 0, TRACEPARENT
    )


async def attempt(agent: AgentFunction, claimed: Claimed, *, filter: Filter = ORDERS, **options: Any) -> Settlement:
    trigger = Trigger("pack", filter, agent, **options)
    attempts = Attempts(triggers={1: trigger}, models=Models(), worker_id=new_id(), limits=RunLimits(max_depth=3))
    # As the claim loop does: each run in a task, and so in a context, of its own.
    return await asyncio.create_task(attempts(claimed))  # pyright: ignore[reportArgumentType]


async def fine(ctx: AgentContext) -> dict[str, str]:
    return {"order": ctx.key or ""}


async def boom(ctx: AgentContext) -> None:
    raise RuntimeError("the warehouse is closed")


async def test_what_an_agent_returns_is_the_output() -> None:
    done = await attempt(fine, lease())
    assert (done.outcome, done.output, done.trace_id) == (Outcome.SUCCEEDED, '{"order":"A1"}', TRACEPARENT[3:35])


async def test_a_filter_that_does_not_match_skips_without_running_the_agent() -> None:
    """Fails if the filter is not asked: routing goes by type alone."""
    wanted = type_filter("order.created") & keyword_filter("amount", lambda amount: amount > 100)
    assert (await attempt(boom, lease({"amount": 5}), filter=wanted)).outcome is Outcome.SKIPPED
    assert (await attempt(fine, lease({"amount": 500}), filter=wanted)).outcome is Outcome.SUCCEEDED


async def test_a_filter_that_raises_is_a_failed_attempt_and_no_silent_miss() -> None:
    """Fails if an exception in a filter counts as "does not match": the event would vanish."""
    broken = keyword_filter("amount", lambda amount: amount > 100)
    done = await attempt(fine, lease({"amount": "much"}), filter=broken)
    assert done.outcome is Outcome.RETRY
    assert "pack" in (done.error or "")


async def test_failures_follow_the_retry_policy_up_to_the_last_attempt() -> None:
    policy = RetryPolicy(max_attempts=2, base=timedelta(seconds=8))
    first = await attempt(boom, lease(attempt=1), retry=policy)
    assert first.outcome is Outcome.RETRY
    assert first.retry_in is not None
    assert first.retry_in <= timedelta(seconds=8)
    assert "the warehouse is closed" in (first.error or "")
    last = await attempt(boom, lease(attempt=2), retry=policy)
    assert last.outcome is Outcome.DEAD
    (event,) = last.published
    assert event.type == "reflex.dead_letter"


async def test_retry_says_when_and_reject_says_never() -> None:
    async def later(ctx: AgentContext) -> None:
        raise Retry(after=timedelta(minutes=7))

    async def never(ctx: AgentContext) -> None:
        raise Reject("no such customer")

    done = await attempt(later, lease())
    assert (done.outcome, done.retry_in) == (Outcome.RETRY, timedelta(minutes=7))
    done = await attempt(never, lease())
    assert (done.outcome, done.reason) == (Outcome.DEAD, "rejected")
    assert "no such customer" in (done.error or "")


async def test_an_event_that_its_class_refuses_is_dead_at_once() -> None:
    """Fails if the refusal is retried: the event will not change."""

    class Order(BaseEvent):
        type: Literal["test.refused"] = "test.refused"
        amount: float

    EventRegistry.register(Order)
    try:
        refused = lease({"amount": "much"}, type="test.refused")
        done = await attempt(fine, refused, filter=type_filter("test.refused"))
    finally:
        del EventRegistry.classes["test.refused"]
    assert (done.outcome, done.reason) == (Outcome.DEAD, "event_rejected")
    assert "amount" in (done.error or "")


async def test_the_timeout_of_the_trigger_ends_a_run() -> None:
    async def slow(ctx: AgentContext) -> None:
        await asyncio.sleep(60)

    done = await attempt(slow, lease(), timeout=timedelta(milliseconds=50))
    assert (done.outcome, done.usage) == (Outcome.RETRY, None)
    assert "timeout" in (done.error or "")


async def test_being_cancelled_by_the_worker_is_no_failure_but_cancelling_oneself_is() -> None:
    """Three different ends, three different outcomes. Fails if CancelledError is caught for good."""
    running = asyncio.Event()

    async def slow(ctx: AgentContext) -> None:
        running.set()
        await asyncio.sleep(60)

    run = asyncio.create_task(attempt(slow, lease()))
    await running.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    async def cancels_itself(ctx: AgentContext) -> None:
        raise asyncio.CancelledError

    assert (await attempt(cancels_itself, lease())).outcome is Outcome.RETRY


async def test_what_is_published_goes_with_the_success_and_not_with_a_failure() -> None:
    """Promise 4. Fails if ctx.publish() writes by itself, or failures settle with what was published before."""

    async def publishes(ctx: AgentContext) -> None:
        await ctx.publish("order.packed", {"order": ctx.key})

    async def publishes_and_fails(ctx: AgentContext) -> None:
        await ctx.publish("order.packed")
        raise RuntimeError("after publishing")

    cause = lease()
    done = await attempt(publishes, cause)
    (event,) = done.published
    assert (event.type, event.key, event.source) == ("order.packed", "A1", "agent:pack")
    assert (event.causation_id, event.correlation_id, event.depth) == (cause.event_id, str(cause.event_id), 1)
    assert event.trace_context == TRACEPARENT
    assert (await attempt(publishes_and_fails, lease())).published == ()


async def test_a_chain_that_is_too_long_ends_as_a_dead_letter_that_says_so() -> None:
    """Promise 12. Fails without the cap on depth: two triggers that publish to each other would never stop."""

    async def publishes(ctx: AgentContext) -> None:
        await ctx.publish("order.again")

    done = await attempt(publishes, lease()._replace(depth=3))
    assert (done.outcome, done.reason) == (Outcome.DEAD, "publish")
    assert "pack" in (done.error or "")
    assert "REFLEX_MAX_DEPTH" in (done.error or "")


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    before = structlog.get_config()
    stream = io.StringIO()
    configure_logs(service="worker", format="json", stream=stream)
    yield stream
    structlog.configure(**before)


async def test_every_line_of_a_run_carries_its_ids(log_lines: io.StringIO) -> None:
    """Fails if run_fields is not set, or the processor is left out: whose line is this, at night?"""

    async def talks(ctx: AgentContext) -> None:
        ctx.log.info("looking at the order")
        structlog.get_logger().info("some library speaks")
        structlog.contextvars.bind_contextvars(order="A-17")

    claimed = lease()
    await attempt(talks, claimed)
    returned = datetime.now(UTC)
    time.sleep(0.01)  # noqa: ASYNC251 (another run keeps the event loop busy)
    await asyncio.sleep(0)
    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["looking at the order", "some library speaks", "run succeeded"]
    for line in lines:
        assert line["event_id"] == str(claimed.event_id)
        assert line["delivery_id"] == str(claimed.delivery_id)
        assert line["run_id"] == f"{claimed.delivery_id}.1"
        assert line["trace_id"] == TRACEPARENT[3:35]
        assert line["service"] == "worker"
    assert lines[2]["order"] == "A-17"
    assert datetime.fromisoformat(lines[2]["timestamp"]) < returned, "when it ended, not when that was written"


async def test_the_span_of_a_run_belongs_to_the_trace_of_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the stored trace context is not the span's parent."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", lambda name, *_: provider.get_tracer(name))  # pyright: ignore

    async def publishes(ctx: AgentContext) -> None:
        await ctx.publish("order.packed")

    claimed = lease()
    done = await attempt(publishes, claimed)
    failed = await attempt(boom, lease())
    ok, bad = exporter.get_finished_spans()
    assert ok.name == "process pack"
    assert ok.context is not None
    assert f"{ok.context.trace_id:032x}" == TRACEPARENT[3:35]
    assert ok.parent is not None
    assert f"{ok.parent.span_id:016x}" == TRACEPARENT[36:52]
    attributes = dict(ok.attributes or {})
    assert attributes["messaging.message.id"] == str(claimed.event_id)
    assert attributes["reflex.outcome"] == "succeeded"
    # What it publishes continues the trace from this run, not from the event that started it.
    assert done.published[0].trace_context == f"00-{TRACEPARENT[3:35]}-{ok.context.span_id:016x}-01"
    assert not bad.status.is_ok
    assert failed.outcome is Outcome.RETRY
