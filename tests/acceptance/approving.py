"""An app whose agent has a tool that somebody has to approve; copied into the folder of a test. The tool notes each
call when it begins and when it is done, and waits in between while there is a file named `closed`."""

import asyncio
from datetime import timedelta
from pathlib import Path

from pydantic_ai import Agent, RunContext

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy

FOLDER = Path(__file__).parent
agent = Agent(instructions="Refund what is broken.", deps_type=AgentContext)


def note(line: str) -> None:
    with (FOLDER / "tool.txt").open("a") as file:
        file.write(f"{line}\n")


@agent.tool(requires_approval=True)
async def refund(run: RunContext[AgentContext], order: str) -> str:
    note(f"begun {order} {run.deps.attempt}")
    while (FOLDER / "closed").exists():  # noqa: ASYNC110 - the test opens it
        await asyncio.sleep(0.02)
    note(f"done {order} {run.deps.attempt}")
    return "refunded"


async def tell_somebody(ctx: AgentContext) -> str:
    payload = ctx.event.meta.payload if ctx.event.meta else {}
    return f"please look at {payload['tool']} {payload['approval_id']}"


Trigger("refunds", type_filter("order.broken"), agent, retry=RetryPolicy(base=timedelta(milliseconds=100)))
Trigger("tell-somebody", type_filter("approval.requested"), tell_somebody)
