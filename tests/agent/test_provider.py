"""The path that a real model takes: pydantic-ai, OpenAI's client, HTTP. Only the provider is ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.settings import ModelSettings

from reflex.agent.app import App
from reflex.agent.context import AgentContext
from reflex.agent.execution import Execution, RunTimeout, classify, run_agent, usage_of
from reflex.agent.failures import Failure
from reflex.agent.filters import any_event
from reflex.agent.models import resolve_models
from reflex.agent.triggers import Trigger
from tests.agent.records import make_context, make_record
from tests.agent.stub_provider import (
    Answer,
    StubProvider,
    raw,
    refusal,
    responses_text,
    silence,
    stub_provider,
    text,
    tool_call,
)

Start = Callable[..., AbstractAsyncContextManager[StubProvider]]


class Decision(BaseModel):
    decision: str
    amount: float


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """Starts the stub with a script and makes it what `openai:` and `openai-chat:` mean."""
    async with AsyncExitStack() as stack:

        async def start(*script: Answer) -> StubProvider:
            stub = await stack.enter_async_context(stub_provider(*script))
            monkeypatch.setenv("OPENAI_BASE_URL", stub.base_url)
            monkeypatch.setenv("OPENAI_API_KEY", "sk-stub-1234567890")
            return stub

        yield start


async def run(
    agent: Agent[Any, Any], *, model: str = "openai-chat:stub", ctx: AgentContext | None = None, **options: Any
) -> Execution:
    trigger = Trigger("review", any_event(), agent, **options)
    models = resolve_models(App("shop", (trigger,)), model)
    try:
        return await run_agent(trigger, ctx or make_context(make_record(payload={"amount": 250.0})), models)
    finally:
        await models.aclose()


async def failure(agent: Agent[Any, Any], **options: Any) -> Failure:
    try:
        execution = await run(agent, **options)
    except Exception as error:  # noqa: BLE001 (what any of them means is the question)
        return classify(error)
    raise AssertionError(f"{execution} did not fail")


async def test_a_text_answer_is_the_output_and_its_usage_is_recorded(provider: Any) -> None:
    stub = await provider(text("ship it"))
    execution = await run(Agent(instructions="Decide."))
    assert execution.output_json == '"ship it"'
    assert execution.usage == {"requests": 1, "tool_calls": 0, "input_tokens": 11, "output_tokens": 7}
    (request,) = stub.requests
    assert request["model"] == "stub"
    asked = {message["role"]: message["content"] for message in request["messages"]}
    assert "Decide." in str(asked)
    assert orjson.loads(asked["user"]) == {"type": "order.created", "payload": {"amount": 250.0}}
    assert stub.authorizations == ["Bearer sk-stub-1234567890"]


async def test_the_responses_api_works_too(provider: Any) -> None:
    stub = await provider(responses_text("ship it"))
    execution = await run(Agent(), model="openai:stub")
    assert execution.output_json == '"ship it"'
    assert execution.usage is not None
    assert execution.usage["input_tokens"] == 11
    assert "input" in stub.requests[0]


async def test_a_tool_call_and_then_typed_output(provider: Any) -> None:
    stub = await provider(
        tool_call("stock", {"sku": "A"}), tool_call("final_result", {"decision": "ship", "amount": 250.0})
    )

    def stock(sku: str) -> int:
        return {"A": 7}[sku]

    execution = await run(Agent(output_type=Decision, tools=[stock]))
    assert orjson.loads(execution.output_json or "") == {"decision": "ship", "amount": 250.0}
    assert execution.usage == {"requests": 2, "tool_calls": 1, "input_tokens": 22, "output_tokens": 14}
    first, second = stub.requests
    assert {tool["function"]["name"] for tool in first["tools"]} == {"stock", "final_result"}
    assert [message["content"] for message in second["messages"] if message["role"] == "tool"] == ["7"]


async def test_a_rate_limit_waits_as_long_as_the_provider_asks_after_one_request(provider: Any) -> None:
    stub = await provider(refusal(429, Retry_After="37"))
    result = await failure(Agent())
    assert (result.kind, result.retry_after) == ("retry", timedelta(seconds=37))
    assert result.reason_code == "rate_limited"
    assert len(stub.requests) == 1, "retries are the queue's; the client's own would multiply them"


async def test_a_rate_limit_without_a_wait_follows_the_policy(provider: Any) -> None:
    await provider(refusal(429))
    result = await failure(Agent())
    assert (result.kind, result.retry_after, result.reason_code) == ("retry", None, "rate_limited")


async def test_milliseconds_are_understood_too(provider: Any) -> None:
    await provider(refusal(429, retry_after_ms="1500"))
    assert (await failure(Agent())).retry_after == timedelta(seconds=1.5)


@pytest.mark.parametrize("status", [500, 503, 408, 409])
async def test_a_providers_own_trouble_is_tried_again_by_the_policy(provider: Any, status: int) -> None:
    stub = await provider(refusal(status))
    result = await failure(Agent())
    assert (result.kind, result.retry_after) == ("retry", None)
    assert f"{status}" in result.error_text
    assert len(stub.requests) == 1


async def test_a_refused_key_says_where_to_look_and_does_not_show_the_key(provider: Any) -> None:
    await provider(refusal(401, "Incorrect API key provided: sk-stub-1234567890", code="invalid_api_key"))
    result = await failure(Agent())
    assert (result.kind, result.reason_code) == ("retry", "model_credentials")
    assert "check the provider's key" in result.error_text
    assert "sk-stub" not in result.error_text


async def test_a_refused_request_says_so(provider: Any) -> None:
    await provider(refusal(400, "context is too long", code="context_length_exceeded"))
    result = await failure(Agent())
    assert (result.kind, result.reason_code) == ("retry", "model_refused")


@pytest.mark.parametrize("body", ["", "{", '{"choices": []}', '{"error": "x"}', "[]", "<html>busy</html>"])
async def test_an_answer_that_is_no_answer_is_tried_again(provider: Any, body: str) -> None:
    await provider(raw(body))
    assert (await failure(Agent())).kind == "retry"


async def test_a_malformed_tool_call_is_shown_to_the_model_before_the_run_fails(provider: Any) -> None:
    stub = await provider(tool_call("final_result", '{"decision": '), tool_call("final_result", {"decision": 1}))
    ctx = make_context()
    result = await failure(Agent(output_type=Decision), ctx=ctx)
    assert (result.kind, result.reason_code) == ("retry", "model_behavior")
    assert len(stub.requests) == 2
    usage = usage_of(ctx)
    assert usage is not None
    assert usage["input_tokens"] == 22, "what failed was paid for"


async def test_a_provider_that_never_answers_is_given_up_at_the_triggers_timeout(provider: Any) -> None:
    answered = asyncio.Event()
    stub = await provider(silence(answered))
    with pytest.raises(RunTimeout):
        await run(Agent(), timeout=timedelta(milliseconds=300))
    answered.set()
    assert len(stub.requests) == 1


async def test_a_time_out_of_the_models_client_is_tried_again(provider: Any) -> None:
    answered = asyncio.Event()
    stub = await provider(silence(answered))
    result = await failure(Agent(model_settings=ModelSettings(timeout=0.2)))
    answered.set()
    assert (result.kind, result.reason_code) == ("retry", "model_timeout")
    assert len(stub.requests) == 1


async def test_a_provider_that_is_not_there_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stub_provider(text("x")) as stub:
        monkeypatch.setenv("OPENAI_BASE_URL", stub.base_url)
    assert (await failure(Agent())).kind == "retry"


async def test_an_agent_that_asks_for_the_clients_retries_gets_them(provider: Any) -> None:
    stub = await provider(refusal(500, retry_after_ms="1"), text("at last"))
    execution = await run(Agent(model_settings=ModelSettings(max_retries=1)))
    assert execution.output_json == '"at last"'
    assert len(stub.requests) == 2


def half(run: object) -> ModelSettings:
    return {"temperature": 0.5}


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, half], ids=["dict", "function"])
async def test_settings_for_one_call_do_not_bring_the_clients_retries_back(provider: Any, settings: Any) -> None:
    stub = await provider(refusal(500))

    async def agent(ctx: AgentContext) -> None:
        await ctx.run_agent(Agent(), model_settings=settings)

    trigger = Trigger("review", any_event(), agent)
    models = resolve_models(App("shop", (trigger,)), "openai-chat:stub")
    with pytest.raises(ModelHTTPError):
        await run_agent(trigger, make_context(), models)
    await models.aclose()
    assert [request["temperature"] for request in stub.requests] == [0.5]


async def test_agents_share_one_client_and_many_runs_at_once_work(provider: Any) -> None:
    stub = await provider(text("ok"))
    trigger = Trigger("review", any_event(), Agent())
    models = resolve_models(App("shop", (trigger,)), "openai-chat:stub")
    executions = await asyncio.gather(*(run_agent(trigger, make_context(), models) for _ in range(20)))
    await models.aclose()
    assert {execution.output_json for execution in executions} == {'"ok"'}
    assert len(stub.requests) == 20
