"""How large journals get, and what becomes of a step that is too large. A real database."""

import os
from contextlib import suppress
from typing import Any

import pytest
from psycopg import AsyncConnection
from pydantic_ai import Agent, BinaryContent, ModelRetry, RunContext
from pydantic_ai.exceptions import UnexpectedModelBehavior
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
from pydantic_ai.usage import UsageLimits
from pydantic_core import to_jsonable_python

from reflex.agent import journaling
from reflex.agent.context import AgentContext
from reflex.agent.effects import once, transactional
from reflex.agent.message_digests import MessageDigests
from reflex.agent.publishing import RunLimits
from reflex.core.dead_letters import retry_dead_letter
from reflex.core.ids import DeliveryId
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import Till, till

CALLS = 100
FEW_BYTES = 2000


def words(size: int) -> str:
    """A text that cannot be compressed much."""
    return os.urandom(size // 2 + 1).hex()[:size]


async def size_of_journal(conn: AsyncConnection[Any]) -> tuple[int, int]:
    """Of all steps: bytes of their results as JSON, bytes of their rows."""
    query = "SELECT sum(octet_length(result::text)), sum(pg_column_size(step.*)) FROM reflex.step"
    (row,) = await (await conn.execute(query)).fetchall()
    return row


async def test_a_long_run_over_a_long_conversation_keeps_and_hashes_what_it_adds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 tool calls after a conversation of 100 kB: the journal stays within twice the size of the final conversation,
    and the work to find a step in it within a few times of that, in the run and in its replay. Fails if a step holds
    its request (60 times the size), or if each request is written out to be hashed (90 times the work)."""
    history: list[ModelMessage] = []
    for _ in range(5):
        history += [ModelRequest([UserPromptPart(words(10_000))]), ModelResponse([TextPart(words(10_000))])]
    digests: list[MessageDigests] = []

    class Counted(MessageDigests):
        def __init__(self) -> None:
            super().__init__()
            digests.append(self)

    monkeypatch.setattr(journaling, "MessageDigests", Counted)
    sizes: dict[int, int] = {}
    looked = [0]

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = sum(isinstance(message, ModelResponse) for message in messages) - 5
        if asked == CALLS:
            return ModelResponse([TextPart("done")])
        return ModelResponse([ToolCallPart("look", {"at": asked}, f"call-{asked}")])

    agent = Agent(FunctionModel(model))

    @agent.tool_plain
    def look(at: int) -> str:  # pyright: ignore[reportUnusedFunction]
        looked[0] += 1
        return words(2000)

    async def function(ctx: AgentContext) -> str:
        without_limit = UsageLimits(request_limit=None)
        result = await ctx.run_agent(agent, "go on", message_history=history, usage_limits=without_limit)
        sizes[ctx.attempt] = len(result.all_messages_json())
        if ctx.attempt == 1:
            raise RuntimeError("a bug")
        return result.output

    async with till(database_url, monkeypatch) as t:
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        results, rows = await size_of_journal(t.conn)
        assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
    assert looked == [CALLS]
    assert results < rows < 2 * sizes[1]
    assert rows < sizes[1] - 100_000, "the history is not in it"
    assert len(digests) == 2, "of either attempt"
    assert all(digest.written < sizes[1] for digest in digests)


async def test_a_document_that_comes_again_is_kept_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool returns the same text and the same picture ten times, among other things. Fails if each result is kept
    whole (ten times the size), if a replay gives less than the run did, or if the texts outlive their journal."""
    document, picture = words(200_000) + '"\\\n\x00é', BinaryContent(os.urandom(50_000), media_type="image/png")
    asked: list[list[ModelMessage]] = []
    pages: list[int] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        at = sum(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse([ToolCallPart("read", {"page": at}, f"call-{at}") if at < 10 else TextPart("done")])

    agent = Agent(FunctionModel(model))

    @agent.tool_plain
    def read(page: int) -> Any:  # pyright: ignore[reportUnusedFunction]
        pages.append(page)
        return {"page": page, "number": 1e100, "text": document, "picture": picture}

    async def function(ctx: AgentContext) -> None:
        asked.append((await ctx.run_agent(agent)).all_messages())
        if ctx.attempt < 3:
            raise UnexpectedModelBehavior("nonsense") if ctx.attempt == 2 else RuntimeError("a bug")

    async with till(database_url, monkeypatch) as t:
        await t.attempt(function)
        assert (await size_of_journal(t.conn))[0] < 1.1 * (len(document) + 4 / 3 * len(picture.data))
        assert await t.journaled() == 10 + 11 + 2
        assert (await t.attempt(function)).outcome is Outcome.RETRY
        assert pages == [*range(10)], "replayed"
        first, second = ([part for message in run for part in message.parts] for run in asked)
        results = [part for part in first if isinstance(part, ToolReturnPart)]
        for part, again in zip(results, [p for p in second if isinstance(p, ToolReturnPart)], strict=True):
            assert to_jsonable_python(part.content) == to_jsonable_python(again.content)
        assert await t.journaled() == 0, "the model misbehaved: the journal is forgotten whole"
        await t.attempt(function)
        assert await t.journaled() == 0


@pytest.fixture
async def small(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A till whose steps may have 2,000 bytes."""
    async with till(database_url, monkeypatch, tool_call("fetch", {}), text("done")) as t:
        t.limits = RunLimits(max_step_bytes=FEW_BYTES)
        yield t


def fetching(returned: list[str], what: Any, **options: Any) -> Agent[AgentContext, str]:
    """An agent with a tool that returns `what`, or raises it."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool(**options)
    async def fetch(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        returned.append(run.deps.idempotency_key)
        if options.get("metadata") == transactional():
            await run.deps.connection.execute("CREATE TABLE fetched ()")
        if isinstance(what, Exception):
            raise what
        return what

    return agent


async def test_a_result_that_is_too_large_is_an_end_with_a_name(small: Till) -> None:
    """Fails if it is not final (paid for in each attempt), if the bytes are counted as characters, or if code that
    catches everything goes on to pay."""
    returned: list[str] = []
    agent = fetching(returned, "é" * 1000)

    async def stubborn(ctx: AgentContext) -> str:
        for _ in range(2):
            with suppress(Exception):
                return (await ctx.run_agent(agent)).output
        return (await ctx.run_agent(agent)).output

    dead = await small.attempt(stubborn)
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "step_too_large")
    for part in ("tool 'fetch'", "20", "limit of a step is 2000", "REFLEX_MAX_STEP_BYTES"):
        assert part in (dead.error or "")
    assert (len(returned), small.requests) == (1, 1)
    # With a higher limit it goes on where it was: what was small enough is on record.
    small.limits = RunLimits()
    await retry_dead_letter(small.conn, DeliveryId(*dead[:2]))
    done = await small.attempt(agent)
    assert (done.outcome, len(returned), small.requests) == (Outcome.SUCCEEDED, 2, 2)


async def test_an_answer_that_is_too_large_names_its_model(small: Till) -> None:
    """Fails if only the results of tools are measured."""
    small.provider.script = [text("x" * FEW_BYTES)]
    dead = await small.attempt(Agent())
    assert (dead.outcome, dead.reason, await small.journaled()) == (Outcome.DEAD, "step_too_large", 0)
    assert "model 'openai:stub'" in (dead.error or "")


async def test_what_must_not_be_repeated_is_on_record_without_its_result(small: Till) -> None:
    """Fails if the call is not recorded as done (a person would be asked, or it would be done again), or if the run
    goes on as if nothing were the matter."""
    returned: list[str] = []
    agent = fetching(returned, "x" * FEW_BYTES, metadata=once())
    dead = await small.attempt(agent)
    assert (dead.outcome, dead.reason, small.requests) == (Outcome.DEAD, "step_too_large", 1)
    assert "its work is on record" in (dead.error or "")
    assert await kinds(small) == ["effect", "model_request"]
    await retry_dead_letter(small.conn, DeliveryId(*dead[:2]))
    assert (await small.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert (len(returned), small.requests) == (1, 2)
    assert small.provider.requests[-1]["messages"][-1]["content"].startswith("done; what was returned cannot be kept")


async def test_a_refusal_that_is_too_large_is_no_work_done(small: Till) -> None:
    """The tool that must not be repeated says that it did nothing, at length. Fails if that counts as an effect,
    or if its beginning is not what the model is told when the dead letter is retried."""
    returned: list[str] = []
    agent = fetching(returned, ModelRetry("not now " * FEW_BYTES), metadata=once())
    dead = await small.attempt(agent)
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "step_too_large")
    assert await kinds(small) == ["model_request", "tool_call"]
    await retry_dead_letter(small.conn, DeliveryId(*dead[:2]))
    assert (await small.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert len(returned) == 1
    assert small.provider.requests[-1]["messages"][-1]["content"].startswith('{"error":"not now not now')


async def test_a_transaction_whose_record_is_too_large_commits_nothing(small: Till) -> None:
    """Fails if the size is looked at after the commit."""
    dead = await small.attempt(fetching([], "x" * FEW_BYTES, metadata=transactional()))
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "step_too_large")
    assert "nothing of what it did was committed" in (dead.error or "")
    (row,) = await (await small.conn.execute("SELECT to_regclass('fetched')")).fetchall()
    assert row == (None,)


async def kinds(t: Till) -> list[str]:
    rows = await (await t.conn.execute("SELECT kind FROM reflex.step ORDER BY kind")).fetchall()
    return [kind for (kind,) in rows]
