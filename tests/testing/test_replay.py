"""Replays in a tested app: each run of one knows that it is one, whatever becomes of it in between."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.signals import Reject
from reflex.agent.testing import AppTest
from reflex.agent.triggers import Trigger
from reflex.core.database import connect
from reflex.core.dead_letters import DeadLetterFilter, retry_dead_letters
from reflex.core.errors import NotFound
from reflex.core.ids import new_id
from reflex.core.queue import exchange
from reflex.core.retry import RetryPolicy
from reflex.core.workers import Incarnation, enlist
from tests.processes import sessions

ORDERS = type_filter("order.*")
GUIDE = Path(__file__).parents[2] / "docs/guides/retention.md"
ONCE_MORE = RetryPolicy(max_attempts=2, base=timedelta(seconds=8))


class Pack:
    """An agent that fails, waits or dies as it is told, and writes down whether it took part in a replay."""

    def __init__(self) -> None:
        self.replays: list[bool] = []
        self.fails = 0
        self.dies = self.sleeps = False

    async def __call__(self, ctx: AgentContext) -> None:
        self.replays.append(ctx.is_replay)
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the warehouse is closed")
        if self.dies:
            raise Reject("no such customer")
        if self.sleeps:
            await ctx.sleep(60)

    def trigger(self, **options: Any) -> Trigger:
        async def pack(ctx: AgentContext) -> None:
            await self(ctx)

        return Trigger("pack", ORDERS, pack, retry=ONCE_MORE, **options)


async def test_every_run_of_a_replay_knows_that_it_is_one() -> None:
    """The first delivery's retries and waits do not. Fails if the mark is of one run only, or without a number that
    tells what was before it from what came after."""
    pack = Pack()
    async with AppTest([pack.trigger()]) as t:
        order = await t.publish("order.created", {}, key="A1")
        pack.fails, pack.sleeps = 1, True
        await t.clock.advance(120)
        assert pack.replays == [False, False, False]
        pack.replays.clear()
        assert await t.replay("pack") == 1
        pack.fails = 1
        await t.clock.advance(120)
        assert pack.replays == [True, True, True]
        (delivery,) = await t.deliveries(order)
        assert [(run.outcome, run.is_replay) for run in delivery.runs] == [
            ("retry", False), ("waiting", False), ("succeeded", False),
            ("retry", True), ("waiting", True), ("succeeded", True),
        ]  # fmt: skip
        assert delivery.replayed_at is not None


async def test_a_dead_letter_of_a_replay_stays_one_when_it_is_retried() -> None:
    """Fails if a retry by a person begins with a lease_epoch as low as its attempt."""
    pack = Pack()
    async with AppTest([pack.trigger()]) as t:
        await t.publish("order.created", {})
        await t.run()
        pack.dies = True
        assert await t.replay("pack") == 1
        await t.run()
        assert await t.replay("pack") == 0
        (letter,) = t.dead_letters
        pack.dies = False
        async with await connect(t.database_url, name="test") as conn:
            await retry_dead_letters(conn, DeadLetterFilter(), all=True)
        await t.run()
        assert (letter.reason, pack.replays) == ("rejected", [False, True, True])


async def test_an_event_that_never_ran_for_the_trigger_is_a_replay_too() -> None:
    """Fails if lease_epoch begins with 0: a worker would not look for the mark."""
    pack = Pack()
    async with AppTest([pack.trigger()]) as t:
        await t.publish("order.created", {}, key="A1")
        await t.publish("order.paid", {}, key="A2")
        await t.run()
        async with await connect(t.database_url, name="test") as conn:
            await conn.execute("DELETE FROM reflex.run")
        assert await t.replay("pack", type="order.paid") == 1
        assert await t.replay("pack", key="A1") == 1
        await t.run()
        assert pack.replays == [False, False, True, True]


async def test_a_replay_whose_worker_was_killed_is_one_for_the_next() -> None:
    """Fails if the mark is taken away by the first run that looks."""
    pack = Pack()
    async with AppTest([pack.trigger(ordered=True)]) as t:
        await t.publish("order.created", {}, key="A1")
        await t.run()
        await t.replay("pack")
        async with await connect(t.database_url, name="test") as conn:
            await enlist(conn, Incarnation(worker_id := new_id(), 1, [1], "host", 1, 10))
            done = await exchange(
                conn, worker_id=worker_id, settlements=[], trigger_ids=[1], limit=9, ordered_ids=[1], rows=9
            )
            assert len(done.claimed) == 1
        await t.kill_and_replace()
        await t.clock.advance(60)
        assert pack.replays == [False, True]
        assert [run.outcome for run in t.runs] == ["succeeded", "lost", "succeeded"]


async def test_an_ordinary_delivery_is_not_looked_up() -> None:
    """Fails if every run asks for a mark: a worker of plain functions needs no connection beside that of its claims."""
    pack = Pack()
    async with AppTest([pack.trigger()]) as t:
        for made in (0, 1):
            await t.publish("order.created", {})
            pack.fails = 1
            await t.clock.advance(60)
            assert await sessions(t.database_url, "reflex journal", "%") == made
            await t.replay("pack")


async def test_the_example_of_the_guide_mails_nobody_twice() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    mailed: list[Any] = []

    async def draw_label(event: Any) -> str:
        return f"to {event.meta.key}"

    async def mail(event: Any, label: str) -> None:
        mailed.append(label)

    names: dict[str, Any] = {"AgentContext": AgentContext, "draw_label": draw_label, "mail": mail}
    exec(block, names)
    async with AppTest([Trigger("pack", ORDERS, names["shipping_label"])]) as t:
        await t.publish("order.created", {}, key="A1")
        await t.run()
        await t.replay("pack")
        await t.run()
        assert (t.runs.outcomes, mailed) == (["succeeded"] * 2, ["to A1"])


async def test_a_trigger_that_is_not_there_is_said() -> None:
    async with AppTest([Pack().trigger()]) as t:
        with pytest.raises(NotFound, match="there is no trigger 'wrap'; there are pack of test"):
            await t.replay("wrap")
