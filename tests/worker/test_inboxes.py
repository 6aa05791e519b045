"""What a worker does with the leases that its runs took: never lost, never run beside the run, settled with it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.tools import RunContext

from reflex.agent.context import AgentContext
from reflex.agent.filters import Filter, any_event, keyword_filter
from reflex.agent.models import Models
from reflex.agent.offline import prompt_text
from reflex.agent.publishing import RunLimits
from reflex.agent.signals import Reject, Retry
from reflex.agent.triggers import Trigger
from reflex.core import inbox
from reflex.core.cancelling import cancel_delivery
from reflex.core.ids import DeliveryId
from reflex.core.journal import JournalUnavailable, StepStore
from reflex.core.lanes import promote_lanes
from reflex.core.log import append
from reflex.core.settlement import Claimed, Settlement
from reflex.worker.attempt import Attempts
from reflex.worker.cancelling import Cancelled
from reflex.worker.claim_loop import ClaimLoop
from reflex.worker.inboxes import Inboxes
from reflex.worker.interrupting import Interrupting
from tests.processes import eventually
from tests.queue_fixtures import count, enlisted, is_quiet, new_event, ordered_shop

RUNS = "SELECT event_id, outcome, error FROM reflex.run ORDER BY finished_at, event_id"
ANYTHING = any_event()
LANE = "SELECT pending, running FROM reflex.lane"


class Scene:
    """One worker of the trigger `pack`, in this process. Its runs note that they begin, and wait for the gate."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self.conn = conn
        self.began: list[UUID] = []
        self.heard: list[list[UUID]] = []
        self.gate = asyncio.Event()
        self.loop: ClaimLoop

    async def come(self, number: int = 1) -> list[UUID]:
        events = [new_event(key="a") for _ in range(number)]
        await append(self.conn, events)
        return [event.event_id for event in events]

    async def first(self) -> UUID:
        """An event whose run has begun."""
        (event_id,) = await self.come()
        await self.begins(event_id)
        return event_id

    async def begins(self, event_id: UUID) -> None:
        await eventually(lambda: event_id in self.began, what="that it begins")

    async def hears(self, ctx: AgentContext) -> list[UUID]:
        """What the run is given now."""
        events = [event.meta.event_id for event in await ctx.inbox() if event.meta]
        self.heard.append(events)
        return events

    async def holds(self, ctx: AgentContext) -> None:
        self.begin(ctx)
        await self.gate.wait()

    async def hears_and_holds(self, ctx: AgentContext) -> None:
        """Takes what comes, soon, and goes on."""
        self.begin(ctx)
        while not await self.hears(ctx):  # noqa: ASYNC110 - an inbox is asked, not waited for
            await asyncio.sleep(0.01)
        await self.gate.wait()

    def begin(self, ctx: AgentContext) -> None:
        assert ctx.event.meta
        self.began.append(ctx.event.meta.event_id)

    async def fetch(self, query: str) -> list[Any]:
        return await (await self.conn.execute(query.encode())).fetchall()

    async def lane_is(self, *expected: int) -> bool:
        return await self.fetch(LANE) == [expected]

    async def quiet(self) -> list[Any]:
        """The runs, when all is done."""
        await eventually(lambda: is_quiet(self.conn), what="a quiet queue")
        return await self.fetch(RUNS)


@asynccontextmanager
async def working(
    url: str, scene: Scene, agent: Any, *, ahead: bool = False, wanted: Filter = ANYTHING, **options: Any
) -> AsyncGenerator[Scene]:
    """`ahead`: it claims as much of a lane as there is."""
    trigger = Trigger("pack", wanted, agent, ordered=True, **options)
    registered = await ordered_shop(scene.conn)
    (trigger_id,) = registered.trigger_ids.values()
    worker_id, steps, cancelled = (
        await enlisted(scene.conn, registered),
        StepStore(url),
        Cancelled({trigger_id: "pack"}),
    )
    inboxes = Inboxes({trigger_id: trigger}, steps, cancelled)
    attempts = Attempts(
        triggers={trigger_id: trigger}, models=Models(), worker_id=worker_id, limits=RunLimits(), steps=steps,
        cancelled=cancelled, inboxes=inboxes,
    )  # fmt: skip
    scene.loop = ClaimLoop(
        url, worker_id=worker_id, trigger_ids=[trigger_id], ordered_ids=[trigger_id], trigger_names={1: "pack"},
        concurrency=4, poll_interval_s=0.05, attempt=attempts, cancelled=cancelled, inboxes=inboxes,
    )  # fmt: skip
    if ahead:
        scene.loop.slots.run_s = 0.001
    running = asyncio.create_task(scene.loop.run())
    try:
        yield scene
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await scene.loop.slots.stop()
        await steps.aclose()


