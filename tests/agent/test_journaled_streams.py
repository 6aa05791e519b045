"""Requests that are streamed to the author's own code are paid for once, too. A provider over HTTP that counts."""

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
from pydantic_ai.run import AgentRunResultEvent

from reflex.agent.context import AgentContext
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import BreaksOff, refusal, stream, text, tool_call
from tests.agent.till import till


class Listener:
    """An author's handler: what it was shown, run by run."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def __call__(self, run: RunContext[Any], events: AsyncIterable[Any]) -> None:
        async for event in events:
            match event:
                case (
                    PartStartEvent(part=TextPart(content=said))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=said))
                ):
                    self.heard.append(said)
                case _:
                    pass

    @property
    def text(self) -> str:
        said = "".join(self.heard)
        self.heard.clear()
        return said


def listening(listener: Listener, calls: list[str], *, fails: bool = False) -> Any:
    """An agent function that listens to its agent; `fails` in the first attempt, after the agent's work."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool_plain
    def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        calls.append(sku)
        return 7

    async def function(ctx: AgentContext) -> str:
        output = (await ctx.run_agent(agent, event_stream_handler=listener)).output
        if fails and ctx.attempt == 1:
            raise RuntimeError("a bug")
        return output

    return function


async def test_what_was_streamed_is_replayed_as_a_stream(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without JournaledModel.request_stream (four requests), or if the replay has no events: the author's code
    would not be shown the answer."""
    listener, calls = Listener(), list[str]()
    script = (tool_call("stock", {"sku": "A"}), text("ship it at once"))
    async with till(database_url, monkeypatch, *script) as t:
        function = listening(listener, calls, fails=True)
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (listener.text, await t.journaled(), t.requests) == ("ship it at once", 3, 2)
        assert all(asked["stream"] for asked in t.provider.requests)
        done = await t.attempt(function)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"ship it at once"')
        assert (listener.text, t.requests, calls) == ("ship it at once", 2, ["A"])
        assert '"replayed_requests":2' in (done.usage or "")


async def test_a_stream_that_breaks_off_is_asked_for_again_and_what_came_before_is_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if requests that are streamed pass the journal by (the first one is paid for again)."""
    listener, calls = Listener(), list[str]()
    script = (tool_call("stock", {"sku": "A"}), stream("ship ", BreaksOff), text("ship it"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = listening(listener, calls)
        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert await t.journaled() == 2
        assert (await t.attempt(agent)).output == '"ship it"'
        assert (t.requests, calls) == (3, ["A"])


async def test_a_stream_that_nobody_reads_to_its_end_is_not_recorded(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the response is recorded however the block ends."""
    async with till(database_url, monkeypatch, text("one two three four")) as t:

        async def function(ctx: AgentContext) -> str:
            async def stops(run: RunContext[Any], events: AsyncIterable[Any]) -> None:
                async for _ in events:
                    raise RuntimeError("heard enough")

            return (await ctx.run_agent(Agent(), event_stream_handler=stops)).output

        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (await t.journaled(), t.requests) == (0, 1)


async def test_a_plain_retry_is_given_what_was_streamed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way of asking is no divergence. Fails if streamed requests have fingerprints of their own."""
    async with till(database_url, monkeypatch, tool_call("stock", {"sku": "A"}), refusal(503), text("ship it")) as t:
        calls: list[str] = []
        assert (await t.attempt(listening(Listener(), calls))).outcome is Outcome.RETRY
        plain: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

        @plain.tool_plain
        def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
            calls.append(sku)
            return 7

        assert (await t.attempt(plain)).output == '"ship it"'
        assert (t.requests, calls) == (3, ["A"])


async def by_run(agent: AbstractAgent[Any, str]) -> str:
    return (await agent.run("how many?")).output


async def by_iter(agent: AbstractAgent[Any, str]) -> str:
    async with agent.iter("how many?") as run:
        async for _ in run:
            pass
    assert run.result is not None
    return run.result.output


async def by_run_stream(agent: AbstractAgent[Any, str]) -> str:
    async with agent.run_stream("how many?") as streamed:
        return "".join([piece async for piece in streamed.stream_text(delta=True, debounce_by=None)])


async def by_run_stream_events(agent: AbstractAgent[Any, str]) -> str:
    async with agent.run_stream_events("how many?") as events:
        (output,) = [event.result.output async for event in events if isinstance(event, AgentRunResultEvent)]
        return output


@pytest.mark.parametrize("by", [by_run, by_iter, by_run_stream, by_run_stream_events])
async def test_an_agent_that_is_run_by_hand_is_paid_for_once_however_it_is_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch, by: Callable[[AbstractAgent[Any, str]], Awaitable[str]]
) -> None:
    """Fails with the agent itself instead of ctx.durable(agent), or if one of the ways goes past it."""
    calls: list[str] = []
    async with till(database_url, monkeypatch, tool_call("stock", {"sku": "A"}), text("ship it at once")) as t:
        agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

        @agent.tool
        def stock(run: RunContext[AgentContext], sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
            calls.append(f"{sku} of {run.deps.event.type}")
            return 7

        async def function(ctx: AgentContext) -> str:
            output = await by(ctx.durable(agent))
            if ctx.attempt == 1:
                raise RuntimeError("a bug")
            return output

        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (await t.journaled(), t.requests, len(calls)) == (3, 2, 1)
        done = await t.attempt(function)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"ship it at once"')
        assert (t.requests, len(calls)) == (2, 1)
        assert '"replayed_requests":2' in (done.usage or "")
        assert agent.name is None, "the author's agent is left as it was"
