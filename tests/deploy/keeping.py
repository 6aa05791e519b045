"""The app of the tests of a database that fails over or is reached through a pooler; copied into the folder of each.
It uses what keeps something between statements: order, state, waits, timers, retries, published events."""

from datetime import timedelta

from pydantic import BaseModel

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.schedules import every
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy


class Tally(BaseModel):
    count: int = 0


def number(ctx: AgentContext) -> int:
    assert ctx.event.meta
    return ctx.event.meta.payload["n"]


async def reserve(ctx: AgentContext) -> None:
    if number(ctx) % 9 == 0 and ctx.attempt == 1:
        raise RuntimeError("told to fail")
    await ctx.publish("order.reserved", {"n": number(ctx)})


async def ship(ctx: AgentContext) -> None:
    if number(ctx) % 7 == 0:
        await ctx.sleep(timedelta(milliseconds=200))
    await ctx.publish("order.shipped", {"n": number(ctx)})


async def tally(ctx: AgentContext) -> None:
    ctx.state.count += 1


async def tick(ctx: AgentContext) -> None:
    pass


retry = RetryPolicy(max_attempts=10, base=timedelta(milliseconds=50), cap=timedelta(seconds=1))
every(timedelta(seconds=1), event="stock.check")
Trigger("reserve", type_filter("order.created"), reserve, retry=retry)
Trigger("ship", type_filter("order.reserved"), ship, retry=retry)
Trigger("tally", type_filter("order.created"), tally, retry=retry, ordered=True, key="payload.shop", state=Tally)
Trigger("tick", type_filter("stock.check"), tick, retry=retry)
