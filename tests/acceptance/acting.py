"""The app of the acceptance tests, copied into the folder of each: what its agents do is said by the event.

sleep_s    sleep that long, cooperatively
block_s    hold up the event loop that long
publish    publish an event of this type, with what is in `then` as its payload
die        end the process, as a crash would
fail       raise
only_first sleep, block, die or fail in the first attempt only
"""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import UntypedEvent
from reflex.core.retry import RetryPolicy

# One line a run, written as it starts: event, process, attempt.
RUNS = Path(__file__).with_name("runs.txt")


async def act(ctx: AgentContext) -> dict[str, int]:
    event = ctx.event
    assert isinstance(event, UntypedEvent)
    assert event.meta
    with RUNS.open("a") as runs:
        runs.write(f"{event.meta.event_id} {os.getpid()} {ctx.attempt}\n")
    asked = event.payload
    if "publish" in asked:
        await ctx.publish(asked["publish"], asked.get("then"))
    if ctx.attempt == 1 or not asked.get("only_first"):
        sleep_s = asked.get("sleep_s", 0)
        await asyncio.sleep(sleep_s[ctx.attempt - 1] if isinstance(sleep_s, list) else sleep_s)
        time.sleep(asked.get("block_s", 0))  # noqa: ASYNC251 - the very thing that an agent should not do
        if asked.get("die"):
            os._exit(7)
        if asked.get("fail"):
            raise RuntimeError(f"told to fail: {asked['fail']}")
    return {"attempt": ctx.attempt}


retry = RetryPolicy(max_attempts=3, base=timedelta(milliseconds=100))
Trigger("pack", type_filter("order.created"), act, retry=retry)
Trigger("ping", type_filter("chain.ping"), act, retry=retry)
Trigger("pong", type_filter("chain.pong"), act, retry=retry)
