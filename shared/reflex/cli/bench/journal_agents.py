"""The app of the journal benchmark: a model agent whose model and tool do nothing, so that what is left between their
calls is what a step costs. It runs with the journal, then without, and then the same rows are inserted plainly."""

import os
import time
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import UsageLimits

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.cli.bench.agents import STAMPS_FOLDER
from reflex.cli.bench.journal import FOUND
from reflex.core.database import connect
from reflex.core.events import BaseEvent, EventRegistry

__all__ = ["Journaled"]

PAGE: Final = "a page of the manual " * 100
RECORDED: Final = "SELECT fingerprint, occurrence, kind, position, result::text FROM reflex.step WHERE event_id = %s"
TABLE: Final = "CREATE TABLE IF NOT EXISTS bench_step (LIKE reflex.step INCLUDING ALL)"
INSERT: Final = (
    "INSERT INTO bench_step (trigger_id, event_id, fingerprint, occurrence, kind, position, result, lease_epoch) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, 1)"
)


@EventRegistry.register
class Journaled(BaseEvent):
    """`number` names the file with what was found, `calls` says how many tool calls the agent makes."""

    type: Literal["bench.journaled"] = "bench.journaled"
    number: int
    calls: int


async def measure(ctx: AgentContext) -> None:
    event = ctx.event
    assert isinstance(event, Journaled)
    no_limit = UsageLimits(request_limit=None)
    journaled, bare = Clerk(event.calls), Clerk(event.calls)
    await ctx.run_agent(journaled.agent, "read the manual", usage_limits=no_limit)
    await bare.agent.run("read the manual", usage_limits=no_limit)
    found = {"journaled": journaled.steps_s(), "bare": bare.steps_s(), "inserts": await inserts_s(ctx)}
    path = Path(os.environ[STAMPS_FOLDER]) / FOUND.format(event.number)
    path.with_suffix(".part").write_bytes(orjson.dumps(found))
    path.with_suffix(".part").rename(path)


class Clerk:
    """An agent that reads one page after the other, and when its model and its tool were called."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.called: list[float] = []
        self.agent: Agent[Any, str] = Agent(FunctionModel(self.respond))
        self.agent.tool_plain(self.read)

    def respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.called.append(time.perf_counter())
        page = len(self.called) // 2
        return ModelResponse([ToolCallPart("read", {"page": page}) if page < self.calls else TextPart("done")])

    def read(self, page: int) -> str:
        """Read a page."""
        self.called.append(time.perf_counter())
        return f"{page}: {PAGE}"

    def steps_s(self) -> list[float]:
        """From each call to the next: what was done meanwhile is to record the one and to look for the other."""
        return [after - before for before, after in zip(self.called, self.called[1:], strict=False)]


async def inserts_s(ctx: AgentContext) -> list[float]:
    """How long each row of the journal takes as a plain insert with its commit, in a table of the same shape."""
    ids = (ctx.delivery_id.trigger_id, ctx.delivery_id.event_id)
    taken: list[float] = []
    async with await connect(os.environ["DATABASE_URL"], name="reflex bench") as conn:
        await conn.execute(TABLE)
        rows = await (await conn.execute(RECORDED, ids[1:])).fetchall()
        for row in rows:
            began = time.perf_counter()
            await conn.execute(INSERT, (*ids, *row))
            taken.append(time.perf_counter() - began)
    return taken


Trigger(name="journaled", filter=type_filter("bench.journaled"), agent=measure)
