"""The journal around a pydantic-ai agent: its model and its tools, by pydantic-ai's public seam for capabilities.

Imported by the first journaled run of an agent: it needs pydantic-ai.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, cast

import structlog
from pydantic import TypeAdapter, ValidationError
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.durable_exec import record_durable_unit, replay_scope
from pydantic_ai.exceptions import CallDeferred, ModelRetry, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from reflex.agent.approving import Approving
from reflex.agent.arguments import lasting
from reflex.agent.budgeting import budgeted_model, budgeted_toolset
from reflex.agent.delegated import CALLED, note_spent
from reflex.agent.divergence import placed, unplaced
from reflex.agent.effects import Effect, EffectKind, EffectMisuse, check_transactional, effect_in, undeclared
from reflex.agent.enqueuing import noting
from reflex.agent.fingerprints import fingerprint_of_call, fingerprint_of_request, said
from reflex.agent.guarding import guarded_model
from reflex.agent.journal import Journal, Lookup, ToolCall, current_call, tool_call
from reflex.agent.ledger import Call, address_of, give_back, key_of, number_for
from reflex.agent.message_digests import MessageDigests
from reflex.agent.metering import meter
from reflex.agent.once import OnceCall
from reflex.agent.remembering import Before
from reflex.agent.tool_records import TOOL_RECORD, ToolRecord
from reflex.agent.transactional import in_transaction
from reflex.agent.watching import WatchedToolset, begin_request, show_response, watched_model
from reflex.core.journal import StepKind

if TYPE_CHECKING:
    from reflex.agent.context import AgentContext

__all__ = ["Journaling", "effect_of", "replay_scope"]

# Takes half as long as pydantic-ai's own adapter for any messages, and writes the same.
RESPONSE: Final = TypeAdapter(ModelResponse)


class Journaling(AbstractCapability[Any]):
    """Passed to each run of an agent, whatever the agent itself was made with."""

    def __init__(self, ctx: "AgentContext", journal: Journal, usage: Any = None) -> None:
        """`usage` is where the run counts what it uses up."""
        self.ctx = ctx
        self.journal = journal
        self.usage = usage
        self.place = ctx.course.next_place() if ctx.course is not None else None
        self.digests = MessageDigests()
        self.approving = Approving(ctx, journal)
        self._wrapped: tuple[Model[Any], Model[Any]] | None = None

    def get_ordering(self) -> CapabilityOrdering:
        # Next to what costs: the author's own wrappers and hooks run in a replay as they did the first time. And a call
        # that his hooks have answered needs nobody's approval.
        return CapabilityOrdering(position="innermost")

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        return await self.approving.decisions(ctx, requests)

    def get_wrapper_model(self, model: Model[Any]) -> Model[Any]:
        # Asked for each request, as a rule for the same model.
        if self._wrapped is None or self._wrapped[0] is not model:
            self._wrapped = model, self._wrapper_of(model)
        return self._wrapped[1]

    def _wrapper_of(self, model: Model[Any]) -> Model[Any]:
        for inside in self.journal.inside:
            model = inside.around_model(model)
        progress = self.ctx.progress
        if self.ctx.models is not None and self.ctx.models.circuits is not None:
            model = guarded_model(model, self.ctx.models.circuits)
        asked = budgeted_model(model if progress is None else watched_model(model, progress), self.ctx.spending)
        return JournaledModel(asked, self.ctx, self.journal, self.digests, self.place, self.usage)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        for inside in self.journal.inside:
            toolset = inside.around_toolset(toolset)
        asked = budgeted_toolset(toolset, self.ctx.spending)
        approved = self.approving.approved
        journaled = JournaledToolset(asked, self.ctx, self.journal, self.digests, approved, self.usage)
        # Around the journal: a replayed call is shown, too.
        return journaled if self.ctx.progress is None else WatchedToolset(journaled, self.ctx.progress)


class JournaledModel(WrapperModel):
    """Gives the recorded response to a request that was answered before, streamed to the author's own code or not: what
    was recorded of the one is given to the other. Requests that are streamed for watchers come here as plain ones.
    `place` is that of the run, if it is to be held to its journal."""

    def __init__(
        self,
        wrapped: Model[Any],
        ctx: "AgentContext",
        journal: Journal,
        digests: MessageDigests,
        place: str | None = None,
        usage: Any = None,
    ) -> None:
        super().__init__(wrapped)
        self.ctx = ctx
        self.journal = journal
        self.digests = digests
        self.place = place
        self.usage = usage

    async def __aenter__(self) -> Self:
        # pydantic-ai enters it around each request, the model itself around a run: nothing in between is to be opened.
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        step = await self._step(messages, model_settings, model_request_parameters)
        if (replayed := self._replayed(step, model_request_parameters)) is not None:
            return replayed
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        meter(self.ctx, self.wrapped, response)
        note_spent(self.usage, response.usage)
        await self._record(step, response, model_request_parameters)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        step = await self._step(messages, model_settings, model_request_parameters)
        if (replayed := self._replayed(step, model_request_parameters)) is not None:
            yield CompletedStreamedResponse(
                replayed, model_request_parameters=model_request_parameters, replay_events=True
            )
            return
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as stream:
            yield stream
        # Whoever reads it may stop before its end: then it is not known what the model would have said.
        response = stream.get()
        meter(self.ctx, self.wrapped, response)
        note_spent(self.usage, response.usage)
        await self._record(step, response, model_request_parameters)

    def _replayed(self, step: Lookup | None, parameters: ModelRequestParameters) -> ModelResponse | None:
        if step is None:
            return None
        if step.recorded is None:
            if self.place is not None and self.ctx.course is not None:
                self.ctx.course.check(self.place, self.journal.unused)
            return None
        response = replayed_response(step)
        if response is not None:
            note_spent(self.usage, response.usage)
            self.journal.replayed_usages.append(response.usage)
            self.journal.count(
                replayed_requests=1,
                replayed_input_tokens=response.usage.input_tokens,
                replayed_output_tokens=response.usage.output_tokens,
            )
            if self.ctx.progress is not None:
                show_response(begin_request(self.ctx.progress, parameters), response)
            record_durable_unit(executed=False)
        return response

    async def _record(self, step: Lookup | None, response: ModelResponse, parameters: ModelRequestParameters) -> None:
        record_durable_unit(executed=True)
        if step is not None and response.state == "complete":
            try:
                text = placed(f"[{RESPONSE.dump_json(response).decode()}]", self.place)
            except ValueError as error:
                unjournaled("a model's answer", error)
                return
            tools = {tool.name for tool in parameters.function_tools}
            if response.tool_calls and all(call.tool_name in tools for call in response.tool_calls):
                self.journal.begin_to_record(step, text)  # each of the calls waits for it
            else:
                await self.journal.record(step, text)  # the author's code gets the output

    async def _step(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> Lookup | None:
        # A response at the end is one that the provider still works on: the request asks how far it is. The work dies
        # with the run that asked for it (pydantic-ai cancels it), so it must not be taken up by another.
        if messages and isinstance(messages[-1], ModelResponse):
            return None
        try:
            fingerprint = fingerprint_of_request(self.wrapped.model_id, self.digests.of(messages), settings, parameters)
        except ValueError as error:
            unjournaled("a model request", error)
            return None
        return await self.journal.look_up(
            StepKind.MODEL_REQUEST, fingerprint, f"the answer of model {self.wrapped.model_id!r}"
        )


@dataclass
class JournaledToolset(WrapperToolset[Any]):
    """Gives the recorded outcome of a call that was completed before, function tools and MCP alike."""

    ctx: "AgentContext"
    journal: Journal
    digests: MessageDigests
    approved: Mapping[str, dict[str, Any]]
    usage: Any = None

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        result = await self._called(name, tool_args, ctx, tool)
        note_spent(self.usage, CALLED)
        return result

    async def _called(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]) -> Any:
        effect = effect_of(self.ctx.effects, name, tool)
        address, number, key = b"", 0, ""

        async def act() -> Any:
            if (call := current_call()) is not None:
                call.run_usage = self.usage
            return await super(JournaledToolset, self).call_tool(name, tool_args, noting(ctx), tool)

        try:
            # In the order in which calls begin: the number of a call must not depend on what they wait for.
            if effect.kind is not EffectKind.ONCE:
                address = address_of(name, tool_args)
                number = number_for(self.journal, address)
                key = key_of(self.journal, address, number)
            if ctx.tool_call_approved:  # whoever approves a call may edit its arguments
                asked = self.approved.get(ctx.tool_call_id or "")
            else:
                asked = said(ctx.messages, ctx.tool_call_id)
            conversation = self.digests.of_calls(ctx.messages)
            arguments = lasting(tool_args) if asked is None else asked
            fingerprint = fingerprint_of_call(conversation, name, arguments, ctx.tool_call_id)
        except ValueError as error:
            if effect.kind in (EffectKind.ONCE, EffectKind.TRANSACTIONAL):
                raise EffectMisuse(f"a call of tool {name!r} cannot be journaled: {error}") from error
            unjournaled(f"a call of the tool {name!r}", error)
            with tool_call(key or None):
                return await act()
        if effect.kind is EffectKind.ONCE:
            call = Call(name, tool_args, fingerprint.hex())
            return await OnceCall(self.ctx, self.journal, effect, call, ctx, self.usage).run(act)
        step = await self.journal.look_up(StepKind.TOOL_CALL, fingerprint, f"the result of tool {name!r}")
        remembered = self.ctx.remembered
        record = replayed_call(step)
        if record is not None and (record.state is None or (remembered and remembered.repeat(record.state))):
            return record.replayed(self.ctx, self.journal, ctx, self.usage)
        if effect.kind is EffectKind.TRANSACTIONAL:
            return await self._in_transaction(step, name, key, act)
        before = remembered.before_tool() if remembered is not None else None
        with tool_call(key) as call:
            try:
                result: object = await act()
            except (ModelRetry, ToolFailed, CallDeferred) as error:
                self._record(step, call, ToolRecord.of_error(error), before)
                raise
            except BaseException:
                give_back(self.journal, address, number)
                raise
        self._record(step, call, ToolRecord.of_result(result), before)
        return cast("Any", result)

    async def _in_transaction(self, step: Lookup, name: str, key: str, act: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await in_transaction(self.journal, step, name, key, act)
        except (ModelRetry, ToolFailed) as error:
            self._record(step, ToolCall(), ToolRecord.of_error(error))
            raise

    def _record(self, step: Lookup, call: ToolCall, ended: ToolRecord, before: Before | None = None) -> None:
        remembered, state = self.ctx.remembered, None
        if remembered is not None and before is not None:
            state = remembered.after_tool(before, asked=call.remembered)
        try:
            text = ended.with_call(call, state).as_json()
        except ValueError as error:
            unjournaled("the result of a tool", error)
        else:
            self.journal.begin_to_record(step, text)  # the next request waits for it
        record_durable_unit(executed=True)


def effect_of(declared: Mapping[str, Effect], name: str, tool: ToolsetTool[Any]) -> Effect:
    """What is declared for a tool. What the trigger says wins over the tool's own word.

    Raises:
        EffectMisuse: What is declared is no effect, or none that this tool can have.
    """
    effect = declared.get(name) or effect_in(f"tool {name!r}", tool.tool_def.metadata) or undeclared
    if effect.kind is EffectKind.TRANSACTIONAL:
        while (source := getattr(tool, "source_tool", None)) is not None:
            tool = source
        check_transactional(name, asynchronous=getattr(tool, "is_async", True))
    return effect


def replayed_response(step: Lookup) -> ModelResponse | None:
    if step.recorded is None:
        return None
    try:
        (response,) = ModelMessagesTypeAdapter.validate_json(unplaced(step.recorded)[1])
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
