"""The app of the chaos run, copied into its folder: agents that take their time, fail, publish and block."""

import asyncio
import random
import time
from datetime import timedelta

from reflex.agent.context import AgentContext
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy

# What a run of each trigger publishes if, and only if, it succeeds. The verdict counts by it.
PUBLISHES = {"fork": ("order.reserved", "order.invoiced"), "ship": ("order.shipped",)}


async def work(ctx: AgentContext) -> dict[str, int]:
    for type in PUBLISHES.get(ctx.trigger, ()):
        await ctx.publish(type, {"attempt": ctx.attempt}, delay=0.3 if random.random() < 0.2 else None)
        await asyncio.sleep(random.random() * 0.05)
    return {"attempt": ctx.attempt}


async def fail_sometimes(ctx: AgentContext) -> dict[str, int]:
    done = await work(ctx)
    if random.random() < 0.25:
        raise RuntimeError("bad luck")
    return done


async def take_long(ctx: AgentContext) -> dict[str, int]:
    await asyncio.sleep(3 if random.random() < 0.03 else random.choice((0.01, 0.05, 0.5)))
    return await work(ctx)


async def block(ctx: AgentContext) -> dict[str, int]:
    # Now and then for longer than a lease lasts.
    time.sleep(3 if random.random() < 0.002 else random.choice((0, 0, 0, 0.02)))  # noqa: ASYNC251 - on purpose
    return await work(ctx)


retry = RetryPolicy(max_attempts=4, base=timedelta(milliseconds=200), cap=timedelta(seconds=1))
placed = type_filter("order.placed")
Trigger("fork", placed, fail_sometimes, retry=retry)
Trigger("slow", placed, take_long, retry=retry)
Trigger("picky", placed & keyword_filter("n", lambda n: n % 2 == 0), work, retry=retry)
Trigger("ship", type_filter("order.reserved"), fail_sometimes, retry=retry)
Trigger("audit", type_filter("order.shipped", "order.placed"), block, retry=retry)
Trigger("triage", type_filter("reflex.dead_letter"), work, retry=retry)
