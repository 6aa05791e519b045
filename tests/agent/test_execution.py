import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from reflex.agent.context import AgentContext
from reflex.agent.execution import AgentExited, Execution, OutputError, RunTimeout, run_agent, usage_of
from reflex.agent.filters import any_event
from reflex.agent.models import Models
from reflex.agent.publishing import PublishError, RunLimits
from reflex.agent.signals import Retry
from reflex.agent.triggers import Trigger
from reflex.core.errors import AppError
from tests.agent.records import make_context, make_record

OFFLINE = Models("offline")


@dataclass
class Point:
    x: int


class Decision(BaseModel):
    decision: str


async def run(agent: Any, ctx: AgentContext | None = None, models: Models = OFFLINE, **options: Any) -> Any:
    execution = await run_agent(Trigger("t", any_event(), agent, **options), ctx or make_context(), models)
    return None if execution.output_json is None else orjson.loads(execution.output_json)


def returning(value: Any) -> Any:
    async def agent(ctx: AgentContext) -> Any:
        return value

    return agent


def echo(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answers with the prompt."""
    return ModelResponse(parts=[TextPart(str(messages[0].parts[0].content))])  # pyright: ignore


ECHO = FunctionModel(echo)


@pytest.mark.parametrize(
    ("value", "output"),
    [
        (None, None),
        ("done", "done"),
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        (Point(1), {"x": 1}),
        (Decision(decision="ship"), {"decision": "ship"}),
        ([Point(1), datetime(2026, 1, 1, tzinfo=UTC)], [{"x": 1}, "2026-01-01T00:00:00Z"]),
        ({"x": float("nan")}, {"x": None}),
        ("a\x00b\\u0000\\\x00", "a\ufffdb\\u0000\\\ufffd"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_the_output_is_kept_as_json(value: Any, output: Any) -> None:
    assert await run(returning(value)) == output


endless: list[Any] = []
endless.append(endless)


@pytest.mark.parametrize("value", [object(), endless, "\ud800", lambda: None])  # pyright: ignore[reportUnknownLambdaType]
async def test_an_output_that_is_no_json_is_an_error_that_says_so(value: Any) -> None:
    with pytest.raises(OutputError, match=rf"returned a {type(value).__name__} that cannot be written as JSON"):
        await run(returning(value))


async def test_an_output_above_the_limit_is_an_error_that_names_the_setting() -> None:
    limits = RunLimits(max_output_bytes=100)
    assert await run(returning("ä" * 49), make_context(limits=limits))
    with pytest.raises(OutputError, match=r"102 bytes.*REFLEX_MAX_OUTPUT_BYTES"):
        await run(returning("ä" * 50), make_context(limits=limits))


async def test_a_function_gets_the_context() -> None:
    ctx = make_context(make_record(payload={"x": 1}), deps={"db": 1}, attempt=3)

    async def agent(given: AgentContext) -> list[Any]:
        assert given is ctx
        return [given.attempt, given.deps, given.event.meta is not None]

    assert await run(agent, ctx) == [3, {"db": 1}, True]


async def test_a_function_may_leave_neither_output_nor_usage() -> None:
    execution = await run_agent(Trigger("t", any_event(), returning(None)), make_context(), OFFLINE)
    assert execution == Execution(output_json=None, usage=None)


async def test_the_default_prompt_is_type_and_payload_as_json() -> None:
    output = await run(Agent(ECHO), make_context(make_record(payload={"amount": 250.0})), Models())
    assert orjson.loads(output) == {"type": "order.created", "payload": {"amount": 250.0}}


async def test_a_prompt_may_be_a_text_or_a_function() -> None:
    async def later(ctx: AgentContext) -> str:
        await asyncio.sleep(0)
        return f"later {ctx.event.type}"

    def now(ctx: AgentContext) -> str:
        return f"now {ctx.event.type}"

    def five(ctx: AgentContext) -> int:
        return 5

    assert await run(Agent(ECHO), models=Models(), prompt="fixed") == "fixed"
    assert await run(Agent(ECHO), models=Models(), prompt=now) == "now order.created"
    assert await run(Agent(ECHO), models=Models(), prompt=later) == "later order.created"
    with pytest.raises(TypeError, match="the prompt of trigger 't' returned 5"):
        await run(Agent(ECHO), models=Models(), prompt=five)


async def test_a_tool_reaches_the_context_as_its_deps_and_publishes() -> None:
    agent = Agent(deps_type=AgentContext, output_type=Decision)

    @agent.tool
    async def note(run: RunContext[AgentContext], amount: float) -> str:  # pyright: ignore[reportUnusedFunction]
        await run.deps.publish("order.noted", {"amount": amount})
        return "noted"

    ctx = make_context(make_record(payload={"amount": 250.0, "decision": "ship"}))
    assert await run(agent, ctx) == {"decision": "ship"}
    assert [(new.type, orjson.loads(new.payload)) for new in ctx.published] == [("order.noted", {"amount": 250.0})]


async def test_a_signal_raised_in_a_tool_reaches_the_worker_as_it_is() -> None:
    agent = Agent(deps_type=AgentContext)

    @agent.tool_plain
    def busy() -> str:  # pyright: ignore[reportUnusedFunction]
        raise Retry(after=30, reason="warehouse is busy")

    with pytest.raises(Retry) as e:
        await run(agent)
    assert e.value.after == timedelta(seconds=30)


async def test_usage_is_recorded_also_of_agents_that_a_function_runs() -> None:
    inner = Agent(output_type=Decision)

    @inner.tool_plain
    def look_up() -> str:  # pyright: ignore[reportUnusedFunction]
        return "found"

    async def agent(ctx: AgentContext) -> None:
        await ctx.run_agent(inner)
        await ctx.run_agent(inner, "once more")

    execution = await run_agent(Trigger("t", any_event(), agent), make_context(), OFFLINE)
    assert execution.usage is not None
    assert (execution.usage["requests"], execution.usage["tool_calls"]) == (4, 2)
    assert execution.usage["input_tokens"] > 0


async def test_usage_of_a_run_that_fails_is_not_lost() -> None:
    agent = Agent()

    @agent.tool_plain
    def broken() -> str:  # pyright: ignore[reportUnusedFunction]
        raise ZeroDivisionError

    ctx = make_context()
    with pytest.raises(ZeroDivisionError):
        await run(agent, ctx)
    usage = usage_of(ctx)
    assert usage is not None
    assert usage["requests"] == 1


async def test_usage_that_runs_share_is_counted_once() -> None:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("x")], usage=RequestUsage(input_tokens=10, cache_read_tokens=4))

    inner = Agent(FunctionModel(answer))

    async def agent(ctx: AgentContext) -> None:
        first = await ctx.run_agent(inner)
        await ctx.run_agent(inner, usage=first.usage)

    execution = await run_agent(Trigger("t", any_event(), agent), make_context(), Models())
    assert execution.usage == {
        "requests": 2, "tool_calls": 0, "input_tokens": 20, "output_tokens": 0, "cache_read_tokens": 8
    }  # fmt: skip


async def test_a_function_may_return_the_result_of_an_agent_as_it_is() -> None:
    async def agent(ctx: AgentContext) -> Any:
        return await ctx.run_agent(Agent(ECHO), "hi")

    assert await run(agent, models=Models()) == "hi"


async def test_an_agent_without_a_model_says_what_to_set() -> None:
    with pytest.raises(AppError, match="DEFAULT_MODEL is not set"):
        await run(Agent(), models=Models())


async def test_the_agent_keeps_its_name_and_gets_none_of_ours() -> None:
    names: list[str | None] = []
    nameless, named = Agent(), Agent(name="reviewer")
    for agent in (nameless, named):

        @agent.instructions
        def note(run: RunContext[object]) -> str:  # pyright: ignore[reportUnusedFunction]
            names.append(run.agent.name if run.agent else None)
            return ""

    await run(nameless)
    await run(named)
    assert names == ["t", "reviewer"], "a nameless agent is shown under its trigger's name"
    assert nameless.name is None


async def test_a_run_that_takes_longer_than_its_timeout_is_stopped() -> None:
    deadlines: list[datetime | None] = []
    stopped: list[bool] = []

    async def agent(ctx: AgentContext) -> None:
        deadlines.append(ctx.deadline)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    with pytest.raises(RunTimeout, match=r"0:00:00.050000, the timeout of trigger 't'"):
        await run(agent, timeout=timedelta(milliseconds=50))
    assert stopped == [True]
    (deadline,) = deadlines
    assert deadline is not None
    assert abs(deadline - datetime.now(UTC)) < timedelta(seconds=20)


async def test_a_time_out_of_the_agents_own_is_not_the_triggers() -> None:
    async def agent(ctx: AgentContext) -> None:
        assert ctx.deadline is None
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError):
        await run(agent)
    with pytest.raises(TimeoutError):
        await run(returning_timeout, timeout=timedelta(hours=1))


async def returning_timeout(ctx: AgentContext) -> None:
    raise TimeoutError("the warehouse did not answer")


async def test_sys_exit_in_an_agent_does_not_end_the_worker() -> None:
    async def agent(ctx: AgentContext) -> None:
        raise SystemExit(3)

    with pytest.raises(AgentExited, match=r"sys.exit\(3\)"):
        await run(agent)


async def test_a_cancellation_of_the_agents_own_making_is_not_taken_for_the_workers() -> None:
    async def agent(ctx: AgentContext) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(AgentExited, match="had been cancelled"):
        await run(agent)


async def test_the_workers_cancellation_passes_through() -> None:
    started = asyncio.Event()

    async def agent(ctx: AgentContext) -> None:
        started.set()
        await asyncio.sleep(30)

    task = asyncio.ensure_future(run(agent, timeout=timedelta(seconds=20)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_can_be_published_after_the_run() -> None:
    late: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()

    async def agent(ctx: AgentContext) -> None:
        async def straggler() -> None:
            await ended.wait()
            await ctx.publish("too.late")

        late.append(asyncio.ensure_future(straggler()))

    await run(agent)
    ended.set()
    with pytest.raises(PublishError, match="after its run had ended"):
        await late[0]
