"""A provider that fails: its deliveries wait and keep their attempts. A provider over HTTP that counts."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from pydantic_ai import Agent
from pydantic_ai.concurrency import ConcurrencyLimit, ConcurrencyLimiter
from pydantic_ai.exceptions import ModelHTTPError, ModelUnavailableError
from pydantic_ai.models import Model
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from reflex.agent.budgets import Budget
from reflex.agent.context import AgentContext
from reflex.agent.run_time import run_time
from reflex.core.circuits import Circuits
from reflex.core.settlement import Outcome
from reflex.core.waiting import WaitKind
from tests.agent.stub_provider import refusal, silence, stream, stub_provider, text, tool_call
from tests.agent.till import Till, till
from tests.queue_fixtures import count


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


def overloaded(error: Exception) -> bool:
    return isinstance(error, ModelHTTPError) and error.status_code == 503


def chain(**options: Any) -> FallbackModel:
    return FallbackModel("openai-chat:first", "openai-chat:second", **options)


@pytest.mark.parametrize(
    "model",
    [
        chain,
        lambda: chain(fallback_on=(ModelUnavailableError,)),
        lambda: chain(fallback_on=overloaded),
        lambda: ConcurrencyLimitedModel(chain(), limiter=3),
    ],
    ids=["by default", "on a kind of error", "as a function says", "limited"],
)
async def test_a_fallback_takes_the_next_model_and_asks_the_failing_one_no_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch, model: Callable[[], Model[Any]]
) -> None:
    """Fails if a FallbackModel has one guard around all: it would be asked for the first model each time. Fails if what
    opens the circuit, or an open one, is an error that its `fallback_on` does not know."""
    script = [refusal(503), text("a"), refusal(503), text("b"), text("c")]

    async def three_times(ctx: AgentContext) -> str:
        agent: Agent[Any, str] = Agent(model())
        return "".join([(await ctx.run_agent(agent, word)).output for word in ("one", "two", "three")])

    async with till(database_url, monkeypatch, *script) as t:
        guarded(t)
        done = await t.attempt(three_times)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"abc"')
        assert [request["model"] for request in t.provider.requests] == ["first", "second"] * 2 + ["second"]


async def test_the_same_model_at_two_places_has_two_circuits(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a circuit is a model's, wherever it runs: where one region fails, the other would not be asked."""
    async with till(database_url, monkeypatch, refusal(503)) as t, stub_provider(text("done")) as elsewhere:
        guarded(t, 1)
        models = [
            OpenAIChatModel("m", provider=OpenAIProvider(base_url=at))
            for at in (t.provider.base_url, elsewhere.base_url)
        ]
        agent: Agent[Any, str] = Agent(FallbackModel(*models))

        async def twice(ctx: AgentContext) -> None:
            await ctx.run_agent(agent, "one")
            await ctx.run_agent(agent, "two")

        assert (await t.attempt(twice)).outcome is Outcome.SUCCEEDED
        assert (t.requests, len(elsewhere.requests)) == (1, 2)


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


async def streams(ctx: AgentContext) -> str:
    agent: Agent[Any, str] = Agent()
    async with ctx.durable(agent).run_stream("go on") as streamed:
        return await streamed.get_output()


@pytest.mark.parametrize("made", [Agent, lambda: Agent(chain()), lambda: streams], ids=["one", "chain", "stream"])
async def test_a_model_that_hangs_opens_its_circuit(
    database_url: str, monkeypatch: pytest.MonkeyPatch, made: Callable[[], Any]
) -> None:
    """Fails if the guard does not know a request that pydantic-ai has ended for being too long: each delivery would use
    up its attempts. Fails if what is done with a budget meanwhile makes another error of it."""
    budgets = [Budget(requests=100, per="day")]
    end = asyncio.Event()
    async with till(database_url, monkeypatch) as t:
        agent = made()
        t.provider.script = [stream("well ", end) if agent is streams else silence(end)]
        guarded(t)
        t.models.timeout_s = 0.6
        assert (await t.attempt(agent, budgets=budgets)).outcome is Outcome.RETRY
        asked = 2 * t.requests
        for _ in range(2):
            parked = await t.attempt(agent, budgets=budgets)
            assert parked.outcome is Outcome.WAITING
            assert parked.wait is not None
            assert "timed out after 0.6 seconds" in parked.wait.reason
        assert t.requests == asked
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        end.set()


@pytest.mark.parametrize(("enough_s", "outcome"), [(0.01, Outcome.WAITING), (30, Outcome.RETRY)])
async def test_a_run_whose_time_is_over_has_waited_long_enough_for_its_model_or_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch, enough_s: float, outcome: Outcome
) -> None:
    """Fails if a trigger's timeout hides that its provider hangs, so that each delivery uses up its attempts; and if
    one that is too short for any answer parks what others ask the model."""
    monkeypatch.setattr("reflex.agent.guarding.ENOUGH_S", enough_s)
    end, timeout = asyncio.Event(), timedelta(seconds=0.6)
    async with till(database_url, monkeypatch, silence(end)) as t:
        guarded(t)
        first, second = [await t.attempt(Agent(), timeout=timeout) for _ in range(2)]
        assert (first.outcome, second.outcome) == (Outcome.RETRY, outcome)
        assert "it took longer than 0:00:00.600000" in (first.error or "")
        assert (await count(t.conn, "circuit")) == (outcome is Outcome.WAITING)
        assert run_time.get() is None, "the next delivery of a lane has its own"
        end.set()


async def test_a_stream_that_comes_when_the_time_is_over_is_no_failure(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflex.agent.guarding.ENOUGH_S", 0.01)
    end = asyncio.Event()
    async with till(database_url, monkeypatch, stream("well ", end)) as t:
        guarded(t, 1)
        assert (await t.attempt(streams, timeout=timedelta(seconds=0.6))).outcome is Outcome.RETRY
        assert not await count(t.conn, "circuit")
        end.set()


async def test_who_gives_up_sooner_says_nothing_about_the_model(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if any cancellation counts: a person's, or that of the author's own time limit."""
    end = asyncio.Event()

    async def impatient(ctx: AgentContext) -> str:
        agent: Agent[Any, str] = Agent()
        with anyio.move_on_after(0.1):
            await ctx.run_agent(agent)
        return "enough"

    async with till(database_url, monkeypatch, silence(end)) as t:
        guarded(t, 1)
        t.models.timeout_s = 60
        assert (await t.attempt(impatient)).outcome is Outcome.SUCCEEDED
        assert not await count(t.conn, "circuit")
        end.set()


async def test_a_limit_of_ones_own_is_no_answer_of_the_model(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a request that was never sent counts as something that the model said: what was paid for before would be
    forgotten, and paid for again."""
    limiter = ConcurrencyLimiter.from_limit(ConcurrencyLimit(max_running=1, max_queued=0))

    async def twice(ctx: AgentContext) -> str:
        agent: Agent[Any, str] = Agent(ConcurrencyLimitedModel("openai-chat:stub", limiter=limiter))
        first = (await ctx.run_agent(agent, "one")).output
        if ctx.attempt == 1:
            await limiter.acquire("another run")
        return first + (await ctx.run_agent(agent, "two")).output

    async with till(database_url, monkeypatch, text("a"), text("b")) as t:
        guarded(t)
        assert (await t.attempt(twice)).outcome is Outcome.RETRY
        limiter.release()
        done = await t.attempt(twice)
        assert (done.outcome, done.output, t.requests) == (Outcome.SUCCEEDED, '"ab"', 2)
