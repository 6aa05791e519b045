"""A retry that would ask the model something else than was recorded: it goes on, begins anew, or is dead. A real
database; a provider over HTTP that counts."""

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest
from pydantic_ai import Agent, RunContext
from structlog.testing import capture_logs

from reflex.agent.context import AgentContext
from reflex.agent.divergence import Diverged, diverged_of, placed, unplaced
from reflex.agent.effects import once
from reflex.agent.filters import any_event
from reflex.agent.triggers import Trigger
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import refusal, text, tool_call
from tests.agent.test_journal import failing_once, stock_agent, tool_calls
from tests.agent.till import till
from tests.processes import eventually

STOCK = tool_call("stock", {"sku": "A"})


async def test_a_dead_one_has_paid_nothing_and_keeps_its_journal(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if it is noticed at the end of the run (a third request). Put right, and retried, it goes on."""
    async with till(database_url, monkeypatch, STOCK, refusal(503), text("ship it")) as t:
        counted: Counter[str] = Counter()
        old, new = stock_agent(counted, instructions="old"), stock_agent(counted, instructions="new")
        assert (await t.attempt(old, when_diverged="dead")).outcome is Outcome.RETRY
        dead = await t.attempt(new, when_diverged="dead")
        assert (dead.outcome, dead.reason) == (Outcome.DEAD, "diverged")
        assert "recorded answers, the first of them step 0" in (dead.error or "")
        assert (t.requests, await t.journaled()) == (2, 2)
        await t.conn.execute(
            "WITH gone AS (DELETE FROM reflex.dead_letter RETURNING *) INSERT INTO reflex.delivery "
            "(trigger_id, event_id, lease_epoch) SELECT trigger_id, event_id, lease_epoch FROM gone"
        )
        assert (await t.attempt(old, when_diverged="dead")).outcome is Outcome.SUCCEEDED
        assert (t.requests, counted) == (3, {"stock A": 1})


async def test_one_that_begins_anew_forgets_its_steps_and_no_effect(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the journal is kept (it would begin anew for ever), if effects are forgotten with it (two charges), or
    if it uses up the attempt."""
    charged: list[str] = []

    def agent(instructions: str) -> Agent[AgentContext, str]:
        made: Agent[AgentContext, str] = Agent(deps_type=AgentContext, instructions=instructions)

        @made.tool(metadata=once())
        async def charge(run: RunContext[AgentContext], order: str) -> str:  # pyright: ignore[reportUnusedFunction]
            charged.append(run.deps.idempotency_key)
            return "receipt"

        return made

    charge = tool_call("charge", {"order": "A"})
    async with till(database_url, monkeypatch, charge, refusal(503), charge, text("paid")) as t:
        assert (await t.attempt(agent("old"), when_diverged="restart")).outcome is Outcome.RETRY
        with capture_logs() as lines:
            anew = await t.attempt(agent("new"), when_diverged="restart")
        assert [line["reason"] for line in lines if "begins anew" in line["event"]] == ["diverged"]
        assert (anew.outcome, t.requests, await t.journaled()) == (Outcome.RELEASED, 2, 1)
        _, lease = await t.claimed()
        assert lease.attempt == 2
        await t.taken_away()
        done = await t.attempt(agent("new"), when_diverged="restart")
        assert (done.outcome, done.output, len(charged)) == (Outcome.SUCCEEDED, '"paid"', 1)


async def test_a_divergence_after_the_first_replay_is_seen_at_the_first_request(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second agent's prompt holds the attempt. Fails if only a run's first request is judged by the whole."""
    async with till(database_url, monkeypatch, text("one"), text("two"), text("three")) as t:

        async def function(ctx: AgentContext) -> str:
            await ctx.run_agent(Agent(), "the same")
            await ctx.run_agent(Agent(), f"attempt {ctx.attempt}")
            raise RuntimeError("a bug")

        assert (await t.attempt(function, when_diverged="dead")).outcome is Outcome.RETRY
        dead = await t.attempt(function, when_diverged="dead")
        assert (dead.reason, t.requests) == ("diverged", 2)
        assert "step 1" in (dead.error or "")
        assert orjson.loads(dead.usage or "{}") == {}


async def test_an_authors_except_exception_does_not_pay_all_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if Diverged is an Exception."""
    async with till(database_url, monkeypatch, text("one"), text("two")) as t:

        async def function(ctx: AgentContext) -> str:
            for prompt in (f"attempt {ctx.attempt}", "the same"):
                try:
                    await ctx.run_agent(Agent(), prompt)
                except Exception:  # noqa: BLE001 (an author's)
                    continue
            raise RuntimeError("a bug")

        assert (await t.attempt(function, when_diverged="dead")).outcome is Outcome.RETRY
        assert (await t.attempt(function, when_diverged="dead")).reason == "diverged"
        assert t.requests == 2


async def test_going_on_where_parallel_calls_and_agents_were_cut_off_is_no_divergence(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three parallel calls is due again while the results of the others are left; of two parallel agents
    one had not been answered. Fails if every step that is left tells of a divergence."""
    counted: Counter[str] = Counter()
    calls = tool_calls({"sku": "C"}, {"sku": "A"}, {"sku": "B"})
    async with till(database_url, monkeypatch, calls, text("first"), refusal(503), text("second")) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        async def stock(run: RunContext[AgentContext], sku: str) -> str:  # pyright: ignore[reportUnusedFunction]
            counted[sku] += 1
            if sku == "C" and run.deps.attempt == 1:
                await eventually(t.has_three_steps, timeout_s=10)
                raise RuntimeError("a bug")
            return sku

        async def late(ctx: AgentContext) -> Any:
            await asyncio.sleep(0.2)
            return await ctx.run_agent(Agent(), "late")

        async def function(ctx: AgentContext) -> str:
            await ctx.run_agent(agent)
            # The first one asks first; its answer is a failure, the other one's is recorded.
            results = await asyncio.gather(ctx.run_agent(Agent(), "early"), late(ctx), return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            if failures:
                raise failures[0]
            return "done"

        assert (await t.attempt(function, when_diverged="dead")).outcome is Outcome.RETRY
        t.provider.script = [text("first"), refusal(503), text("second"), text("third")]
        cut_off = await t.attempt(function, when_diverged="dead")
        assert (cut_off.outcome, counted) == (Outcome.RETRY, {"A": 1, "B": 1, "C": 2})
        assert (await t.attempt(function, when_diverged="dead")).outcome is Outcome.SUCCEEDED


async def test_an_agent_inside_a_tool_has_a_place_of_its_own(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off inside a tool, while a later run is not begun. Fails if places are counted over the whole attempt, so
    that those of replayed tools are missing."""
    async with till(database_url, monkeypatch, *[text("x")]) as t:
        inner, outer = Agent(), Agent(deps_type=AgentContext)
        asked: Counter[str] = Counter()

        @outer.tool
        async def ask(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            asked["ask"] += 1
            return (await run.deps.run_agent(inner, "inside")).output

        async def function(ctx: AgentContext) -> str:
            await ctx.run_agent(outer)
            return (await ctx.run_agent(Agent(), "after")).output

        t.provider.script = [tool_call("ask", {}), text("inner"), text("outer"), refusal(503), text("after")]
        assert (await t.attempt(function, when_diverged="dead")).outcome is Outcome.RETRY
        done = await t.attempt(function, when_diverged="dead")
        assert (done.outcome, done.output, asked["ask"], t.requests) == (Outcome.SUCCEEDED, '"after"', 1, 5)


async def test_a_trigger_that_goes_on_records_what_it_always_did(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the place is written for those who did not ask for it. A policy that is new finds records without."""
    async with till(database_url, monkeypatch, text("one")) as t:
        function = failing_once(Agent(), RuntimeError("a bug"))
        await t.attempt(function)
        row = await (await t.conn.execute("SELECT result::text FROM reflex.step")).fetchone()
        assert row is not None
        assert row[0].startswith("[{")
        assert (await t.attempt(function, when_diverged="dead")).outcome is Outcome.SUCCEEDED
        assert t.requests == 1


def test_a_place_is_put_around_a_result_and_taken_off_again() -> None:
    for place in (None, "/1", 'a"b\\/2'):
        assert unplaced(placed('[{"a": 1}]', place)) == (place, '[{"a": 1}]')


def test_a_divergence_is_found_in_a_group() -> None:
    diverged = Diverged([1])
    assert diverged_of(BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [diverged])])) is diverged
    assert diverged_of(ValueError()) is None


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'t': when_diverged is 'stop'; it must be one of 'continue', 'restart'"):
        Trigger("t", any_event(), Agent("test"), when_diverged="stop")  # pyright: ignore[reportArgumentType]
