"""An app with a trigger for each thing that a new event can do to a run; copied into the folder of a test. A run waits
while there is a file named like its key, and notes when it begins and what ended it."""

import asyncio
from pathlib import Path

import reflex.worker.awaiting
import reflex.worker.interrupting
import reflex.worker.maintenance
from reflex.agent.context import AgentContext
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import UntypedEvent

# The worker is told of what there is to do, or does not learn of it in time.
reflex.worker.maintenance.LOOK_S = reflex.worker.awaiting.LONGEST_S = 3600  # pyright: ignore
reflex.worker.interrupting.LOOK_S = 3600  # pyright: ignore

FOLDER = Path(__file__).parent


def note(line: str) -> None:
    with (FOLDER / "runs.txt").open("a") as file:
        file.write(f"{line}\n")


def number(event: object) -> int:
    assert isinstance(event, UntypedEvent)
    return event.payload["n"]


async def work(ctx: AgentContext) -> None:
    note(f"begin {ctx.key} {number(ctx.event)}")
    await ctx.publish("made", {"n": number(ctx.event)})
    while (FOLDER / str(ctx.key)).exists():  # noqa: ASYNC110 - the test removes it
        await asyncio.sleep(0.01)


async def plain(ctx: AgentContext) -> str:
    await work(ctx)
    return "done"


async def gathers(ctx: AgentContext) -> list[int]:
    """What it had when it began, asked for at the end."""
    await work(ctx)
    return [number(event) for event in (ctx.event, *await ctx.inbox())]


async def listens(ctx: AgentContext) -> list[list[int]]:
    """What came, each time that it asked."""
    first = await ctx.inbox()
    await work(ctx)
    heard = [first, await ctx.inbox(), await ctx.inbox()]
    return [[number(event) for event in events] for events in heard]


wanted = keyword_filter("n", lambda n: n != 0)
Trigger("drops", type_filter("drop"), plain, ordered=True, while_running="drop")
Trigger("gathers", type_filter("coalesce") & wanted, gathers, ordered=True, while_running="coalesce")
Trigger("listens", type_filter("steer") & wanted, listens, ordered=True, while_running="steer")
Trigger("yields", type_filter("interrupt") & wanted, plain, ordered=True, while_running="interrupt")
