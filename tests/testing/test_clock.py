"""The clock of a tested app: retries, delays and schedules come at their time, and nobody waits for them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic_ai import Agent

from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event, type_filter
from reflex.agent.schedules import every, schedule
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy
from reflex.testing.model import rate_limited
from reflex.testing.plugin import MakeAppTest
from reflex.testing.worker import Endless

HALF_A_MINUTE = RetryPolicy(max_attempts=3, base=timedelta(seconds=30), cap=timedelta(seconds=30))


async def fails(ctx: AgentContext) -> None:
    raise RuntimeError(f"attempt {ctx.attempt}")


async def does_nothing(ctx: AgentContext) -> None:
    pass


async def test_a_retry_comes_when_its_wait_is_over(reflex_app: MakeAppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after time has passed: the wait counts from the moment of the failure. Fails with: a clock that moves what
    is due, but not the now() that the settling adds the wait to (the second attempt follows the first at once)."""
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with reflex_app([Trigger("fails", any_event(), fails, retry=HALF_A_MINUTE)]) as t:
        await t.clock.advance(timedelta(days=1))
        await t.publish("shop.opened")
        await t.run()
        assert t.runs.outcomes == ["retry"]
        await t.clock.advance(timedelta(seconds=29))
        assert t.runs.outcomes == ["retry"]
        assert (await t.clock.advance_to_next() or timedelta(0)) <= timedelta(seconds=1)
        assert t.runs.outcomes == ["retry", "retry"]
        assert timedelta(seconds=30) <= t.runs[1].started_at - t.runs[0].finished_at < timedelta(seconds=40)
        await t.clock.advance(30)
        assert t.runs.outcomes == ["retry", "retry", "dead"]
        assert await t.clock.advance_to_next() is None


async def test_a_rate_limit_waits_as_long_as_the_provider_asks(reflex_app: MakeAppTest) -> None:
    async with reflex_app([Trigger("asks", any_event(), Agent())]) as t:
        t.model.answers([rate_limited(retry_after=120), "at last"])
        await t.publish("shop.opened")
        await t.clock.advance(timedelta(seconds=119))
        assert t.runs.outcomes == ["retry"]
        await t.clock.advance(timedelta(seconds=1))
        assert t.runs[1].output == "at last"


async def test_what_was_published_with_a_delay_comes_later(reflex_app: MakeAppTest) -> None:
    async def remind(ctx: AgentContext) -> None:
        await ctx.publish("reminder", delay=timedelta(hours=24))

    app = [Trigger("remind", type_filter("order"), remind), Trigger("send", type_filter("reminder"), does_nothing)]
    async with reflex_app(app) as t:
        await t.publish("order", delay=timedelta(minutes=5))
        await t.run()
        assert t.runs == ()
        await t.clock.advance(timedelta(hours=23))
        assert [run.trigger for run in t.runs] == ["remind"]
        await t.clock.advance(timedelta(hours=2))
        assert [run.trigger for run in t.runs] == ["remind", "send"]


def stock_checks() -> list[Any]:
    return [
        every(timedelta(minutes=5), event="stock.check"),
        Trigger("check", type_filter("stock.check"), fails, retry=RetryPolicy(max_attempts=2)),
    ]


async def test_a_schedule_fires_at_each_of_its_times_while_time_passes(reflex_app: MakeAppTest) -> None:
    """And the retry of a run, a second later, comes before the next one. Fails with: a clock that jumps to the end
    (then eleven fires were missed, and one event makes up for them)."""
    async with reflex_app(stock_checks()) as t:
        await t.clock.advance(timedelta(hours=1))
        times = [event.meta.time for event in t.events.of("stock.check") if event.meta]
        assert len(times) == 12
        assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(minutes=5)}
        assert t.runs.outcomes[:4] == ["retry", "dead", "retry", "dead"]


async def test_a_schedule_that_nobody_served_was_missed(reflex_app: MakeAppTest) -> None:
    """Fails if skip() works off what becomes due meanwhile."""
    async with reflex_app(stock_checks()) as t:
        await t.run()
        await t.clock.skip(timedelta(hours=1))
        assert t.runs == ()
        await t.run()
        assert len(t.events.of("stock.check")) == 1


async def test_nine_oclock_comes_on_working_days(reflex_app: MakeAppTest) -> None:
    """From a Sunday on, in a zone with an offset. Fails if the start does not reach the database."""
    app = [
        schedule("report", cron="0 9 * * 1-5", tz="Europe/Stockholm", event="report.due"),
        Trigger("reports", type_filter("report.due"), does_nothing),
    ]
    sunday = datetime(2026, 3, 1, 12, tzinfo=UTC)
    async with reflex_app(app, start=sunday) as t:
        assert abs(t.clock.now - sunday) < timedelta(minutes=1)
        await t.clock.advance(timedelta(days=2))
        assert [event.meta.time for event in t.events.of("report.due") if event.meta] == [
            datetime(2026, 3, 2, 8, tzinfo=UTC),
            datetime(2026, 3, 3, 8, tzinfo=UTC),
        ]
        assert [run.started_at.date().day for run in t.runs] == [2, 3]


async def test_time_passes_forwards_and_has_a_zone(reflex_app: MakeAppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflex.testing.clock.MOST_MOMENTS", 3)
    async with reflex_app(stock_checks()) as t:
        with pytest.raises(ValueError, match="is negative"):
            await t.clock.advance(-1)
        with pytest.raises(ValueError, match="no time zone"):
            await t.clock.set(datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(Endless, match="more than 3 moments"):
            await t.clock.advance(timedelta(days=1))