@pytest.fixture
def scene(db: AsyncConnection[Any]) -> Scene:
    return Scene(db)


async def test_a_later_attempt_hears_the_same_first_and_then_what_is_new(database_url: str, scene: Scene) -> None:
    """Fails if what was taken is not journaled, or settled by a run that is tried again."""

    async def agent(ctx: AgentContext) -> None:
        scene.begin(ctx)
        if ctx.attempt == 1:
            await scene.gate.wait()
            await scene.hears(ctx)
            await scene.come()
            raise Retry(after=0)
        await scene.hears(ctx)
        await scene.hears(ctx)

    async with working(database_url, scene, agent, while_running="steer"):
        first = await scene.first()
        (second,) = await scene.come()
        scene.gate.set()
        await eventually(lambda: promoted(scene), what="the retry")
        runs = await scene.quiet()
    third = scene.heard[-1][0]
    assert scene.heard == [[second], [second], [third]]
    assert [(row[0], row[1]) for row in runs if row[0] == first] == [(first, "retry"), (first, "succeeded")]
    assert [row[1] for row in runs if row[0] in (second, third)] == ["succeeded", "succeeded"]
    assert scene.began == [first, first]


async def promoted(scene: Scene) -> bool:
    return (await promote_lanes(scene.conn, now=datetime.now(UTC) + timedelta(hours=1)))[0] > 0


