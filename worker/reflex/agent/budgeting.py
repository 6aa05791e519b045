"""Budgets around a pydantic-ai agent: next to what costs, inside of the journal, so that a replay passes none of this.

Imported by the first run of an agent whose trigger has budgets: it needs pydantic-ai.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, cast

from anyio import CancelScope
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequestAttempt,
    ModelResponse,
    TextContent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset
from pydantic_ai.usage import RequestUsage

from reflex.agent.journal import current_call, tool_calls
from reflex.agent.prices import cost_of, estimated_cost
from reflex.agent.spending import Spending
from reflex.agent.suspension import wait_of
from reflex.core.spending import Quantity, Reservation

__all__ = ["BudgetedModel", "BudgetedToolset", "budgeted_model", "budgeted_toolset", "reserved_call"]

# What providers' tokenizers come to is 3 to 5 characters of text a token: this is on the safe side.
CHARACTERS_PER_TOKEN: Final = 3
# A picture or another file: its size in bytes says little.
CHARACTERS_OF_A_FILE: Final = 4500
# What a response may come to if nothing limits it and there was none before it in the run.
FIRST_GUESS_TOKENS: Final = 1000
OF_REQUESTS: Final = (Quantity.REQUESTS, Quantity.TOKENS, Quantity.USD)


def budgeted_model(model: Model[Any], spending: Spending | None) -> Model[Any]:
    """The model, asked only while there is something left to spend."""
    return BudgetedModel(model, spending) if spending is not None and spending.counts(*OF_REQUESTS) else model


def budgeted_toolset(toolset: Any, spending: Spending | None) -> Any:
    """The tools, called only while there is something left to spend."""
    if spending is not None and spending.counts(Quantity.TOOL_CALLS):
        return BudgetedToolset(toolset, spending)
    return toolset


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request may come to."""

    input_tokens: int
    output_tokens: int


