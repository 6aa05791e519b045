"""Runs that wait for events, for people and for money, in an app on trial."""

from datetime import timedelta

from pydantic_ai import Agent

from reflex.agent.budgets import Budget
from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event, type_filter
from reflex.agent.triggers import Trigger
from reflex.testing.model import call
from reflex.testing.plugin import MakeAppTest


async def ship(ctx: AgentContext) -> str:
    paid = await ctx.wait_for(type_filter("paid"), timeout=timedelta(hours=1))
    return "cancelled" if paid is None else "shipped"


async def test_a_run_goes_on_when_its_event_is_there(reflex_app: MakeAppTest) -> None:
    """Also in another worker than the one that it waited in. Fails with: a worker that does not look at the log; one
    that stops to look before the wait is settled; one that begins to with its own first wait only."""
    async with reflex_app([Trigger("ship", type_filter("ordered"), ship, ordered=True)]) as t:
        for number, key in enumerate(("A1", "A2"), 1):
            await t.publish("ordered", key=key)
            await t.run()
            if key == "A2":
                await t.kill_and_replace()
            await t.publish("paid", key=key)
            await t.run()
            assert [run.output for run in t.runs if run.outcome == "succeeded"] == ["shipped"] * number
        await t.publish("ordered", key="A3")
        await t.clock.advance(timedelta(hours=1))
        assert [run.output for run in t.runs if run.outcome == "succeeded"] == ["shipped", "shipped", "cancelled"]


async def test_a_test_decides_what_a_person_is_asked(reflex_app: MakeAppTest) -> None:
    """Fails with: approvals in the order of the newest; a decision that does not wake the run."""
    agent = Agent()

    @agent.tool_plain(requires_approval=True)
    def refund(cents: int) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"{cents} paid back"

    async with reflex_app([Trigger("refunds", type_filter("broken"), agent, approval_edits=True)]) as t:
        t.model.answers([call("refund", cents=100), call("refund", cents=200), "sorry", "done"])
        await t.publish("broken")
        await t.publish("broken")
        await t.run()
        first, second = await t.approvals()
        assert (first.arguments.value, second.arguments.value) == ({"cents": 100}, {"cents": 200})
        await t.decide(first, approve=False, reason="too late")
        await t.run()
        await t.decide(second, approve=True, arguments={"cents": 150}, by="ann")
        await t.run()
        assert [run.output for run in t.runs if run.outcome == "succeeded"] == ["sorry", "done"]
        told = [asked.tool_results["refund"] for asked in t.model.requests[2:]]
        assert told == ["The call was denied: too late", "150 paid back"]
        assert await t.approvals() == []


async def test_an_agent_with_a_budget_in_dollars_can_be_tested(reflex_app: MakeAppTest) -> None:
    """Fails with: a price asked for the model of the test."""
    priced = Agent("openai-chat:gpt-4o", defer_model_check=True)
    async with reflex_app([Trigger("priced", any_event(), priced, budgets=[Budget(usd=1, per="day")])]) as t:
        await t.publish("asked")
        await t.run()
        assert t.runs.outcomes == ["succeeded"]


async def test_a_list_of_triggers_is_cancelled_as_a_module_is(reflex_app: MakeAppTest) -> None:
    """Fails if the trigger that `cancel_on` makes is not among those of a list."""

    async def wait(ctx: AgentContext) -> None:
        await ctx.sleep(timedelta(days=1))

    async with reflex_app([Trigger("wait", type_filter("begun"), wait, cancel_on=type_filter("withdrawn"))]) as t:
        begun = await t.publish("begun", key="a")
        await t.run()
        await t.publish("withdrawn", key="a")
        await t.run()
        assert [delivery.state for delivery in await t.deliveries(begun)] == ["cancelled"]
