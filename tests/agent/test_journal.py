"""Promise 5: what a run has paid for is not paid for again by the next attempt. A real database; a provider over HTTP
that counts."""

import json
from collections import Counter
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryImage, ModelRetry, RunContext, ToolReturn
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from structlog.testing import capture_logs

from reflex.agent.context import AgentContext
from reflex.agent.signals import Reject
from reflex.core.dead_letters import purge_dead_letter, retry_dead_letter
from reflex.core.journal import JournalUnavailable, LeaseLost, Step, StepKind, StepStore
from reflex.core.settlement import Claimed, Outcome
from tests.agent.stub_provider import Answer, completion, refusal, text, tool_call
from tests.agent.till import till
from tests.processes import eventually


def stock_agent(counted: Counter[str], **options: Any) -> Agent[Any, Any]:
    """An agent with a tool that counts its calls."""
    agent = Agent(**options)

    @agent.tool_plain
    def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        counted[f"stock {sku}"] += 1
        return 7

    return agent


def failing_once(agent: Agent[Any, Any], error: Exception) -> Any:
    """An agent function whose code fails after the agent has done its work, in the first attempt."""

    async def function(ctx: AgentContext) -> str:
        result = await ctx.run_agent(agent)
        if ctx.attempt == 1:
            raise error
        return result.output

    return function


