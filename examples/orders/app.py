"""A shop's orders: large ones are reviewed by an agent, the customer hears of the decision, every order gets a label.

Send an order to try it:

    {"type": "order.created", "source": "shop", "payload": {"order_id": "A1", "amount": 250.0, "customer": "ada"}}
"""

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from reflex.agent.context import AgentContext
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry
from reflex.core.retry import RetryPolicy

PAST_ORDERS = {"ada": [120.0, 80.0, 310.0], "grace": [15.0]}


@EventRegistry.register
class OrderEvent(BaseEvent):
    type: Literal["order.created"] = "order.created"
    order_id: str
    amount: float
    customer: str = "guest"
    destination: str = "home"


@EventRegistry.register
class OrderReviewed(BaseEvent):
    type: Literal["order.reviewed"] = "order.reviewed"
    order_id: str
    customer: str
    decision: Literal["approve", "hold"]
    reason: str


class Decision(BaseModel):
    """What the reviewer decides about an order."""

    decision: Literal["approve", "hold"]
    reason: str


# No model is named, so this agent gets DEFAULT_MODEL; `offline` needs no key.
reviewer = Agent(
    name="reviewer",
    deps_type=AgentContext,
    output_type=Decision,
    instructions="Decide whether a large order may be shipped. Hold it if the customer never spent as much before.",
)


@reviewer.tool
async def past_orders(run: RunContext[AgentContext], customer: str) -> list[float]:
    """The amounts of the customer's earlier orders."""
    amounts = PAST_ORDERS.get(customer, [])
    run.deps.log.info("looked up past orders", customer=customer, count=len(amounts))
    return amounts


async def review(ctx: AgentContext) -> Decision:
    """Ask the reviewer, and publish what it decided."""
    order = ctx.event
    assert isinstance(order, OrderEvent)
    decision = (await ctx.run_agent(reviewer)).output
    await ctx.publish(
        OrderReviewed(
            order_id=order.order_id, customer=order.customer, decision=decision.decision, reason=decision.reason
        )
    )
    return decision


async def notify(ctx: AgentContext) -> str:
    """Tell the customer. Here that is a line in the log."""
    review = ctx.event
    assert isinstance(review, OrderReviewed)
    text = f"Dear {review.customer}, your order {review.order_id} is on " + (
        "its way." if review.decision == "approve" else "hold."
    )
    ctx.log.info("customer notified", text=text)
    return text


async def print_label(ctx: AgentContext) -> dict[str, str]:
    """Print a shipping label. The label service is down for one destination: that order ends as a dead letter."""
    order = ctx.event
    assert isinstance(order, OrderEvent)
    if order.destination == "nowhere":
        raise ConnectionError(f"the label service did not answer for order {order.order_id!r}")
    return {"order_id": order.order_id, "label": f"LBL-{order.order_id}", "destination": order.destination}


orders = type_filter("order.created")
important_orders = orders & keyword_filter("amount", lambda x: x > 100)

Trigger(name="high-value-orders", filter=important_orders, agent=review)

Trigger(name="customer-notices", filter=type_filter("order.reviewed"), agent=notify)

Trigger(
    name="shipping-labels",
    filter=orders,
    agent=print_label,
    retry=RetryPolicy(max_attempts=3, base=timedelta(milliseconds=200), cap=timedelta(seconds=1)),
)

# What a chat or a webhook sends without a type of its own: {"type": "http", "payload": {"message": "Hello, Reflex!"}}
Trigger(
    name="hello",
    filter=type_filter("http"),
    agent=Agent(name="hello", instructions="Answer the message in one friendly sentence."),
)
