"""Runs whose triggers have budgets: parked when there is nothing left, never failed, and paid for once. A real
database; a provider over HTTP that counts."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent, ApprovalRequired, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from reflex.agent import spending
from reflex.agent.budgeting import BudgetedModel
from reflex.agent.budgets import Budget, Price
from reflex.agent.context import AgentContext
from reflex.agent.effects import once
from reflex.agent.filters import any_event
from reflex.agent.spending import Spending, wait_of
from reflex.agent.suspension import Suspended
from reflex.agent.triggers import Trigger
from reflex.core.approvals import decide_approval, list_approvals
from reflex.core.budget_reads import list_budgets, raise_budget
from reflex.core.database import connect
from reflex.core.dead_letters import DeadLetterFilter, retry_dead_letters
from reflex.core.log import append
from reflex.core.queue import exchange, promote_scheduled
from reflex.core.settlement import Outcome, Settlement
from reflex.core.spending import Quantity, Refused, give_back
from reflex.core.waiting import WaitKind
from reflex.testing.plugin import MakeAppTest
from reflex.worker.progress import ProgressPublisher
from tests.agent.stub_provider import Answer, completion, refusal, silence, text, tool_call
from tests.agent.till import Till, till
from tests.processes import eventually
from tests.queue_fixtures import claim, count, new_event, publish, settled

DAY = timedelta(days=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = {"*": Price(1_000_000, 2_000_000)}  # a token of input costs 1 USD, one of output 2: a response of the stub 25


async def spent(t: Till, quantity: Quantity = Quantity.REQUESTS) -> list[tuple[Decimal, Decimal]]:
    """Spent and set aside, budget by budget."""
    cursor = await t.conn.execute(
        "SELECT spent, reserved FROM reflex.spend WHERE quantity = %s ORDER BY spend_id", (quantity,)
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def later(t: Till) -> None:
    """What was put off is due, and the windows of now are over."""
    await t.conn.execute(
        "UPDATE reflex.spend SET window_at = window_at - interval '1 day', ends_at = ends_at - interval '1 day' "
        "WHERE ends_at IS NOT NULL"
    )
    await promote_scheduled(t.conn, now=datetime.now(UTC) + DAY)


def parked(settlement: Settlement) -> str:
    """The reason why it is."""
    assert settlement.outcome is Outcome.WAITING, settlement
    assert settlement.wait is not None
    assert settlement.wait.kind is WaitKind.BUDGET
    return settlement.wait.reason


def stock_agent(counted: Counter[str]) -> Agent[Any, Any]:
    agent = Agent()

    @agent.tool_plain
    def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        counted[sku] += 1
        return 7

    return agent


def calls(sku: str) -> Answer:
    return tool_call("stock", {"sku": sku})


async def test_a_run_that_may_not_ask_is_parked_and_goes_on_from_its_journal(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first request and its tool call are neither made nor paid for again when the window opens.

    Fails if a replayed request is counted: the second window would be used up by it. Fails if the budget is around
    the journal instead of inside of it."""
    counted: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls("A"), text("ship it")) as t:
        agent, budgets = stock_agent(counted), [Budget(requests=1, per="day")]
        first = await t.attempt(agent, budgets=budgets)
        reason = parked(first)
        assert reason.startswith(
            "the budget of 1 requests a day of trigger 'pack' is used up: 1 requests spent; opens at"
        )
        assert first.wait is not None
        assert timedelta(0) < first.wait.at_most <= timedelta(hours=1, minutes=1)
        assert (await spent(t), t.requests, await count(t.conn, "reservation")) == ([(1, 0)], 1, 0)
        await promote_scheduled(t.conn, now=datetime.now(UTC) + DAY)
        parked(await t.attempt(agent, budgets=budgets))  # it looks too early, and nothing is lost
        await later(t)
        done = await t.attempt(agent, budgets=budgets)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"ship it"')
        assert (await spent(t), t.requests, counted) == ([(1, 0), (1, 0)], 2, {"A": 1})


