"""A run that sleeps holds no slot, and pays for nothing again when it goes on. A provider over HTTP that counts."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext

from reflex.agent.context import AgentContext
from reflex.agent.suspension import Suspended, wait_of
from reflex.core.settlement import Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import till
from tests.queue_fixtures import count

HOUR = timedelta(hours=1)


async def test_a_sleep_ends_the_run_and_the_next_one_goes_on_behind_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the step of the sleep is not recorded: the delivery would sleep for ever. Fails if an agent's work
    before the sleep is not replayed: two requests would become three."""
    ran: list[str] = []

    async def reminds(ctx: AgentContext) -> str:
        first = await ctx.run_agent(Agent(name="first"), "one")
        ran.append("before")
        await ctx.sleep(timedelta(milliseconds=300))
        ran.append("after")
        second = await ctx.run_agent(Agent(name="second"), "two")
        await ctx.publish("order.reminded")
        return f"{first.output} {second.output}"

    async with till(database_url, monkeypatch, text("a"), text("b")) as t:
        parked = await t.attempt(reminds)
        assert (parked.outcome, parked.published) == (Outcome.WAITING, ())
        assert parked.wait is not None
        assert parked.wait.kind is WaitKind.TIME
        assert await count(t.conn, "waiting") == 1
        early = await t.attempt(reminds)  # made due too early: it goes on sleeping
        assert early.outcome is Outcome.WAITING
        await asyncio.sleep(0.35)
        done = await t.attempt(reminds)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"a b"')
        assert [event.type for event in done.published] == ["order.reminded", "reflex.reply"]
        assert ran == ["before", "before", "before", "after"]
        assert t.requests == 2
        assert await t.journaled() == 0


async def test_a_tool_may_sleep_and_its_siblings_are_not_called_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if pydantic-ai or an author's `except Exception` took the suspension for a failure of the tool."""
    called: Counter[str] = Counter()
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def nap(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        called["nap"] += 1
        try:
            await run.deps.sleep(0.2)
        except Exception:  # noqa: BLE001 (an author's)
            return "failed"
        return "rested"

    async with till(database_url, monkeypatch, tool_call("nap", {}), text("good morning")) as t:
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        assert t.requests == 1
        await asyncio.sleep(0.25)
        done = await t.attempt(agent)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"good morning"')
        assert (t.requests, called["nap"]) == (2, 2)
        assert "rested" in str(t.provider.requests[1])


async def test_a_moment_that_is_past_is_no_wait(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(ctx: AgentContext) -> str:
        await ctx.sleep(datetime.now(UTC) - HOUR)
        return "at once"

    async with till(database_url, monkeypatch) as t:
        assert (await t.attempt(late)).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("duration", "said"),
    [
        (timedelta(days=4000), "longer than"),
        (float("inf"), "sleep(inf): longer than"),
        (float("nan"), "sleep(nan): not a number of seconds"),
        ("5", "sleep('5'): '5' is no length of time; pass a timedelta, or seconds"),
        (datetime(2026, 1, 1), "time zone"),  # noqa: DTZ001
        (datetime(2099, 1, 1, tzinfo=UTC), "days from now"),
    ],
)
async def test_a_sleep_that_makes_no_sense_is_refused(
    database_url: str, monkeypatch: pytest.MonkeyPatch, duration: Any, said: str
) -> None:
    async def sleeps(ctx: AgentContext) -> None:
        await ctx.sleep(duration)

    async with till(database_url, monkeypatch) as t:
        failed = await t.attempt(sleeps)
        assert failed.outcome is Outcome.RETRY
        assert said in (failed.error or "")


def test_of_parallel_waits_the_shortest_counts() -> None:
    """Fails if a group's failures hide that somebody waits."""
    waits = [Wait(WaitKind.TIME, "long", 2 * HOUR), Wait(WaitKind.APPROVAL, "short", HOUR)]
    group = BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [Suspended(wait) for wait in waits])])
    assert wait_of(group) == waits[1]
    assert wait_of(ExceptionGroup("", [ValueError()])) is None
