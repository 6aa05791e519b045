import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import RunContext

from reflex.agent.app import App
from reflex.agent.context import AgentContext
from reflex.agent.execution import run_agent
from reflex.agent.filters import any_event
from reflex.agent.models import Models, resolve_models
from reflex.agent.triggers import Trigger
from reflex.core.errors import AppError
from tests.agent.records import make_context


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)


def app_of(agent: Agent[object, str]) -> App:
    return App("shop", (Trigger("t", any_event(), agent),))


class OwnModel(AbstractCapability[object]):
    def get_model(self) -> TestModel:
        return TestModel()


def test_an_agent_keeps_the_model_that_it_has() -> None:
    agent = Agent(TestModel())
    assert resolve_models(app_of(agent), None).model_for(agent) is None
    assert resolve_models(app_of(agent), "test").model_for(agent) is None


def test_default_model_is_for_agents_without_one() -> None:
    agent, other = Agent[object, str](), Agent[object, str]()
    models = resolve_models(app_of(agent), "test")
    assert isinstance(models.model_for(agent), TestModel)
    assert models.model_for(agent) is models.model_for(other), "one model, one connection pool"


def test_offline_is_for_all_agents_whatever_they_name() -> None:
    for agent in (Agent(), Agent(TestModel()), Agent("openai:gpt-5", defer_model_check=True)):
        model = resolve_models(app_of(agent), "offline").model_for(agent)
        assert isinstance(model, FunctionModel)
        assert model.model_name == "offline"


def test_without_any_model_the_app_does_not_start() -> None:
    with pytest.raises(AppError, match=r"trigger 't' .*: the agent names no model and DEFAULT_MODEL is not set"):
        resolve_models(app_of(Agent()), None)


def test_a_model_whose_check_was_deferred_is_checked_before_the_first_event() -> None:
    agent = Agent("openai:gpt-5", defer_model_check=True)
    with pytest.raises(AppError, match=r"trigger 't' .*'openai:gpt-5' cannot be used: set OPENAI_API_KEY"):
        resolve_models(app_of(agent), None)


def test_a_model_whose_check_was_deferred_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    agent = Agent("openai:gpt-5", defer_model_check=True)
    models = resolve_models(app_of(agent), None)
    assert models.model_for(agent) is models.model_for(agent) is not None


@pytest.mark.parametrize(
    ("default_model", "sentence"),
    [
        ("openai:gpt-5", "'openai:gpt-5' cannot be used: set OPENAI_API_KEY, or DEFAULT_MODEL=offline"),
        ("gpt-5", "'gpt-5' cannot be used: Unknown model: gpt-5"),
        ("nonsense:x", "'nonsense:x' cannot be used: Unknown model"),
    ],
)
def test_a_default_model_that_cannot_be_used_says_why(default_model: str, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence) as e:
        resolve_models(app_of(Agent()), default_model)
    assert "\n" not in str(e.value)
    with pytest.raises(AppError, match=sentence):
        resolve_models(App("shop", ()), default_model)  # an agent function may want it


def test_a_model_that_a_capability_chooses_is_left_alone() -> None:
    agent = Agent[object, str](capabilities=[OwnModel()])
    assert resolve_models(app_of(agent), None).model_for(agent) is None
    assert resolve_models(app_of(agent), "offline").model_for(agent) is not None


async def test_an_agent_inside_a_function_gets_the_same_models() -> None:
    inner = Agent("openai:gpt-5", defer_model_check=True)

    async def agent(ctx: AgentContext) -> str:
        return (await ctx.run_agent(inner)).output

    execution = await run_agent(Trigger("t", any_event(), agent), make_context(), Models("offline"))
    assert execution.output_json == '"offline model: order.created received"'


async def test_a_model_given_for_one_call_wins() -> None:
    async def agent(ctx: AgentContext) -> str:
        return (await ctx.run_agent(Agent(), model=TestModel(custom_output_text="given"))).output

    execution = await run_agent(Trigger("t", any_event(), agent), make_context(), Models("offline"))
    assert execution.output_json == '"given"'


async def test_the_context_stays_the_deps_when_other_options_are_given() -> None:
    seen: list[object] = []
    inner = Agent(deps_type=AgentContext)

    @inner.tool
    def look(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        seen.append(run.deps)
        return "x"

    async def agent(ctx: AgentContext) -> None:
        await ctx.run_agent(inner, model_settings={"temperature": 0.5})

    ctx = make_context()
    await run_agent(Trigger("t", any_event(), agent), ctx, Models("offline"))
    assert seen == [ctx]
