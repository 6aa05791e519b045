"""Card payments are judged by an agent. Its tools are of every kind that there is:

    payment.made ──► fraud-review ──► payment.reviewed
                       │ card_history     pure           reads
                       │ reject_payment   idempotent     above 1000.00, after a person has approved it
                       │ freeze_card      idempotent     the bank knows the key of the call
                       │ send_letter      once           is looked for before it is sent again
                       └ write_verdict    transactional  a row of ours, committed with the record of the call

The customer's figures are the trigger's state, and what it may spend is limited.
"""

import asyncio
import os
from datetime import timedelta
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ApprovalRequired, RunContext
from reflex.agent.budgets import Budget, Price
from reflex.agent.context import AgentContext
from reflex.agent.effects import Done, NotDone, idempotent, once, pure, transactional
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry

from examples.fraud_review import outside, verdicts
from examples.fraud_review.rehearsed import rehearsed_model

ASK_A_PERSON_ABOVE_CENTS = 100_000


@EventRegistry.register
class PaymentMade(BaseEvent):
    """A payment that was made with a card. The event's key is the customer."""

    type: Literal["payment.made"] = "payment.made"
    payment_id: str = Field(max_length=100)
    card: str
    cents: int = Field(gt=0)


@EventRegistry.register
class PaymentReviewed(BaseEvent):
    type: Literal["payment.reviewed"] = "payment.reviewed"
    payment_id: str
    decision: Literal["accept", "reject"]
    reason: str


class Verdict(BaseModel):
    decision: Literal["accept", "reject"]
    reason: str


class Customer(BaseModel):
    """What is kept of each customer."""

    payments: int = 0
    cents: int = 0
    rejected: int = 0
    last_verdict: Literal["accept", "reject"] | None = None


reviewer = Agent(
    name="reviewer",
    deps_type=AgentContext,
    output_type=Verdict,
    model_settings={"max_tokens": 4000},  # what a model thinks before it answers counts, too
    instructions=(
        "Decide whether a card payment is fraud. Look at the card's history first. If the payment is far out of line, "
        "call reject_payment; once it is rejected, freeze the card and write the customer a short letter. If the "
        "rejection is denied, a person has let the payment through: accept it. In any case write down the verdict, "
        "then answer with it."
    ),
)


# The model says why, and never which: payment, card and customer are those of the event, whatever its text talks the
# model into.
def payment_of(run: RunContext[AgentContext]) -> PaymentMade:
    assert isinstance(run.deps.event, PaymentMade)
    return run.deps.event


@reviewer.tool(metadata=pure())
def card_history(run: RunContext[AgentContext]) -> list[int]:
    """What was paid with this card before, in cents."""
    return outside.card_history(payment_of(run).card)


@reviewer.tool(metadata=idempotent())
def reject_payment(run: RunContext[AgentContext], reason: str) -> str:
    """Have the bank reject this payment. A person may have to approve it."""
    payment = payment_of(run)
    if payment.cents > ASK_A_PERSON_ABOVE_CENTS and not run.tool_call_approved:
        raise ApprovalRequired(metadata={"customer": run.deps.key, **payment.model_dump(exclude={"type"})})
    outside.order_of_the_bank(f"reject {payment.payment_id}", key=run.deps.idempotency_key)
    run.deps.log.info("payment rejected", payment_id=payment.payment_id, reason=reason)
    return "rejected"


@reviewer.tool(metadata=idempotent())
def freeze_card(run: RunContext[AgentContext]) -> str:
    """Have the bank freeze the card."""
    card = payment_of(run).card
    outside.order_of_the_bank(f"freeze {card}", key=run.deps.idempotency_key)
    run.deps.log.info("card frozen", card=card)
    return "frozen"


async def was_sent(ctx: AgentContext, arguments: dict[str, Any], key: str) -> Done | NotDone:
    """Asked where a call was cut off: has the letter left?"""
    number = await asyncio.to_thread(outside.find_letter, key)
    ctx.log.info("looked for a letter", found=number)
    return Done(number) if number else NotDone()


@reviewer.tool(metadata=once(probe=was_sent))
def send_letter(run: RunContext[AgentContext], text: str) -> str:
    """Write to the customer. The letter's number."""
    number = outside.post_letter(str(run.deps.key), text, reference=run.deps.idempotency_key)
    run.deps.log.info("letter sent", customer=run.deps.key, number=number)
    return number


@reviewer.tool(metadata=transactional())
async def write_verdict(run: RunContext[AgentContext], decision: Literal["accept", "reject"], reason: str) -> str:
    """Write the verdict down."""
    await verdicts.write(run.deps.connection, payment_of(run).payment_id, decision, reason)
    return "written"


# The offline model that every agent gets knows nothing of fraud. This one does, and needs no key.
MODEL = rehearsed_model() if os.environ.get("DEFAULT_MODEL") == "offline" else None


async def review(ctx: AgentContext) -> Verdict:
    """Have a payment judged, and add it to the customer's figures."""
    payment, customer = ctx.event, ctx.state
    assert isinstance(payment, PaymentMade)
    assert isinstance(customer, Customer)
    prompt = orjson.dumps({"payment": payment.model_dump(exclude={"type"}), "customer": customer.model_dump()}).decode()
    verdict = (await ctx.run_agent(reviewer, prompt, model=MODEL)).output
    customer.payments += 1
    customer.cents += payment.cents
    customer.rejected += verdict.decision == "reject"
    customer.last_verdict = verdict.decision
    await ctx.publish(PaymentReviewed(payment_id=payment.payment_id, **verdict.model_dump()))
    return verdict


async def tell_the_desk(ctx: AgentContext) -> str:
    """Tell people that they are asked. A message to a chat of yours would be sent here."""
    assert ctx.event.meta
    asked = ctx.event.meta.payload
    ctx.log.info("a person has to decide", tool=asked["tool"], approval=asked["approval_id"], about=asked["metadata"])
    return asked["approval_id"]


# One payment of a customer at a time, so each sees the figures of those before, also while a person is asked.
Trigger(
    name="fraud-review",
    filter=type_filter("payment.made"),
    agent=review,
    ordered=True,
    state=Customer,
    budgets=[
        Budget(usd=5, per="day", tz="Europe/Stockholm", prices={"rehearsed": Price(3, 15)}),
        Budget(requests=30, per="key", window=timedelta(days=1)),
    ],
    approval_timeout=timedelta(days=2),
)

Trigger(
    name="fraud-desk",
    filter=type_filter("approval.requested") & keyword_filter("trigger", "fraud-review"),
    agent=tell_the_desk,
)
