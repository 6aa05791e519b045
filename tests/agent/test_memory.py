"""Memory: what was said is there in the next run of its key, within a window, paid for once. A provider over HTTP that
counts, a real database."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic_ai import Agent, CallDeferred, DeferredToolRequests, RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from reflex.agent.context import AgentContext
from reflex.agent.memory import Memory
from reflex.agent.message_history import shortened, transcript, window
from reflex.core.settlement import Outcome, Settlement
from tests.agent.stub_provider import refusal, text, tool_call
from tests.agent.test_state import another, keyed, settle
from tests.agent.till import Till, till
from tests.queue_fixtures import count

KEEPS = Memory(max_messages=20)


def asked(t: Till, request: int = -1) -> list[tuple[str, Any]]:
    """What the model was told: role and content of each message."""
    return [(message["role"], message.get("content")) for message in t.provider.requests[request]["messages"]]


async def kept(t: Till) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    cursor = await t.conn.execute("SELECT messages, usage FROM reflex.state")
    (row,) = await cursor.fetchall()
    return row


def says(ctx: AgentContext) -> str:
    assert ctx.event.meta
    return f"question {ctx.event.meta.payload.get('n', 0)}"


async def test_a_conversation_goes_on_with_the_next_event_of_its_key(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the trigger's agent is run without its memory, or the usage begins anew."""
    async with keyed(database_url, monkeypatch, text("one"), text("two"), text("three")) as t:
        agent = Agent(system_prompt="Be kind.")
        await t.attempt(agent, memory=KEEPS, prompt="first")
        await another(t)
        await t.attempt(agent, memory=KEEPS, prompt="second")
        assert asked(t) == [
            ("system", "Be kind."), ("user", "first"), ("assistant", "one"), ("user", "second"),
        ]  # fmt: skip
        messages, usage = await kept(t)
        assert [message["kind"] for message in messages] == ["request", "response"] * 2
        assert (usage["requests"], usage["input_tokens"], usage["output_tokens"]) == (2, 22, 14)
        await another(t, "B")
        await t.attempt(agent, memory=KEEPS, prompt="third")
        assert asked(t) == [("system", "Be kind."), ("user", "third")]


async def test_a_retry_of_a_conversation_pays_for_nothing_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is part of the fingerprints. Fails if it is not loaded alike in both attempts (5 requests), or if the
    failed attempt is remembered."""
    called: Counter[str] = Counter()
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def stock(run: RunContext[AgentContext], sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        called[sku] += 1
        return 7

    script = (text("one"), tool_call("stock", {"sku": "A"}), refusal(429), text("two"))
    async with keyed(database_url, monkeypatch, *script) as t:
        await t.attempt(agent, memory=KEEPS, prompt="first")
        before = await kept(t)
        await another(t)
        assert (await t.attempt(agent, memory=KEEPS, prompt="second")).outcome is Outcome.RETRY
        assert await kept(t) == before
        assert (await t.attempt(agent, memory=KEEPS, prompt="second")).output == '"two"'
        assert (t.requests, called) == (4, {"A": 1})
        messages, usage = await kept(t)
        assert len(messages) == 6
        assert (usage["requests"], usage["tool_calls"]) == (3, 1)


async def test_two_runs_of_a_conversation_at_once_are_both_remembered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one to settle has not heard the first: it is asked anew, with all that was said. Fails if memory is
    not written like state."""
    async with keyed(database_url, monkeypatch, text("a"), text("b"), text("c")) as t:
        worker_id, slow = await t.claimed()
        agent = Agent()
        late: Settlement = await t.attempts(agent, memory=KEEPS, prompt="slow")(slow)
        await another(t)
        await t.attempt(agent, memory=KEEPS, prompt="fast")
        await settle(t, worker_id, late)
        assert (await t.attempt(agent, memory=KEEPS, prompt="slow")).output == '"c"'
        assert asked(t) == [("user", "fast"), ("assistant", "b"), ("user", "slow")]
        assert len((await kept(t))[0]) == 4


