"""The app of the journal benchmark: a model agent whose model and tool do nothing, so that what is left between their
calls is what a step costs. It runs with the journal, without, and with a plain INSERT of the same rows in its model and
its tool: at the same places, since a statement in a loop of nothing else finds everything in the processor's caches."""

import os
import time
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from psycopg import AsyncConnection
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

PROMPT: Final = "read the manual"
NO_LIMIT: Final = UsageLimits(request_limit=None)
PAGE: Final = "a page of the manual " * 100
RECORDED: Final = """
    SELECT trigger_id, event_id, fingerprint, occurrence, kind, position, result::text FROM reflex.step
    WHERE event_id = %s ORDER BY position
"""
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
    journaled, bare, by_hand = Clerk(event.calls), Clerk(event.calls), Clerk(event.calls)
    await ctx.run_agent(journaled.agent, PROMPT, usage_limits=NO_LIMIT)
    await bare.agent.run(PROMPT, usage_limits=NO_LIMIT)
    async with await connect(os.environ["DATABASE_URL"], name="reflex bench") as conn:
        inserts = await Inserts.of(ctx, conn)
        by_hand.inserts = inserts
        await by_hand.agent.run(PROMPT, usage_limits=NO_LIMIT)
    found = {"journaled": journaled.steps_s(), "bare": bare.steps_s(), "inserts": inserts.taken_s}
    path = Path(os.environ[STAMPS_FOLDER]) / FOUND.format(event.number)
    path.with_suffix(".part").write_bytes(orjson.dumps(found))
    path.with_suffix(".part").rename(path)


class Inserts:
    """The rows of the journal, to be inserted plainly in a table of the same shape, and how long each has taken."""

    def __init__(self, conn: AsyncConnection[Any], rows: list[tuple[Any, ...]]) -> None:
        self.conn = conn
        self.rows = rows
        self.taken_s: list[float] = []

    @classmethod
    async def of(cls, ctx: AgentContext, conn: AsyncConnection[Any]) -> "Inserts":
        await conn.execute(TABLE)
        return cls(conn, await (await conn.execute(RECORDED, (ctx.delivery_id.event_id,))).fetchall())

    async def next(self) -> None:
        """Insert the next row and commit."""
        began = time.perf_counter()
        await self.conn.execute(INSERT, self.rows[len(self.taken_s)])
        self.taken_s.append(time.perf_counter() - began)


class Clerk:
    """An agent that reads one page after the other, and when its model and its tool were called. With `inserts` it
    keeps what they return by hand."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.called: list[float] = []
        self.inserts: Inserts | None = None
        self.agent: Agent[Any, str] = Agent(FunctionModel(self.respond))
        self.agent.tool_plain(self.read)

    async def respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        await self._call()
        page = len(self.called) // 2
        return ModelResponse([ToolCallPart("read", {"page": page}) if page < self.calls else TextPart("done")])

    async def read(self, page: int) -> str:
        """Read a page."""
        await self._call()
        return f"{page}: {PAGE}"

    async def _call(self) -> None:
        self.called.append(time.perf_counter())
        if self.inserts is not None:
            await self.inserts.next()

    def steps_s(self) -> list[float]:
        """From each call to the next: what was done meanwhile is to record the one and to look for the other."""
        return [after - before for before, after in zip(self.called, self.called[1:], strict=False)]


Trigger(name="journaled", filter=type_filter("bench.journaled"), agent=measure)
