"""Steps that fail inside of an attempt whose code goes on: what was completed after them is found by the next one."""

from typing import Any

import orjson
import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.exceptions import ModelHTTPError

from reflex.agent.context import AgentContext
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import refusal, text, tool_call
from tests.agent.till import Till, till


async def lost(t: Till, agent: Any, **options: Any) -> Any:
    """An attempt whose worker is gone when all is done and nothing is settled."""
    _, lease = await t.claimed()
    settlement = await t.attempts(agent, **options)(lease)
    await t.taken_away()
    return settlement


@pytest.mark.parametrize("when_diverged", ["continue", "dead"])
async def test_an_answer_after_a_failure_that_was_caught_is_paid_for_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, when_diverged: str
) -> None:
    """Seen to fail with: the number of a step counted with those that failed."""

    async def patient(ctx: AgentContext) -> str:
        for _ in range(3):
            try:
                return (await ctx.run_agent(Agent())).output
            except ModelHTTPError:
                pass
        raise AssertionError

    async with till(database_url, monkeypatch, refusal(500), text("one"), text("two")) as t:
        first = await lost(t, patient, when_diverged=when_diverged)
        second = await t.attempt(patient, when_diverged=when_diverged)
        assert (first.output, second.output, t.requests) == ('"one"', '"one"', 2)


async def test_a_call_that_is_made_again_in_the_same_attempt_keeps_its_key(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge may have been made before the connection was cut: fails, by a second key, if the number of a call is
    not given back; and by a third call, if the next attempt does not find the one that was completed."""
    keys: list[str] = []
    charge_a = tool_call("charge", {"order": "A"})
    async with till(database_url, monkeypatch, charge_a, charge_a, text("done")) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        async def charge(run: RunContext[AgentContext], order: str) -> str:  # pyright: ignore[reportUnusedFunction]
            keys.append(run.deps.idempotency_key)
            if len(keys) == 1:
                raise ConnectionResetError
            return "charged"

        async def patient(ctx: AgentContext) -> str:
            try:
                return (await ctx.run_agent(agent)).output
            except ConnectionResetError:
                return (await ctx.run_agent(agent)).output

        await lost(t, patient)
        assert (await t.attempt(patient)).outcome is Outcome.SUCCEEDED
        assert (len(keys), len(set(keys)), t.requests) == (2, 1, 3)


async def test_an_equal_question_outside_of_a_replayed_tool_gets_its_own_answer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the answer inside of the tool is still there for the taking."""
    script = (tool_call("ask", {}), text("inside"), text("told"), text("outside"))
    async with till(database_url, monkeypatch, *script) as t:
        inner, outer = Agent(deps_type=AgentContext), Agent(deps_type=AgentContext)

        @outer.tool
        async def ask(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            return (await run.deps.run_agent(inner, "what?")).output

        async def function(ctx: AgentContext) -> list[str]:
            return [(await ctx.run_agent(agent, prompt)).output for agent, prompt in ((outer, "go"), (inner, "what?"))]

        first, second = await lost(t, function), await t.attempt(function)
        assert orjson.loads(first.output) == orjson.loads(second.output or "") == ["told", "outside"]
        assert t.requests == 4
