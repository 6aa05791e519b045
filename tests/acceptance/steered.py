"""An app whose agent is told of new events as it goes, and remembers; copied into the folder of a test. Its tool waits
while there is a file named `closed`."""

import asyncio
from datetime import timedelta
from pathlib import Path

from pydantic_ai import Agent

from reflex.agent.filters import type_filter
from reflex.agent.memory import Memory
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy

FOLDER = Path(__file__).parent
agent = Agent()


@agent.tool_plain
async def stock(sku: str) -> int:
    with (FOLDER / "tool.txt").open("a") as file:
        file.write("begun\n")
    while (FOLDER / "closed").exists():  # noqa: ASYNC110 - the test removes it
        await asyncio.sleep(0.01)
    return 7


Trigger(
    "chat",
    type_filter("chat.said"),
    agent,
    ordered=True,
    while_running="steer",
    memory=Memory(),
    retry=RetryPolicy(base=timedelta(milliseconds=100)),
)
