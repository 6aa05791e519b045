"""A watched run: what is shown of it, and that watching changes nothing else. A provider over HTTP, a real database."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, NativeOutput, RunContext
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from structlog.testing import capture_logs

from reflex.agent.context import AgentContext
from reflex.agent.offline import offline_model
from reflex.core.settlement import Outcome
from reflex.worker.progress import ProgressPublisher
from tests.agent.stub_provider import Answer, BreaksOff, raw, refusal, silence, stream, text, tool_call
from tests.agent.till import Till, till
from tests.watching import Watcher, kinds, said, watcher


@asynccontextmanager
async def watched(
    database_url: str, monkeypatch: pytest.MonkeyPatch, *script: Answer
) -> AsyncGenerator[tuple[Till, Watcher]]:
    """A till whose runs somebody watches."""
    async with till(database_url, monkeypatch, *script) as t, watcher(database_url) as someone:
        t.audience = publisher = ProgressPublisher(database_url)
        publisher.watch()
        try:
            yield t, someone
        finally:
            await publisher.aclose()


def nobody(database_url: str) -> ProgressPublisher:
    return ProgressPublisher(database_url)


def stock_agent(**options: Any) -> Agent[Any, Any]:
    agent = Agent(**options)

    @agent.tool_plain
    def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        if sku == "?":
            raise ModelRetry("which one?")
        return 7

    return agent


def failing_once(agent: Agent[Any, Any]) -> Any:
    """An agent function whose code fails after the agent has done its work, in the first attempt."""

    async def function(ctx: AgentContext) -> Any:
        result = await ctx.run_agent(agent)
        if ctx.attempt == 1:
            raise RuntimeError("a bug")
        return result.output

    return function


async def test_the_text_is_seen_while_the_model_still_speaks_and_adds_up_to_the_reply(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: the plain request made, or the stream collected before it is shown (the provider then waits for
    what the watcher waits for)."""
    seen = asyncio.Event()
    script = stream("ship ", "it ", seen, "today", " ✓")
    async with watched(database_url, monkeypatch, script) as (t, someone):
        running = asyncio.create_task(t.attempt(Agent()))
        await someone.hears(lambda: said(someone.heard) == "ship it ")
        seen.set()
        settlement = await running
        await someone.hears_the_end()
        assert settlement.output == f'"{said(someone.heard)}"' == '"ship it today ✓"'
        assert settlement.usage == '{"requests":1,"tool_calls":0,"input_tokens":11,"output_tokens":7}'
        assert kinds(someone.heard)[0] == "run_started"
        assert [each.seq for each in someone.heard] == list(range(1, len(someone.heard) + 1))
        end = someone.heard[-1]
        assert (end.outcome, end.trigger, end.attempt, end.type, end.source) == (
            "succeeded", "pack", 1, "order.created", "test",
        )  # fmt: skip
        assert end.event_id == str(settlement.event_id)
        assert end.delivery_id.endswith(end.event_id)


