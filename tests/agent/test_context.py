from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import orjson
import pytest
import structlog
from pydantic import Field

from reflex.agent.context import AgentContext, read_event
from reflex.agent.publishing import PublishError, RunLimits
from reflex.core.errors import EventRejected
from reflex.core.events import BaseEvent, EventRegistry, UntypedEvent
from reflex.core.ids import DeliveryId, new_id
from tests.agent.records import make_context, make_record


class Reviewed(BaseEvent):
    type: Literal["context.reviewed"] = "context.reviewed"
    order_id: str
    amount: float = 0


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    EventRegistry.register(Reviewed)
    yield
    del EventRegistry.classes["context.reviewed"]


async def test_a_published_event_continues_the_chain_of_its_cause() -> None:
    cause = make_record(key="A1", correlation_id="c", depth=3)
    ctx = make_context(cause, trigger="review", trace_context=f"00-{'1' * 32}-{'2' * 16}-01")
    event_id = await ctx.publish(Reviewed(order_id="A1", amount=2.5))
    (new,) = ctx.published
    assert new.event_id == event_id
    assert (new.type, new.source, new.key, new.depth) == ("context.reviewed", "agent:review", "A1", 4)
    assert (new.correlation_id, new.causation_id) == ("c", cause.event_id)
    assert new.trace_context == ctx.trace_context
    assert orjson.loads(new.payload) == {"order_id": "A1", "amount": 2.5}
    assert (new.time, new.delay, new.available_at, new.idempotency_key) == (None, None, None, None)


async def test_the_first_event_of_a_chain_gives_the_chain_its_id() -> None:
    cause = make_record()
    ctx = make_context(cause)
    await ctx.publish("a.b")
    assert ctx.published[0].correlation_id == str(cause.event_id)
    assert ctx.published[0].payload == "{}"


async def test_key_source_and_delay_can_be_given() -> None:
    ctx = make_context(make_record(key="A1"))
    await ctx.publish("a.b", {"x": 1}, key="B2", source="elsewhere", delay=timedelta(minutes=2))
    await ctx.publish(Reviewed(order_id="1"), delay=1.5)
    first, second = ctx.published
    assert (first.key, first.source, first.delay) == ("B2", "elsewhere", timedelta(minutes=2))
    assert second.delay == timedelta(seconds=1.5)


async def test_a_payload_may_hold_what_pydantic_writes_as_json() -> None:
    ctx = make_context()
    await ctx.publish("a.b", {"price": Decimal("1.5"), "order": Reviewed(order_id="1"), "id": (some_id := new_id())})
    payload = orjson.loads(ctx.published[0].payload)
    assert payload["price"] == "1.5"
    assert payload["order"]["order_id"] == "1"
    assert payload["id"] == str(some_id)


async def test_an_event_that_was_read_can_be_published_again() -> None:
    ctx = make_context(make_record("unknown.type", {"payload": {"type": "x"}}))
    assert isinstance(ctx.event, UntypedEvent)
    await ctx.publish(ctx.event)
    assert orjson.loads(ctx.published[0].payload) == {"payload": {"type": "x"}}


nested: dict[str, Any] = {}
for _ in range(70):
    nested = {"x": nested}
endless: dict[str, Any] = {}
endless["x"] = endless


@pytest.mark.parametrize(
    ("type", "payload", "sentence"),
    [
        ("a.b", {"x": "a\x00b"}, "NUL"),
        ("a.b", {"x\x00": 1}, "NUL"),
        ("a.b", {"x": "\ud800"}, "surrogates"),
        ("a.b", {"x": float("nan")}, "NaN"),
        ("a.b", {"x": float("inf")}, "Infinity"),
        ("a.b", {"x": 2**70}, "64 bits"),
        ("a.b", nested, "nested"),
        ("a.b", endless, "Circular"),
        ("a.b", {"x": object()}, "cannot be written as JSON"),
        ("a.b", {"x": "y" * 1100}, "REFLEX_MAX_PAYLOAD_BYTES"),
        ("a.b", [1], "must be a JSON object"),
        ("a b", {}, "is no event type"),
        ("", {}, "is no event type"),
        ("a.*", {}, "is no event type"),
        ("reflex.dead_letter", {}, "Reflex's own"),
    ],
)
async def test_what_the_gateway_would_not_take_cannot_be_published(type: str, payload: Any, sentence: str) -> None:
    ctx = make_context(limits=RunLimits(max_payload_bytes=1024))
    with pytest.raises(PublishError, match=sentence):
        await ctx.publish(type, payload)
    assert ctx.published == []


