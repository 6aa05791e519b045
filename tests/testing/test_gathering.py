"""Stateful filters and gathering triggers in an app on trial: what is let through, what is gathered, when it runs."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pydantic_ai import Agent

from reflex.agent.context import AgentContext
from reflex.agent.filters import dedupe_filter, rate_limit_filter, type_filter
from reflex.agent.gathering import error_threshold, every_n
from reflex.agent.triggers import Trigger
from reflex.core.cancelling import cancel_delivery
from reflex.core.database import connect
from reflex.core.ids import DeliveryId
from reflex.testing.app import AppTest

MINUTE = timedelta(minutes=1)
LOGS = type_filter("log")
ReflexApp = Callable[..., AppTest]


async def numbers(ctx: AgentContext) -> list[int]:
    return [event.meta.payload["n"] for event in ctx.events if event.meta]


def trigger(filter: Any = LOGS, agent: Any = numbers, **options: Any) -> list[Trigger]:
    return [Trigger("t", filter, agent, **options)]


async def publish(t: AppTest, *ns: int, key: str = "a", **payload: Any) -> None:
    for n in ns:
        await t.publish("log", {"n": n, **payload}, key=key)


def outputs(t: AppTest) -> list[Any]:
    return [run.output for run in t.runs if run.outcome == "succeeded"]


async def test_a_rate_limit_lets_so_many_through_in_any_minute(reflex_app: ReflexApp) -> None:
    """Fails if the window is fixed instead of sliding, if keys share a limit, and if what is refused counts."""
    async with reflex_app(trigger(type_filter("log") & rate_limit_filter(2, per=MINUTE))) as t:
        await publish(t, 1, 2, 3)
        await publish(t, 4, key="b")
        await t.run()
        assert outputs(t) == [[1], [2], [4]]
        (refused,) = [run for run in t.runs if run.outcome == "skipped"]
        assert refused.error == "rate limited: 2 per 0:01:00 (key 'a')"
        await t.clock.skip(timedelta(seconds=40))
        await publish(t, 5)
        await t.run()
        await t.clock.skip(timedelta(seconds=21))
        await publish(t, 6, 7)
        await t.run()
        assert outputs(t) == [[1], [2], [4], [6], [7]]


async def test_of_duplicates_one_is_let_through(reflex_app: ReflexApp) -> None:
    """Fails if what has nothing at the path is a duplicate, if the rest of the filter is asked after it, and if what
    was refused begins the time anew."""
    same = dedupe_filter(within=MINUTE, by=("key", "payload.text"))
    async with reflex_app(trigger(same & type_filter("log"))) as t:
        await publish(t, 1, 2, text="x")
        await publish(t, 3, text="y")
        await publish(t, 4, text="x", key="b")
        await publish(t, 5, 6)
        await t.publish("log.other", {"n": 7, "text": "z"}, key="a")
        await t.run()
        assert outputs(t) == [[1], [3], [4], [5], [6]]
        for n in (8, 9):
            await t.clock.skip(timedelta(seconds=31))
            await publish(t, n, text="x")
            await t.run()
        assert outputs(t)[5:] == [[9]]


async def test_what_was_decided_stands_in_every_attempt(reflex_app: ReflexApp) -> None:
    """Fails without the step: the second attempt would find the first one's place taken by the event after it."""

    async def fails_once(ctx: AgentContext) -> int:
        if ctx.attempt == 1:
            raise RuntimeError
        return ctx.attempt

    async with reflex_app(trigger(type_filter("log") & rate_limit_filter(1, per=MINUTE), fails_once)) as t:
        await publish(t, 1)
        await t.run()
        await t.clock.skip(MINUTE)
        await publish(t, 2)
        await t.run()
        await t.clock.advance(timedelta(minutes=3))
        assert [(run.event.meta.payload["n"], run.outcome) for run in t.runs if run.event.meta] == [
            (1, "retry"), (1, "succeeded"), (2, "retry"), (2, "succeeded")
        ]  # fmt: skip


