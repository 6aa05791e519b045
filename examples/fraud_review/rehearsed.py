"""A reviewer's model without a provider: it calls the tools as a model would, and decides by what they say. The same
payment gives the same answer."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

USUAL = "in line with what the card was used for"


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
    """The next call; when all is done, the verdict."""
    parts = [part for message in messages for part in message.parts]
    prompt = next(str(part.content) for part in parts if isinstance(part, UserPromptPart))
    returned = {part.tool_name: part for part in parts if isinstance(part, ToolReturnPart)}
    payment = json.loads(prompt)["payment"]
    name, arguments = next_call(payment, returned) or (info.output_tools[0].name, verdict(returned))
    return ModelResponse(parts=[ToolCallPart(name, arguments, tool_call_id=f"rehearsed-{name}")])


def next_call(payment: dict[str, Any], returned: dict[str, ToolReturnPart]) -> tuple[str, dict[str, Any]] | None:
    """The tool to call and its arguments; None if there is nothing more to do."""
    if "card_history" not in returned:
        return "card_history", {}
    if "write_verdict" in returned:
        return None
    largest = max(cast("list[int]", returned["card_history"].content), default=0)
    if payment["cents"] > 3 * largest:
        if "reject_payment" not in returned:
            reason = f"{payment['cents'] / 100:.2f} on a card that never paid more than {largest / 100:.2f}"
            return "reject_payment", {"reason": reason}
        if was_rejected(returned) and "freeze_card" not in returned:
            return "freeze_card", {}
        if was_rejected(returned) and "send_letter" not in returned:
            return "send_letter", {"text": "We have rejected a payment and frozen your card. Please call us."}
    return "write_verdict", verdict(returned)


def verdict(returned: dict[str, ToolReturnPart]) -> dict[str, str]:
    if "reject_payment" not in returned:
        return {"decision": "accept", "reason": USUAL}
    if was_rejected(returned):
        return {"decision": "reject", "reason": "far more than the card was ever used for"}
    return {"decision": "accept", "reason": str(returned["reject_payment"].content)}


def was_rejected(returned: dict[str, ToolReturnPart]) -> bool:
    return "reject_payment" in returned and returned["reject_payment"].outcome == "success"
