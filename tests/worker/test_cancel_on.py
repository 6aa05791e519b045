"""Triggers that an event cancels, with real workers: whatever their deliveries do, whatever happens to workers."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from psycopg import AsyncConnection

from reflex.core.events import NewEvent
from reflex.core.log import append
from reflex.core.reads import read_deliveries
from reflex.core.rows import DeliveryRow
from tests.processes import SELDOM_LOOKS, eventually, worker
from tests.queue_fixtures import count, new_event

APP = """
import asyncio, os
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger

def says(*words):
    with open(os.environ["DONE"], "a") as file:
        print(*words, file=file, flush=True)

async def does(ctx):
    says("began", ctx.key)
    match ctx.event.payload.get("how"):
        case "sleeps":
            await asyncio.sleep(3600)
        case "waits":
            await ctx.wait_for(type_filter("never"))
        case _:
            says("ended", ctx.key)

cancelled = type_filter("order.cancelled") & keyword_filter("really", True)
Trigger("do", type_filter("order.created"), does, cancel_on=cancelled)
Trigger("line", type_filter("order.queued"), does, ordered=True, key="payload.line", cancel_on=cancelled)
"""

# At the top of an app: its worker is killed when the first of several deliveries has been cancelled, once.
DIES_IN_BETWEEN = """
import os, pathlib, signal
import reflex.core.key_cancelling as cancelling

async def dies(*arguments, cancel=cancelling.cancel_delivery, **options):
    state = await cancel(*arguments, **options)
    died = pathlib.Path(os.environ["DONE"] + ".died")
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return state

cancelling.cancel_delivery = dies
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doing.py").write_text(SELDOM_LOOKS + APP)
    return tmp_path


def env(folder: Path, **more: str) -> dict[str, str]:
    return {"DONE": str(folder / "done"), "REFLEX_LEASE_TIMEOUT_S": "2", **more}


def done(folder: Path) -> list[str]:
    file = folder / "done"
    return file.read_text().splitlines() if file.exists() else []


def order(how: str = "quick", key: str = "A", type: str = "order.created", **fields: Any) -> NewEvent:
    return new_event(type, orjson.dumps({"how": how, "line": f"line {key}"}).decode(), key=key, **fields)


def cancellation(key: str = "A") -> NewEvent:
    return new_event("order.cancelled", orjson.dumps({"really": True, "line": f"line {key}"}).decode(), key=key)


async def delivery(db: AsyncConnection[Any], event: NewEvent, trigger: str = "do") -> DeliveryRow:
    (found,) = [each for each in await read_deliveries(db, event.event_id) if each.trigger == trigger]
    return found


async def becomes(db: AsyncConnection[Any], state: str, *events: NewEvent, trigger: str = "do") -> None:
    async def all_are() -> bool:
        return all([(await delivery(db, event, trigger)).state == state for event in events])

    await eventually(all_are, what=f"that {trigger} is {state}")


async def test_what_has_not_ended_of_the_key_ends_and_nothing_else(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """One slot, which is taken all the time: fails if what cancels has to wait for it, and if the worker looks for what
    to cancel only by itself, once an hour."""
    async with worker(database_url, folder, app="doing", env=env(folder, REFLEX_CONCURRENCY="1")):
        waiting, put_off = order("waits"), order(delay=timedelta(hours=1))
        await append(db, [waiting, put_off])
        await becomes(db, "waiting", waiting)
        running, pending, another = order("sleeps"), order(), order("sleeps", "B")
        await append(db, [running])
        await eventually(lambda: done(folder).count("began A") == 2)
        await append(db, [pending, another])
        cancelling = cancellation()
        await append(db, [cancelling])
        await becomes(db, "cancelled", running, waiting, put_off, pending)
        said = f"cancelled by event order.cancelled {cancelling.event_id}"
        for event in (running, waiting, put_off, pending):
            assert (await delivery(db, event)).runs[-1].error == said
        await becomes(db, "succeeded", cancelling, trigger="do.cancel")
        (ended,) = (await delivery(db, cancelling, "do.cancel")).runs
        assert ended.output
        # What is pending may be claimed ahead of its slot: then it is asked to end, and never begins.
        assert ended.output.value in [{"key": "A", "cancelled": 4 - runs, "cancelling": runs} for runs in (1, 2)]

        # Another key has the slot by now; what comes later of the first one is not concerned.
        await eventually(lambda: "began B" in done(folder))
        later = order()
        await append(db, [later])
        assert (await delivery(db, another)).state == "running"
        await append(db, [cancellation("B")])
        await becomes(db, "cancelled", another)
        await becomes(db, "succeeded", later)
        assert done(folder) == ["began A", "began A", "began B", "began A", "ended A"]

        # A lane, whose key is at a path of both events.
        head, behind, beside = order("sleeps", type="order.queued"), order(type="order.queued"), order(key="C")
        await append(db, [head, behind])
        await eventually(lambda: done(folder).count("began A") == 4)
        await append(db, [order(type="order.queued", key="B"), beside])
        cancelling = cancellation()
        await append(db, [cancelling])
        await becomes(db, "cancelled", head, behind, trigger="line")
        after = order(type="order.queued")
        await append(db, [after])
        await becomes(db, "succeeded", after, trigger="line")
        await eventually(lambda: done(folder).count("ended B") == 1)
        assert (done(folder).count("began A"), await count(db, "cancellation")) == (5, 0)

        # What the filter refuses cancels nothing.
        await append(db, [last := order("waits")])
        await becomes(db, "waiting", last)
        refused = new_event("order.cancelled", '{"really": false}', key="A")
        await append(db, [refused])
        await becomes(db, "skipped", refused, trigger="do.cancel")
        assert (await delivery(db, last)).state == "waiting"


async def test_a_worker_that_is_killed_in_between_leaves_nothing_open(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Fails if the cancelling event counts as done before all is, or if doing it a second time goes wrong. One of the
    deliveries was running in the worker that is killed."""
    (folder / "doing.py").write_text(DIES_IN_BETWEEN + APP)
    events = [order("waits"), order("waits"), order("sleeps")]
    cancelling = cancellation()
    async with worker(database_url, folder, app="doing", env=env(folder)) as one:
        await append(db, events)
        await becomes(db, "waiting", *events[:2])
        await becomes(db, "running", events[2])
        await append(db, [cancelling])
        await eventually(lambda: (folder / "done.died").exists() and not one.is_running)
    states = [(await delivery(db, event)).state for event in events]
    assert states == ["cancelled", "waiting", "running"]
    async with worker(database_url, folder, app="doing", env=env(folder)):
        await becomes(db, "cancelled", *events)
        await becomes(db, "succeeded", cancelling, trigger="do.cancel")
    assert [run.outcome for run in (await delivery(db, cancelling, "do.cancel")).runs] == ["lost", "succeeded"]
    assert (await count(db, "waiting"), await count(db, "cancellation")) == (0, 0)
