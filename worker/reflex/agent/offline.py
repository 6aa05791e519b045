"""The offline model: no provider, no key, no chance. It calls every tool once and then answers, with the event's own
values where names match and the plainest that the schema allows elsewhere."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final, cast

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.tools import ToolDefinition

from reflex.agent.samples import NoSample, sample

__all__ = ["in_parts", "offline_model", "prompt_text", "respond"]

DECODER: Final = json.JSONDecoder()
MAX_OBJECTS: Final = 20
CALLED: Final = ("function", "unapproved")
WORD_BEGINS: Final = re.compile(r"(?<=\s)(?=\S)")


def offline_model() -> FunctionModel:
    """What `DEFAULT_MODEL=offline` gives every agent."""
    return FunctionModel(respond, stream_function=respond_in_parts, model_name="offline")


async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the tools that were not called yet; if there are none, answer."""
    event_type, known = read_prompt(messages)
    called = [part.tool_name for message in messages for part in message.parts if isinstance(part, ToolCallPart)]
    # A tool that somebody else's system answers would end the run here.
    tools = [tool for tool in info.function_tools if tool.kind in CALLED and tool.name not in called]
    if calls := list(calls_of(tools, known)):
        return ModelResponse(parts=calls)
    if info.output_tools:
        output = info.output_tools[0]
        arguments = sample(output.parameters_json_schema, known)
        return ModelResponse(parts=[ToolCallPart(output.name, arguments, tool_call_id=f"offline-{output.name}")])
    if written := info.model_request_parameters.output_object:
        return ModelResponse(parts=[TextPart(json.dumps(sample(written.json_schema, known)))])
    about = f"{event_type} received" if event_type else "done"
    used = f", tools called: {', '.join(called)}" if called else ""
    return ModelResponse(parts=[TextPart(f"offline model: {about}{used}")])


def calls_of(tools: list[ToolDefinition], known: dict[str, Any]) -> Iterator[ToolCallPart]:
    for tool in tools:
        # A tool whose arguments nobody can make up is left alone: the answer does not depend on it.
        with suppress(NoSample):
            arguments = sample(tool.parameters_json_schema, known)
            yield ToolCallPart(tool.name, arguments, tool_call_id=f"offline-{tool.name}")


async def respond_in_parts(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """The same response as a stream."""
    async for part in in_parts(await respond(messages, info)):
        yield part


async def in_parts(response: ModelResponse) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """A response as a stream: texts come word by word."""
    for at, part in enumerate(response.parts):
        if isinstance(part, TextPart):
            for word in WORD_BEGINS.split(part.content):
                yield word
        elif isinstance(part, ToolCallPart):
            yield {at: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}


def read_prompt(messages: list[ModelMessage]) -> tuple[str | None, dict[str, Any]]:
    """The event's type and payload, where the prompt has them; else whatever JSON objects it has."""
    event_type: str | None = None
    known: dict[str, Any] = {}
    for found in objects_in(prompt_text(messages)):
        if isinstance(found.get("type"), str) and isinstance(found.get("payload"), dict):
            return found["type"], cast("dict[str, Any]", found["payload"])
        known = {**found, **known}
    return event_type, known


def prompt_text(messages: list[ModelMessage]) -> str:
    texts: list[str] = []
    for message in messages:
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, UserPromptPart):
                contents = [part.content] if isinstance(part.content, str) else part.content
                texts.extend(content for content in contents if isinstance(content, str))
    return "\n".join(texts)


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, outermost only."""
    at = 0
    for _ in range(MAX_OBJECTS):
        at = text.find("{", at)
        if at < 0:
            return
        try:
            found, at = DECODER.raw_decode(text, at)
            yield found
        except (ValueError, RecursionError):
            at += 1
