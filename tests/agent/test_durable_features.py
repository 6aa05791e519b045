"""What other ways of making pydantic-ai agents durable ask for, or leave out: here each works, through a crash and a
retry. A real database, and a provider over HTTP that counts."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterable
from typing import Any

import orjson
import pytest
from pydantic_ai import Agent, FunctionToolset, RunContext, UsageLimits
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
)
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel

from reflex.agent.context import AgentContext
from reflex.core.settlement import Outcome, Settlement
from tests.agent.stub_provider import Answer, completion, stream, text, tool_call
from tests.agent.till import Till, till
from tests.processes import eventually

WHOLE = {"requests": 4, "tool_calls": 2, "input_tokens": 44, "output_tokens": 28}
REPLAYED = {f"replayed_{name}": number for name, number in WHOLE.items()}


def calls(*called: tuple[str, dict[str, Any]]) -> Answer:
    """A response that calls several tools at once."""
    parts = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for at, (name, arguments) in enumerate(called)
    ]
    return completion({"role": "assistant", "content": None, "tool_calls": parts}, "tool_calls")


async def crash(t: Till, agent: Any, **options: Any) -> Settlement:
    """An attempt whose worker is gone when all is done and nothing is settled."""
    _, lease = await t.claimed()
    lost = await t.attempts(agent, **options)(lease)
    await t.taken_away()
    return lost


async def test_function_tools_are_steps_without_being_wrapped(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sync and async ones, with nothing said about them. Fails without JournaledToolset."""
    called: Counter[str] = Counter()
    script = (calls(("sync", {}), ("concurrent", {})), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = Agent()

        @agent.tool_plain
        def sync() -> str:  # pyright: ignore[reportUnusedFunction]
            called["sync"] += 1
            return threading.current_thread().name

        @agent.tool_plain
        async def concurrent() -> int:  # pyright: ignore[reportUnusedFunction]
            called["concurrent"] += 1
            return 1

        first = await crash(t, agent)
        second = await t.attempt(agent)
        assert (first.output, second.output, second.outcome) == ('"done"', '"done"', Outcome.SUCCEEDED)
        assert (t.requests, called) == (2, {"sync": 1, "concurrent": 1})


async def test_what_is_streamed_is_heard_while_it_is_said(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model goes on only when its first words were heard: fails, by waiting for ever, if the answer is handed on
    when it is complete; and if a retry is not shown it again, without asking."""
    heard, first_words = list[str](), asyncio.Event()

    async def listens(run: RunContext[Any], events: AsyncIterable[Any]) -> None:
        async for event in events:
            match event:
                case (
                    PartStartEvent(part=TextPart(content=said))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=said))
                ) if said:
                    heard.append(said)
                    first_words.set()
                case _:
                    pass

    async def function(ctx: AgentContext) -> str:
        return (await ctx.run_agent(Agent(), event_stream_handler=listens)).output

    async with till(database_url, monkeypatch, stream("ship ", first_words, "it")) as t:
        async with asyncio.timeout(20):
            await crash(t, function)
        assert heard == ["ship ", "it"]
        heard.clear()
        assert (await t.attempt(function)).output == '"ship it"'
        assert ("".join(heard), t.requests) == ("ship it", 1)


@pytest.mark.parametrize("shared", [True, False], ids=["usage passed on", "usage of its own"])
async def test_what_a_delegated_agent_uses_is_counted_after_a_replay(
    database_url: str, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Fails without spend_again (the replayed call has used up nothing), and if calls of tools inside are not noted."""
    script = (tool_call("ask", {}), tool_call("look", {}), text("inner"), text("outer"))
    async with till(database_url, monkeypatch, *script) as t:
        inner, outer = Agent(deps_type=AgentContext), Agent(deps_type=AgentContext)

        @inner.tool_plain
        async def look() -> int:  # pyright: ignore[reportUnusedFunction]
            return 7

        @outer.tool
        async def ask(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            options: dict[str, Any] = {"usage": run.usage} if shared else {}
            return (await run.deps.run_agent(inner, "inside", **options)).output

        first = await crash(t, outer)
        second = await t.attempt(outer)
        assert orjson.loads(first.usage or "") == WHOLE
        assert orjson.loads(second.usage or "") == WHOLE | REPLAYED
        assert t.requests == 4


async def test_two_delegates_at_once_are_counted_once_each(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both count in one usage at the same time. Fails if a call is charged what its run's usage grew by meanwhile."""
    both = calls(("ask", {"what": "a"}), ("ask", {"what": "b"}))
    async with till(database_url, monkeypatch, both, text("x"), text("x"), text("outer")) as t:
        inner, outer = Agent(deps_type=AgentContext), Agent(deps_type=AgentContext)

        @outer.tool
        async def ask(run: RunContext[AgentContext], what: str) -> str:  # pyright: ignore[reportUnusedFunction]
            return (await run.deps.run_agent(inner, what, usage=run.usage)).output

        async def function(ctx: AgentContext) -> str:
            limits = UsageLimits(request_limit=4)
            return (await ctx.run_agent(outer, usage_limits=limits)).output

        first = await crash(t, function)
        second = await t.attempt(function)
        assert orjson.loads(first.usage or "") == WHOLE
        assert orjson.loads(second.usage or "") == WHOLE | REPLAYED


async def test_a_delegate_of_a_delegate_is_counted_when_only_it_is_replayed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outermost tool fails after what is inside of it is done; the second attempt calls it again, and the third
    replays it as a whole. Fails if what is replayed inside of a call is not noted as that call's."""
    script = (tool_call("outer", {}), tool_call("inner", {}), text("deep"), text("middle"), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        deep, middle, top = (Agent(deps_type=AgentContext) for _ in range(3))
        tries = Counter[str]()

        @middle.tool
        async def inner(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            tries["inner"] += 1
            return (await run.deps.run_agent(deep, "deep", usage=run.usage)).output

        @top.tool
        async def outer(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            tries["outer"] += 1
            said = (await run.deps.run_agent(middle, "middle", usage=run.usage)).output
            if run.deps.attempt == 1:
                raise RuntimeError("a bug")
            return said

        assert (await t.attempt(top)).outcome is Outcome.RETRY
        second, third = await crash(t, top), await t.attempt(top)
        whole = {"requests": 5, "tool_calls": 2, "input_tokens": 55, "output_tokens": 35}
        for usage in (second.usage, third.usage):
            assert {name: orjson.loads(usage or "")[name] for name in whole} == whole
        assert (t.requests, tries) == (5, {"outer": 2, "inner": 1})


async def test_deps_are_live_objects(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as no serialiser takes: a lock, a connection. Fails if deps had to cross a boundary."""
    lock = threading.Lock()
    async with till(database_url, monkeypatch, tool_call("held", {}), text("done")) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        def held(run: RunContext[AgentContext]) -> bool:  # pyright: ignore[reportUnusedFunction]
            with run.deps.deps:
                return lock.locked()

        await crash(t, agent, deps=lock)
        assert (await t.attempt(agent, deps=lock)).output == '"done"'
        assert t.requests == 2
        assert t.provider.requests[1]["messages"][-1]["content"] == "true"


async def test_agents_toolsets_and_models_of_the_run_itself(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is made inside of the function, without a name; two toolsets without ids, and a model object, are given
    to the run. Fails if any of them had to be known beforehand."""
    called: Counter[str] = Counter()

    async def function(ctx: AgentContext) -> str:
        def counting(name: str) -> FunctionToolset[Any]:
            def tool() -> int:
                called[name] += 1
                return 1

            toolset: FunctionToolset[Any] = FunctionToolset()
            toolset.add_function(tool, name=name)
            return toolset

        agent = Agent()
        assert ctx.models is not None
        default = ctx.models.model_for(agent)
        assert default is not None
        model = WrapperModel(default)
        return (await ctx.run_agent(agent, toolsets=[counting("one"), counting("two")], model=model)).output

    script = (calls(("one", {}), ("two", {})), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        await crash(t, function)
        assert (await t.attempt(function)).output == '"done"'
        assert (t.requests, called) == (2, {"one": 1, "two": 1})


class Changing(AbstractCapability[Any]):
    """An author's, which asks another model each time."""

    def __init__(self, *models: Model) -> None:
        self.models = list(models)

    async def prepare_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        request_context.model = self.models.pop(0)
        return request_context


async def test_a_run_that_changes_its_model_asks_the_other_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the wrapper of the first model is taken for the second one's request."""
    asked: list[str] = []

    def calling(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("first")
        return ModelResponse([ToolCallPart("look", {})])

    def answering(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("second")
        return ModelResponse([TextPart("done")])

    async with till(database_url, monkeypatch) as t:
        models = FunctionModel(calling), FunctionModel(answering)
        agent = Agent(models[0], capabilities=[Changing(*models)])

        @agent.tool_plain
        def look() -> str:  # pyright: ignore[reportUnusedFunction]
            return "7 left"

        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert asked == ["first", "second"]


async def test_tools_run_at_once_and_each_is_kept(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other: fails, by waiting for ever, if they are made one after the other. The worker is gone
    when one has ended: fails if the record of the batch is one record."""
    called: Counter[str] = Counter()
    arrived, lost = asyncio.Barrier(2), asyncio.Event()
    script = (calls(("quick", {}), ("slow", {})), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        async def quick(run: RunContext[AgentContext]) -> int:  # pyright: ignore[reportUnusedFunction]
            called["quick"] += 1
            await arrived.wait()
            return 1

        @agent.tool
        async def slow(run: RunContext[AgentContext]) -> int:  # pyright: ignore[reportUnusedFunction]
            called["slow"] += 1
            if run.deps.attempt == 1:
                await arrived.wait()
                await lost.wait()
            return 2

        _, lease = await t.claimed()
        running = asyncio.ensure_future(t.attempts(agent)(lease))
        await eventually(t.has_two_steps)
        await t.taken_away()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (await t.attempt(agent)).output == '"done"'
        assert (t.requests, called) == (2, {"quick": 1, "slow": 2})
