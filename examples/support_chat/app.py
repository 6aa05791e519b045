"""A shop's support desk: an agent answers what customers write over a WebSocket, and passes on what needs a person.

    ws.message ──► support ──► reply: {"decision": "answer", "reply": "Two blue mugs: …"}
                      └──► support.escalated ──► tickets ──► reply: {"ticket": "T-204318", "reply": "…"}

Both replies go to the connection that the line came from: what a run publishes answers whom it answers itself.
"""

import os
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field
from pydantic_ai import Agent, RunContext
from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry

from examples.support_chat.rehearsed import rehearsed_model


class Article(NamedTuple):
    """A help page, and the beginnings of the words that lead to it."""

    words: tuple[str, ...]
    text: str


ORDERS = {
    "A17": "two blue mugs, left the warehouse this morning, will be with you tomorrow",
    "A18": "a teapot, delivered on Monday",
    "A19": "six espresso cups, being packed",
}
ARTICLES = (
    Article(("return", "send", "back", "exchange"), "You can return anything within 30 days. The label is in the box."),
    Article(("deliver", "ship", "arrive", "long"), "Delivery takes two working days; orders above 50 € are free."),
    Article(("pay", "invoice", "card"), "You can pay by card or by invoice. Invoices are due after 14 days."),
    Article(("password", "login", "account"), "Choose 'Forgot password' when you log in; the link lasts an hour."),
)


@EventRegistry.register
class ChatLine(BaseEvent):
    """What somebody typed; the event's key is the conversation."""

    type: Literal["ws.message"] = "ws.message"
    content: str = Field(min_length=1, max_length=4000)


@EventRegistry.register
class Escalated(BaseEvent):
    type: Literal["support.escalated"] = "support.escalated"
    question: str


class Decision(BaseModel):
    """What becomes of a customer's line. `reply` is what the customer reads, in either case."""

    decision: Literal["answer", "escalate"]
    reply: str


class Ticket(BaseModel):
    ticket: str
    reply: str


support = Agent(
    name="support",
    deps_type=AgentContext,
    output_type=Decision,
    instructions=(
        "You are the support desk of a shop for crockery. Answer in one or two friendly sentences, from what the tools "
        "say and from nothing else. Escalate complaints, refunds, whatever the tools do not answer, and whoever asks "
        "for a person; tell the customer that a colleague takes over."
    ),
)


@support.tool
async def look_up_order(run: RunContext[AgentContext], number: str) -> str:
    """The state of an order, by its number, such as A17."""
    found = ORDERS.get(number.upper())
    run.deps.log.info("looked up an order", number=number, found=found is not None)
    return f"Order {number.upper()}: {found}." if found else f"There is no order {number}."


@support.tool
async def search_help(run: RunContext[AgentContext], question: str) -> str:
    """The help page that fits a question best."""
    words = question.lower().split()
    hits, article = max(
        ((sum(word.startswith(article.words) for word in words), article) for article in ARTICLES),
        key=lambda each: each[0],
    )
    run.deps.log.info("searched the help pages", found=hits > 0)
    return article.text if hits else "No help page fits."


# The offline model that every agent gets knows nothing of shops. This one keeps up a conversation, and needs no key.
MODEL = rehearsed_model() if os.environ.get("DEFAULT_MODEL") == "offline" else None


async def answer(ctx: AgentContext) -> Decision:
    """Answer a line, or have a person called."""
    line = ctx.event
    assert isinstance(line, ChatLine)
    decision = (await ctx.run_agent(support, line.content, model=MODEL)).output
    if decision.decision == "escalate":
        await ctx.publish(Escalated(question=line.content))
    return decision


async def open_ticket(ctx: AgentContext) -> Ticket:
    """Give the question a number. A help desk of your own would be called here."""
    escalated = ctx.event
    assert isinstance(escalated, Escalated)
    assert escalated.meta
    # Made of the event's id, it is the same in every attempt.
    ticket = f"T-{escalated.meta.event_id.int % 10**6:06}"
    ctx.log.info("ticket opened", ticket=ticket, conversation=ctx.key, question=escalated.question)
    return Ticket(ticket=ticket, reply="A colleague has your question now and will write to you.")


# One line of a conversation at a time, in the order in which they were written. Conversations run side by side.
Trigger(name="support", filter=type_filter("ws.message"), agent=answer, key="key", ordered=True)

Trigger(name="tickets", filter=type_filter("support.escalated"), agent=open_ticket)
