"""A pydantic-ai agent inside the run of a trigger: journaled whichever way it is run. Needs pydantic-ai."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.run import AgentRun
from pydantic_ai.usage import RunUsage

from reflex.agent.journaling import Journaling, replay_scope
from reflex.agent.models import Models

if TYPE_CHECKING:
    from pydantic_ai import RunContext
    from pydantic_ai.settings import ModelSettings

    from reflex.agent.context import AgentContext

__all__ = ["DurableAgent"]

OutputT = TypeVar("OutputT")


class DurableAgent(WrapperAgent[Any, OutputT]):
    """The agent with the context as its `deps`, the default model if it names none, and its usage counted with the run,
    unless the run of it is told otherwise. `run`, `run_stream`, `run_stream_events` and `iter` all come by here."""

    def __init__(self, agent: AbstractAgent[Any, OutputT], ctx: "AgentContext") -> None:
        super().__init__(agent)
        self._ctx = ctx

    @property
    def name(self) -> str | None:
        # Never none: pydantic-ai would call it like the variable that it is in, and the author's agent with it.
        return self.wrapped.name or self._ctx.trigger

    @name.setter
    def name(self, value: str | None) -> None:
        self.wrapped.name = value

    @asynccontextmanager
    async def iter(  # pyright: ignore[reportIncompatibleMethodOverride] - it takes what the agent takes
        self, user_prompt: Any = None, **options: Any
    ) -> AsyncGenerator[AgentRun[Any, Any]]:
        """As `AbstractAgent.iter`. The journal is complete when it is left, whatever the run came to."""
        ctx, journal = self._ctx, self._ctx.journal
        models = ctx.models or Models()
        given = {name: value for name, value in options.items() if value is not None}
        options |= {"deps": ctx, "usage": RunUsage(), **given}
        options["model_settings"] = partial(settings_of, given.get("model_settings"), models.timeout_s)
        if options.get("model") is None:
            options["model"] = models.model_for(self.wrapped)
        if not any(usage is options["usage"] for usage in ctx.usages):
            ctx.usages.append(options["usage"])
        replaying, recording = nullcontext(), nullcontext()
        if journal is not None:
            ours = Journaling(ctx, journal, options["usage"])
            options["capabilities"] = [*given.get("capabilities", ()), ours]
            replaying, recording = replay_scope(), journal.around_run()
        naming = self.wrapped.override(name=ctx.trigger) if self.wrapped.name is None else nullcontext()
        with replaying, naming:
            async with recording, self.wrapped.iter(user_prompt, **options) as run:
                yield run


def settings_of(given: Any, timeout_s: float | None, run: "RunContext[Any]") -> "ModelSettings":
    """The settings given for this run, without the retries of the provider's client, and with a time limit. Retries
    belong to the queue, where they survive a crash and hold no slot; the client's would multiply them. Who asks for
    `max_retries` or `request_timeout`, in the agent or for the run, gets them."""
    asked: ModelSettings = cast("Any", given)(run) if callable(given) else given or {}
    known = {*(run.model_settings or {}), *getattr(run.model, "unsupported_settings", ())}
    ours: ModelSettings = {"max_retries": 0}
    if timeout_s is not None:
        ours["request_timeout"] = timeout_s
    return cast("ModelSettings", {**{name: value for name, value in ours.items() if name not in known}, **asked})
