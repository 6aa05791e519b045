"""What a tool adds to the conversation is added again by its replay: else the model would be asked something else."""

from typing import Any

import pytest
from pydantic_ai import Agent, BinaryContent, FunctionToolset, ModelRetry, RunContext
from pydantic_ai.capabilities import Capability
from pydantic_ai.messages import SystemPromptPart

from reflex.agent.effects import idempotent, once, transactional
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import till


@pytest.mark.parametrize("effect", [idempotent(), once(), transactional()], ids=["idempotent", "once", "transactional"])
async def test_what_a_tool_enqueues_is_told_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, effect: dict[str, Any]
) -> None:
    """Behind a prefix, whose toolset copies the context. Fails without enqueue_again: the model is asked anew."""
    picture = BinaryContent(b"\x89PNG\x00\xff", media_type="image/png")
    tools: FunctionToolset[Any] = FunctionToolset()

    @tools.tool(metadata=effect)
    async def look(run: RunContext[Any]) -> str:  # pyright: ignore[reportUnusedFunction]
        run.enqueue("and be quick", picture)
        run.enqueue(SystemPromptPart("be kind"))
        run.enqueue("one more thing", priority="when_idle")
        return "seen"

    script = (tool_call("my_look", {}), text("one"), text("two"), text("three"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = Agent(toolsets=[tools.prefixed("my")])
        _, lease = await t.claimed()
        first = await t.attempts(agent)(lease)
        await t.taken_away()
        second = await t.attempt(agent)
        assert (first.output, second.output, second.outcome) == ('"two"', '"two"', Outcome.SUCCEEDED)
        assert t.requests == 3
        told = str(t.provider.requests[-1]["messages"])
        assert all(word in told for word in ("be quick", "data:image/png", "be kind", "one more thing"))


async def test_what_was_enqueued_before_a_tool_wants_another_try_is_told_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with till(database_url, monkeypatch, tool_call("look", {}), text("one"), text("two")) as t:
        agent = Agent()

        @agent.tool
        def look(run: RunContext[Any]) -> str:  # pyright: ignore[reportUnusedFunction]
            run.enqueue("mind the gap")
            raise ModelRetry("look closer")

        _, lease = await t.claimed()
        first = await t.attempts(agent)(lease)
        await t.taken_away()
        assert ((await t.attempt(agent)).output, t.requests) == (first.output, 2)


@pytest.mark.parametrize("by_id", [True, False])
async def test_a_capability_that_a_tool_loads_is_loaded_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, by_id: bool
) -> None:
    """Fails if the replay leaves it unloaded: the model would be asked something else."""
    called: list[str] = []
    hidden: FunctionToolset[Any] = FunctionToolset()

    @hidden.tool_plain
    def look_up() -> str:  # pyright: ignore[reportUnusedFunction]
        called.append("look_up")
        return "found"

    books = Capability[Any](id="books", description="look up books", toolsets=[hidden], defer_loading=True)
    script = (tool_call("opens", {}), tool_call("look_up", {}), text("one"), text("two"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = Agent(capabilities=[books])

        @agent.tool
        def opens(run: RunContext[Any]) -> str:  # pyright: ignore[reportUnusedFunction]
            called.append("opens")
            run.load_capability("books" if by_id else books)
            return "opened"

        _, lease = await t.claimed()
        first = await t.attempts(agent)(lease)
        await t.taken_away()
        assert ((await t.attempt(agent)).output, t.requests) == (first.output, 3)
        assert called == ["opens", "look_up"]
