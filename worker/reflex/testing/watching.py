"""What runs really do: which tools they execute, what they ask the model, which steps they journal. And the place where
their worker is killed, for tests of crashes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import to_jsonable_python

from reflex.agent.effects import EffectKind
from reflex.agent.journal import Journal, Lookup
from reflex.agent.journaling import effect_of
from reflex.agent.triggers import Trigger
from reflex.core.ids import DeliveryId
from reflex.core.journal import Step, StepKind, StepStore
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.testing.model import trigger_of_run
from reflex.worker.cancelling import Cancelled
from reflex.worker.inboxes import Inbox, Inboxes

__all__ = ["CrashPoint", "Done", "Watch", "WatchedInboxes"]


@dataclass(slots=True)
class Done:
    """A tool that was executed, or a request that a model was asked, and not replayed from the journal.

    `arguments` is JSON; of a request it is empty. `recorded`: it has ended, and the journal has it. `life` counts the
    lives of the worker: 0 is the first. `is_pure`: it is declared to do nothing but read.
    """

    trigger: str
    kind: StepKind
    name: str
    arguments: str
    life: int
    recorded: bool = False
    is_pure: bool = False

    @property
    def what(self) -> tuple[str, StepKind, str, str]:
        """What makes two of them the same."""
        return self.trigger, self.kind, self.name, self.arguments

    def __repr__(self) -> str:
        text = f"{self.name}({self.arguments})" if self.kind is StepKind.TOOL_CALL else "a model request"
        return f"<{self.trigger}: {text}{'' if self.recorded else ', not recorded'}>"


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A place where a worker can be killed. `number` counts them in a run of the app, from 0."""

    number: int
    trigger: str
    moment: str

    def __str__(self) -> str:
        return f"{self.number + 1:>3}. {self.trigger}: {self.moment}"


# Steps of tools that must not be repeated: written before the work, and after it.
LEDGER: Final = (StepKind.INTENT, StepKind.EFFECT)
# What the code that runs now has just done, for the journal that records it.
last_done: ContextVar[Done | None] = ContextVar("reflex_testing_last_done", default=None)


class Watch:
    """Watches the runs of an app, and kills the worker at one point if it is told to.

    A killed worker stands still: whatever comes to a model, a tool, the journal or the end of a run goes no further.
    So nothing of it is settled, and none of its `finally` runs, until the test is over.
    """

    def __init__(self, kill_at: int | None = None, triggers: Sequence[Trigger] = ()) -> None:
        """`triggers` may declare what their agents' tools do."""
        self.kill_at = kill_at
        self.effects = {trigger.name: trigger.effects for trigger in triggers}
        self.done: list[Done] = []
        self.passed: list[CrashPoint] = []
        self.unused: list[tuple[str, Step]] = []
        self.life = 0
        self.killed_at: CrashPoint | None = None
        self.dead = asyncio.Event()
        self.over = False
        self._written = 0

    def open_journal(self, steps: StepStore, delivery_id: DeliveryId, lease_epoch: int) -> Journal:
        """What attempts write their steps to."""
        return WatchedJournal(self, self.life, steps, delivery_id, lease_epoch)

    async def ended(self, life: int, settlement: Settlement, trigger: str) -> None:
        """A run has ended and is not settled yet."""
        if settlement.outcome is not Outcome.SKIPPED:
            await self.point(life, trigger, "before the run is settled")

    def revive(self) -> None:
        """The next life of the worker begins."""
        self.life += 1
        self.dead = asyncio.Event()

    async def alive(self, life: int) -> None:
        """Return if that life goes on; else never, but to be cancelled."""
        if life < self.life or self.dead.is_set():
            if self.over:
                raise asyncio.CancelledError
            await asyncio.get_running_loop().create_future()

    async def point(self, life: int, trigger: str, moment: str) -> None:
        """Here the worker can be killed."""
        await self.alive(life)
        if life > 0:
            return
        point = CrashPoint(len(self.passed), trigger, moment)
        self.passed.append(point)
        if point.number == self.kill_at:
            self.killed_at = point
            self.dead.set()
            await self.alive(life)

    def number_of_step(self) -> int:
        self._written += 1
        return self._written