async def test_what_falls_out_of_the_window_is_summarised_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary is a request of its own, replayed like the others: the run fails after it. Fails if it is not run
    through the context, or the usage of it is not counted."""
    memory = Memory(max_messages=5, summarise="Say in one sentence what the customer wants.")

    async def talks(ctx: AgentContext) -> str:
        answer = await ctx.run_agent(Agent(), says(ctx), memory=True)
        if says(ctx) == "question 2" and ctx.attempt == 1:
            raise RuntimeError("a bug")
        return answer.output

    async with keyed(database_url, monkeypatch, text("a0"), text("a1"), text("a2"), text("all of it"), text("a3")) as t:
        for number in range(4):
            if number:
                await another(t)
            await t.conn.execute(
                "UPDATE reflex.event SET payload = jsonb_build_object('n', %s::int) WHERE payload = '{}'", (number,)
            )
            if number == 2:
                assert (await t.attempt(talks, memory=memory)).outcome is Outcome.RETRY
            assert (await t.attempt(talks, memory=memory)).outcome is Outcome.SUCCEEDED
        assert t.requests == 5
        summarising = t.provider.requests[3]["messages"]
        assert summarising[0]["content"] == "Say in one sentence what the customer wants."
        assert summarising[1]["content"] == "User: question 0\n\nAssistant: a0\n\nUser: question 1\n\nAssistant: a1"
        assert asked(t) == [
            ("user", "What was said before, in short:\n\nall of it"), ("user", "question 2"), ("assistant", "a2"),
            ("user", "question 3"),
        ]  # fmt: skip
        messages, usage = await kept(t)
        assert messages[0]["metadata"] == {"reflex": "summary"}
        assert usage["requests"] == 5


@pytest.mark.parametrize("kind", ["agent", "function"])
async def test_an_agent_or_a_function_may_summarise(
    database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def short(ctx: AgentContext, messages: list[ModelMessage]) -> str:
        return f"{len(messages)} messages with {ctx.trigger}"

    memory = Memory(max_messages=2, summarise=Agent(instructions="Short.") if kind == "agent" else short)
    async with keyed(database_url, monkeypatch, text("a"), text("b"), text("both")) as t:
        for _ in range(2):
            await t.attempt(Agent(), memory=memory, prompt="q")
            await another(t)
        assert t.requests == (3 if kind == "agent" else 2)
        said = "both" if kind == "agent" else "2 messages with pack"
        assert (await kept(t))[0][0]["parts"][0]["content"].endswith(said)


async def test_a_conversation_can_be_read_and_cleared(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if clear() is not written, or what the run says after it is lost."""

    async def looks(ctx: AgentContext) -> list[int]:
        return [len(ctx.memory.messages), ctx.memory.usage.requests]

    async def clears(ctx: AgentContext) -> int:
        ctx.memory.clear()
        await ctx.run_agent(Agent(), "anew", memory=True)
        return len(ctx.memory.messages)

    async with keyed(database_url, monkeypatch, text("one"), text("two")) as t:
        for function, output in ((Agent(), '"one"'), (looks, "[2,1]"), (clears, "2"), (looks, "[2,1]")):
            assert (await t.attempt(function, memory=KEEPS)).output == output
            await another(t)
        assert asked(t) == [("user", "anew")]


