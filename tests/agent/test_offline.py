from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    ModelRetry,
    NativeOutput,
    PromptedOutput,
    RunContext,
    TextOutput,
    Tool,
    ToolOutput,
)
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import ModelRequest, ToolCallPart, UserPromptPart

from reflex.agent.context import AgentContext
from reflex.agent.execution import default_prompt
from reflex.agent.offline import offline_model, read_prompt
from tests.agent.records import make_context, make_record

PAYLOAD = {"order_id": "A1", "amount": 250.0, "customer": {"email": "ada@example.org", "tier": "gold"}}
MODEL = offline_model()


def prompt(payload: dict[str, Any] = PAYLOAD) -> str:
    return default_prompt(make_context(make_record(payload=payload)).event)


SHOUTED = "OFFLINE MODEL: ORDER.CREATED RECEIVED"


def shout(text: str) -> str:
    return text.upper()


class Tier(Enum):
    SILVER = "silver"
    GOLD = "gold"


class Line(BaseModel):
    sku: str = Field(min_length=4)
    quantity: int = Field(ge=1, le=9)


class Decision(BaseModel):
    decision: Literal["approve", "review"]
    amount: float
    tier: Tier
    reason: str = Field(min_length=10, max_length=12)
    lines: list[Line] = Field(min_length=2)
    parent: "Decision | None" = None


@dataclass
class Refund:
    order_id: str


async def test_without_tools_and_types_it_answers_with_a_sentence_that_names_the_event() -> None:
    result = await Agent(MODEL).run(prompt())
    assert result.output == "offline model: order.created received"
    assert (await Agent(MODEL).run("Good morning")).output == "offline model: done"


async def test_a_tool_is_called_once_with_values_of_the_event() -> None:
    calls: list[Any] = []

    def history(email: str, tier: Tier, limit: Annotated[int, Field(ge=5)], unused: str = "x") -> str:
        calls.append(("history", email, tier, limit, unused))
        return "3 orders"

    def stock(order_id: str) -> int:
        calls.append(("stock", order_id))
        return 7

    result = await Agent(MODEL, tools=[history, stock]).run(prompt())
    assert sorted(calls) == [("history", "ada@example.org", Tier.GOLD, 5, "x"), ("stock", "A1")]
    assert result.output == "offline model: order.created received, tools called: history, stock"


@pytest.mark.parametrize(
    "output_type",
    [
        Decision,
        ToolOutput(Decision),
        NativeOutput(Decision),
        PromptedOutput(Decision),
        [Decision, Refund],
        [Decision, str],
    ],
    ids=["plain", "tool", "native", "prompted", "first of two", "or text"],
)
async def test_structured_output_is_valid_and_uses_the_event(output_type: Any) -> None:
    result = await Agent(MODEL, output_type=output_type).run(prompt())
    assert result.output == Decision(
        decision="approve",
        amount=250.0,
        tier=Tier.GOLD,
        reason="offlineeee",
        lines=[Line(sku="offline", quantity=1)] * 2,
    )


@pytest.mark.parametrize(
    ("output_type", "output"),
    [
        (bool, False),
        (int, 0),
        (list[int], []),
        (Refund, Refund("A1")),
        (dict[str, int], {}),
        (TextOutput(shout), SHOUTED),
    ],
    ids=["bool", "int", "list", "class", "dict", "function"],
)
async def test_output_of_other_kinds_works_too(output_type: Any, output: Any) -> None:
    assert (await Agent(MODEL, output_type=output_type).run(prompt())).output == output


async def test_it_says_the_same_every_time() -> None:
    agent = Agent(MODEL, output_type=Decision, tools=[Tool(lambda: "x", name="look")])
    first, second = [await agent.run(prompt()) for _ in range(2)]
    assert first.output == second.output
    calls = [part for message in first.all_messages() for part in message.parts if isinstance(part, ToolCallPart)]
    assert [call.tool_call_id for call in calls] == ["offline-look", "offline-final_result"]


async def test_a_tool_that_asks_for_another_try_is_left_alone() -> None:
    calls: list[int] = []

    def never_content(amount: float) -> str:
        calls.append(1)
        raise ModelRetry("amount is wrong")

    result = await Agent(MODEL, tools=[never_content], output_type=Refund).run(prompt())
    assert result.output == Refund("A1")
    assert calls == [1]


async def test_an_output_that_is_never_good_enough_ends_with_an_error() -> None:
    agent = Agent(MODEL, output_type=Refund)

    @agent.output_validator
    def never_content(output: Refund) -> Refund:  # pyright: ignore[reportUnusedFunction]
        raise ModelRetry("try again")

    with pytest.raises(UnexpectedModelBehavior):
        await agent.run(prompt())


async def test_a_tool_that_needs_approval_is_called_and_waits_for_it() -> None:
    """Fails if only tools that need nobody are called: approvals could not be tried without a provider."""

    def pay(amount: float) -> str:
        raise AssertionError

    agent = Agent(MODEL, tools=[Tool(pay, requires_approval=True)], output_type=[str, DeferredToolRequests])
    output = (await agent.run(prompt())).output
    assert isinstance(output, DeferredToolRequests)
    assert [call.tool_name for call in output.approvals] == ["pay"]


async def test_a_tool_whose_arguments_cannot_be_made_up_is_not_called() -> None:
    def impossible(code: Annotated[str, Field(pattern="^a{3}$", min_length=9)]) -> str:
        raise AssertionError

    assert (await Agent(MODEL, tools=[impossible]).run(prompt())).output == "offline model: order.created received"


async def test_it_streams() -> None:
    agent = Agent(MODEL, deps_type=AgentContext, output_type=Decision)

    @agent.tool
    def look_up(run: RunContext[AgentContext], order_id: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"{run.deps.event.type} {order_id}"

    async with agent.run_stream(prompt(), deps=make_context()) as stream:
        assert (await stream.get_output()).amount == 250.0
    async with Agent(MODEL).run_stream(prompt()) as stream:
        assert await stream.get_output() == "offline model: order.created received"


@pytest.mark.parametrize(
    ("text", "event_type", "known"),
    [
        ('{"type": "a.b", "payload": {"x": 1}}', "a.b", {"x": 1}),
        ('Look at this: {"type": "a.b", "payload": {"x": 1}} and {"x": 2}', "a.b", {"x": 1}),
        ('First {"x": 1}, then {"x": 2, "y": {"z": 3}}', None, {"x": 1, "y": {"z": 3}}),
        ("{not json} {{}} {", None, {}),
        ("{" * 50_000, None, {}),
        ('{"a":' * 50_000, None, {}),
        ("".join(f'{{"x{n}": {n}}} ' for n in range(100)), None, {f"x{n}": n for n in range(20)}),
        ("", None, {}),
    ],
    ids=["event", "event in a sentence", "objects", "no objects", "many braces", "deep", "many objects", "empty"],
)
def test_what_it_knows_is_in_the_prompt(text: str, event_type: str | None, known: dict[str, Any]) -> None:
    messages: Any = [ModelRequest(parts=[UserPromptPart(content=[text])])]
    assert read_prompt(messages) == (event_type, known)
