"""A support agent's model without a provider: it reads the question for order numbers and for trouble, uses the tools
as a model would, and decides by their results. The same question gives the same answer."""

import re
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

ORDER_NUMBER = re.compile(r"\b[A-Z]\d{2,6}\b", re.IGNORECASE)
TROUBLE = re.compile(
    r"\b(broken?|damaged?|missing|wrong|refund|complain\w*|terrible|angry|human|person|someone|somebody|agent)\b",
    re.IGNORECASE,
)
GREETING = re.compile(r"\W*(hi|hello|hey|good (morning|afternoon|evening)|thanks?|thank you)\b.{0,20}", re.IGNORECASE)


def rehearsed_model() -> FunctionModel:
    return FunctionModel(respond, stream_function=respond_in_parts, model_name="rehearsed")


async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the tool that fits the question; once it has returned, decide."""
    parts = [part for message in messages for part in message.parts]
    question = next(str(part.content) for part in parts if isinstance(part, UserPromptPart))
    found = {part.tool_name: str(part.content) for part in parts if isinstance(part, ToolReturnPart)}
    name, arguments = next_call(question, found) or (info.output_tools[0].name, decision(question, found))
    return ModelResponse(parts=[ToolCallPart(name, arguments, tool_call_id=f"rehearsed-{name}")])


async def respond_in_parts(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """The same response as a stream, for those who watch the run."""
    for at, part in enumerate((await respond(messages, info)).parts):
        assert isinstance(part, ToolCallPart)
        yield {at: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}


def next_call(question: str, found: dict[str, str]) -> tuple[str, dict[str, Any]] | None:
    """The tool to call and its arguments; None if there is nothing more to look up."""
    if found:
        return None
    if number := ORDER_NUMBER.search(question):
        return "look_up_order", {"number": number[0].upper()}
    if TROUBLE.search(question) or GREETING.fullmatch(question):
        return None
    return "search_help", {"question": question}


def decision(question: str, found: dict[str, str]) -> dict[str, Any]:
    if TROUBLE.search(question):
        _, _, state = found.get("look_up_order", "").partition(": ")
        seen = f" I see your order here: {state}" if state else ""
        return escalate(f"I am sorry to hear that.{seen} I am passing this on to a colleague.")
    if "look_up_order" in found:
        return answer(found["look_up_order"])
    if "search_help" not in found:
        return answer("Hello! Ask me about an order, such as A17, or about delivery, returns and payment.")
    if found["search_help"].startswith("No "):
        return escalate("I have no good answer to that, so I am passing it on to a colleague.")
    return answer(found["search_help"])


def answer(reply: str) -> dict[str, Any]:
    return {"decision": "answer", "reply": reply}


def escalate(reply: str) -> dict[str, Any]:
    return {"decision": "escalate", "reply": reply}