async def test_tool_calls_and_their_results_are_seen(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the model is to try again is a result, too. Fails with: WatchedToolset left out; the result of a call that
    raised left out; the second request's text counted with the first's."""
    calls = (tool_call("stock", {"sku": "?"}), tool_call("stock", {"sku": "A"}))
    async with watched(database_url, monkeypatch, *calls, text("ship it")) as (t, someone):
        assert (await t.attempt(stock_agent())).output == '"ship it"'
        await someone.hears_the_end()
        seen = [
            (each.kind, each.tool, each.tool_call_id, each.arguments or each.result, each.request)
            for each in someone.heard[1:-1]
        ]
        assert seen == [
            ("tool_call", "stock", "call-stock", '{"sku":"?"}', None),
            ("tool_result", "stock", "call-stock", "which one?", None),
            ("tool_call", "stock", "call-stock", '{"sku":"A"}', None),
            ("tool_result", "stock", "call-stock", "7", None),
            ("text", None, None, None, 3),
        ]
        assert all(request["stream"] for request in t.provider.requests)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
async def test_a_retry_replays_what_was_paid_for_whoever_watches(
    database_url: str, monkeypatch: pytest.MonkeyPatch, first: bool, second: bool
) -> None:
    """Fails with: the streamed request made outside the journal (4 requests); a fingerprint that knows of streaming;
    a replayed request or call not shown."""
    script = (tool_call("stock", {"sku": "A"}), text("ship it"))
    async with watched(database_url, monkeypatch, *script) as (t, someone):
        publisher, function = t.audience, failing_once(stock_agent())
        t.audience = publisher if first else nobody(database_url)
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (len(t.provider.requests), await t.journaled()) == (2, 3)
        t.audience = publisher if second else nobody(database_url)
        settlement = await t.attempt(function)
        assert (settlement.output, len(t.provider.requests)) == ('"ship it"', 2)
        assert '"replayed_requests":2' in (settlement.usage or "")
        await someone.hears_the_end(times=first + second)
        full = ["run_started", "tool_call", "tool_result", "text", "run_ended"]
        for attempt, was_watched in ((1, first), (2, second)):
            seen = someone.of_attempt(attempt)
            assert [kind for at, kind in enumerate(kinds(seen)) if kind not in kinds(seen)[:at]] == (
                full if was_watched else []
            )
            assert said(seen) == ("ship it" if was_watched else "")


async def test_a_run_that_is_killed_while_the_model_speaks_asks_for_that_answer_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an answer is none: it is not recorded. Fails with: what came so far recorded; nothing recorded before the
    end of the run."""
    never = asyncio.Event()
    script = (tool_call("stock", {"sku": "A"}), stream("ship ", never), text("keep it"))
    async with watched(database_url, monkeypatch, *script) as (t, someone):
        _, lease = await t.claimed()
        running = asyncio.create_task(t.attempts(stock_agent())(lease))  # pyright: ignore[reportArgumentType]
        await someone.hears(lambda: said(someone.heard) == "ship ")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        never.set()
        await t.taken_away()
        assert await t.journaled() == 2
        assert (await t.attempt(stock_agent())).output == '"keep it"'
        assert len(t.provider.requests) == 3
        await someone.hears_the_end(times=2)
        assert [each.outcome for each in someone.heard if each.outcome] == ["released", "succeeded"]
        assert said(someone.of_attempt(2)) == "keep it"


def broken(*pieces: Any) -> Answer:
    return stream("half an ", *pieces)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refusal(429, Retry_After="37"), "rate_limited"),
        (refusal(500), "model_unavailable"),
        (refusal(400, "context is too long"), "model_refused"),
        (refusal(401, "no key"), "model_credentials"),
        (silence(asyncio.Event()), "model_timeout"),
        (broken({"error": {"message": "slow down", "code": "rate_limit_exceeded", "type": "x"}}), "rate_limited"),
        (broken({"error": {"message": "oops", "code": "server_error", "type": "server_error"}}), "model_unavailable"),
        (broken(BreaksOff), "model_unavailable"),
        (broken(asyncio.Event()), "model_timeout"),
    ],
    ids=["429", "500", "400", "401", "silence", "429 inside", "500 inside", "breaks off", "falls silent"],
)
async def test_a_model_that_fails_is_classified_as_if_nobody_watched(
    database_url: str, monkeypatch: pytest.MonkeyPatch, answer: Answer, reason: str
) -> None:
    """Before the first word and in the middle of a sentence, after one request. Fails with: errors of the stream
    swallowed or wrapped; half an answer taken for a whole one; a plain request after each failure."""
    async with watched(database_url, monkeypatch, answer) as (t, someone):
        with capture_logs() as lines:
            settlement = await t.attempt(Agent(model_settings=ModelSettings(timeout=0.3)))
        assert settlement.outcome is Outcome.RETRY
        assert [line["reason"] for line in lines if "reason" in line] == [reason]
        assert (len(t.provider.requests), await t.journaled()) == (1, 0)
        await someone.hears_the_end()
        assert someone.heard[-1].outcome == "retry"


@pytest.mark.parametrize("body", ["", "data: {\n\n", "<html>busy</html>"])
async def test_an_answer_that_is_no_answer_is_tried_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """Fails with: an empty stream taken for an empty answer."""
    async with watched(database_url, monkeypatch, raw(body)) as (t, _):
        assert (await t.attempt(Agent())).outcome is Outcome.RETRY
        assert (len(t.provider.requests), await t.journaled()) == (1, 0)


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse([TextPart("plainly")])


