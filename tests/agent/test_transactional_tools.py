"""Tools whose writes commit with the record of their call. A real database, with a table of the application's."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext

from reflex.agent.context import AgentContext
from reflex.agent.effects import EffectMisuse, transactional
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import Till, till

ADD = tool_call("add", {"amount": 5})


@pytest.fixture
async def ledger(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Till]:
    async with till(database_url, monkeypatch, ADD, text("booked")) as t:
        await t.conn.execute("CREATE TABLE booked (amount int)")
        yield t


async def booked(t: Till) -> list[int]:
    return [row[0] for row in await (await t.conn.execute("SELECT amount FROM booked")).fetchall()]


def adding(then: Any = None) -> Agent[AgentContext, str]:
    """An agent that books; `then` is what happens after the insert, in each call."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool(metadata=transactional())
    async def add(run: RunContext[AgentContext], amount: int) -> Any:  # pyright: ignore[reportUnusedFunction]
        await run.deps.connection.execute("INSERT INTO booked VALUES (%s)", (amount,))
        await run.deps.publish("order.booked", {"amount": amount})
        return await then() if then is not None else "booked"

    return agent


def failing_once(agent: Agent[Any, Any]) -> Any:
    async def function(ctx: AgentContext) -> str:
        output = (await ctx.run_agent(agent)).output
        if ctx.attempt == 1:
            raise RuntimeError("a bug")
        return output

    return function


async def test_writes_and_record_are_there_together_and_once(ledger: Till) -> None:
    """Fails if the record is written over another connection after the commit, or not at all (booked twice)."""
    function = failing_once(adding())
    assert (await ledger.attempt(function)).outcome is Outcome.RETRY
    assert (await booked(ledger), await ledger.journaled()) == ([5], 3)
    second = await ledger.attempt(function)
    assert (second.outcome, await booked(ledger)) == (Outcome.SUCCEEDED, [5])
    assert [event.type for event in second.published] == ["order.booked", "reflex.reply"]


async def test_a_tool_that_fails_has_written_nothing(ledger: Till) -> None:
    """Fails if the tool's connection commits by itself."""
    seen: list[int] = []

    async def then() -> str:
        seen.append(1)
        if len(seen) == 1:
            raise RuntimeError("a bug")
        return "booked"

    assert (await ledger.attempt(adding(then))).outcome is Outcome.RETRY
    assert await booked(ledger) == []
    assert (await ledger.attempt(adding(then))).outcome is Outcome.SUCCEEDED
    assert await booked(ledger) == [5]


async def test_that_the_model_is_to_try_again_is_recorded_and_nothing_is_written(ledger: Till) -> None:
    """Fails if ModelRetry is not recorded (the replay books), or if its writes are kept."""
    ledger.provider.script = [ADD, ADD, text("booked")]
    calls: list[int] = []

    async def then() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ModelRetry("say when")
        return "booked"

    function = failing_once(adding(then))
    assert (await ledger.attempt(function)).outcome is Outcome.RETRY
    assert (await ledger.attempt(function)).outcome is Outcome.SUCCEEDED
    assert (await booked(ledger), len(calls), ledger.requests) == ([5], 2, 3)


async def test_a_worker_that_lost_its_lease_commits_nothing(ledger: Till) -> None:
    """Fails if the writes are committed without the fence: both workers would book."""
    _, lease = await ledger.claimed()

    async def then() -> str:
        await ledger.taken_away()
        return "booked"

    assert (await ledger.attempts(adding(then))(lease)).outcome is Outcome.RELEASED
    assert await booked(ledger) == []
    assert (await ledger.attempt(adding())).outcome is Outcome.SUCCEEDED
    assert await booked(ledger) == [5]


async def test_a_connection_that_breaks_is_a_failure_and_no_half_of_it_is_kept(ledger: Till) -> None:
    """Fails if a broken connection is lent again: the second attempt would fail, too."""

    async def then() -> str:
        await ledger.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'reflex transactions' "
            "AND datname = current_database()"
        )
        return "booked"

    failed = await ledger.attempt(adding(then))
    assert failed.outcome is Outcome.RETRY
    assert "journal_unavailable" in str(failed) or "JournalUnavailable" in (failed.error or "")
    assert await booked(ledger) == []
    assert (await ledger.attempt(adding())).outcome is Outcome.SUCCEEDED
    assert await booked(ledger) == [5]


async def test_a_result_that_cannot_be_kept_undoes_the_writes(ledger: Till) -> None:
    """Fails if they are committed all the same: no record would keep the next attempt from booking again."""

    async def then() -> Any:
        return object()

    dead = await ledger.attempt(adding(then))
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "effect_misuse")
    assert "nothing was committed" in (dead.error or "")
    assert await booked(ledger) == []


async def test_a_tool_that_swallowed_a_failed_statement_is_told_so(ledger: Till) -> None:
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool(metadata=transactional())
    async def add(run: RunContext[AgentContext], amount: int) -> str:  # pyright: ignore[reportUnusedFunction]
        try:
            await run.deps.connection.execute("SELECT 1 / 0")
        except Exception:  # noqa: BLE001 (an author's)
            return "booked"
        return f"{amount}"

    dead = await ledger.attempt(agent)
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "effect_misuse")
    assert "had failed" in (dead.error or "")


async def test_a_sync_tool_cannot_be_transactional(ledger: Till) -> None:
    """An agent that a function runs is not seen when the app is loaded."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool(metadata=transactional())
    def add(run: RunContext[AgentContext], amount: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return amount

    async def function(ctx: AgentContext) -> str:
        return (await ctx.run_agent(agent)).output

    dead = await ledger.attempt(function)
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "effect_misuse")
    assert "async def add" in (dead.error or "")


async def test_elsewhere_there_is_no_connection(ledger: Till) -> None:
    async def function(ctx: AgentContext) -> None:
        with pytest.raises(EffectMisuse, match="transactional"):
            await ctx.connection.execute("SELECT 1")
        assert ctx.idempotency_key == str(ctx.delivery_id)

    assert (await ledger.attempt(function)).outcome is Outcome.SUCCEEDED
