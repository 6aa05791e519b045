"""A timer, a retry and a dead letter: an app of its own beside yours.

make dev APP=examples.reminders
"""

from datetime import timedelta
from typing import Literal

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.schedules import every
from reflex.agent.signals import Reject, Retry
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry
from reflex.core.retry import RetryPolicy


@EventRegistry.register
class ReminderDue(BaseEvent):
    """It is time to remind somebody."""

    type: Literal["reminder.due"] = "reminder.due"
    who: str
    what: str


async def remind(ctx: AgentContext) -> str:
    """Write to somebody; the mail server is busy the first time."""
    due = ctx.event
    assert isinstance(due, ReminderDue)
    if "@" not in due.who:
        raise Reject(f"{due.who!r} is no address")  # no retry mends that: a dead letter at once
    if ctx.attempt == 1:
        raise Retry(after=timedelta(seconds=1))
    ctx.log.info("reminded", who=due.who, what=due.what)
    return f"reminded {due.who} of {due.what}"


every(timedelta(minutes=1), event=ReminderDue(who="ada@example.com", what="water the plants"))

Trigger(
    name="reminders",
    filter=type_filter("reminder.due"),
    agent=remind,
    retry=RetryPolicy(max_attempts=3),
)