async def test_every_n_runs_with_n_events_or_when_the_time_is_over(reflex_app: ReflexApp) -> None:
    """Fails if keys share a batch, if a batch takes more than n, and if the time counts from the last event."""
    async with reflex_app(trigger(when=every_n(3, max_interval=MINUTE))) as t:
        await publish(t, 1, 2, 3, 4)
        await publish(t, 5, key="b")
        await t.run()
        assert outputs(t) == [[1, 2, 3]]
        skipped = [run.output for run in t.runs if run.outcome == "skipped"]
        holder = t.runs[-1]
        assert holder.outcome == "succeeded"
        assert len({found["gathered_by"] for found in skipped}) == 1
        await t.clock.advance(timedelta(seconds=50))
        await publish(t, 6)
        await t.run()
        assert len(outputs(t)) == 1
        await t.clock.advance(timedelta(seconds=11))
        assert sorted(outputs(t)[1:]) == [[4, 6], [5]]
        await t.clock.advance(timedelta(hours=1))
        assert len(outputs(t)) == 3


async def test_a_batch_that_fails_is_tried_again_with_the_same_events(reflex_app: ReflexApp) -> None:
    """Fails if the batch is gone after the first attempt, and if it takes what came meanwhile."""
    seen: list[list[int]] = []

    async def fails_once(ctx: AgentContext) -> None:
        seen.append(await numbers(ctx))
        if ctx.attempt == 1:
            raise RuntimeError

    async with reflex_app(trigger(agent=fails_once, when=every_n(2, max_interval=MINUTE))) as t:
        await publish(t, 1, 2, 3)
        await t.run()
        await t.clock.advance(timedelta(seconds=30))
        assert seen == [[1, 2], [1, 2]]
        await t.clock.advance(MINUTE)
        assert seen[2] == [3]


async def test_a_threshold_fires_once_for_each_crossing_with_its_events(reflex_app: ReflexApp) -> None:
    """Fails if it fires again while it goes on, if it never does again, and if old events count."""
    async with reflex_app(trigger(when=error_threshold(3, within=MINUTE))) as t:
        await publish(t, 1)
        await t.run()
        await t.clock.advance(timedelta(seconds=50))
        await publish(t, 2)
        await t.run()
        await t.clock.advance(timedelta(seconds=20))
        await publish(t, 3)
        await t.run()
        assert outputs(t) == []
        await publish(t, 4, 5, 6, 7)
        await t.run()
        assert outputs(t) == [[2, 3, 4]]
        await t.clock.advance(timedelta(minutes=5))
        await publish(t, 8, 9)
        await t.run()
        assert len(outputs(t)) == 1
        await publish(t, 10, 11)
        await t.run()
        assert outputs(t) == [[2, 3, 4], [8, 9, 10]]


async def test_an_agent_of_a_batch_is_asked_with_its_summary(reflex_app: ReflexApp) -> None:
    """Also by a function that names no prompt. Fails if it is told of the first event alone."""
    gatherer = Agent(name="gatherer")

    async def asks(ctx: AgentContext) -> str:
        return (await ctx.run_agent(gatherer)).output

    both = every_n(2, max_interval=MINUTE)
    async with reflex_app([Trigger("direct", LOGS, gatherer, when=both), Trigger("asks", LOGS, asks, when=both)]) as t:
        await publish(t, 1, 2)
        await t.run()
        assert len(t.model.requests) == 2
        assert all(request.prompt.startswith("2 events ") for request in t.model.requests)


async def test_who_cancels_a_delivery_that_gathers_cancels_its_batch(reflex_app: ReflexApp) -> None:
    """What comes next is another batch. Fails if a cancelled batch goes on taking events."""
    async with reflex_app(trigger(when=every_n(3, max_interval=MINUTE))) as t:
        await publish(t, 1, 2)
        await t.run()
        holder = next(run for run in t.runs if run.outcome == "waiting")
        (delivery,) = await t.deliveries(holder.event)
        async with await connect(t.database_url, name="a person") as conn:
            await cancel_delivery(conn, DeliveryId.parse(delivery.id))
        await publish(t, 3, 4)
        await t.run()
        await t.clock.advance(MINUTE)
        assert outputs(t) == [[3, 4]]