class Stamping(WrapperModel):
    """An author's own model, whose work would be lost if it were asked streaming."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        response = await super().request(messages, model_settings, model_request_parameters)
        return ModelResponse([TextPart("plainly")], usage=response.usage)


@pytest.mark.parametrize(
    "model",
    [
        FunctionModel(answer),
        WrapperModel(FunctionModel(answer)),
        FallbackModel(FunctionModel(answer), offline_model()),
        Stamping(offline_model()),
        WrapperModel(Stamping(offline_model())),
    ],
    ids=["function", "wrapped", "fallback", "own request", "own request wrapped"],
)
async def test_a_model_that_cannot_stream_is_asked_plainly(
    database_url: str, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    """And its answer shown as a whole. Fails with: can_stream always true; a look at the outermost class alone."""
    async with watched(database_url, monkeypatch, text("x")) as (t, someone):
        assert (await t.attempt(Agent(model))).output == '"plainly"'
        await someone.hears_the_end()
        assert said(someone.heard) == "plainly"


def is_short(response: ModelResponse) -> bool:
    return "no" in str(response.parts)


@pytest.mark.parametrize("first", [stream("half an ", BreaksOff), text("no")], ids=["breaks off", "judged"])
async def test_a_fallback_model_falls_back_as_if_nobody_watched(
    database_url: str, monkeypatch: pytest.MonkeyPatch, first: Answer
) -> None:
    """After a few words, and because of what it said. The reply is the text of the last request. Fails with: the
    FallbackModel itself asked streaming (the run fails; the response is not judged)."""
    async with watched(database_url, monkeypatch, first, text("ship it")) as (t, someone):
        fallback_on: list[Any] = [ModelAPIError, is_short]
        model = FallbackModel("openai-chat:stub", "openai-chat:stub", fallback_on=fallback_on)
        assert (await t.attempt(failing_once(Agent(model)))).outcome is Outcome.RETRY
        assert (await t.attempt(failing_once(Agent(model)))).output == '"ship it"'
        assert [request["stream"] for request in t.provider.requests] == [True, True]
        await someone.hears_the_end(times=2)
        seen = [each for each in someone.of_attempt(1) if each.kind == "text"]
        assert said([each for each in seen if each.request == seen[-1].request]) == "ship it"
        assert seen[0].request != seen[-1].request


async def test_a_provider_that_refuses_to_stream_is_asked_plainly(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: the refusal let through, as that of the request itself."""
    refused = refusal(400, "Your organization must be verified to stream this model.", code="unsupported_value")
    async with watched(database_url, monkeypatch, refused, text("ship it")) as (t, someone):
        assert (await t.attempt(Agent())).output == '"ship it"'
        assert [request.get("stream", False) for request in t.provider.requests] == [True, False]
        await someone.hears_the_end()
        assert said(someone.heard) == "ship it"


class Decision(BaseModel):
    decision: str


@pytest.mark.parametrize("how", [Decision, NativeOutput(Decision)], ids=["output tool", "native"])
async def test_the_json_of_an_output_is_not_shown(database_url: str, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    """Fails with: the text of a native output shown; the output tool shown as a call."""
    json = text('{"decision": "ship"}') if isinstance(how, NativeOutput) else None
    final = json or tool_call("final_result", {"decision": "ship"})
    async with watched(database_url, monkeypatch, tool_call("stock", {"sku": "A"}), final) as (t, someone):
        settlement = await t.attempt(stock_agent(output_type=how))
        assert settlement.output == '{"decision":"ship"}'
        await someone.hears_the_end()
        assert kinds(someone.heard) == ["run_started", "tool_call", "tool_result", "run_ended"]


async def test_what_an_agent_inside_a_tool_does_is_told_apart(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: `inside` not set, or left set after the call."""
    script = (tool_call("ask", {}), tool_call("stock", {"sku": "A"}), text("inner"), text("outer"))
    async with watched(database_url, monkeypatch, *script) as (t, someone):
        inner, outer = stock_agent(), Agent(deps_type=AgentContext)

        @outer.tool
        async def ask(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            return (await run.deps.run_agent(inner, "inside")).output

        assert (await t.attempt(outer)).output == '"outer"'
        await someone.hears_the_end()
        assert [(each.kind, each.tool or each.text, each.inside) for each in someone.heard[1:-1]] == [
            ("tool_call", "ask", None),
            ("tool_call", "stock", "call-ask"),
            ("tool_result", "stock", "call-ask"),
            ("text", "inner", "call-ask"),
            ("tool_result", "ask", None),
            ("text", "outer", None),
        ]


async def test_who_begins_to_watch_in_the_middle_sees_the_rest(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: a look at the watchers at the start of the run alone."""
    async with watched(database_url, monkeypatch, tool_call("look", {}), text("ship it")) as (t, someone):
        t.audience = publisher = nobody(database_url)
        agent = Agent()

        @agent.tool_plain
        async def look() -> str:  # pyright: ignore[reportUnusedFunction]
            publisher.watch()
            return "seen"

        assert (await t.attempt(agent)).output == '"ship it"'
        await publisher.aclose()
        await someone.hears_the_end()
        assert kinds(someone.heard) == ["run_started", "tool_result", "text", "run_ended"]
        assert [request.get("stream", False) for request in t.provider.requests] == [False, True]


async def test_what_is_shown_is_not_written_to_the_log(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what PostgreSQL says when it refuses it. Fails with: the records, or their payloads, in a log line."""
    script = (tool_call("stock", {"sku": "s3cret"}), text("s3cret"))
    async with watched(database_url, monkeypatch, *script) as (t, someone):
        with capture_logs() as lines:
            await t.attempt(stock_agent())
            await someone.hears_the_end()
        assert "s3cret" in said(someone.heard)
        assert "s3cret" not in str(lines)