async def test_what_was_taken_and_not_heard_of_waits_behind_its_run(
    database_url: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost; the worker finds a lease that it does not know. Fails without join(): it would run it beside
    the run that holds the key."""
    lost: list[Claimed] = []

    async def losing(conn: AsyncConnection[Any], *lease: Any, **rest: Any) -> list[Claimed]:
        taken = await inbox.take_inbox(conn, *lease, **rest)
        if taken and not lost:
            lost.extend(taken)
            raise psycopg.OperationalError("the answer was lost")
        return taken

    monkeypatch.setattr("reflex.worker.inboxes.take_inbox", losing)
    async with working(database_url, scene, scene.hears_and_holds, while_running="steer") as here:
        first = await here.first()
        (second,) = await here.come()
        await eventually(lambda: lost, what="the loss")
        here.loop.strays_checked_at = 0
        here.loop.wake()
        await eventually(lambda: [second] in here.heard, what="that the run hears of it")
        here.gate.set()
        runs = await here.quiet()
    assert here.began == [first]
    assert [row[:2] for row in runs] == [(first, "succeeded"), (second, "succeeded")]


async def test_what_a_cancelled_run_was_about_to_take_is_taken_up_at_once(
    database_url: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without `doubtful`: the worker would look for what it does not know in an hour only, and the key stand
    still."""
    monkeypatch.setattr("reflex.worker.claim_loop.STRAY_CHECK_S", 3600)
    taking: list[Claimed] = []

    async def hanging(conn: AsyncConnection[Any], *lease: Any, **rest: Any) -> list[Claimed]:
        taken = await inbox.take_inbox(conn, *lease, **rest)
        if taken and not taking:
            taking.extend(taken)
            await asyncio.sleep(3600)
        return taken

    monkeypatch.setattr("reflex.worker.inboxes.take_inbox", hanging)

    async def agent(ctx: AgentContext) -> None:
        await (scene.hears_and_holds if not scene.began else scene.holds)(ctx)

    async with working(database_url, scene, agent, while_running="steer"):
        scene.gate.set()
        first = await scene.first()
        (second,) = await scene.come()
        await eventually(lambda: taking, what="the taking")
        scene.loop.cancel({(1, first): "enough"})
        runs = await scene.quiet()
    assert [row[:2] for row in runs] == [(first, "cancelled"), (second, "succeeded")]
    assert scene.began == [first, second]


async def test_of_what_was_claimed_at_once_only_the_newest_runs(database_url: str, scene: Scene) -> None:
    """Fails if what is claimed behind a run does not interrupt it, or is given back each time that one is: of a lane of
    thousands the worker would claim all for each of them."""
    scene.gate.set()
    events = await scene_before(scene, 5)
    async with working(database_url, scene, scene.holds, ahead=True, while_running="interrupt"):
        runs = await scene.quiet()
        assert await count(scene.conn, "run WHERE lease_epoch > 1") == 0
    assert scene.began == events[-1:]
    newer = [f"interrupted by event {event_id}" for event_id in events[1:]]
    assert sorted(row[2] for row in runs if row[1] == "cancelled") == sorted(newer)


async def scene_before(scene: Scene, number: int) -> list[UUID]:
    """Events from before the worker."""
    await ordered_shop(scene.conn)
    return await scene.come(number)


async def test_however_much_is_unwanted_what_is_wanted_interrupts(database_url: str, scene: Scene) -> None:
    """Fails if only the first of what waits behind a run are looked at: none of them runs before it has ended."""

    async def come(wanted: bool, number: int = 1) -> UUID:
        events = [new_event(payload=f'{{"wanted": {str(wanted).lower()}}}', key="a") for _ in range(number)]
        await append(scene.conn, events)
        return events[-1].event_id

    options: dict[str, Any] = {"wanted": keyword_filter("wanted", True), "while_running": "interrupt"}
    async with working(database_url, scene, scene.holds, **options), asyncio.TaskGroup() as group:
        slots, steps = scene.loop.slots, StepStore(database_url)
        interrupting = Interrupting(slots.inboxes.triggers, slots, steps)
        chore = group.create_task(interrupting.run())
        first = await come(True)
        await scene.begins(first)
        interrupting.wake()
        await come(False, 3 * inbox.LOOKED_AT)
        await scene.begins(await come(True))
        scene.gate.set()
        assert (first, "cancelled") in [run[:2] for run in await scene.quiet()]
        chore.cancel()
        await steps.aclose()


async def test_a_person_cancels_what_a_run_has_taken(database_url: str, scene: Scene) -> None:
    """Fails if it is settled with the run as taken, or with the run's cancellation."""
    async with working(database_url, scene, scene.hears_and_holds, while_running="steer") as here:
        first = await here.first()
        (second,) = await here.come()
        await eventually(lambda: [second] in here.heard, what="that it is taken")
        assert await cancel_delivery(here.conn, DeliveryId(1, second), reason="too late") == "cancelling"
        here.loop.cancel({(1, second): "cancelled by a person: too late"})
        here.gate.set()
        runs = await here.quiet()
    assert sorted(row[1:] for row in runs) == [("cancelled", "cancelled by a person: too late"), ("succeeded", None)]
    assert here.began == [first]
    assert await count(here.conn, "cancellation") == 0


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_worker_that_stops_gives_back_the_run_and_what_it_took(
    database_url: str, scene: Scene, stubborn: bool
) -> None:
    """Fails if what was taken stays leased until it is reaped, or has lost an attempt."""

    async def agent(ctx: AgentContext) -> None:
        try:
            await scene.hears_and_holds(ctx)
        except asyncio.CancelledError:
            if not stubborn:
                raise
            await asyncio.sleep(3)

    async with working(database_url, scene, agent, while_running="steer") as here:
        first = await here.first()
        (second,) = await here.come()
        await eventually(lambda: [second] in here.heard, what="that it is taken")
        await here.loop.drain(0, asyncio.Event())
        await eventually(lambda: here.lane_is(2, 0), what="that both are given back")
        back = await here.fetch("SELECT event_id, attempt FROM reflex.ordered ORDER BY position")
        assert back == [(first, 0), (second, 0)]
        assert [row[:2] for row in await here.fetch(RUNS)] == [(first, "released")]


@pytest.mark.parametrize("end", ["dead", "cancelled", "unavailable"])
async def test_what_came_during_a_run_that_ended_badly_is_dropped_as_well(
    database_url: str, scene: Scene, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Not so where the database cannot be asked: then it runs. Fails if only success drops, and if the settlement is
    lost with the question."""

    async def away(*args: Any, **rest: Any) -> list[UUID]:
        raise JournalUnavailable("away")

    async def agent(ctx: AgentContext) -> None:
        await scene.holds(ctx)
        if end == "dead" and len(scene.began) == 1:
            raise Reject("no")

    if end == "unavailable":
        monkeypatch.setattr("reflex.worker.inboxes.came_meanwhile", away)
    async with working(database_url, scene, agent, while_running="drop"):
        first = await scene.first()
        (second,) = await scene.come()
        if end == "cancelled":
            scene.loop.cancel({(1, first): "enough"})
        scene.gate.set()
        runs = dict([row[:2] for row in await scene.quiet()])
    how = "succeeded" if end == "unavailable" else end
    assert runs == {first: how, second: "succeeded" if end == "unavailable" else "skipped"}


async def test_what_a_refused_settlement_took_is_given_back(
    database_url: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL cannot store what the run returned. Fails if what it took counts as done all the same."""
    real = Inboxes.ended

    async def spoiled(self: Inboxes, lease: Claimed, settlement: Settlement) -> Settlement:
        ended = await real(self, lease, settlement)
        return ended._replace(output="no JSON") if ended.with_it else ended

    monkeypatch.setattr(Inboxes, "ended", spoiled)

    async def agent(ctx: AgentContext) -> None:
        await (scene.hears_and_holds if not scene.began else scene.holds)(ctx)

    scene.gate.set()
    async with working(database_url, scene, agent, while_running="steer"):
        first = await scene.first()
        (second,) = await scene.come()
        runs = await scene.quiet()
    assert [row[:2] for row in runs] == [(first, "dead"), (second, "succeeded")]
    assert scene.began == [first, second]


async def test_an_agent_is_asked_about_all_that_was_gathered(database_url: str, scene: Scene) -> None:
    """Fails if the default prompt is that of the first event alone."""
    asked: list[str] = []

    async def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append(prompt_text(messages))
        return ModelResponse(parts=[TextPart("ok")])

    await scene_before(scene, 3)
    async with working(database_url, scene, Agent(FunctionModel(model)), while_running="coalesce"):
        runs = await scene.quiet()
    assert asked == ["\n".join(['{"type":"order.created","payload":{}}'] * 3)]
    assert [row[1] for row in runs] == ["succeeded"] * 3


async def test_who_may_not_ask_is_told_so(database_url: str, scene: Scene) -> None:
    """Fails if a tool may take what its replay would not take again, if a trigger without an inbox seems to have an
    empty one, and if an event without a key has none."""
    agent = Agent(deps_type=AgentContext)

    @agent.tool
    async def asks(run: RunContext[AgentContext]) -> str:
        return f"{len(await run.deps.inbox())}"

    async def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart("asks", {})])

    async def function(ctx: AgentContext) -> None:
        if ctx.key is None:
            await scene.hears(ctx)
        else:
            await ctx.run_agent(agent, model=FunctionModel(model))

    async def asks_in_vain(ctx: AgentContext) -> None:
        await ctx.inbox()

    async with working(database_url, scene, function, while_running="steer"):
        await append(scene.conn, [new_event()])
        await scene.come()
        await eventually(lambda: is_quiet(scene.conn), what="a quiet queue")
    async with working(database_url, scene, asks_in_vain):
        await scene.come()
        await eventually(lambda: is_quiet(scene.conn), what="a quiet queue")
    assert scene.heard == [[]]
    dead = await scene.fetch("SELECT reason, error FROM reflex.dead_letter ORDER BY died_at")
    assert [reason for reason, _ in dead] == ["inbox", "inbox"]
    assert "a tool asked for the inbox" in dead[0][1]
    assert "pass while_running='steer' or 'coalesce'" in dead[1][1]
