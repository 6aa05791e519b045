"""Budgets as authors declare them: accepted, or refused in one sentence that says what to write; and what is priced."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import BinaryContent, ModelRequest, ModelResponse, TextPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from reflex.agent.app import App
from reflex.agent.budgeting import input_estimate
from reflex.agent.budgets import Budget, Price
from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event
from reflex.agent.models import resolve_models
from reflex.agent.prices import UnpricedModel, cost_of, estimated_cost
from reflex.agent.triggers import Trigger
from reflex.core.errors import AppError

DAY = timedelta(days=1)


async def act(ctx: AgentContext) -> None: ...


@pytest.mark.parametrize(
    ("budget", "shown", "stored"),
    [
        (Budget(usd=5, per="day"), "5 USD a day", ("trigger", "usd", "day")),
        (Budget(usd=0.25, per="day", tz="Europe/Stockholm"), "0.25 USD a day in Europe/Stockholm",
         ("trigger", "usd", "day in Europe/Stockholm")),
        (Budget(requests=20, per="run"), "20 requests a run", ("run", "requests", "")),
        (Budget(tokens=200_000, per="key", window=DAY), "200000 tokens a key in 1 day, 0:00:00",
         ("key", "tokens", "1 day, 0:00:00")),
        (Budget(tool_calls=3, per="tree"), "3 tool calls a tree", ("tree", "tool_calls", "")),
        (Budget(Decimal("1.10"), per="trigger", window=DAY / 24), "1.1 USD in 1:00:00", ("trigger", "usd", "1:00:00")),
    ],
)  # fmt: skip
def test_a_budget_says_what_it_is(budget: Budget, shown: str, stored: tuple[str, str, str]) -> None:
    assert str(budget) == shown
    assert (budget.scope, budget.quantity, budget.period) == stored
    trigger = Trigger("t", any_event(), act, budgets=[budget])
    assert trigger.definition()["budgets"] == [shown]


def test_without_budgets_nothing_is_said_of_them() -> None:
    assert "budgets" not in Trigger("t", any_event(), act).definition()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Budget(per="day"), ValueError, "nothing is given; give one of requests"),
        (lambda: Budget(usd=1, tokens=2, per="day"), ValueError, "tokens and usd are given"),
        (lambda: Budget(usd=0, per="day"), ValueError, "usd is 0; it must be more than 0"),
        (lambda: Budget(usd=float("nan"), per="day"), ValueError, "usd is nan"),
        (lambda: Budget(usd="5", per="day"), TypeError, "usd is '5'; pass a number"),  # type: ignore[arg-type]
        (lambda: Budget(requests=True, per="day"), TypeError, "requests is True; pass a whole number"),
        (lambda: Budget(requests=1.5, per="run"), TypeError, "requests is 1.5; pass a whole"),  # type: ignore[arg-type]
        (lambda: Budget(usd=1, per="month"), ValueError, "per is 'month'; it is one of 'run'"),  # type: ignore[arg-type]
        (lambda: Budget(usd=1, per="key"), ValueError, "per='key' needs a window"),
        (lambda: Budget(usd=1, per="run", window=DAY), ValueError, "per='run' has no window"),
        (lambda: Budget(usd=1, per="key", window=timedelta(0)), ValueError, "window is 0:00:00; it is 1 second"),
        (lambda: Budget(usd=1, per="day", tz="Mars/Base"), ValueError, "tz is 'Mars/Base'"),
        (lambda: Budget(usd=1, per="run", tz="UTC"), ValueError, "tz says where a day begins"),
        (lambda: Budget(usd=1, per="day", when_spent="stop"), ValueError, "when_spent is 'stop'"),  # type: ignore[arg-type]
        (lambda: Budget(usd=1, per="day", prices={"x": 3}), TypeError, "price of 'x' is 3"),  # type: ignore[dict-item]
        (lambda: Budget(tokens=1, per="day", prices={"x": Price(1, 2)}), ValueError, "prices are for a budget in usd"),
        (lambda: Price(-1, 2), ValueError, "a price's input is -1; it must be 0 or more"),
        (lambda: Trigger("t", any_event(), act, budgets=5), TypeError, "budgets is 5; pass a list"),  # type: ignore[arg-type]
        (lambda: Trigger("t", any_event(), act, budgets=[Budget(usd=1, per="day"), Budget(usd=2, per="day")]),
         ValueError, "trigger 't': the budgets of 1 USD a day and of 2 USD a day are for the same"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert said in str(caught.value)


def app_of(agent: Agent[Any, Any], *budgets: Budget) -> App:
    return App("shop", (Trigger("t", any_event(), agent, budgets=budgets),))


def test_a_model_without_a_price_is_refused_when_the_app_is_loaded() -> None:
    """Fails without check_priced: the first event would find out. A budget of another quantity needs no price; the
    offline model asks nobody and costs nothing."""
    agent = Agent(TestModel())
    with pytest.raises(AppError, match=r"trigger 't' .*needs the price of the model 'test:test'.*prices="):
        resolve_models(app_of(agent, Budget(usd=5, per="day")), None)
    resolve_models(app_of(agent, Budget(tokens=5, per="day")), None)
    resolve_models(app_of(agent, Budget(usd=5, per="day", prices={"test": Price(1, 2)})), None)
    resolve_models(app_of(agent, Budget(usd=5, per="day")), "offline")


def test_a_model_that_is_known_needs_no_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the list that pydantic-ai brings; a declared price goes before it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    agent = Agent("openai-chat:gpt-4o")
    budget = Budget(usd=5, per="day")
    model = resolve_models(app_of(agent, budget), None).model_for(agent) or agent.model
    assert not isinstance(model, str)
    assert model is not None
    known = estimated_cost(budget, model, 1_000_000, 0)
    assert 1 < known < 10
    usage = RequestUsage(input_tokens=1_000_000)
    response = ModelResponse([], usage=usage, model_name="gpt-4o", provider_name="openai")
    assert cost_of(budget, model, response) == known
    own = Budget(usd=5, per="day", prices={"openai:gpt-4o": Price(7, 0), "*": Price(9, 9)})
    assert (estimated_cost(own, model, 1_000_000, 10), cost_of(own, model, response)) == (7, 7)


def test_of_a_fallback_the_dearest_is_reserved_and_the_one_that_answered_is_counted() -> None:
    """Fails if only the first model is looked at: the second one would be asked beyond the budget."""
    cheap, dear = TestModel(model_name="cheap"), TestModel(model_name="dear")
    model = FallbackModel(cheap, dear)
    budget = Budget(usd=1, per="day", prices={"cheap": Price(1, 1), "dear": Price(20, 20)})
    assert estimated_cost(budget, model, 500_000, 500_000) == 20
    answer = ModelResponse([], usage=RequestUsage(input_tokens=1_000_000), model_name="cheap")
    assert cost_of(budget, model, answer) == 1
    with pytest.raises(UnpricedModel, match="test:dear"):
        estimated_cost(Budget(usd=1, per="day", prices={"cheap": Price(1, 1)}), model, 1, 1)


def test_the_estimate_of_a_request_is_the_last_one_and_what_came_after_it() -> None:
    """Fails if the conversation is counted by its characters although the provider has measured it, and if tools and
    files count for nothing."""
    tool = ToolDefinition(name="stock", parameters_json_schema={"type": "object"}, description="d" * 300)
    parameters = ModelRequestParameters(function_tools=[tool])
    prompt = ModelRequest([UserPromptPart("p" * 300)])
    assert 200 < input_estimate([prompt], parameters) < 230
    measured = ModelResponse([TextPart("t" * 9000)], usage=RequestUsage(input_tokens=500, output_tokens=100))
    result = ModelRequest([ToolReturnPart("stock", "r" * 300, tool_call_id="1")])
    assert input_estimate([prompt, measured, result], parameters) == 701
    picture = UserPromptPart(["what is it?", BinaryContent(b"x", media_type="image/png")])
    assert input_estimate([ModelRequest([picture])], ModelRequestParameters()) > 1000