def tool_calls(*arguments: dict[str, Any], name: str = "stock") -> Answer:
    """A response that calls the tool once with each arguments."""
    calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(each)}}
        for at, each in enumerate(arguments)
    ]
    return completion({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")


async def test_an_error_in_the_agents_own_code_pays_for_nothing_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with: no Journaling in run_model_agent (4 requests); timestamps left in the fingerprint;
    tool calls looked up and never recorded (2 calls)."""
    counted: Counter[str] = Counter()
    async with till(database_url, monkeypatch, tool_call("stock", {"sku": "A"}), text("ship it")) as t:
        function = failing_once(stock_agent(counted), RuntimeError("a bug"))
        first = await t.attempt(function)
        assert (first.outcome, t.requests, await t.journaled()) == (Outcome.RETRY, 2, 3)
        second = await t.attempt(function)
        assert (second.outcome, second.output) == (Outcome.SUCCEEDED, '"ship it"')
        assert t.requests == 2
        assert counted == {"stock A": 1}
        # The sums are those of the whole run; what another attempt paid for is named beside them.
        assert orjson.loads(first.usage or "") == {
            "requests": 2, "tool_calls": 1, "input_tokens": 22, "output_tokens": 14,
        }  # fmt: skip
        assert orjson.loads(second.usage or "") == {
            "requests": 2, "tool_calls": 1, "input_tokens": 22, "output_tokens": 14, "replayed_requests": 2,
            "replayed_tool_calls": 1, "replayed_input_tokens": 22, "replayed_output_tokens": 14,
        }  # fmt: skip
        assert await t.journaled() == 0, "a delivery that succeeded needs its journal no more"


async def test_a_run_goes_on_from_the_request_that_failed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate limit after a tool call: the first request and the tool are not repeated. Seen to fail with: the journal
    not read; steps written only when the run succeeds."""
    counted: Counter[str] = Counter()
    script = (tool_call("stock", {"sku": "A"}), refusal(429), text("ship it"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = stock_agent(counted)
        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert (await t.attempt(agent)).output == '"ship it"'
        assert (t.requests, counted) == (3, {"stock A": 1})
        assert [message["role"] for message in t.provider.requests[-1]["messages"]][-1] == "tool"


class Decision(BaseModel):
    decision: str


async def test_answers_nobody_could_use_are_asked_for_anew(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with: forget_steps left out of the settlement (the retry replays the two bad answers and fails
    again, for ever)."""
    bad = tool_call("final_result", {"verdict": 1})
    script = (bad, bad, tool_call("final_result", {"decision": "ship"}))
    async with till(database_url, monkeypatch, *script) as t:
        agent = Agent(output_type=Decision)
        first = await t.attempt(agent)
        assert (first.outcome, t.requests, await t.journaled()) == (Outcome.RETRY, 2, 0)
        assert "output" in (first.error or "")
        second = await t.attempt(agent)
        assert (second.outcome, t.requests) == (Outcome.SUCCEEDED, 3)
        assert "replayed_requests" not in (second.usage or "")


async def test_a_conversation_the_provider_refuses_is_begun_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 400 after a tool call: the same conversation would be refused again. Seen to fail with: model_refused not
    among the poisoned codes."""
    script = (tool_call("stock", {"sku": "A"}), refusal(400), text("ship it"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = stock_agent(Counter())
        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert await t.journaled() == 0
        assert (await t.attempt(agent)).output == '"ship it"'


async def test_made_up_ids_and_the_time_make_no_difference(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that the author's code builds anew each time, with ids that pydantic-ai makes up, and an answer that
    is asked for once more. Seen to fail with: GENERATED_ID not left out of fingerprints.
    """
    async with till(database_url, monkeypatch, text("no"), text("yes")) as t:
        agent = Agent()

        @agent.output_validator
        def positive(output: str) -> str:  # pyright: ignore[reportUnusedFunction]
            if output == "no":
                raise ModelRetry("say yes")
            return output

        async def function(ctx: AgentContext) -> str:
            call = ToolCallPart("stock", {"sku": "A"})
            result = ToolReturnPart("stock", 7, tool_call_id=call.tool_call_id)
            example = [ModelRequest([UserPromptPart("ship?")]), ModelResponse([call]), ModelRequest([result])]
            answer = await ctx.run_agent(agent, message_history=example)
            if ctx.attempt == 1:
                raise RuntimeError("a bug")
            return answer.output

        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (await t.attempt(function)).output == '"yes"'
        assert t.requests == 2


async def test_a_late_worker_can_neither_write_nor_go_on_paying(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost while the tool works. Seen to fail with: no condition on lease_epoch in journal_step.sql;
    LeaseLost not kept for the next look_up (the tool that swallows it leads to a second request)."""
    async with till(database_url, monkeypatch, tool_call("stock", {"sku": "A"}), text("ship it")) as t:
        agent = Agent()

        @agent.tool_plain
        async def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
            await t.taken_away()
            await t.claimed()
            return 7

        _, lease = await t.claimed()

        async def stubborn(ctx: AgentContext) -> str:
            for _ in range(2):
                try:
                    return (await ctx.run_agent(agent)).output
                except LeaseLost:
                    continue
            return (await ctx.run_agent(agent)).output

        with capture_logs() as lines:
            settlement = await t.attempts(stubborn)(lease)
        assert settlement.outcome is Outcome.RELEASED, "of a lease that is gone: it changes nothing"
        assert [line["reason"] for line in lines if line["event"] == "run stopped"] == ["lease_lost"]
        assert t.requests == 1
        cursor = await t.conn.execute("SELECT kind, lease_epoch FROM reflex.step")
        assert await cursor.fetchall() == [("model_request", 1)]
        with pytest.raises(LeaseLost):
            await t.steps.journal(lease.delivery_id, 1, Step(StepKind.TOOL_CALL, b"x", 0, 1, "1"))
        await t.steps.journal(lease.delivery_id, 2, Step(StepKind.TOOL_CALL, b"x", 0, 1, "1"))


async def test_parallel_tool_calls_are_kept_one_by_one(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls at once, two of them alike; the first one fails after the others are done. Only it runs again.

    Seen to fail with: the place of completion instead of the fingerprint as the key; tool_call_id left out and one
    occurrence for all (the two that are alike become one).
    """
    counted: Counter[str] = Counter()
    calls = tool_calls({"sku": "C"}, {"sku": "A"}, {"sku": "A"})
    async with till(database_url, monkeypatch, calls, text("ship it")) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        async def stock(run: RunContext[AgentContext], sku: str) -> str:  # pyright: ignore[reportUnusedFunction]
            counted[sku] += 1
            mine = counted[sku]
            if sku == "C" and run.deps.attempt == 1:
                await eventually(t.has_three_steps, timeout_s=10)
                raise RuntimeError("a bug")
            return f"{sku}{mine}"

        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert counted == {"A": 2, "C": 2}
        assert t.requests == 2
        told = [message["content"] for message in t.provider.requests[-1]["messages"] if message["role"] == "tool"]
        assert (told[0], sorted(told[1:])) == ("C2", ["A1", "A2"])


async def test_what_a_replayed_tool_had_published_is_published_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And under the id that the tool has told the model. Seen to fail with: publish_again left out of the replay (no
    event); the events of both attempts kept (two)."""
    ids: list[str] = []
    async with till(database_url, monkeypatch, tool_call("note", {"sku": "A"}), text("noted")) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        async def note(run: RunContext[AgentContext], sku: str) -> str:  # pyright: ignore[reportUnusedFunction]
            ids.append(str(await run.deps.publish("order.noted", {"sku": sku})))
            return ids[-1]

        function = failing_once(agent, RuntimeError("a bug"))
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
        cursor = await t.conn.execute("SELECT event_id::text, payload FROM reflex.event WHERE type = 'order.noted'")
        assert await cursor.fetchall() == [(ids[0], {"sku": "A"})]
        assert len(ids) == 1


async def test_that_a_tool_asks_the_model_to_try_again_is_a_result_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with: ModelRetry not recorded (the tool runs again, and what it says now fits no record); what
    pydantic-ai does not count counted when it is replayed (2 of 1)."""
    counted: Counter[str] = Counter()
    script = (tool_call("stock", {"sku": "B"}), tool_call("stock", {"sku": "A"}), text("ship it"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = Agent()

        @agent.tool_plain
        def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
            counted[sku] += 1
            if sku == "B":
                raise ModelRetry(f"no {sku}, asked {counted[sku]} times")
            return 7

        function = failing_once(agent, RuntimeError("a bug"))
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        second = await t.attempt(function)
        assert second.output == '"ship it"'
        assert (t.requests, counted) == (3, {"A": 1, "B": 1})
        usage = orjson.loads(second.usage or "")
        assert (usage["tool_calls"], usage["replayed_tool_calls"]) == (1, 1)


async def test_a_run_that_takes_another_way_goes_on_live_and_says_so_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New code asks something else, and the provider repeats its ids: the recorded tool result belongs to another
    conversation. Seen to fail with: the conversation left out of a tool call's fingerprint (7 instead of 8)."""
    script = (tool_call("stock", {"sku": "A"}), refusal(503), tool_call("stock", {"sku": "A"}), text("ship it"))
    async with till(database_url, monkeypatch, *script) as t:
        counted: Counter[str] = Counter()
        assert (await t.attempt(stock_agent(counted, instructions="old"))).outcome is Outcome.RETRY
        with capture_logs() as lines:
            assert (await t.attempt(stock_agent(counted, instructions="new"))).outcome is Outcome.SUCCEEDED
        (line,) = [line for line in lines if "diverged" in line["event"]]
        assert (line["position"], line["recorded"], line["unused"]) == (0, 2, 2)
        assert (t.requests, counted) == (4, {"stock A": 2})


async def test_a_dead_letter_keeps_its_journal_until_it_is_purged(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retried by a person it goes on where it stopped. Seen to fail with: forget_steps of every dead letter; purging
    without the deletion."""
    async with till(database_url, monkeypatch, text("ship it")) as t:
        function = failing_once(Agent(), Reject("not yet"))
        dead = await t.attempt(function)
        assert dead.outcome is Outcome.DEAD
        assert await t.journaled() == 1
        (trigger_id,) = t.registered.trigger_ids.values()
        delivery_id = Claimed(trigger_id, dead.event_id, *[None] * 11).delivery_id  # pyright: ignore
        await retry_dead_letter(t.conn, delivery_id)
        await t.attempt(function)
        assert t.requests == 1
        await retry_dead_letter(t.conn, delivery_id)
        await t.attempt(failing_once(Agent(), Reject("never")))
        assert await t.journaled() == 1
        await purge_dead_letter(t.conn, delivery_id)
        assert await t.journaled() == 0


async def test_an_agent_inside_a_tool_is_part_of_the_tool(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool runs an agent whose tool publishes. The replay repeats none of it, keeps the event, and is no
    divergence. Seen to fail with: only the innermost tool noting what was published; steps inside not noted (a false
    alarm, since something was paid for)."""
    script = (
        tool_call("ask", {}), tool_call("note", {}), text("inner"), text("outer"), text("after"),
    )  # fmt: skip
    async with till(database_url, monkeypatch, *script) as t:
        inner, outer = Agent(deps_type=AgentContext), Agent(deps_type=AgentContext)
        after = Agent(instructions="Afterwards.")
        asked: Counter[str] = Counter()

        @inner.tool
        async def note(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            await run.deps.publish("order.noted")
            return "noted"

        @outer.tool
        async def ask(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            asked["ask"] += 1
            return (await run.deps.run_agent(inner, "inside")).output

        async def function(ctx: AgentContext) -> str:
            await ctx.run_agent(outer)
            if ctx.attempt == 1:
                raise RuntimeError("a bug")
            return (await ctx.run_agent(after)).output

        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (t.requests, await t.journaled()) == (4, 6)
        with capture_logs() as lines:
            second = await t.attempt(function)
        assert (second.output, t.requests, asked["ask"]) == ('"after"', 5, 1)
        assert [event.type for event in second.published] == ["order.noted", "reflex.reply"]
        assert not [line for line in lines if "diverged" in line["event"]]


async def test_results_of_every_kind_come_back_as_they_were(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture, an object, NUL, a number beyond 64 bits, a ToolReturn, bytes that are no text.

    Seen to fail with: jsonb for the column (NUL is refused); orjson reading the result; bytes written as UTF-8.
    """
    counted: Counter[str] = Counter()
    values: dict[str, Any] = {
        "picture": BinaryImage(b"\x89PNG\x00\xff", media_type="image/png"),
        "object": Decision(decision="ship"),
        "nul": "a\x00b",
        "huge": 10**30,
        "return": ToolReturn(return_value="r", metadata={"m": 1}),
        "nothing": None,
        "bytes": {"of": b"\xff\x00>?"},
    }
    calls = tool_calls(*[{"kind": kind} for kind in values], name="give")
    async with till(database_url, monkeypatch, calls, text("a\x00b")) as t:
        agent = Agent()

        @agent.tool_plain
        def give(kind: str) -> Any:  # pyright: ignore[reportUnusedFunction]
            counted[kind] += 1
            return values[kind]

        histories: list[Any] = []

        async def function(ctx: AgentContext) -> str:
            result = await ctx.run_agent(agent)
            parts: Any = result.all_messages()[2].parts
            histories.append([part.content for part in parts])
            if ctx.attempt == 1:
                raise RuntimeError("a bug")
            return result.output

        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
        assert t.requests == 2
        assert counted == dict.fromkeys(values, 1)
        live, replayed = histories
        assert live[1] == Decision(decision="ship")
        live[1] = {"decision": "ship"}  # an object comes back as its JSON
        assert live[-1] == values["bytes"]
        live[-1] = {"of": "_wA-Pw=="}  # as the model was told
        assert replayed == live


async def test_what_is_no_json_is_not_kept_and_not_fatal(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with: the ValueError of the serializer let through."""
    counted: Counter[str] = Counter()

    class Odd:
        def __str__(self) -> str:
            return "odd"

    async with till(database_url, monkeypatch, tool_call("give", {}), text("done")) as t:
        agent = Agent()

        @agent.tool_plain
        def give() -> Any:  # pyright: ignore[reportUnusedFunction]
            counted["give"] += 1
            return ToolReturn(return_value="fine", metadata=Odd())

        function = failing_once(agent, RuntimeError("a bug"))
        with capture_logs() as lines:
            assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert any("cannot be written as JSON" in line["event"] for line in lines)
        assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
        assert (counted["give"], t.requests) == (2, 2)


@pytest.mark.parametrize("answer", [{"content": "half \ud83d of it"}, {"content": "x", "provider_details": object()}])
async def test_an_answer_that_is_no_json_is_not_kept_and_not_fatal(
    database_url: str, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    """Half a character, as some providers send it; and a model of the author's own, with what is no data. Seen to fail
    with: the ValueError of the serializer let through."""

    def answering(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse([TextPart("done")])
        said = TextPart(answer["content"])
        return ModelResponse([said, ToolCallPart("look", {})], provider_details={"raw": answer.get("provider_details")})

    async with till(database_url, monkeypatch) as t:
        agent = Agent(FunctionModel(answering))

        @agent.tool_plain
        def look() -> str:  # pyright: ignore[reportUnusedFunction]
            return "seen"

        with capture_logs() as lines:
            done = await t.attempt(agent)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"done"'), done.error
        assert any("a model's answer cannot be written as JSON" in line["event"] for line in lines)


async def test_a_cut_connection_is_tried_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with: no second try in StepStore."""
    async with till(database_url, monkeypatch, tool_call("stock", {"sku": "A"}), text("ship it")) as t:
        agent = Agent()

        @agent.tool_plain
        async def stock(sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
            await t.conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'reflex journal' "
                "AND datname = current_database()"
            )
            return 7

        function = failing_once(agent, RuntimeError("a bug"))
        assert "a bug" in ((await t.attempt(function)).error or "")
        assert await t.journaled() == 3


async def test_a_database_that_stays_away_fails_the_run_as_one_to_retry(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with: patience without an end."""
    async with till(database_url, monkeypatch, text("ship it")) as t:
        t.steps = StepStore("postgresql://nobody:secret@127.0.0.1:1/x", patience_s=0.2)
        try:
            settlement = await t.attempt(Agent())
            with pytest.raises(JournalUnavailable):
                await t.steps.recorded(Claimed(1, settlement.event_id, *[None] * 11).delivery_id)  # pyright: ignore
        finally:
            await t.steps.aclose()
        assert settlement.outcome is Outcome.RETRY
        assert "could not be reached for 0.2 s" in (settlement.error or "")
        assert "secret" not in (settlement.error or "")


async def test_plain_functions_never_connect(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with: the pool opened by StepStore's constructor or by the first run."""
    async with till(database_url, monkeypatch, text("x")) as t:

        async def function(ctx: AgentContext) -> str:
            return "done"

        assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
        assert t.steps._pool is None