async def test_a_request_that_fails_costs_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without give_back in BudgetedModel: the retry would wait for the failed request to end."""
    async with till(database_url, monkeypatch, refusal(429), text("ship it")) as t:
        budgets = [Budget(requests=1, per="run"), Budget(tokens=100_000, per="day")]
        assert (await t.attempt(Agent(), budgets=budgets)).outcome is Outcome.RETRY
        assert (await spent(t), await spent(t, Quantity.TOKENS)) == ([(0, 0)], [(0, 0)])
        assert (await t.attempt(Agent(), budgets=budgets)).outcome is Outcome.SUCCEEDED
        assert (await spent(t), await spent(t, Quantity.TOKENS)) == ([(1, 0)], [(18, 0)])


async def test_a_run_is_all_attempts_and_a_person_can_allow_it_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if each attempt has a budget of its own, and if a run that has no window waits for one."""
    async with till(database_url, monkeypatch, calls("A"), refusal(500), text("ship it")) as t:
        agent, budgets = stock_agent(Counter()), [Budget(requests=1, per="run")]
        reason = parked(await t.attempt(agent, budgets=budgets))
        (budget,) = await list_budgets(t.conn)
        assert reason.endswith(f"a person can raise it: reflex budgets raise {budget.id} AMOUNT")
        assert (await raise_budget(t.conn, budget.id, Decimal(1))).due == 1
        assert (await t.attempt(agent, budgets=budgets)).outcome is Outcome.RETRY, "the provider failed"
        assert (await t.attempt(agent, budgets=budgets)).outcome is Outcome.SUCCEEDED
        assert await spent(t) == [(2, 0)]


