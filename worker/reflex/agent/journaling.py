"""The journal around a pydantic-ai agent: its model and its tools, by pydantic-ai's public seam for capabilities.

Imported by the first journaled run of an agent: it needs pydantic-ai.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import structlog
from pydantic import TypeAdapter, ValidationError
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.durable_exec import record_durable_unit, replay_scope
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolReturn
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from reflex.agent.fingerprints import fingerprint_of_call, fingerprint_of_request
from reflex.agent.journal import Journal, Lookup, StepKey, ToolCall, tool_call
from reflex.agent.progress import RunProgress
from reflex.agent.remembering import Before, StateRecord
from reflex.agent.watching import WatchedToolset, begin_request, show_response, watched_model
from reflex.core.events import NewEvent
from reflex.core.journal import StepKind

if TYPE_CHECKING:
    from reflex.agent.context import AgentContext

__all__ = ["Journaling", "replay_scope"]


@dataclass(frozen=True)
class ToolRecord:
    """How a tool call ended. That the model is to try again is a way to end, and as final as the others: repeating
    the call might do its work twice, and answer the model something else than the next request was recorded for."""

    ended: Literal["value", "tool_return", "retry", "failed"]
    value: ToolReturn[Any] | None = None
    message: str = ""
    published: Sequence[NewEvent] = ()
    steps: Sequence[StepKey] = ()
    state: StateRecord | None = None

    def outcome(self) -> Any:
        match self.ended:
            case "retry":
                raise ModelRetry(self.message)
            case "failed":
                raise ToolFailed(self.message)
            case "tool_return":
                return self.value
            case "value":
                return self.value.return_value if self.value is not None else None


TOOL_RECORD: Final = TypeAdapter(ToolRecord)


class Journaling(AbstractCapability[Any]):
    """Passed to each run of an agent, whatever the agent itself was made with."""

    def __init__(self, ctx: "AgentContext", journal: Journal) -> None:
        self.ctx = ctx
        self.journal = journal

    def get_ordering(self) -> CapabilityOrdering:
        # Next to what costs: the author's own wrappers and hooks run in a replay as they did the first time.
        return CapabilityOrdering(position="innermost")

    def get_wrapper_model(self, model: Model[Any]) -> Model[Any]:
        progress = self.ctx.progress
        return JournaledModel(model if progress is None else watched_model(model, progress), self.journal, progress)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        journaled = JournaledToolset(toolset, self.ctx, self.journal)
        # Around the journal: a replayed call is shown, too.
        return journaled if self.ctx.progress is None else WatchedToolset(journaled, self.ctx.progress)


class JournaledModel(WrapperModel):
    """Gives the recorded response to a request that was answered before. Requests that are streamed to the author's
    own code pass through; those that are streamed for watchers come here as plain ones."""

    def __init__(self, wrapped: Model[Any], journal: Journal, progress: RunProgress | None) -> None:
        super().__init__(wrapped)
        self.journal = journal
        self.progress = progress

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        step = await self._step(messages, model_settings, model_request_parameters)
        if step is not None and (response := replayed_response(step)) is not None:
            self.journal.count(
                replayed_requests=1,
                replayed_input_tokens=response.usage.input_tokens,
                replayed_output_tokens=response.usage.output_tokens,
            )
            if self.progress is not None:
                show_response(begin_request(self.progress, model_request_parameters), response)
            record_durable_unit(executed=False)
            return response
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        if step is not None and response.state == "complete":
            await self.journal.record(step, ModelMessagesTypeAdapter.dump_json([response]).decode())
        record_durable_unit(executed=True)
        return response

    async def _step(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> Lookup | None:
        # A response at the end is one that the provider still works on: the request asks how far it is. The work dies
        # with the run that asked for it (pydantic-ai cancels it), so it must not be taken up by another.
        if messages and isinstance(messages[-1], ModelResponse):
            return None
        try:
            fingerprint = fingerprint_of_request(self.wrapped.model_id, messages, settings, parameters)
        except ValueError as error:
            unjournaled("a model request", error)
            return None
        return await self.journal.look_up(StepKind.MODEL_REQUEST, fingerprint)


@dataclass
class JournaledToolset(WrapperToolset[Any]):
    """Gives the recorded outcome of a call that was completed before, function tools and MCP alike."""

    ctx: "AgentContext"
    journal: Journal

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        try:
            fingerprint = fingerprint_of_call(ctx.messages, name, tool_args, ctx.tool_call_id)
        except ValueError as error:
            unjournaled(f"a call of the tool {name!r}", error)
            return await super().call_tool(name, tool_args, ctx, tool)
        step = await self.journal.look_up(StepKind.TOOL_CALL, fingerprint)
        remembered = self.ctx.remembered
        record = replayed_call(step)
        if record is not None and (record.state is None or (remembered and remembered.repeat(record.state))):
            self.journal.count(replayed_tool_calls=1)
            self.journal.covers(record.steps)
            self.ctx.publish_again(record.published)
            record_durable_unit(executed=False)
            return record.outcome()
        before = remembered.before_tool() if remembered is not None else None
        with tool_call() as call:
            try:
                result: object = await super().call_tool(name, tool_args, ctx, tool)
            except (ModelRetry, ToolFailed) as error:
                ended = "retry" if isinstance(error, ModelRetry) else "failed"
                await self._record(step, call, before, ToolRecord(ended, message=error.message))
                raise
        if isinstance(result, ToolReturn):
            await self._record(step, call, before, ToolRecord("tool_return", cast("ToolReturn[Any]", result)))
        else:
            await self._record(step, call, before, ToolRecord("value", ToolReturn(return_value=result)))
        return cast("Any", result)

    async def _record(self, step: Lookup, call: ToolCall, before: Before | None, ended: ToolRecord) -> None:
        remembered, state = self.ctx.remembered, None
        if remembered is not None and before is not None:
            state = remembered.after_tool(before, asked=call.remembered)
        record = replace(ended, published=call.published, steps=call.steps, state=state)
        try:
            text = TOOL_RECORD.dump_json(record).decode()
        except ValueError as error:
            unjournaled("the result of a tool", error)
        else:
            await self.journal.record(step, text)
        record_durable_unit(executed=True)


def replayed_response(step: Lookup) -> ModelResponse | None:
    if step.recorded is None:
        return None
    try:
        (response,) = ModelMessagesTypeAdapter.validate_json(step.recorded)
    except ValidationError as error:
        unreadable(step, error)
        return None
    return response if isinstance(response, ModelResponse) else None


def replayed_call(step: Lookup) -> ToolRecord | None:
    if step.recorded is None:
        return None
    try:
        return TOOL_RECORD.validate_json(step.recorded)
    except ValidationError as error:
        unreadable(step, error)
        return None


def unjournaled(what: str, error: ValueError) -> None:
    structlog.get_logger("reflex.agent").warning(
        f"{what} cannot be written as JSON: a retry would pay for it again", error=str(error).splitlines()[0][:300]
    )


def unreadable(step: Lookup, error: ValidationError) -> None:
    """Written by another version of pydantic-ai, or of ours."""
    structlog.get_logger("reflex.agent").warning(
        "a recorded step cannot be read any more and is paid for again", step=step.kind, error=str(error)[:300]
    )
