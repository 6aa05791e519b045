"""Tools that begin something elsewhere and defer their calls, as pydantic-ai's CallDeferred has it."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent, CallDeferred, DeferredToolRequests, DeferredToolResults

from reflex.agent.context import AgentContext
from reflex.agent.effects import idempotent, once
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import till


@pytest.mark.parametrize("effect", [idempotent(), once()], ids=["idempotent", "once"])
@pytest.mark.parametrize("metadata", [{"ticket": 7}, {"ticket": object()}], ids=["data", "no data"])
async def test_what_is_done_elsewhere_is_begun_once_and_its_answer_goes_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch, effect: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """The function waits between the deferral and the answer, so that it runs again. Fails, by a second beginning, if a
    deferral counts as a call that was not made. One whose metadata are no data is not kept, but for `once`."""
    begun: list[str] = []
    agent: Agent[AgentContext, str | DeferredToolRequests] = Agent(
        deps_type=AgentContext, output_type=[str, DeferredToolRequests]
    )

    @agent.tool_plain(metadata=effect)
    async def render(scene: str) -> str:  # pyright: ignore[reportUnusedFunction]
        begun.append(scene)
        raise CallDeferred(metadata)

    async def function(ctx: AgentContext) -> str:
        asked = await ctx.run_agent(agent)
        await ctx.sleep(timedelta(milliseconds=1))
        results = DeferredToolResults(calls={"call-render": "rendered"})
        done = await ctx.durable(agent).run(message_history=asked.all_messages(), deferred_tool_results=results)
        assert isinstance(done.output, str)
        return done.output

    is_data, is_once = metadata["ticket"] == 7, effect == once()
    async with till(database_url, monkeypatch, tool_call("render", {"scene": "A"}), text("as you like")) as t:
        assert (await t.attempt(function)).outcome is Outcome.WAITING
        done = await t.attempt(function)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"as you like"')
        assert (len(begun), t.requests) == (1 if is_data or is_once else 2, 2)
        assert t.provider.requests[1]["messages"][-1]["content"] == "rendered"


async def test_the_deferral_comes_back_with_what_was_said_of_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    agent: Agent[AgentContext, str | DeferredToolRequests] = Agent(
        deps_type=AgentContext, output_type=[str, DeferredToolRequests]
    )

    @agent.tool_plain(metadata=once())
    async def ask(question: str) -> str:  # pyright: ignore[reportUnusedFunction]
        raise CallDeferred({"to": question}, kind="question")

    async def function(ctx: AgentContext) -> None:
        requests = (await ctx.run_agent(agent)).output
        assert isinstance(requests, DeferredToolRequests)
        seen.append((requests.metadata, requests.kind("call-ask")))
        if ctx.attempt == 1:
            raise RuntimeError("a bug")

    async with till(database_url, monkeypatch, tool_call("ask", {"question": "ann"})) as t:
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
        assert seen == [({"call-ask": {"to": "ann"}}, "question")] * 2
