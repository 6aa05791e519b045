"""What a model costs: as the author declared it, else as genai-prices knows it, which pydantic-ai brings.

Imports pydantic-ai when it is asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from reflex.agent.budgets import Budget, Price
from reflex.core.errors import AppError, ReflexError

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelRequestAttempt, ModelResponse
    from pydantic_ai.models import Model

__all__ = ["UnpricedModel", "answered_by", "check_priced", "cost_of", "estimated_cost", "models_of"]

ANY_MODEL: Final = "*"
NOTHING: Final = Price(0, 0)
# The offline model, and the one of `reflex.testing`, ask no provider.
FREE: Final = {"offline": NOTHING, "fake": NOTHING}


class UnpricedModel(ReflexError):
    """A budget in dollars, and a model of which nobody knows the price. Final: only other code declares one."""

    code = "unpriced_model"


def check_priced(budgets: Sequence[Budget], model: "Model[Any] | str | None") -> None:
    """Refuse a budget in dollars for a model without a price; one that is not known yet is looked at when it is asked.

    Raises:
        AppError: It says what to declare.
    """
    if model is not None and not isinstance(model, str):
        for budget in budgets:
            try:
                estimated_cost(budget, model, 1, 1)
            except UnpricedModel as error:
                raise AppError(str(error)) from None


def estimated_cost(budget: Budget, model: "Model[Any]", input_tokens: int, output_tokens: int) -> Decimal:
    """In dollars, for a budget in dollars; 0 for another. Of several models that may be asked, the dearest counts.

    Raises:
        UnpricedModel: Nobody knows the price of one of them.
    """
    if budget.usd is None:
        return Decimal(0)
    costs: list[Decimal] = []
    for one in models_of(model):
        price = declared(budget.prices, one)
        cost = price.of(input_tokens, output_tokens) if price else known_cost(one, input_tokens, output_tokens)
        if cost is None:
            raise UnpricedModel(
                f"the budget of {budget} needs the price of the model {one.model_id!r}, which is not known; declare it "
                f"in dollars for a million tokens, as in Budget(usd=…, prices={{{one.model_id!r}: Price(3, 15)}})"
            )
        costs.append(cost)
    return max(costs)


def cost_of(budget: Budget, model: "Model[Any]", response: "ModelResponse | ModelRequestAttempt") -> Decimal | None:
    """What a response has cost in dollars, or one that a fallback did not take; None if that cannot be told."""
    from pydantic_ai.messages import ModelResponse

    usage = response.usage
    if usage is None:
        return Decimal(0)
    asked = answered_by(models_of(model), response)
    prices = [price for one in asked if (price := declared(budget.prices, one)) is not None]
    if prices:
        return max(price.of(usage.input_tokens, usage.output_tokens) for price in prices)
    if usage.cost is not None:
        return Decimal(usage.cost)  # the provider's own word
    if isinstance(response, ModelResponse):
        with suppress(AssertionError, LookupError, ValueError):
            return Decimal(response.cost().total_price)
    # The response may name a version that is not in the list yet, of a model that is.
    known = [known_cost(one, usage.input_tokens, usage.output_tokens) for one in asked]
    return max((cost for cost in known if cost is not None), default=None)


def declared(prices: Mapping[str, Price], model: "Model[Any]") -> Price | None:
    for name in (model.model_id, model.model_name, ANY_MODEL):
        if name in prices:
            return prices[name]
    return FREE.get(model.model_name) if model.system == "function" else None


def known_cost(model: "Model[Any]", input_tokens: int, output_tokens: int) -> Decimal | None:
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.usage import RequestUsage

    try:
        base_url = model.base_url
    except (AttributeError, UserError):
        base_url = None
    response = ModelResponse(
        parts=[], usage=RequestUsage(input_tokens=input_tokens, output_tokens=output_tokens),
        model_name=model.model_name, provider_name=model.system, provider_url=base_url,
    )  # fmt: skip
    try:
        return Decimal(response.cost().total_price)
    except (AssertionError, LookupError, ValueError):
        return None


def models_of(model: "Model[Any]") -> Sequence["Model[Any]"]:
    """The models that may answer: those of a fallback, and what wrappers wrap."""
    return list(unwrapped(model))


def unwrapped(model: "Model[Any]") -> Iterator["Model[Any]"]:
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.wrapper import WrapperModel

    if isinstance(model, WrapperModel):
        yield from unwrapped(model.wrapped)
    elif isinstance(model, FallbackModel):
        for one in model.models:
            yield from unwrapped(one)
    else:
        yield model


def answered_by(
    models: Sequence["Model[Any]"], response: "ModelResponse | ModelRequestAttempt"
) -> Sequence["Model[Any]"]:
    """The model that the response names; all of them if it names none of them."""
    return [model for model in models if model.model_name == response.model_name] or models
