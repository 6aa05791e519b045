"""A moderator's model without a provider: words decide. The same post gives the same verdict."""

import re
from collections.abc import AsyncIterator
from typing import Final

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

SIGNS: Final = {
    "threat": re.compile(r"\b(i will find you|burn your|you will pay for this)\b", re.IGNORECASE),
    "abuse": re.compile(r"\b(idiots?|morons?|stupid|shut up)\b", re.IGNORECASE),
    "spam": re.compile(r"https?://|\b(buy now|free money|click here)\b", re.IGNORECASE),
}


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
    """The verdict."""
    parts = [part for message in messages for part in message.parts]
    text = next(str(part.content) for part in parts if isinstance(part, UserPromptPart))
    label, reason = verdict(text)
    call = ToolCallPart(
        info.output_tools[0].name, {"label": label, "reason": reason}, tool_call_id="rehearsed-verdict"
    )  # fmt: skip
    return ModelResponse(parts=[call])


def verdict(text: str) -> tuple[str, str]:
    for label, sign in SIGNS.items():
        if found := sign.search(text):
            return label, f"it says {found[0]!r}"
    return "fine", "nothing in it stands out"
