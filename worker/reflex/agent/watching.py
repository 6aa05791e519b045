"""Watching a pydantic-ai agent: its model is asked streaming, and its text, tool calls and results are shown.

Imported by the first run of an agent: it needs pydantic-ai.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, ModelRetry, ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolReturn,
    ToolReturnPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset

from reflex.agent.progress import RequestProgress, RunProgress

__all__ = ["WatchedToolset", "begin_request", "show_response", "watched_model"]

# With these the text may be the JSON of the output. "auto" becomes one of them, or "tool", inside the model.
JSON_AS_TEXT: Final = frozenset({"auto", "native", "prompted"})
# What a provider answers who knows the model but not how to stream it, if the words say so, too.
REFUSED: Final = frozenset({400, 403, 405, 415, 422, 501})


def watched_model(model: Model[Any], progress: RunProgress) -> Model[Any]:
    """The model, shown while it answers."""
    return WatchedFallback(model, progress) if type(model) is FallbackModel else WatchedModel(model, progress)


class WatchedModel(WrapperModel):
    """Asks streaming while somebody watches, and gives what the plain request would have given: whoever called does
    not learn of it. A model that cannot stream is asked plainly."""

    def __init__(self, wrapped: Model[Any], progress: RunProgress) -> None:
        super().__init__(wrapped)
        self.progress = progress

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        # A response at the end is one that the provider still works on: there is nothing to stream before it is done.
        follows_up = bool(messages) and isinstance(messages[-1], ModelResponse)
        if not self.progress.watched or follows_up:
            return await self.wrapped.request(messages, model_settings, model_request_parameters)
        request = begin_request(self.progress, model_request_parameters)
        if can_stream(self.wrapped):
            response = await self._streamed(request, messages, model_settings, model_request_parameters)
            if response is not None:
                return response
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        show_response(request, response)
        return response

    async def _streamed(
        self,
        request: RequestProgress,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse | None:
        """The response, or None if the model turns out not to stream."""
        begun = False
        try:
            async with self.wrapped.request_stream(messages, model_settings, model_request_parameters) as stream:
                async for event in stream:
                    begun = True
                    show_event(request, event)
        except (NotImplementedError, ModelHTTPError) as error:
            if begun or not refuses_to_stream(error):
                raise
            return None
        response = stream.get()  # after the end of the block, which completes it
        if response.state == "incomplete":
            raise ModelAPIError(self.model_name, "the stream ended before the response was complete")
        return response


class WatchedFallback(WrapperModel):
    """Watches the models of a FallbackModel, each for itself. Asked streaming, the whole would judge no response, and
    fall back no more once a word has come. Each attempt counts as a request: the last one's text is the answer."""

    def __init__(self, wrapped: FallbackModel, progress: RunProgress) -> None:
        super().__init__(wrapped)
        # It is asked and never entered: the connections of its models belong to the one that was copied.
        self.chain = copy(wrapped)
        self.chain.models = [watched_model(model, progress) for model in wrapped.models]

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return await self.chain.request(messages, model_settings, model_request_parameters)


@dataclass
class WatchedToolset(WrapperToolset[Any]):
    """Shows the calls that are carried out or replayed, function tools and MCP alike. Output tools are none: what they
    are called with is the output of the run."""

    progress: RunProgress

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        try:
            with self.progress.tool_call(name, ctx.tool_call_id, tool_args):
                result: Any = await super().call_tool(name, tool_args, ctx, tool)
        except (ModelRetry, ToolFailed) as error:
            self.progress.tool_result(name, ctx.tool_call_id, error.message)
            raise
        if self.progress.watched:
            self.progress.tool_result(name, ctx.tool_call_id, told(name, result))
        return result


def begin_request(progress: RunProgress, parameters: ModelRequestParameters) -> RequestProgress:
    """The progress of the request that is about to be made, or replayed."""
    return progress.model_request(hidden=parameters.output_mode in JSON_AS_TEXT)


def show_response(request: RequestProgress, response: ModelResponse) -> None:
    """Show a response that came as a whole."""
    for part in response.parts:
        match part:
            case TextPart(content=text):
                request.text(text)
            case ThinkingPart(content=text):
                request.thinking(text)
            case _:
                pass


def show_event(request: RequestProgress, event: ModelResponseStreamEvent) -> None:
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            request.text(text)
        case PartStartEvent(part=ThinkingPart(content=text)):
            request.thinking(text)
        case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=str(text))):
            request.thinking(text)
        case _:
            pass


def can_stream(model: Model[Any]) -> bool:
    """Whether a streamed request is the same as a plain one. It is not where a class has an own way to make the plain
    one alone: streaming would go around it."""
    match model:
        case FallbackModel():
            return False
        case FunctionModel() if model.stream_function is None:
            return False
        case WrapperModel() if not can_stream(model.wrapped):
            return False
        case _:
            first = next(kind for kind in type(model).__mro__ if vars(kind).keys() & {"request", "request_stream"})
            return "request_stream" in vars(first)


def refuses_to_stream(error: NotImplementedError | ModelHTTPError) -> bool:
    if isinstance(error, ModelHTTPError):
        return error.status_code in REFUSED and "stream" in str(error).lower()
    return True


def told(name: str, result: Any) -> Any:
    """What the model is told of a tool's result; files are left out."""
    value: Any = result.return_value if isinstance(result, ToolReturn) else result
    try:
        return ToolReturnPart(name, value, tool_call_id="").model_response_str()
    except ValueError:
        return value
