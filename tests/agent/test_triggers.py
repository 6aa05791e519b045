import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial, wraps
from typing import Any

import orjson
import pytest
from pydantic_ai import Agent

from reflex.agent.context import AgentContext
from reflex.agent.filters import FilterError, keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy
from tests.agent.records import make_record

ORDERS = type_filter("order.*")


async def act(ctx: AgentContext) -> None: ...


def blocking(ctx: AgentContext) -> None: ...


async def takes_nothing() -> None: ...


async def takes_more(ctx: AgentContext, more: int) -> None: ...


class Callee:
    async def __call__(self, ctx: AgentContext) -> None: ...


def logged(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @wraps(function)
    def around(*args: Any) -> Awaitable[None]:
        return function(*args)

    return around


@pytest.mark.parametrize(
    ("agent", "definition"),
    [
        (act, {"kind": "function", "name": "act"}),
        (Callee(), {"kind": "function", "name": "Callee"}),
        (logged(act), {"kind": "function", "name": "act"}),
        (partial(takes_more, more=1), {"kind": "function", "name": "takes_more"}),
        (Agent(name="reviewer"), {"kind": "pydantic-ai", "name": "reviewer"}),
        (Agent(), {"kind": "pydantic-ai", "name": None}),
    ],
    ids=["function", "callable object", "decorated function", "partial", "agent", "nameless agent"],
)
def test_an_agent_is_a_pydantic_ai_agent_or_an_async_function(agent: Any, definition: dict[str, Any]) -> None:
    assert Trigger("t", ORDERS, agent).definition()["agent"] == definition


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [
        (blocking, r"trigger 't': blocking is not an async function; write `async def blocking\(ctx\)`"),
        (partial(blocking), "not an async function"),
        (Callee, "pass a pydantic-ai Agent or an async function"),
        (Agent, "pass a pydantic-ai Agent or an async function"),
        ("anthropic:claude", "pass a pydantic-ai Agent or an async function"),
        (takes_nothing, "takes_nothing is called with the context alone"),
        (takes_more, "takes_more is called with the context alone"),
    ],
)
def test_what_is_no_agent_is_a_type_error_that_names_the_trigger(agent: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence) as e:
        Trigger("t", ORDERS, agent)
    assert "trigger 't'" in str(e.value)


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "-a", ".", "ä", "a\n", "x" * 101])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 100 letters"):
        Trigger(name, ORDERS, act)


@pytest.mark.parametrize("name", ["a", "high-value_orders.v2", "7", "x" * 100])
def test_letters_digits_dots_dashes_and_underscores_make_a_name(name: str) -> None:
    assert Trigger(name, ORDERS, act).name == name


def test_a_filter_that_can_match_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"type_filter\('a'\) & type_filter\('b'\) can match no event"):
        Trigger("t", type_filter("a") & type_filter("b"), act)
    Trigger("t", type_filter("a") | (type_filter("a") & type_filter("b")), act)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"timeout": 5}, TypeError, r"pass a timedelta, as in timedelta\(minutes=5\)"),
        ({"timeout": timedelta(0)}, ValueError, "longer than nothing"),
        ({"retry": 3}, TypeError, "pass a RetryPolicy"),
        ({"prompt": "hello"}, TypeError, "a prompt is for a pydantic-ai Agent"),
        ({"agent": Agent(), "prompt": 5}, TypeError, "pass a text or a function"),
        ({"filter": "order.created"}, TypeError, r"make one with type_filter\(\)"),
        ({"name": None}, TypeError, "name is a string"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(
    options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    arguments = dict[str, Any](name="t", filter=ORDERS, agent=act)
    with pytest.raises(error, match=sentence):
        Trigger(**arguments | options)


def test_the_definition_is_json_and_says_how_it_runs() -> None:
    important = type_filter("order.created") & keyword_filter("amount", 5)
    trigger = Trigger("t", important, act, retry=RetryPolicy(max_attempts=3), timeout=timedelta(minutes=1))
    assert orjson.loads(orjson.dumps(trigger.definition())) == {
        "agent": {"kind": "function", "name": "act"},
        "filter": "type_filter('order.created') & keyword_filter('amount', 5)",
        "retry": {"max_attempts": 3, "base_s": 1.0, "cap_s": 60.0},
        "timeout_s": 60.0,
        "ordered": False,
        "key": None,
        "when_dead": None,
    }
    assert trigger.patterns == ("order.created",)


def test_an_error_of_the_filter_names_the_trigger() -> None:
    trigger = Trigger("high-value", ORDERS & keyword_filter("amount", lambda x: x > 100), act)
    assert trigger.matches(make_record(payload={"amount": 101}))
    assert not trigger.matches(make_record(payload={}))
    with pytest.raises(FilterError, match=r"trigger 'high-value': keyword_filter\('amount'.*TypeError") as e:
        trigger.matches(make_record(payload={"amount": None}))
    assert isinstance(e.value.__cause__, TypeError)


def test_an_app_of_functions_never_imports_pydantic_ai() -> None:
    code = """if True:
        import sys
        from reflex.agent.app import App, load_app
        from reflex.agent.context import AgentContext
        from reflex.agent.execution import classify, run_agent
        from reflex.agent.filters import type_filter
        from reflex.agent.models import resolve_models
        from reflex.agent.declarations import constructed
        from reflex.agent.triggers import Trigger
        async def act(ctx: AgentContext) -> None: ...
        trigger = Trigger("t", type_filter("a"), act)
        resolve_models(App("x", (trigger,)), "anthropic:claude-sonnet-4-5")
        classify(ValueError("x"))
        trigger.definition()
        assert constructed == [], "the program's own body is no module that somebody imports"
        assert "pydantic_ai" not in sys.modules and "openai" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