@pytest.mark.parametrize(
    "options",
    [
        {"key": ""},
        {"key": "x" * 600},
        {"key": "a\x00"},
        {"source": ""},
        {"source": "a\nb"},
        {"delay": -1},
        {"delay": 1e12},
    ],
    ids=repr,
)
async def test_key_source_and_delay_keep_to_the_gateways_rules(options: dict[str, Any]) -> None:
    ctx = make_context()
    with pytest.raises(PublishError):
        await ctx.publish("a.b", {}, **options)


async def test_an_event_object_that_its_own_class_refuses_is_found_where_it_is_published() -> None:
    class Renamed(BaseEvent):
        type: Literal["context.renamed"] = "context.renamed"
        order_id: str = Field(validation_alias="orderId")

    ctx = make_context()
    with pytest.raises(PublishError, match="Renamed does not read what it writes: orderId"):
        await ctx.publish(Renamed.model_validate({"orderId": "1"}))
    with pytest.raises(PublishError, match="Reviewed does not read what it writes: amount"):
        await ctx.publish(Reviewed(order_id="1", amount=float("nan")))


async def test_arguments_that_make_no_event_are_a_type_error() -> None:
    ctx = make_context()
    publish: Any = ctx.publish
    for arguments in [(5,), (Reviewed(order_id="1"), {"x": 1}), ({"type": "a.b"},)]:
        with pytest.raises(TypeError):
            await publish(*arguments)


async def test_a_chain_of_triggers_that_cause_one_another_ends_at_the_depth_limit() -> None:
    limits = RunLimits(max_depth=3)
    await make_context(make_record(depth=2), limits=limits).publish("a.b")
    cause = make_record("ping", depth=3, correlation_id="chain-7")
    ctx = make_context(cause, trigger="ping-pong", limits=limits)
    with pytest.raises(PublishError, match=r"'ping-pong'.*'ping'.*3.*REFLEX_MAX_DEPTH.*chain-7"):
        await ctx.publish("a.b")


async def test_a_run_publishes_a_limited_number_of_events() -> None:
    ctx = make_context(limits=RunLimits(max_published=2))
    await ctx.publish("a.b")
    await ctx.publish("a.b")
    with pytest.raises(PublishError, match="REFLEX_MAX_PUBLISHED"):
        await ctx.publish("a.b")


def test_the_event_is_read_as_its_class_and_keeps_its_record() -> None:
    record = make_record("context.reviewed", {"order_id": "A1"}, key="k")
    ctx = make_context(record)
    assert isinstance(ctx.event, Reviewed)
    assert ctx.event.meta == record
    assert ctx.key == "k"


def test_an_event_that_its_class_refuses_is_rejected_with_the_field() -> None:
    with pytest.raises(EventRejected, match=r"Reviewed refuses the event.*1 more") as e:
        read_event(make_record("context.reviewed", {"amount": "a lot"}))
    assert e.value.field == "/payload/order_id"


def test_a_context_wants_an_event_from_the_log() -> None:
    with pytest.raises(ValueError, match="read_event"):
        AgentContext(Reviewed(order_id="1"), trigger="t", delivery_id=DeliveryId(1, new_id()))


def test_the_log_knows_trigger_delivery_and_attempt() -> None:
    ctx = make_context(trigger="review", attempt=2)
    with structlog.testing.capture_logs() as entries:
        ctx.log.info("decided", decision="approve")
    assert entries == [
        {
            "event": "decided",
            "log_level": "info",
            "decision": "approve",
            "trigger": "review",
            "delivery_id": str(ctx.delivery_id),
            "attempt": 2,
            "type": "order.created",
        }
    ]
