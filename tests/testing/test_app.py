"""An app on trial: real routing, claims and settling, on a database of the test's own."""

import asyncio
from datetime import timedelta
from typing import Any, Literal

import psycopg
import pytest
from pydantic import field_validator
from pydantic_ai import Agent

from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event, keyword_filter, type_filter
from reflex.agent.signals import Reject, Retry
from reflex.agent.triggers import Trigger
from reflex.core.errors import AppError, EventRejected
from reflex.core.events import BaseEvent, EventRegistry
from reflex.core.retry import RetryPolicy
from reflex.core.rows import DeliveryRow
from reflex.testing.model import call
from reflex.testing.plugin import MakeAppTest
from reflex.testing.worker import Endless
from tests.agent.stub_provider import stub_provider
from tests.processes import eventually


class Sold(BaseEvent):
    type: Literal["shop.sold"] = "shop.sold"
    item: str
    price: float

    @field_validator("item")
    @classmethod
    def in_stock(cls, item: str) -> str:
        if item == "unicorn":
            raise ValueError("there are none")
        return item


class Packed(BaseEvent):
    type: Literal["shop.packed"] = "shop.packed"
    item: str


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventRegistry, "classes", {"shop.sold": Sold, "shop.packed": Packed})


async def pack(ctx: AgentContext) -> str:
    assert isinstance(ctx.event, Sold)
    await ctx.publish(Packed(item=ctx.event.item))
    return "packed"


async def refuse(ctx: AgentContext) -> None:
    raise Reject("not today")


async def test_what_runs_publish_is_worked_off_too(reflex_app: MakeAppTest) -> None:
    """Fails with: a turn that ends the work although the settling before it made deliveries; replies among what was
    published."""

    async def ship(ctx: AgentContext) -> dict[str, Any]:
        return {"shipped": ctx.key}

    shop = [Trigger("pack", type_filter("shop.sold"), pack), Trigger("ship", type_filter("shop.packed"), ship)]
    async with reflex_app(shop) as t:
        sold = await t.publish(Sold(item="mug", price=8), key="k1")
        assert (t.runs, sold.meta and sold.meta.source) == ((), "http")
        await t.run()
        assert t.runs.outcomes == ["succeeded", "succeeded"]
        (shipped,) = t.runs.of("ship")
        assert (shipped.output, shipped.attempt, shipped.error, shipped.usage) == ({"shipped": "k1"}, 1, None, None)
        assert shipped.event == Packed(item="mug")
        assert t.published.of(Packed) == [Packed(item="mug")]
        assert t.published.types == ["shop.packed"]
        assert t.events.types == ["shop.sold", "shop.packed", "reflex.reply", "reflex.reply"]
        assert "ship: succeeded, attempt 1, shop.packed -> {'shipped': 'k1'}" in repr(t.runs)
        assert "<shop.packed from agent:pack key='k1' {'item': 'mug'}>" in repr(t.published)


async def test_an_output_is_shown_as_it_is_kept(reflex_app: MakeAppTest) -> None:
    """Also what no event may hold. Fails if it is read as the body of a request is."""

    async def counts(ctx: AgentContext) -> dict[str, int]:
        return {"atoms": 2**70}

    async with reflex_app([Trigger("counts", any_event(), counts)]) as t:
        await t.publish("order")
        await t.run()
        assert t.runs[0].output == {"atoms": 2**70}


async def test_deliveries_and_dead_letters_say_where_they_are(reflex_app: MakeAppTest) -> None:
    shop = [
        Trigger("dear", type_filter("shop.sold") & keyword_filter("price", lambda price: price > 100), pack),
        Trigger("never", type_filter("shop.sold"), refuse),
    ]
    async with reflex_app(shop) as t:
        sold = await t.publish("shop.sold", {"item": "mug", "price": 8})
        await t.run()
        states = {delivery.trigger: delivery.state for delivery in await t.deliveries(sold)}
        assert states == {"dear": "skipped", "never": "dead"}
        (dead,) = t.dead_letters
        assert (dead.trigger, dead.reason, dead.event) == ("never", "rejected", sold)
        assert "not today" in repr(t.dead_letters)
        with pytest.raises(ValueError, match="use what publish"):
            await t.deliveries(Sold(item="mug", price=8))


