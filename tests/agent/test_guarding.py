"""A provider that fails: its deliveries wait and keep their attempts. A provider over HTTP that counts."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.fallback import FallbackModel

from reflex.agent.context import AgentContext
from reflex.core.circuits import Circuits
from reflex.core.settlement import Outcome
from reflex.core.waiting import WaitKind
from tests.agent.stub_provider import refusal, silence, text, tool_call
from tests.agent.till import Till, till


def guarded(t: Till, threshold: int = 2) -> Till:
    t.models.circuits = Circuits(t.steps, threshold=threshold)
    return t


async def its_time_is_over(t: Till) -> None:
    await t.conn.execute("UPDATE reflex.circuit SET open_until = now() - interval '1 second'")


async def test_a_failing_provider_parks_deliveries_and_burns_no_attempts(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without the guard: the delivery would be dead after five attempts. Fails if the failure that opens the
    circuit still counts as an attempt's."""
    async with till(database_url, monkeypatch, *[refusal(503, "overloaded")] * 4, text("done")) as t:
        guarded(t)
        assert (await t.attempt(Agent())).outcome is Outcome.RETRY
        for _ in range(3):
            parked = await t.attempt(Agent())
            assert parked.outcome is Outcome.WAITING
            assert parked.wait is not None
            assert parked.wait.kind is WaitKind.PROVIDER
            assert "overloaded" in parked.wait.reason
        assert t.requests == 2, "nobody asks while it is open"
        for _ in range(2):
            await its_time_is_over(t)
            assert (await t.attempt(Agent())).outcome is Outcome.WAITING
        assert t.requests == 4
        await its_time_is_over(t)
        _, lease = await t.claimed()
        assert lease.attempt == 2
        assert (await t.attempts(Agent())(lease)).output == '"done"'


async def test_a_refused_request_is_no_failure_of_the_provider(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if any error counts: one trigger with a bad prompt would stop all others."""
    async with till(database_url, monkeypatch, *[refusal(400, "too long"), refusal(401)] * 2, text("done")) as t:
        guarded(t)
        for _ in range(4):
            assert (await t.attempt(Agent())).outcome is Outcome.RETRY
        assert (await t.attempt(Agent())).outcome is Outcome.SUCCEEDED


async def test_steps_before_the_failure_are_not_paid_for_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the guard is outside of the journal: a replayed request would ask the circuit."""
    agent: Agent[Any, str] = Agent()

    @agent.tool_plain
    def stock() -> int:  # pyright: ignore[reportUnusedFunction]
        return 7

    async with till(database_url, monkeypatch, tool_call("stock", {}), refusal(503), text("seven")) as t:
        guarded(t, 1)
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        assert t.requests == 2
        await its_time_is_over(t)
        done = await t.attempt(agent)
        assert (done.outcome, done.output, t.requests) == (Outcome.SUCCEEDED, '"seven"', 3)


async def test_a_fallback_takes_the_next_model_and_asks_the_failing_one_no_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a FallbackModel has one guard around all: it would be asked for the first model each time."""
    script = [refusal(503), text("a"), refusal(503), text("b"), text("c")]

    async def three_times(ctx: AgentContext) -> str:
        agent: Agent[Any, str] = Agent(FallbackModel("openai-chat:first", "openai-chat:second"))
        return "".join([(await ctx.run_agent(agent, word)).output for word in ("one", "two", "three")])

    async with till(database_url, monkeypatch, *script) as t:
        guarded(t)
        done = await t.attempt(three_times)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"abc"')
        assert [request["model"] for request in t.provider.requests] == ["first", "second"] * 2 + ["second"]


async def test_a_model_that_hangs_is_given_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without a request_timeout: the run would hold its slot for the ten minutes of the provider's client."""
    end = asyncio.Event()
    async with till(database_url, monkeypatch, silence(end), text("done")) as t:
        t.models.timeout_s = 0.3
        failed = await t.attempt(Agent())
        assert failed.outcome is Outcome.RETRY
        assert "0.3" in (failed.error or "")
        assert (await t.attempt(Agent())).outcome is Outcome.SUCCEEDED
        end.set()
