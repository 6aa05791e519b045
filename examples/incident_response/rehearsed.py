"""A model without a provider, for both agents: it looks where a model would look, and words decide. The same alert
gives the same answer."""

import re
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

SERIOUS = re.compile(r"\b(5\d\d|down|errors?|fail\w*|time\W?outs?|unreachable)\b", re.IGNORECASE)
CAUSE = re.compile(r"\bcause=(.+)")
SUMMARY = re.compile(r'"summary":\s*"((?:[^"\\]|\\.)*)"')


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
    """Call all tools at once; when they have returned, say what they come to."""
    parts = [part for message in messages for part in message.parts]
    prompt = next(str(part.content) for part in parts if isinstance(part, UserPromptPart))
    found: dict[str, Any] = {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}
    summary = SUMMARY.search(prompt)
    told = summary[1] if summary else "an alert"
    output = postmortem(told, found["incident_log"]) if "incident_log" in found else triage(told, found)
    calls: list[tuple[str, dict[str, Any]]] = [(info.output_tools[0].name, output)]
    if not found:
        calls = [(tool.name, {}) for tool in info.function_tools]
    return ModelResponse(
        parts=[ToolCallPart(name, arguments, tool_call_id=f"rehearsed-{name}") for name, arguments in calls]
    )


def triage(summary: str, found: dict[str, Any]) -> dict[str, Any]:
    deployed = found.get("last_deploy", "")
    return {
        "severity": "high" if SERIOUS.search(summary) else "low",
        "summary": f"{summary} (deployed: {deployed})",
        "first_step": found.get("runbook", ""),
    }


def postmortem(summary: str, log: list[str]) -> dict[str, Any]:
    causes = [cause[1] for line in log if (cause := CAUSE.search(line))]
    return {
        "title": summary,
        "timeline": log,
        "cause": causes[-1] if causes else "unknown",
        "follow_ups": [f"A test that would have found this: {causes[-1]}"] if causes else ["Find the cause."],
    }
