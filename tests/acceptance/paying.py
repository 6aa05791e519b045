"""An app whose agent asks a model and has a tool; copied into the folder of a test. The tool notes each call when it
begins and when it is done, and waits in between while there is a file named `closed`."""

import asyncio
from datetime import timedelta
from pathlib import Path

from pydantic_ai import Agent, RunContext

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy

FOLDER = Path(__file__).parent
agent = Agent(instructions="Decide.", deps_type=AgentContext)


def note(line: str) -> None:
    with (FOLDER / "tool.txt").open("a") as file:
        file.write(f"{line}\n")


@agent.tool
async def stock(run: RunContext[AgentContext], sku: str) -> int:
    note(f"begun {run.deps.attempt}")
    while (FOLDER / "closed").exists():  # noqa: ASYNC110 - the test opens it
        await asyncio.sleep(0.02)
    await run.deps.publish("stock.asked", {"sku": sku})
    note(f"done {run.deps.attempt}")
    return 7


Trigger("decide", type_filter("order.created"), agent, retry=RetryPolicy(base=timedelta(milliseconds=100)))