class WatchedJournal(Journal):
    """The journal of a run that is watched."""

    def __init__(self, watch: Watch, life: int, steps: StepStore, delivery_id: DeliveryId, lease_epoch: int) -> None:
        super().__init__(steps, delivery_id, lease_epoch)
        self.watch = watch
        self.life = life
        self.inside: Sequence[Any] = (Inside(watch, life),)

    async def look_up(self, kind: StepKind, fingerprint: bytes, of: str = "a step") -> Lookup:
        await self.watch.alive(self.life)
        return await super().look_up(kind, fingerprint, of)

    async def write(self, *steps: Step) -> None:
        await self.watch.alive(self.life)
        # The texts that are kept beside a step are one write with it.
        (step,) = [step for step in steps if step.kind is not StepKind.BLOB]
        done = self.done_by(step)
        number, trigger = self.watch.number_of_step(), trigger_of_run()
        if step.kind in LEDGER:
            name = str(orjson.loads(step.result)["tool"])
        else:
            name = done.name if done is not None else str(step.kind)
        what = f"step {number} ({name})"
        before, after = f"before {what} is recorded", f"after {what}"
        if step.kind is StepKind.INTENT:
            before, after = f"before {what} is begun", f"after {what} is begun, before its work"
        await self.watch.point(self.life, trigger, before)
        await super().write(*steps)
        if done is not None:
            done.recorded = True
        await self.watch.point(self.life, trigger, after)

    def done_by(self, step: Step) -> Done | None:
        """What has just been done, if the step is its record."""
        if step.kind is StepKind.EFFECT:
            # The call had a task of its own, with its own last_done.
            name, trigger = orjson.loads(step.result)["tool"], trigger_of_run()
            mine = [
                done for done in self.watch.done if (done.name, done.trigger, done.life) == (name, trigger, self.life)
            ]
            return next((done for done in mine if not done.recorded), None)
        done = last_done.get()
        return done if done is not None and done.kind is step.kind else None

    def report(self) -> None:
        self.watch.unused += [(trigger_of_run(), step) for step in self.unused]
        super().report()


class WatchedInboxes(Inboxes):
    """The inboxes of a worker that is watched: what a run was given is recorded with the taking, not by its journal."""

    def __init__(
        self, watch: Watch, triggers: Mapping[int, Trigger], steps: StepStore, cancelled: Cancelled
    ) -> None:  # fmt: skip
        super().__init__(triggers, steps, cancelled)
        self.watch = watch
        self.life = watch.life

    async def take(
        self,
        lease: Claimed,
        inbox: Inbox,
        *,
        only: Sequence[UUID] | None = None,
        note: Callable[[list[Claimed]], Step] | None = None,
    ) -> list[Claimed]:
        await self.watch.alive(self.life)
        if note is None:
            return await super().take(lease, inbox, only=only)
        what, trigger = f"step {self.watch.number_of_step()} (inbox)", self.triggers[lease.trigger_id].name
        await self.watch.point(self.life, trigger, f"before {what} is recorded")
        taken = await super().take(lease, inbox, note=note)
        await self.watch.point(self.life, trigger, f"after {what}")
        return taken


class Inside:
    """Between the journal and what costs: what comes here is really done."""

    def __init__(self, watch: Watch, life: int) -> None:
        self.watch = watch
        self.life = life

    def around_model(self, model: Model[Any]) -> Model[Any]:
        return WatchedModel(model, self)

    def around_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        return WatchedTools(toolset, self)

    async def begins(self, kind: StepKind, name: str, arguments: Any = None) -> Done:
        await self.watch.alive(self.life)
        text = "" if arguments is None else canonical(arguments)
        done = Done(trigger_of_run(), kind, name, text, self.life)
        self.watch.done.append(done)
        return done


class WatchedModel(WrapperModel):
    """Counts the requests that are really made, streamed or not."""

    def __init__(self, wrapped: Model[Any], inside: Inside) -> None:
        super().__init__(wrapped)
        self.inside = inside

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        done = await self.inside.begins(StepKind.MODEL_REQUEST, "model request")
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        last_done.set(done)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        done = await self.inside.begins(StepKind.MODEL_REQUEST, "model request")
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as stream:
            yield stream
        last_done.set(done)


@dataclass
class WatchedTools(WrapperToolset[Any]):
    """Counts the tools that are really executed."""

    inside: Inside

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        done = await self.inside.begins(StepKind.TOOL_CALL, name, tool_args)
        declared = self.inside.watch.effects.get(done.trigger, {})
        done.is_pure = effect_of(declared, name, tool).kind is EffectKind.PURE
        try:
            return await super().call_tool(name, tool_args, ctx, tool)
        except (ApprovalRequired, CallDeferred):
            # It has done nothing yet, and is called again when that is decided.
            self.inside.watch.done = [each for each in self.inside.watch.done if each is not done]
            raise
        finally:
            # After the call: an agent that the tool runs does things of its own.
            last_done.set(done)


def canonical(arguments: Any) -> str:
    return orjson.dumps(
        to_jsonable_python(arguments, fallback=repr), option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    ).decode()