@pytest.mark.parametrize(
    ("arguments", "fields", "field"),
    [
        (("shop.sold", {"item": "mug", "price": "8"}), {}, "/payload/price"),
        (("shop.sold", {"item": "mug"}), {}, "/payload/price"),
        (("shop sold", {}), {}, "/type"),
        (("shop.opened", {}), {"key": ""}, "/key"),
        (("shop.opened", {}), {"delay": -1}, "/delay"),
        (("reflex.reply", {}), {}, "/type"),
    ],
)
async def test_an_event_that_a_gateway_refuses_is_refused(
    reflex_app: MakeAppTest, arguments: tuple[Any, ...], fields: dict[str, Any], field: str
) -> None:
    """Fails with: payloads read by the class's lax rules ("8" becomes a number); events appended unchecked."""
    async with reflex_app([Trigger("all", any_event(), refuse)]) as t:
        with pytest.raises(EventRejected) as e:
            await t.publish(*arguments, **fields)
        assert e.value.field == field
        assert t.events == ()


async def test_what_only_the_class_refuses_is_a_dead_letter_as_in_production(reflex_app: MakeAppTest) -> None:
    """A gateway knows the JSON Schema, and no validators. Fails if publish() runs these."""
    async with reflex_app([Trigger("pack", type_filter("shop.sold"), pack)]) as t:
        await t.publish("shop.sold", {"item": "unicorn", "price": 1})
        await t.run()
        assert [(dead.reason, dead.event.type) for dead in t.dead_letters] == [("event_rejected", "shop.sold")]


async def test_the_same_id_is_the_same_event(reflex_app: MakeAppTest) -> None:
    async with reflex_app([Trigger("pack", type_filter("shop.sold"), pack)]) as t:
        first = await t.publish(Sold(item="mug", price=8), id="o1")
        assert (await t.publish(Sold(item="jug", price=9), id="o1")).meta == first.meta
        await t.run()
        assert len(t.runs) == 1


async def test_each_app_has_a_database_of_its_own_of_which_nothing_is_left(reflex_app: MakeAppTest) -> None:
    """Fails with: one database for both; neither a drop nor an emptying at the end."""
    shop = [Trigger("pack", type_filter("shop.sold"), pack)]
    async with reflex_app(shop) as one, reflex_app(shop) as other:
        await one.publish(Sold(item="mug", price=8))
        await other.run()
        await one.run()
        assert (len(one.runs), len(other.runs)) == (1, 0)

    async def is_gone() -> bool:
        try:
            with psycopg.connect(one.database_url) as conn:
                return conn.execute("SELECT EXISTS (SELECT FROM reflex.run)").fetchone() == (False,)
        except psycopg.OperationalError as error:
            return "does not exist" in str(error)

    await eventually(is_gone)


async def test_ordered_deliveries_run_one_after_the_other(reflex_app: MakeAppTest) -> None:
    """With four slots. Fails if the worker is not told which triggers are ordered: then it claims none of these."""
    seen: list[tuple[str | None, str]] = []

    async def note(ctx: AgentContext) -> None:
        assert isinstance(ctx.event, Packed)
        seen.append((ctx.key, f"{ctx.event.item} begins"))
        await asyncio.sleep(0.01)
        seen.append((ctx.key, f"{ctx.event.item} ends"))

    async with reflex_app([Trigger("note", any_event(), note, ordered=True)], concurrency=4) as t:
        for item in ("1", "2"):
            for key in ("a", "b"):
                await t.publish(Packed(item=item), key=key)
        await t.run()
        for key in ("a", "b"):
            steps = [step for of, step in seen if of == key]
            assert steps == ["1 begins", "1 ends", "2 begins", "2 ends"]


