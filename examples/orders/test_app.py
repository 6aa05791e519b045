"""Tests of the shop: `pytest examples/orders`. No key, no server, and nobody waits for a retry."""

from datetime import timedelta
from typing import Any

import pytest
from reflex.agent.testing import MakeAppTest, call, rate_limited
from reflex.core.errors import EventRejected

APP = "examples.orders.app"
LARGE = {"order_id": "A1", "amount": 250.0, "customer": "ada"}
REVIEW = [call("past_orders", customer="ada"), {"decision": "hold", "reason": "never spent as much"}]


async def test_a_large_order_is_reviewed_and_its_customer_told(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        t.model.answers(REVIEW)
        await t.publish("order.created", LARGE, key="A1")
        await t.run()
        (review,) = t.runs.of("high-value-orders")
        assert review.output == {"decision": "hold", "reason": "never spent as much"}
        assert t.model.requests[1].tool_results == {"past_orders": [120.0, 80.0, 310.0]}
        assert t.published.types == ["order.reviewed"]
        assert t.runs.of("customer-notices")[0].output == "Dear ada, your order A1 is on hold."


async def test_a_small_order_is_not_reviewed(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        order = await t.publish("order.created", {**LARGE, "amount": 50.0})
        await t.run()
        states = {delivery.trigger: delivery.state for delivery in await t.deliveries(order)}
        assert states == {"high-value-orders": "skipped", "shipping-labels": "succeeded"}
        assert t.model.requests == []


async def test_a_review_waits_for_a_provider_that_is_busy(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        t.model.answers([REVIEW[0], rate_limited(retry_after=90), REVIEW[1]])
        await t.publish("order.created", LARGE)
        await t.run()
        assert t.runs.of("high-value-orders").outcomes == ["retry"]
        await t.clock.advance(timedelta(seconds=90))
        assert t.runs.of("high-value-orders").outcomes == ["retry", "succeeded"]
        # Looked up once: the second attempt has it from the journal.
        assert [done.name for done in t.tool_calls] == ["past_orders"]


async def test_an_order_to_nowhere_is_a_dead_letter_after_three_attempts(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        await t.publish("order.created", {**LARGE, "amount": 50.0, "destination": "nowhere"})
        await t.clock.advance(timedelta(seconds=10))
        assert t.runs.of("shipping-labels").outcomes == ["retry", "retry", "dead"]
        (dead,) = t.dead_letters
        assert "the label service did not answer" in (dead.error or "")


async def test_an_order_that_is_wrong_is_refused(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        with pytest.raises(EventRejected, match="should be a valid number"):
            await t.publish("order.created", {**LARGE, "amount": "a lot"})


async def test_a_crash_at_any_step_changes_nothing(crash_at_every_step: Any) -> None:
    """`past_orders` only reads: it may be executed again."""
    report = await crash_at_every_step(APP, "order.created", LARGE, script=REVIEW, repeatable={"past_orders"})
    assert report.ok, report
