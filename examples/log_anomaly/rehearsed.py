"""A model without a provider, for both agents: it looks where a model would look, and words decide. The same summary
gives the same answer."""

import re
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

MESSAGES = re.compile(r"^message: (.*)$", re.MULTILINE)
ONE = re.compile(r'"((?:[^"\\]|\\.)*)" (\d+)')
LEVELS = re.compile(r"^level: (.*)$", re.MULTILINE)
RECENT = re.compile(r"\b(minutes?|hours?) ago\b")


def rehearsed_model() -> FunctionModel:
    return FunctionModel(respond, stream_function=respond_in_parts, model_name="rehearsed")


async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return answer(messages, info)


async def respond_in_parts(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """The same response as a stream, for those who watch the run."""
    for at, part in enumerate(answer(messages, info).parts):
        assert isinstance(part, ToolCallPart)
        yield {at: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call all tools at once, if there are any; when they have returned, say what they come to."""
    parts = [part for message in messages for part in message.parts]
    prompt = next(str(part.content) for part in parts if isinstance(part, UserPromptPart))
    found: dict[str, Any] = {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}
    if info.function_tools and not found:
        calls: list[tuple[str, dict[str, Any]]] = [(tool.name, {}) for tool in info.function_tools]
    else:
        calls = [(info.output_tools[0].name, finding(prompt, found) if found else digest(prompt))]
    return ModelResponse(
        parts=[ToolCallPart(name, arguments, tool_call_id=f"rehearsed-{name}") for name, arguments in calls]
    )


def frequent(pattern: re.Pattern[str], prompt: str) -> list[tuple[str, int]]:
    line = pattern.search(prompt)
    return [(text, int(count)) for text, count in ONE.findall(line[1])] if line else []


def finding(prompt: str, found: dict[str, Any]) -> dict[str, Any]:
    """What was deployed lately, here or at a service that is needed and named, is to blame."""
    messages = frequent(MESSAGES, prompt)
    suspects = [f"{service}: {deploy}" for service, deploy in found["needs"].items() if RECENT.search(deploy)]
    if RECENT.search(found["last_deploy"]):
        suspects.insert(0, found["last_deploy"])
    return {
        "cause": suspects[0] if suspects else "unknown: nothing was deployed lately",
        "severity": "high" if suspects else "low",
        "evidence": [f"{count} times: {text}" for text, count in messages[:3]],
    }


def digest(prompt: str) -> dict[str, Any]:
    levels = dict(frequent(LEVELS, prompt))
    errors = levels.get("error", 0)
    lines = prompt.partition(" ")[0]
    headline = f"{lines} lines, {errors} of them errors" if errors else f"{lines} lines, all quiet"
    return {
        "headline": headline,
        "worth_a_look": [f"{text} ({count})" for text, count in frequent(MESSAGES, prompt) if count > 1]
        if errors
        else [],
    }