async def test_a_budget_that_ends_the_delivery(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the failure is tried again by the policy. Retried by a person, once it may, it goes on."""
    async with till(database_url, monkeypatch, calls("A"), text("ship it")) as t:
        agent, budgets = stock_agent(Counter()), [Budget(requests=1, per="run", when_spent="dead")]
        dead = await t.attempt(agent, budgets=budgets)
        assert (dead.outcome, dead.reason, dead.forget_steps) == (Outcome.DEAD, "budget", False)
        assert "the budget of 1 requests a run of trigger 'pack' is used up" in (dead.error or "")


async def test_what_it_costs_is_what_was_declared(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """18 tokens, of which 11 cost a dollar and 7 two. Fails if the estimate is counted, or the reservation kept; and if
    what is left is less than a request may cost it is not made."""
    async with till(database_url, monkeypatch, calls("A"), text("ship it")) as t:
        budgets = [Budget(usd=150, per="day", prices=PRICES), Budget(tokens=10_000, per="day")]
        settings = ModelSettings(max_tokens=40)
        agent = Agent(model_settings=settings)

        @agent.tool_plain
        def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
            return 7

        reason = parked(await t.attempt(agent, budgets=[*budgets[1:], Budget(usd=100, per="day", prices=PRICES)]))
        assert "25 USD spent, and the next call may take" in reason
        assert (await spent(t, Quantity.USD), await spent(t, Quantity.TOKENS)) == ([(25, 0)], [(18, 0)])
        await promote_scheduled(t.conn, now=datetime.now(UTC) + DAY)
        assert (await t.attempt(agent, budgets=budgets)).outcome is Outcome.SUCCEEDED, "more is allowed by now"
        assert (await spent(t, Quantity.USD), await spent(t, Quantity.TOKENS)) == ([(50, 0)], [(36, 0)])


async def test_a_provider_that_does_not_say_is_taken_at_the_estimate(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if what was not measured counts as nothing: such a model would have no limit."""
    silent = completion({"role": "assistant", "content": "ship it"}, "stop")

    async def unmeasured() -> Any:
        response = await silent()
        response.body = bytes(response.body).replace(b'"usage"', b'"nothing"')
        response.headers["content-length"] = str(len(response.body))
        return response

    async with till(database_url, monkeypatch, unmeasured) as t:
        agent = Agent(model_settings=ModelSettings(max_tokens=500))
        assert (await t.attempt(agent, budgets=[Budget(tokens=10_000, per="day")])).outcome is Outcome.SUCCEEDED
        ((tokens, reserved),) = await spent(t, Quantity.TOKENS)
        assert 500 < tokens < 600
        assert reserved == 0


async def test_tool_calls_are_counted_when_they_are_carried_out(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three calls two are allowed. Fails if replayed calls are counted, and if BudgetedToolset is left out of
    get_wrapper_toolset."""
    counted: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls("A"), calls("B"), calls("C"), text("ship it")) as t:
        agent = stock_agent(counted)
        reason = parked(await t.attempt(agent, budgets=[Budget(tool_calls=2, per="run")]))
        assert "the budget of 2 tool calls a run" in reason
        assert (counted, await spent(t, Quantity.TOOL_CALLS)) == ({"A": 1, "B": 1}, [(2, 0)])
        (budget,) = await list_budgets(t.conn)
        await raise_budget(t.conn, budget.id, Decimal(1))
        done = await t.attempt(agent, budgets=[Budget(tool_calls=2, per="run")])
        assert (done.outcome, counted) == (Outcome.SUCCEEDED, {"A": 1, "B": 1, "C": 1})


async def test_a_tool_that_waits_is_no_call_yet_and_one_that_fails_was_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a suspended call keeps its reservation or is counted: called again, it would find the budget used up."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def nap(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        await run.deps.sleep(0.1)
        if run.deps.attempt == 1:
            raise RuntimeError("a bug")
        return "rested"

    async with till(database_url, monkeypatch, tool_call("nap", {}), text("good morning")) as t:
        budgets = [Budget(tool_calls=2, per="run")]
        sleeps = await t.attempt(agent, budgets=budgets)
        assert sleeps.wait is not None
        assert sleeps.wait.kind is WaitKind.TIME
        assert await spent(t, Quantity.TOOL_CALLS) == [(0, 0)]
        await asyncio.sleep(0.15)
        assert (await t.attempt(agent, budgets=budgets)).outcome is Outcome.RETRY
        assert await spent(t, Quantity.TOOL_CALLS) == [(1, 0)]
        assert (await t.attempt(agent, budgets=budgets)).outcome is Outcome.SUCCEEDED
        assert await spent(t, Quantity.TOOL_CALLS) == [(2, 0)]


async def test_a_tool_that_asks_for_an_approval_is_no_call_yet(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the run comes to it, it runs up to that line. Fails if ApprovalRequired counts as a failure: the call
    that somebody has approved would find the budget used up."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def refund(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        if not run.tool_call_approved:
            raise ApprovalRequired
        return "refunded"

    async with till(database_url, monkeypatch, tool_call("refund", {}), text("done")) as t:
        options: dict[str, Any] = {"budgets": [Budget(tool_calls=1, per="run")], "approval_timeout": DAY / 48}
        for _ in range(2):  # the second one is woken too early
            assert (await t.attempt(agent, **options)).outcome is Outcome.WAITING
            assert await spent(t, Quantity.TOOL_CALLS) == [(0, 0)]
        (asked,) = (await list_approvals(t.conn, state="pending")).rows
        await decide_approval(t.conn, asked.id, approve=True, digest=asked.digest)
        assert (await t.attempt(agent, **options)).outcome is Outcome.SUCCEEDED
        assert await spent(t, Quantity.TOOL_CALLS) == [(1, 0)]


@pytest.mark.parametrize(("when_spent", "outcome"), [("wait", "waiting"), ("dead", "dead")])
async def test_a_call_that_must_not_be_repeated_and_finds_no_room_has_not_begun(
    database_url: str, monkeypatch: pytest.MonkeyPatch, when_spent: Any, outcome: str
) -> None:
    """Fails if its intent is written before there is room for it: a person would have to find out what a tool has done
    that was not called, and the delivery would wait for that beyond the window."""
    counted: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls("A"), calls("B"), text("ship it")) as t:
        options: dict[str, Any] = {
            "budgets": [Budget(tool_calls=1, per="day", when_spent=when_spent)], "effects": {"stock": once()},
        }  # fmt: skip
        agent = stock_agent(counted)
        first = await t.attempt(agent, **options)
        assert (first.outcome, counted) == (outcome, {"A": 1})
        assert "the budget of 1 tool calls a day" in (first.wait.reason if first.wait else first.error or "")
        await retry_dead_letters(t.conn, DeadLetterFilter(reason="budget"))
        await later(t)
        assert (await t.attempt(agent, **options)).outcome is Outcome.SUCCEEDED
        assert (counted, await spent(t, Quantity.TOOL_CALLS)) == ({"A": 1, "B": 1}, [(1, 0), (1, 0)])


@pytest.mark.parametrize("effects", [{}, {"stock": once()}])
async def test_a_call_does_not_wait_for_the_one_that_it_is_made_inside_of(
    database_url: str, monkeypatch: pytest.MonkeyPatch, effects: dict[str, Any]
) -> None:
    """A tool that runs an agent, and room for one call. Fails if the outer call counts as one in flight that will end:
    the inner one waits for it, is parked for seconds, and so on without an end."""
    inner, outer = stock_agent(counted := Counter()), Agent(deps_type=AgentContext)

    @outer.tool
    async def delegate(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        return (await run.deps.run_agent(inner, "look")).output

    script = (tool_call("delegate", {}), calls("A"), text("there is"), text("ship it"))
    async with till(database_url, monkeypatch, *script) as t:
        options: dict[str, Any] = {"budgets": [Budget(tool_calls=1, per="run")], "effects": effects}
        assert "is used up: 1 tool calls spent; a person can raise it" in parked(await t.attempt(outer, **options))
        (budget,) = await list_budgets(t.conn)
        await raise_budget(t.conn, budget.id, Decimal(1))
        assert (await t.attempt(outer, **options)).outcome is Outcome.SUCCEEDED
        assert (counted, await spent(t, Quantity.TOOL_CALLS)) == ({"A": 1}, [(2, 0)])


async def test_a_run_does_not_wait_for_a_call_that_it_has_cancelled_itself(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An author's own time limit for a part of a run. Fails if what was set aside stays until the lease ends: the run
    is parked, cancels the same call again when it goes on, and so on without an end."""
    never = asyncio.Event()
    async with till(database_url, monkeypatch, silence(never), text("quick")) as t:

        async def act(ctx: AgentContext) -> str:
            slow = asyncio.ensure_future(ctx.run_agent(Agent(), "slow"))
            await eventually(lambda: t.requests == 1, what="the request that is cancelled")
            slow.cancel()
            await asyncio.wait([slow])
            return (await ctx.run_agent(Agent(), "fast")).output

        try:
            done = await t.attempt(act, budgets=[Budget(requests=1, per="run")])
        finally:
            never.set()
        assert (done.outcome, done.output, await spent(t)) == (Outcome.SUCCEEDED, '"quick"', [(1, 0)])


async def test_a_tree_of_events_is_stopped_at_its_budget(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run asks once and publishes the event that causes the next. Fails if the tree is not told by its root: each
    event would have a budget of its own, and the chain would go on to the limit of its depth."""
    agent, budgets = Agent(), [Budget(requests=3, per="tree")]

    async def echoes(ctx: AgentContext) -> None:
        await ctx.run_agent(agent)
        await ctx.publish("order.created", {"again": True})

    async with till(database_url, monkeypatch, text("go on")) as t:
        outcomes = [(await t.attempt(echoes, budgets=budgets)).outcome for _ in range(4)]
        assert outcomes == [Outcome.SUCCEEDED] * 3 + [Outcome.WAITING]
        assert (t.requests, await spent(t)) == (3, [(3, 0)])
        await publish(t.conn)  # the root of another tree
        assert (await t.attempt(echoes, budgets=budgets)).outcome is Outcome.SUCCEEDED
        assert await spent(t) == [(3, 0), (1, 0)]


async def test_each_key_has_a_budget_and_events_without_one_share_theirs(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if keys share a budget, and if an event without a key has no limit."""
    async with till(database_url, monkeypatch, text("yes")) as t:
        budgets = [Budget(requests=1, per="key", window=DAY)]
        assert (await t.attempt(Agent(), budgets=budgets)).outcome is Outcome.SUCCEEDED
        for key, outcome in (("a", "succeeded"), ("b", "succeeded"), ("a", "waiting"), (None, "waiting")):
            await append(t.conn, [new_event(key=key)])
            _, lease = await t.claimed()
            settlement = await t.attempts(Agent(), budgets=budgets)(lease)
            await exchange(t.conn, worker_id=lease.event_id, settlements=[settlement], trigger_ids=[], limit=0)
            assert settlement.outcome == outcome, key
            await t.conn.execute("DELETE FROM reflex.scheduled")


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_budget_of_each_key_is_of_the_keys_of_its_trigger(reflex_app: MakeAppTest, *, ordered: bool) -> None:
    """A key below the payload. Fails if the event's own key counts, which is none here: then all share one budget, and
    b finds it used up. And if a raise wakes by the event's own: nobody, or a and b."""
    budget = Budget(requests=1, per="key", window=DAY)
    trigger = Trigger("t", any_event(), Agent(), ordered=ordered, key="payload.customer", budgets=[budget])
    async with reflex_app([trigger]) as t, await connect(t.database_url, name="t") as conn:
        for customer in ("a", "a", "b", "b"):
            await t.publish("asked", {"customer": customer})
        await t.run()
        assert sorted(t.runs.outcomes) == ["succeeded", "succeeded", "waiting", "waiting"]
        a, b = sorted(await list_budgets(conn), key=lambda row: row.subject)
        assert (a.subject, a.spent, b.subject, b.spent) == ("a", 1, "b", 1)
        assert (await raise_budget(conn, b.id, Decimal(1))).due == 1
        await t.run()
        assert t.runs.outcomes.count("succeeded") == 3


async def test_a_run_waits_in_its_slot_for_calls_in_flight(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at once, and tokens for what one of them may take: the second is made when the first turns out to be
    small. Fails if a budget that is only set aside counts as used up: the second run would be parked until tomorrow."""
    first = asyncio.Event()

    async def slow() -> Any:
        await first.wait()
        return await text("slow")()

    async with till(database_url, monkeypatch, slow, text("quick")) as t:
        worker_id, lease = await t.claimed()
        await publish(t.conn)
        (second,) = await claim(t.conn, worker_id, list(t.registered.trigger_ids.values()))
        agent = Agent(model_settings=ModelSettings(max_tokens=900))
        attempts = t.attempts(agent, budgets=[Budget(tokens=1500, per="day")])
        runs = [asyncio.create_task(attempts(lease))]
        await eventually(lambda: t.requests == 1, what="the first request")
        runs.append(asyncio.create_task(attempts(second)))
        await asyncio.sleep(0.5)
        assert t.requests == 1
        first.set()
        assert [run.outcome for run in await asyncio.gather(*runs)] == [Outcome.SUCCEEDED] * 2
        assert await spent(t, Quantity.TOKENS) == [(36, 0)]


async def test_a_run_that_waits_long_for_calls_in_flight_gives_its_slot_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For seconds, not until the window opens. Fails if the patience has no end."""
    monkeypatch.setattr("reflex.agent.spending.PATIENCE_S", 0.3)
    never = asyncio.Event()

    async def silent() -> Any:
        await never.wait()
        return await text("late")()

    async with till(database_url, monkeypatch, silent, text("quick")) as t:
        worker_id, lease = await t.claimed()
        await publish(t.conn)
        (second,) = await claim(t.conn, worker_id, list(t.registered.trigger_ids.values()))
        attempts = t.attempts(Agent(), budgets=[Budget(requests=1, per="day")])
        run = asyncio.create_task(attempts(lease))
        await eventually(lambda: t.requests == 1, what="the first request")
        try:
            async with asyncio.timeout(20):
                settlement = await attempts(second)
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            never.set()
        assert "is set aside for calls in flight: 0 requests spent, 1 set aside" in parked(settlement)
        assert settlement.wait is not None
        assert timedelta(seconds=1) < settlement.wait.at_most <= timedelta(seconds=10)
        assert await spent(t) == [(0, 1)], "a run that was cancelled leaves it to who gives back"
        await exchange(t.conn, worker_id=worker_id, settlements=[settled(lease)], trigger_ids=[], limit=0)
        assert await give_back(t.conn, limit=10) == 1
        assert await spent(t) == [(0, 0)]


async def test_what_is_streamed_to_the_authors_code_is_counted_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without request_stream in BudgetedModel."""
    seen: list[Any] = []

    async def watch(run: Any, events: Any) -> None:
        seen.extend([event async for event in events])

    async def streams(ctx: AgentContext) -> str:
        return (await ctx.run_agent(Agent(), event_stream_handler=watch)).output

    async with till(database_url, monkeypatch, text("ship it")) as t:
        done = await t.attempt(streams, budgets=[Budget(requests=5, per="day"), Budget(tokens=9000, per="day")])
        assert (done.output, bool(seen)) == ('"ship it"', True)
        assert (await spent(t), await spent(t, Quantity.TOKENS)) == ([(1, 0)], [(18, 0)])


async def test_an_agent_that_a_tool_runs_is_charged_to_the_same_budgets(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if only the outermost agent has the budgets of its trigger."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def asks(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        return (await run.deps.run_agent(Agent(name="inner"), "what now?")).output

    async with till(database_url, monkeypatch, tool_call("asks", {}), text("inner"), text("outer")) as t:
        done = await t.attempt(agent, budgets=[Budget(requests=9, per="tree")])
        assert (done.output, await spent(t)) == ('"outer"', [(3, 0)])


async def test_a_trigger_without_budgets_asks_the_database_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if every run gets a Spending, and what counts nothing is wrapped all the same."""

    async def refuses(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr(spending, "reserve", refuses)
    monkeypatch.setattr(spending, "settle_spend", refuses)
    async with till(database_url, monkeypatch, calls("A"), text("ship it")) as t:
        assert (await t.attempt(stock_agent(Counter()))).outcome is Outcome.SUCCEEDED
        assert (await count(t.conn, "spend"), await count(t.conn, "reservation")) == (0, 0)


async def test_a_model_that_is_chosen_in_the_run_needs_a_price_as_well(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent function's agents are not known when the app is loaded. Fails if such a request is free; if each attempt
    ends like this until none is left; and if a person's retry pays for what was paid before."""
    priced, unpriced = Agent(), Agent(FunctionModel(unknown, model_name="new"))

    async def function(ctx: AgentContext) -> str:
        first = await ctx.run_agent(priced)
        return f"{first.output}, {(await ctx.run_agent(unpriced)).output}"

    async with till(database_url, monkeypatch, text("ship it")) as t:
        prices = {"openai:stub": Price(3, 15)}
        dead = await t.attempt(function, budgets=[Budget(usd=5, per="day", prices=prices)])
        assert (dead.outcome, dead.reason) == (Outcome.DEAD, "unpriced_model")
        assert "needs the price of the model 'function:new', which is not known; declare it" in (dead.error or "")
        await retry_dead_letters(t.conn, DeadLetterFilter(reason="unpriced_model"))
        done = await t.attempt(function, budgets=[Budget(usd=5, per="day", prices={**prices, "new": Price(1, 1)})])
        assert (done.output, t.requests) == ('"ship it, yes"', 1)


async def unknown(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse([TextPart("yes")])


def says_no(response: ModelResponse) -> bool:
    return response.text == "no"


async def test_what_a_fallback_did_not_take_is_paid_for_as_well(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first model's response is rejected, the second's taken. Fails if only the second is counted."""
    async with till(database_url, monkeypatch, text("no"), text("yes")) as t:
        one = t.models.named("openai-chat:stub")
        model = FallbackModel(one, one, fallback_on=says_no)
        budgets = [Budget(tokens=9000, per="day"), Budget(usd=999_999, per="day", prices=PRICES)]
        done = await t.attempt(Agent(model), budgets=budgets)
        assert (done.output, t.requests) == ('"yes"', 2)
        assert (await spent(t, Quantity.TOKENS), await spent(t, Quantity.USD)) == ([(36, 0)], [(50, 0)])


async def answers(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse([TextPart("done")], usage=RequestUsage(input_tokens=11, output_tokens=7))


async def test_what_follows_up_a_response_is_never_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of budgets that are used up, one by more than there was: the response that the provider still works on would be
    lost, and was paid for. Its tokens count, and it is no request of its own. Fails without `force`."""
    async with till(database_url, monkeypatch) as t:
        _, lease = await t.claimed()
        budgets = [Budget(requests=1, per="run"), Budget(tokens=10, per="run")]
        model = BudgetedModel(FunctionModel(answers), Spending(t.steps, lease, "pack", budgets))
        asked: list[ModelMessage] = [ModelRequest([UserPromptPart("ship?")])]
        begun = await model.request(asked, None, ModelRequestParameters())
        with pytest.raises(Suspended):
            await model.request(asked, None, ModelRequestParameters())
        await model.request([*asked, begun], None, ModelRequestParameters())
        assert (await spent(t), await spent(t, Quantity.TOKENS)) == ([(1, 0)], [(36, 0)])


async def test_a_request_that_somebody_watches_is_one(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked streaming, and in vain if the provider cannot. Fails if what is watched goes around the budget."""
    async with till(database_url, monkeypatch, refusal(400, "cannot stream"), text("ship it")) as t:
        t.audience = publisher = ProgressPublisher(database_url)
        publisher.watch()
        try:
            done = await t.attempt(Agent(), budgets=[Budget(requests=1, per="run"), Budget(tokens=2000, per="run")])
        finally:
            await publisher.aclose()
        assert (done.output, t.requests) == ('"ship it"', 2)
        assert (await spent(t), await spent(t, Quantity.TOKENS)) == ([(1, 0)], [(18, 0)])


def test_what_is_parked_until_the_same_moment_comes_back_spread_and_soon() -> None:
    """Fails without the jitter, and if it grows with the window without an end."""
    opens = timedelta(minutes=30)
    refused = Refused(0, 1, Decimal(5), Decimal(0), Decimal(5), Decimal(1), NOW + opens, NOW)
    for budget, longest in (
        (Budget(usd=5, per="day"), timedelta(minutes=1)),
        (Budget(usd=5, per="trigger", window=timedelta(seconds=100)), timedelta(seconds=5)),
    ):
        waits = [wait_of(budget, refused) - opens for _ in range(1000)]
        assert timedelta(0) <= min(waits) < longest * 0.05
        assert longest * 0.95 < max(waits) <= longest
    never = refused._replace(opens_at=None)
    assert timedelta(hours=1) <= wait_of(Budget(usd=5, per="run"), never) <= timedelta(hours=1, minutes=1)
