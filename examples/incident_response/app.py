"""An alert is looked at by an agent and, if it is serious, people are called until one of them takes it. When it is
over, another agent writes down what happened.

    alert.raised ──► respond: triage, call ann ──5 min──► call ben ──5 min──► call the manager ──5 min──► nobody came
                                  └────── incident.acknowledged ──┴── … incident.resolved ──┐
                                                                                            ▼
                     postmortem ◄── incident.closed ◄───────────────────────────────────────┘

The key of each of these events is the service. A run of `respond` lasts as long as the incident, most of it waiting:
without a slot, and without a process that has to stay alive.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from reflex.agent.context import AgentContext
from reflex.agent.effects import pure
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry

from examples.incident_response import pager
from examples.incident_response.rehearsed import rehearsed_model

ON_CALL = ("ann", "ben", "mara, the manager")
TIME_TO_ANSWER = timedelta(seconds=float(os.environ.get("TIME_TO_ANSWER_S", "300")))
TIME_TO_RESOLVE = timedelta(days=2)

DEPLOYS = {"checkout": "version 214, 20 minutes ago: new discount rules"}
RUNBOOKS = {"checkout": "Roll back with `deploy checkout --previous`, then look at the error log."}


@EventRegistry.register
class AlertRaised(BaseEvent):
    type: Literal["alert.raised"] = "alert.raised"
    summary: str


@EventRegistry.register
class Acknowledged(BaseEvent):
    type: Literal["incident.acknowledged"] = "incident.acknowledged"
    by: str


@EventRegistry.register
class Noted(BaseEvent):
    """What somebody wants to be remembered of it."""

    type: Literal["incident.noted"] = "incident.noted"
    by: str
    text: str


@EventRegistry.register
class Resolved(BaseEvent):
    """By a person, or by the monitoring that finds all well again."""

    type: Literal["incident.resolved"] = "incident.resolved"
    by: str
    cause: str = "unknown"


@EventRegistry.register
class Closed(BaseEvent):
    type: Literal["incident.closed"] = "incident.closed"
    outcome: Literal["resolved", "not acknowledged", "not resolved"]
    summary: str
    called: list[str]


class Triage(BaseModel):
    severity: Literal["high", "low"]
    summary: str
    first_step: str


class Postmortem(BaseModel):
    title: str
    timeline: list[str]
    cause: str
    follow_ups: list[str]


class Service(BaseModel):
    """What is kept of each service."""

    incidents: int = 0
    last_closed_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)


triager = Agent(
    name="triager",
    deps_type=AgentContext,
    output_type=Triage,
    instructions=(
        "You are the first to see an alert. Look at what was deployed and at the runbook. The severity is high if "
        "customers notice, and somebody is woken up then; low if it can wait until morning. Say what to do first."
    ),
)
author = Agent(
    name="author",
    deps_type=AgentContext,
    output_type=Postmortem,
    instructions="Write the postmortem of an incident, without blame, from its log and from nothing else.",
)


@triager.tool(metadata=pure())
def last_deploy(run: RunContext[AgentContext]) -> str:
    """What was deployed last for the service."""
    return DEPLOYS.get(str(run.deps.key), "nothing this week")


@triager.tool(metadata=pure())
def runbook(run: RunContext[AgentContext]) -> str:
    """What the service's people have written for the night."""
    return RUNBOOKS.get(str(run.deps.key), "There is no runbook.")


@author.tool(metadata=pure())
async def incident_log(run: RunContext[AgentContext]) -> list[str]:
    """What happened after the alert, in order."""
    ctx, lines = run.deps, list[str]()
    assert ctx.event.meta
    last = ctx.event.meta.causation_id  # the alert
    while event := await ctx.wait_for(type_filter("alert.*", "incident.*"), after=last, timeout=0):
        assert event.meta
        said = " ".join(f"{name}={value}" for name, value in event.meta.payload.items())
        lines.append(f"{event.meta.time:%H:%M:%S} {event.type} {said}")
        last = event.meta.event_id
    return lines


# The offline model that every agent gets knows nothing of incidents. This one does, and needs no key.
MODEL = rehearsed_model() if os.environ.get("DEFAULT_MODEL") == "offline" else None


async def respond(ctx: AgentContext) -> str:
    """See an incident through. This runs from its beginning after each wait; what agents have done, and what was waited
    for, comes from the journal then."""
    alert, service = ctx.event, ctx.state
    assert isinstance(alert, AlertRaised)
    assert isinstance(service, Service)
    assert alert.meta
    if alert.meta.time <= service.last_closed_at:
        return "raised during the last incident"
    triage = (await ctx.run_agent(triager, model=MODEL)).output
    if triage.severity == "low":
        return f"can wait until morning: {triage.summary}"
    called, answer = await call_people(ctx, f"{ctx.key}: {triage.summary}. {triage.first_step}")
    outcome = "not acknowledged"
    if isinstance(answer, Acknowledged):
        answer = await ctx.wait_for(type_filter("incident.resolved"), after=answer, timeout=TIME_TO_RESOLVE)
        outcome = "not resolved"
    if isinstance(answer, Resolved):
        assert answer.meta
        outcome, service.last_closed_at = "resolved", answer.meta.time
    service.incidents += 1
    await ctx.publish(Closed(outcome=outcome, summary=triage.summary, called=called))
    return outcome


async def call_people(ctx: AgentContext, message: str) -> tuple[list[str], BaseEvent | None]:
    """Call one after the other until somebody answers, or the alert is over by itself. Whom, and the answer."""
    answered = type_filter("incident.acknowledged", "incident.resolved")
    for number, person in enumerate(ON_CALL, 1):
        # Made again after each wait. The pager knows the key, so it calls once.
        if await asyncio.to_thread(pager.page, person, message, key=f"{ctx.delivery_id}/{number}"):
            ctx.log.info("called", person=person, message=message)
        # After the alert, not after the call: who is faster than the pager counts.
        if answer := await ctx.wait_for(answered, after=ctx.event, timeout=TIME_TO_ANSWER):
            return list(ON_CALL[:number]), answer
    ctx.log.error("nobody has answered", called=ON_CALL)
    return list(ON_CALL), None


async def write_postmortem(ctx: AgentContext) -> Postmortem:
    """A wiki of your own would get it here."""
    postmortem = (await ctx.run_agent(author, model=MODEL)).output
    ctx.log.info("postmortem written", service=ctx.key, cause=postmortem.cause)
    return postmortem


# One incident of a service at a time: alerts that come meanwhile wait, and then find that they were part of it.
Trigger("respond", type_filter("alert.raised"), respond, ordered=True, state=Service)

Trigger("postmortem", type_filter("incident.closed") & keyword_filter("outcome", "resolved"), write_postmortem)