class BudgetedModel(WrapperModel):
    """Reserves before each request and settles after it. Also requests that are streamed to the author's own code."""

    def __init__(self, wrapped: Model[Any], spending: Spending) -> None:
        super().__init__(wrapped)
        self.spending = spending

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        estimate, reservation = await self._reserved(messages, model_settings, model_request_parameters)
        try:
            response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        except BaseException as error:
            if isinstance(error, Exception) or wait_of(error) is not None:
                with CancelScope(shield=True):  # it may come out of a request that was ended for being too long
                    await self.spending.give_back(reservation)
            else:
                self.spending.give_back_later(reservation)
            raise
        await self._settled(reservation, response, estimate, follows_up(messages))
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        estimate, reservation = await self._reserved(messages, model_settings, model_request_parameters)
        stream: StreamedResponse | None = None
        try:
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                yield stream
        except Exception:
            # What has begun to come is paid for, whoever gave up on it.
            with CancelScope(shield=True):
                if stream is None:
                    await self.spending.give_back(reservation)
                else:
                    await self._settled(reservation, stream.get(), estimate, follows_up(messages))
            raise
        except BaseException:
            self.spending.give_back_later(reservation)
            raise
        await self._settled(reservation, stream.get(), estimate, follows_up(messages))

    async def _reserved(
        self, messages: Sequence[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> tuple[Estimate, Reservation]:
        if follows_up(messages):
            # Asking how far a response is, or for the rest of it: refused now, what was paid for would be lost.
            return Estimate(0, 0), await self.spending.reserve(dict.fromkeys(OF_REQUESTS, Decimal(0)), force=True)
        asked: Mapping[str, Any] = {**(self.wrapped.settings or {}), **(settings or {})}
        longest: int = asked.get("max_tokens") or self.spending.largest_response or FIRST_GUESS_TOKENS
        estimate = Estimate(input_estimate(messages, parameters), longest)
        costs = {
            Quantity.REQUESTS: Decimal(1),
            Quantity.TOKENS: Decimal(estimate.input_tokens + estimate.output_tokens),
            Quantity.USD: self._estimated_cost(estimate),
        }
        return estimate, await self.spending.reserve(costs)

    async def _settled(
        self, reservation: Reservation, response: ModelResponse, estimate: Estimate, followed_up: bool
    ) -> None:
        usage = response.usage
        tokens, dollars = Decimal(usage.total_tokens), self._cost(response)
        if is_unmeasured(usage):
            # A provider that does not say is taken at the estimate, but for what is still being worked on.
            waits = response.state == "suspended"
            tokens = Decimal(0 if waits else estimate.input_tokens + estimate.output_tokens)
            dollars = Decimal(0) if waits else None
        if dollars is None:
            dollars = self._estimated_cost(estimate)
        for attempt in response.failed_attempts or ():
            # A response that a fallback did not take is paid for as well.
            tokens += attempt.usage.total_tokens if attempt.usage is not None else 0
            dollars += self._cost(attempt) or 0
        self.spending.largest_response = max(self.spending.largest_response, usage.output_tokens)
        costs = {
            Quantity.REQUESTS: Decimal(0 if followed_up else 1),
            Quantity.TOKENS: tokens,
            Quantity.USD: dollars,
        }
        await self.spending.settle(reservation, costs)

    def _estimated_cost(self, estimate: Estimate) -> Decimal:
        costs = [
            estimated_cost(budget, self.wrapped, estimate.input_tokens, estimate.output_tokens)
            for budget in self.spending.budgets
        ]
        return max(costs)

    def _cost(self, response: ModelResponse | ModelRequestAttempt) -> Decimal | None:
        """In dollars; None if one of the budgets cannot tell. Where they declare different prices, the highest."""
        costs = [cost_of(budget, self.wrapped, response) for budget in self.spending.budgets if budget.usd is not None]
        known = [cost for cost in costs if cost is not None]
        return max(known, default=Decimal(0)) if len(known) == len(costs) else None


async def reserved_call(spending: Spending | None) -> Reservation | None:
    """Room for a tool call that is about to begin; None if nobody counts it. Raises as `Spending.reserve`."""
    if spending is None or not spending.counts(Quantity.TOOL_CALLS):
        return None
    return await spending.reserve({Quantity.TOOL_CALLS: Decimal(1)}, around=len(tool_calls.get()))


@dataclass
class BudgetedToolset(WrapperToolset[Any]):
    """Counts the calls that are carried out. One that fails was one; one that waits, or asks to be approved, is called
    again, and is not."""

    spending: Spending

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        one = {Quantity.TOOL_CALLS: Decimal(1)}
        call = current_call()
        if call is not None and call.reservation is not None:
            reservation, call.reservation = call.reservation, None
        else:
            reservation = await self.spending.reserve(one, around=max(0, len(tool_calls.get()) - 1))
        try:
            result: Any = await super().call_tool(name, tool_args, ctx, tool)
        except BaseException as error:
            if isinstance(error, ApprovalRequired | CallDeferred) or wait_of(error) is not None:
                await self.spending.give_back(reservation)
            elif isinstance(error, Exception):
                await self.spending.settle(reservation, one)
            else:
                self.spending.give_back_later(reservation)
            raise
        await self.spending.settle(reservation, one)
        return result


def follows_up(messages: Sequence[ModelMessage]) -> bool:
    """Whether the request goes on with a response that the provider has not finished."""
    return bool(messages) and isinstance(messages[-1], ModelResponse)


def is_unmeasured(usage: RequestUsage) -> bool:
    return bool(usage.unmeasured_requests) or not usage.total_tokens


def input_estimate(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> int:
    """How many tokens a request may send: what the last response says of the conversation up to it, and an estimate of
    what came after it."""
    measured, since = 0, 0
    for at, message in enumerate(messages):
        if isinstance(message, ModelResponse) and not is_unmeasured(message.usage):
            measured, since = message.usage.total_tokens, at + 1
    told = sum(map(sum, map(characters_of, messages[since:])))
    if not measured:
        tools = [*parameters.function_tools, *parameters.output_tools]
        told += sum(len(f"{tool.name}{tool.description}{tool.parameters_json_schema}") for tool in tools)
        told += sum(len(part.content) for part in parameters.instruction_parts or ())
    return measured + told // CHARACTERS_PER_TOKEN + 1


def characters_of(message: ModelMessage) -> Iterator[int]:
    for part in message.parts:
        match part:
            case TextPart() | ThinkingPart():
                yield len(part.content)
            case ToolCallPart():
                yield len(part.tool_name) + len(part.args_as_json_str())
            case ToolReturnPart():
                yield len(part.model_response_str())
            case _:
                content: Any = getattr(part, "content", "")
                alone = isinstance(content, str) or not isinstance(content, Sequence)
                yield from map(size_of, [content] if alone else cast("Sequence[Any]", content))


def size_of(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    return len(item.content) if isinstance(item, TextContent) else CHARACTERS_OF_A_FILE
