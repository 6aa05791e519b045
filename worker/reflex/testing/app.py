"""An app on trial: its events, its runs and its time in the hands of a test.

async with AppTest("shop.app") as t:
    await t.publish(OrderEvent(order_id="A1", amount=250))
    await t.run()
    assert t.runs.outcomes == ["succeeded"]
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, Final, Self, overload
from uuid import UUID

from pydantic_ai.models import override_allow_model_requests

from reflex.agent.app import App, load_app
from reflex.agent.models import OFFLINE, resolve_models
from reflex.agent.publishing import RunLimits
from reflex.agent.schedules import Schedule
from reflex.agent.triggers import Trigger
from reflex.core.approvals import ApprovalRow, decide_approval, list_approvals
from reflex.core.circuits import Circuits
from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.errors import AppError
from reflex.core.events import BaseEvent
from reflex.core.journal import StepKind, StepStore
from reflex.core.log import append
from reflex.core.log_filter import LogFilter
from reflex.core.reads import get_event
from reflex.core.reaping import reap
from reflex.core.registration import register
from reflex.core.replaying import Replay, find_trigger, replay_span
from reflex.core.rows import DeliveryRow
from reflex.testing.clock import Clock
from reflex.testing.databases import Databases, shared_databases
from reflex.testing.model import FakeModel, FakeModels
from reflex.testing.publishing import sent_event
from reflex.testing.results import DeadLetter, Events, Lines, Runs, Story, read_story, record_of
from reflex.testing.watching import Done, Watch
from reflex.testing.worker import Worker

__all__ = ["AppTest", "Tested", "tested_app"]

Tested = str | ModuleType | App | Sequence[Trigger | Schedule]
NO_LIMITS_GIVEN: Final = RunLimits()
LEASE_TIMEOUT: Final = timedelta(seconds=15)
MAX_RUNS: Final = 10_000


class AppTest:
    """An app in one process, on a database of its own, with a clock and a model that the test commands.

    Everything but these two is the product's: routing, claims, retries, the journal, the transaction that settles.

    Args:
        app: The module's path, the module, or a list of triggers and schedules.
        start: What time it is at the beginning; by default what it really is.
        concurrency: How many runs at once. With one, they follow each other in the order of the log.
        timeout_s: How long `run` waits for runs that do not end, in real time.
        limits: What one run may produce.
        databases: Where the test's database comes from; by default DATABASE_URL's server or an embedded one.
        watch: For tests of crashes.

    Attributes:
        clock: Retries, delays, sleeps and schedules go by it.
        model: What agents are answered, and what they asked.

    Raises:
        AppError: The app cannot be loaded; on entering.
    """

    clock: Clock
    model: FakeModel
    database_url: str

    def __init__(
        self,
        app: Tested,
        *,
        start: datetime | None = None,
        concurrency: int = 1,
        timeout_s: float = 30,
        limits: RunLimits = NO_LIMITS_GIVEN,
        databases: Databases | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._given = app
        self._start = start
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._limits = limits
        self._databases = databases
        self.watch = watch or Watch()
        self._stack = AsyncExitStack()
        self._story = Story()

    async def __aenter__(self) -> Self:
        self.app = tested_app(self._given)
        self.model = FakeModel()
        async with self._stack as stack:
            stack.enter_context(override_allow_model_requests(False))
            databases = self._databases or shared_databases()
            self.database_url = databases.fresh()
            stack.callback(databases.drop, self.database_url)
            self._conn = await stack.enter_async_context(await connect(self.database_url, name="reflex testing"))
            self.clock = Clock(self._conn, work_off=self.run, next_in=self._next_in)
            await (self.clock.read() if self._start is None else self.clock.set(self._start))
            self._registered = await register(self._conn, self.app.manifest())
            self._models = FakeModels(self.model)
            resolve_models(self.app, OFFLINE)
            self._steps = StepStore(self.database_url, size=1)
            self._models.circuits = Circuits(self._steps)
            stack.push_async_callback(self._steps.aclose)
            self._worker = await self._enlisted(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.watch.over = True
        await self._stack.aclose()

    @overload
    async def publish(
        self, event: BaseEvent, /, *, key: str | None = ..., source: str | None = ..., id: str | None = ...,
        time: datetime | None = ..., correlation_id: str | None = ..., delay: timedelta | float | None = ...,
    ) -> BaseEvent: ...  # fmt: skip
    @overload
    async def publish(
        self, type: str, payload: dict[str, Any] | None = ..., /, *, key: str | None = ..., source: str | None = ...,
        id: str | None = ..., time: datetime | None = ..., correlation_id: str | None = ...,
        delay: timedelta | float | None = ...,
    ) -> BaseEvent: ...  # fmt: skip
    async def publish(
        self,
        event: BaseEvent | str,
        payload: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        source: str | None = None,
        id: str | None = None,
        time: datetime | None = None,
        correlation_id: str | None = None,
        delay: timedelta | float | None = None,
    ) -> BaseEvent:
        """Send an event as a client does. It is in the log, with its deliveries, when this returns; `run` runs them.

        Returns:
            The event of the log, with `meta`. One whose `id` was sent before is the earlier one.

        Raises:
            EventRejected: A gateway would refuse it; the sentence names the field.
            TypeError: The arguments make no event.
        """
        fields = {
            "key": key, "source": source, "id": id, "time": time, "correlation_id": correlation_id,
            "delay": delay.total_seconds() if isinstance(delay, timedelta) else delay,
        }  # fmt: skip
        new = sent_event(event, payload, fields, self._limits)
        event_id = (await append(self._conn, [new]))[new.event_id]
        await self._read()
        return self._event(event_id)

    async def run(self) -> None:
        """Work off everything that is due, what runs publish included, until nothing is. What was put off stays: see
        `clock.advance`.

        Raises:
            Endless: A run does not end, or there are too many.
            NoAnswer: An agent asked the model more than the script has answers for.
        """
        try:
            await self._worker.work_off(timeout_s=self._timeout_s, max_runs=MAX_RUNS)
        finally:
            await self._read()
        if self.model.problems:
            raise self.model.problems[0]

    async def replay(
        self,
        trigger: str,
        *,
        type: str | None = None,
        source: str | None = None,
        key: str | None = None,
        since: datetime | None = None,
    ) -> int:
        """Give a trigger the events of the log again that it matches, as `reflex replay` does; `run` runs them.

        Args:
            trigger: Its name.
            type: A type, or a prefix such as `order.*`.
            since: Only what was stored then or later.

        Returns:
            How many. Of which a delivery is pending, waits or is dead are left alone.

        Raises:
            NotFound: The app has no such trigger.
        """
        while await self._worker.placer.place(self._conn):
            pass
        span = await replay_span(self._conn, after=Cursor(0, 0) if since is None else None, since=since)
        wanted = LogFilter((type,) if type else (), (source,) if source else (), key)
        replay = Replay(self._conn, await find_trigger(self._conn, trigger), span, filter=wanted)
        async for _ in replay:
            pass
        return replay.done.replayed

    @property
    def runs(self) -> Runs:
        """Every run that has ended, in order; of those, filters that did not match are runs with the outcome
        `skipped`."""
        return self._story.runs

    @property
    def published(self) -> Events:
        """The events that runs have published."""
        return self._story.published

    @property
    def events(self) -> Events:
        """Every event of the log: sent, published, by the clock, and Reflex's own (`reflex.reply`, …)."""
        return self._story.events

    @property
    def dead_letters(self) -> Lines[DeadLetter]:
        """Deliveries that will not be tried again."""
        return self._story.dead_letters

    @property
    def tool_calls(self) -> list[Done]:
        """The tools that agents have really executed, in order. What a retry took from the journal is not here."""
        return [done for done in self.watch.done if done.kind is StepKind.TOOL_CALL]

    async def deliveries(self, event: BaseEvent) -> list[DeliveryRow]:
        """The deliveries of an event, and where each is: `state`, `attempt`, `available_at`, `waiting_for`, `runs`."""
        return (await get_event(self._conn, record_of(event).event_id)).deliveries

    async def approvals(self) -> list[ApprovalRow]:
        """The tool calls that wait for somebody's decision, the oldest first: `tool`, `arguments`, `metadata`, …"""
        return (await list_approvals(self._conn, state="pending")).rows[::-1]

    async def decide(
        self,
        approval: ApprovalRow,
        *,
        approve: bool,
        arguments: dict[str, Any] | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Approve or deny such a call, as a person does; `run` goes on with it. Raises as `POST /approvals/{id}`
        refuses."""
        await decide_approval(
            self._conn, approval.id, approve=approve, digest=approval.digest, arguments=arguments, reason=reason, by=by
        )
        await self._read()

    async def kill_and_replace(self) -> None:
        """The worker is gone, as after a SIGKILL; it is declared dead, and another takes over."""
        self.watch.revive()
        await reap(self._conn, lease_timeout=LEASE_TIMEOUT, now=self.clock.now + 2 * LEASE_TIMEOUT)
        self._worker = await self._enlisted(self._stack)

    async def run_out(self, *, longest: timedelta, most: int = 100) -> None:
        """`run`, and go on with what was put off for no longer than that. Schedules do not count: they never end."""
        for _ in range(most):
            await self.run()
            next_in = await self._worker.next_in(schedules=False)
            if next_in is None or next_in > longest or self.watch.dead.is_set():
                return
            await self.clock.skip(next_in)

    def story(self) -> str:
        """All that has happened, for people."""
        if not hasattr(self, "clock"):
            return "the app did not start"
        return f"{self._story}\ntools: {self.tool_calls}\nclock: {self.clock.now.isoformat(timespec='seconds')}"

    async def _enlisted(self, stack: AsyncExitStack) -> Worker:
        worker = Worker(
            self.database_url, self._conn, self.app, self._registered, models=self._models, steps=self._steps,
            watch=self.watch, limits=self._limits, concurrency=self._concurrency,
        )  # fmt: skip
        stack.push_async_callback(worker.stop)
        await worker.enlist()
        return worker

    async def _next_in(self) -> timedelta | None:
        return await self._worker.next_in()

    async def _read(self) -> None:
        self._story = await read_story(self._conn)

    def _event(self, event_id: UUID) -> BaseEvent:
        return next(event for event in self._story.events if record_of(event).event_id == event_id)


def tested_app(app: Tested) -> App:
    """The app that a test means.

    Raises:
        AppError: It cannot be imported, or has no trigger.
        TypeError: It is something else.
    """
    if isinstance(app, App):
        return app
    if isinstance(app, str | ModuleType):
        return load_app(app if isinstance(app, str) else app.__name__, default_model=OFFLINE)
    if not isinstance(app, Sequence) or not all(isinstance(each, Trigger | Schedule) for each in app):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the app is {app!r}; pass its module, the module's path, or a list of triggers and schedules")
    given = [each for each in app if isinstance(each, Trigger)]
    if not given:
        raise AppError("the list has no trigger; an app has at least one")
    # In a module a trigger's `cancel_on` is found by itself.
    triggers = tuple(dict.fromkeys(one for each in given for one in (each, each.canceller) if one is not None))
    return App("test", triggers, tuple(each for each in app if isinstance(each, Schedule)))
