"""State under contention: real claim loops and attempts, many runs of one key at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from pydantic import BaseModel
from structlog.testing import capture_logs

from reflex.agent.app import load_app
from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event
from reflex.agent.models import Models
from reflex.agent.publishing import RunLimits
from reflex.agent.triggers import Trigger
from reflex.core.journal import StepStore
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.registration import Registered, register
from reflex.core.states import get_state
from reflex.worker.attempt import Attempts
from reflex.worker.claim_loop import ClaimLoop
from tests.agent.test_examples import PYTHON, ROOT
from tests.processes import eventually
from tests.queue_fixtures import count, enlisted, is_quiet, new_event, ordered_shop, shop

RUNS = 50


class Tally(BaseModel):
    count: int = 0


async def adds(ctx: AgentContext) -> None:
    seen = ctx.state.count
    await asyncio.sleep(0.001)
    ctx.state.count = seen + 1
    await ctx.publish("counted")


@asynccontextmanager
async def looping(
    url: str, db: AsyncConnection[Any], registered: Registered, agent: Any = adds, *, loops: int, **options: Any
) -> AsyncGenerator[None]:
    """So many workers of the trigger `pack`."""
    trigger = Trigger("pack", any_event(), agent, state=Tally, **options)
    (trigger_id,) = registered.trigger_ids.values()
    steps = StepStore(url)
    running: list[asyncio.Task[None]] = []
    made: list[ClaimLoop] = []
    for _ in range(loops):
        worker_id = await enlisted(db, registered)
        attempts = Attempts(
            triggers={trigger_id: trigger}, models=Models(), worker_id=worker_id, limits=RunLimits(), steps=steps
        )
        loop = ClaimLoop(
            url, worker_id=worker_id, trigger_ids=[trigger_id], trigger_names={trigger_id: "pack"}, concurrency=20,
            poll_interval_s=0.05, attempt=attempts, ordered_ids=[trigger_id] if trigger.ordered else (),
        )  # fmt: skip
        loop.slots.run_s = 0.001  # it claims as much of a lane as it may
        made.append(loop)
        running.append(asyncio.create_task(loop.run()))
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for loop in made:
            await loop.slots.stop()
        await steps.aclose()


async def the_count(db: AsyncConnection[Any]) -> int:
    cursor = await db.execute("SELECT (data->>'count')::int FROM reflex.state WHERE key = 'A'")
    row = await cursor.fetchone()
    assert row
    return row[0]


async def test_fifty_runs_of_one_key_in_two_workers_lose_nothing(
    database_url: str, db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Each adds one and publishes one event. Fails without the version in hold_states (the sum is less), and if a run
    that gives way uses up an attempt (with three of them, deliveries die) or publishes."""
    registered = await shop(db)
    await append(db, [new_event(key="A") for _ in range(RUNS)])
    with capture_logs() as lines:
        async with looping(database_url, db, registered, loops=2):
            await eventually(lambda: is_quiet(other), timeout_s=60, what="a quiet queue")
    assert await the_count(db) == RUNS
    assert await count(db, "run WHERE outcome = 'succeeded' AND attempt = 1") == RUNS
    assert await count(db, "dead_letter") == 0
    assert await count(db, "event WHERE type = 'counted'") == RUNS
    gave_way = [line for line in lines if "another run changed the state" in line["event"]]
    assert len(gave_way) == await count(db, "run WHERE outcome = 'released'") > 0
    assert {(line["log_level"], line["trigger"], line["key"]) for line in gave_way} == {("info", "pack", "A")}


async def test_runs_of_an_ordered_key_see_each_other_and_never_give_way(
    database_url: str, db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Short runs of one lane otherwise follow one another before they are settled. Fails without `settlement.state` in
    Slots.work: the second one of each claim would begin with what the first one began with."""
    registered = await ordered_shop(db)
    await append(db, [new_event(key=key) for key in ("A", "B") for _ in range(RUNS)])

    async def at_once(ctx: AgentContext) -> None:
        ctx.state.count += 1

    async with looping(database_url, db, registered, at_once, loops=2, ordered=True):
        await eventually(lambda: is_quiet(other), timeout_s=60, what="a quiet queue")
    assert await the_count(db) == RUNS
    assert await count(db, "run WHERE outcome = 'released'") == 0
    assert await count(db, "run WHERE outcome = 'succeeded'") == 2 * RUNS


async def test_the_guide_is_an_app_that_remembers(
    database_url: str, db: AsyncConnection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the example of the guide does not load, or its triggers keep nothing."""
    block, _ = PYTHON.findall((ROOT / "docs/guides/state.md").read_text())
    (tmp_path / "examples_of_state.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    app = load_app("examples_of_state", default_model="offline")
    registered = await register(db, app.manifest())
    item = [new_event("item.added", '{"order_id": "7"}') for _ in range(11)]
    said = [new_event("chat.said", '{"conversation_id": "c", "text": "hello"}') for _ in range(2)]
    await append(db, [*item, *said])
    worker_id, steps = await enlisted(db, registered), StepStore(database_url)
    triggers = {registered.trigger_ids[trigger.name]: trigger for trigger in app.triggers}
    attempts = Attempts(
        triggers=triggers, models=Models("offline"), worker_id=worker_id, limits=RunLimits(), steps=steps
    )
    ordered = [id for id, trigger in triggers.items() if trigger.ordered]
    try:
        while leases := (
            await exchange(
                db,
                worker_id=worker_id,
                settlements=[],
                trigger_ids=list(triggers),
                limit=1,
                ordered_ids=ordered,
                rows=0,
            )
        ).claimed:
            settlements = [await attempts(lease) for lease in leases]
            await exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    finally:
        await steps.aclose()
    assert await count(db, "run WHERE outcome = 'succeeded'") == 13
    watched = await get_state(db, registered.trigger_ids["watch-orders"], "7", trigger="", app="")
    assert watched.state
    assert watched.state.value == {"items": 11, "warned": True}
    assert await count(db, "event WHERE type = 'order.large'") == 1
    chat = await get_state(db, registered.trigger_ids["support"], "c", trigger="", app="")
    assert chat.messages
    assert [message["kind"] for message in chat.messages.value] == ["request", "response"] * 2