async def test_a_tool_that_clears_the_memory_clears_it_in_its_replay(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without `cleared` in the record of the call."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)
    called: Counter[str] = Counter()

    @agent.tool
    async def forget(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        called["forget"] += 1
        run.deps.memory.clear()
        return "forgotten"

    script = (text("one"), tool_call("forget", {}), refusal(429), text("two"))
    async with keyed(database_url, monkeypatch, *script) as t:
        await t.attempt(Agent(), memory=KEEPS, prompt="first")
        await another(t)
        assert (await t.attempt(agent, memory=KEEPS, prompt="second")).outcome is Outcome.RETRY
        assert (await t.attempt(agent, memory=KEEPS, prompt="second")).outcome is Outcome.SUCCEEDED
        assert called == {"forget": 1}
        messages, _ = await kept(t)
        assert messages[0]["parts"][0]["content"] == "second"
        assert len(messages) == 4


async def test_what_cannot_be_remembered_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents at once, one inside a tool, and a history beside the memory."""

    async def at_once(ctx: AgentContext) -> None:
        await asyncio.gather(*(ctx.run_agent(Agent(), "q", memory=True) for _ in range(2)))

    async def both(ctx: AgentContext) -> None:
        await ctx.run_agent(Agent(), "q", memory=True, message_history=[ModelRequest([UserPromptPart("x")])])

    async def inside(ctx: AgentContext) -> None:
        agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

        @agent.tool
        async def nested(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            return (await run.deps.run_agent(Agent(), "q", memory=True)).output

        await ctx.run_agent(agent, "q")

    async with keyed(database_url, monkeypatch, tool_call("nested", {})) as t:
        for function, outcome, said in (
            (at_once, Outcome.DEAD, "two agents of one run remember at the same time"),
            (both, Outcome.RETRY, "pass memory=True or a message_history, not both"),
            (inside, Outcome.DEAD, "an agent inside a tool cannot remember"),
        ):
            failed = await t.attempt(function, memory=KEEPS)
            assert failed.outcome is outcome, failed.error
            assert said in (failed.error or "")
            await t.conn.execute("DELETE FROM reflex.scheduled")
            await another(t)


async def test_memory_is_by_key_and_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with till(database_url, monkeypatch, text("one")) as t:
        dead = await t.attempt(Agent(), memory=KEEPS)
        assert (dead.outcome, dead.reason, t.requests) == (Outcome.DEAD, "keyless_event", 0)


async def test_messages_that_cannot_be_read_are_left_alone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by a later pydantic-ai, say. Fails if they count as none: the conversation would be written over."""
    async with keyed(database_url, monkeypatch, text("one")) as t:
        await t.attempt(Agent(), memory=KEEPS)
        await t.conn.execute("""UPDATE reflex.state SET messages = '[{"kind": "oracle"}]'""")
        await another(t)
        failed = await t.attempt(Agent(), memory=KEEPS)
        assert failed.outcome is Outcome.RETRY
        assert "the messages that are stored cannot be read: 0: " in (failed.error or "")
        assert await count(t.conn, "state WHERE messages::text LIKE '%oracle%'") == 1


async def test_a_conversation_that_ended_with_an_open_call_goes_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without repair_messages: pydantic-ai takes no prompt after a call that nobody answered."""
    agent: Agent[None, str | DeferredToolRequests] = Agent(output_type=[str, DeferredToolRequests])

    @agent.tool_plain
    def refund() -> str:  # pyright: ignore[reportUnusedFunction]
        raise CallDeferred

    async with keyed(database_url, monkeypatch, tool_call("refund", {}), text("as you like")) as t:
        assert (await t.attempt(agent, memory=KEEPS, prompt="refund me")).outcome is Outcome.SUCCEEDED
        await another(t)
        assert (await t.attempt(agent, memory=KEEPS, prompt="never mind")).output == '"as you like"'
        assert [role for role, _ in asked(t)] == ["user", "assistant", "tool", "user"]


# The window, without a database.


def turn(number: int, *, calls: int = 0, system: str | None = None) -> list[ModelMessage]:
    """A question, so many calls with what came back, and an answer."""
    prompt = UserPromptPart(f"q{number}")
    messages: list[ModelMessage] = [ModelRequest([SystemPromptPart(system), prompt] if system else [prompt])]
    for call in range(calls):
        id = f"{number}.{call}"
        messages.append(ModelResponse([ToolCallPart("stock", {"sku": id}, tool_call_id=id)]))
        messages.append(ModelRequest([ToolReturnPart("stock", 7, tool_call_id=id)]))
    return [*messages, ModelResponse([TextPart(f"a{number}")])]


async def no_summary(messages: list[ModelMessage]) -> str:
    raise AssertionError("nobody asked for a summary")


@pytest.mark.parametrize("limit", range(2, 20))
async def test_the_window_begins_with_the_user_and_parts_no_call_from_its_return(limit: int) -> None:
    """Fails if the window is the last so many messages."""
    messages = [message for number in range(6) for message in turn(number, calls=number % 3)]
    found = await shortened(messages, Memory(max_messages=limit), no_summary)
    assert len(found) <= max(limit, 6), "the last turn is kept whole"
    assert isinstance(found[0].parts[0], UserPromptPart)
    calls = [part.tool_call_id for each in found for part in each.parts if isinstance(part, ToolCallPart)]
    returns = [part.tool_call_id for each in found for part in each.parts if isinstance(part, ToolReturnPart)]
    assert calls == returns
    assert found == messages[-len(found) :]


async def test_the_system_prompt_stays_when_its_message_falls_out() -> None:
    """Fails if it is not carried over: pydantic-ai adds none to a history."""
    messages = [*turn(0, system="Be kind."), *turn(1), *turn(2)]
    found = await shortened(messages, Memory(max_messages=2), no_summary)
    assert [part.content for part in found[0].parts if isinstance(part, SystemPromptPart | UserPromptPart)] == [
        "Be kind.", "q2",
    ]  # fmt: skip


def test_a_window_of_tokens_counts_what_the_model_is_told() -> None:
    """Fails if what pydantic-ai notes beside a message counts, or messages count alike."""
    long: list[ModelMessage] = [ModelRequest([UserPromptPart("x" * 4000)]), ModelResponse([TextPart("ok")])]
    assert window([*long, *turn(1), *turn(2)], None, 900) == 2
    assert window([*long, *turn(1), *turn(2)], None, 2000) == 0
    assert window([*turn(1), *long], None, 900) == 2
    assert window([*turn(1), *turn(2)], None, 120) == 0


def test_what_was_said_is_told_in_words() -> None:
    picture = ModelRequest([UserPromptPart(["look", "at this"])])
    assert transcript([*turn(1, calls=1), picture]) == (
        'User: q1\n\nAssistant calls stock({"sku":"1.0"})\n\nstock returned: 7\n\nAssistant: a1\n\nUser: look at this'
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_messages": 1}, "max_messages is 1"),
        ({"max_messages": "50"}, "max_messages is a number"),
        ({"max_messages": None}, "needs a limit"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"summarise": " "}, "an empty text"),
        ({"summarise": len}, "an async function of the context"),
    ],
)
def test_a_memory_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        Memory(**options)