async def test_an_ordered_delivery_that_is_due_at_once_is_run(reflex_app: MakeAppTest) -> None:
    """Fails if what a run puts off by no time is left for the next call."""

    async def agent(ctx: AgentContext) -> int:
        if ctx.attempt == 1:
            raise Retry(after=0)
        return ctx.attempt

    async with reflex_app([Trigger("twice", any_event(), agent, ordered=True)]) as t:
        await t.publish("order", key="a")
        await t.run()
        assert t.runs.outcomes == ["retry", "succeeded"]


async def test_a_retry_takes_from_the_journal_what_was_done(reflex_app: MakeAppTest) -> None:
    """Fails with: attempts without a step store."""
    agent = Agent()

    @agent.tool_plain
    def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        return 7

    async def fails_once(ctx: AgentContext) -> str:
        result = await ctx.run_agent(agent)
        if ctx.attempt == 1:
            raise RuntimeError("a bug")
        return result.output

    async with reflex_app([Trigger("check", any_event(), fails_once)]) as t:
        t.model.answers([call("stock", sku="A"), "ship it"])
        await t.publish("shop.opened")
        await t.run()
        await t.clock.advance(timedelta(minutes=1))
        assert t.runs.outcomes == ["retry", "succeeded"]
        assert (t.runs[1].output, len(t.model.requests)) == ("ship it", 2)
        assert [(done.name, done.arguments) for done in t.tool_calls] == [("stock", '{"sku":"A"}')]
        assert (t.runs[1].usage or {})["replayed_requests"] == 2


async def test_no_agent_reaches_a_provider(reflex_app: MakeAppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that names a model, nor one that is run past Reflex. Fails with: the app's own models; requests
    allowed."""
    async with stub_provider() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-stub-1234567890")
        agent = Agent("openai-chat:gpt-5")

        async def past_reflex(ctx: AgentContext) -> str:
            return (await agent.run("hello")).output

        once = RetryPolicy(max_attempts=1)
        app = [Trigger("named", any_event(), agent), Trigger("past", any_event(), past_reflex, retry=once)]
        async with reflex_app(app) as t:
            await t.publish("shop.opened")
            await t.run()
            assert t.runs.of("named")[0].output == "offline model: shop.opened received"
            assert "Model requests are not allowed" in (t.dead_letters[0].error or "")
        assert provider.requests == []


async def test_a_run_that_does_not_end_is_named(reflex_app: MakeAppTest) -> None:
    async def hangs(ctx: AgentContext) -> None:
        await asyncio.Event().wait()

    async with reflex_app([Trigger("hangs", any_event(), hangs)], timeout_s=0.3) as t:
        await t.publish("shop.opened")
        with pytest.raises(Endless, match=r"after 0\.3 s a run of hangs has not ended"):
            await t.run()


@pytest.mark.parametrize(
    ("app", "error", "sentence"),
    [
        ([], AppError, "the list has no trigger"),
        (42, TypeError, "the app is 42; pass its module"),
        ("no.such.app", AppError, "there is no module 'no.such.app'"),
    ],
)
async def test_what_is_no_app_is_refused(
    reflex_app: MakeAppTest, app: Any, error: type[Exception], sentence: str
) -> None:
    """And the report of the failed test says so. Fails with: a story that is told of an app that is not there."""
    test = reflex_app(app)
    with pytest.raises(error, match=sentence):
        async with test:
            pass
    assert test.story() == "the app did not start"


def states_of(deliveries: list[DeliveryRow]) -> list[str]:
    return [delivery.state for delivery in deliveries]


async def test_a_run_that_waits_goes_on_when_the_time_has_come(reflex_app: MakeAppTest) -> None:
    """Fails with: a clock that clock_timestamp() does not follow (it suspends again)."""

    async def nap(ctx: AgentContext) -> str:
        await ctx.sleep(timedelta(hours=1))
        return "awake"

    async with reflex_app([Trigger("nap", any_event(), nap)]) as t:
        event = await t.publish("shop.opened")
        await t.clock.advance(timedelta(minutes=59))
        assert (t.runs.outcomes, states_of(await t.deliveries(event))) == (["waiting"], ["waiting"])
        await t.clock.advance(timedelta(minutes=1))
        assert (t.runs.outcomes, t.runs[1].output) == (["waiting", "succeeded"], "awake")
