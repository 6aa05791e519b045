"""What differs from attempt to attempt although the model said the same: a call is the same one all the same."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import Base64Bytes, BaseModel, Field, RootModel
from pydantic_ai import Agent, RunContext

from reflex.agent.arguments import lasting
from reflex.agent.context import AgentContext
from reflex.agent.effects import idempotent, once
from reflex.core.approvals import decide_approval, list_approvals
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import Till, till


class Order(BaseModel):
    sku: str
    tags: set[int] = Field(default_factory=set[int], serialization_alias="marks")
    order_id: UUID = Field(default_factory=uuid4)


@dataclass
class Note:
    text: str
    note_id: UUID = field(default_factory=uuid4)


Numbers = RootModel[set[int]]


async def cut_off(t: Till, agent: Any, **options: Any) -> None:
    """An attempt whose worker is gone when all is done and nothing is settled."""
    _, lease = await t.claimed()
    await t.attempts(agent, **options)(lease)
    await t.taken_away()


@pytest.mark.parametrize("effect", [idempotent(), once()], ids=["idempotent", "once"])
@pytest.mark.parametrize("made_up", [Order, Note])
async def test_a_call_is_made_once_although_its_arguments_hold_what_is_made_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, effect: dict[str, Any], made_up: Any
) -> None:
    """Seen to fail with: what was validated in the fingerprint of the call, instead of what the model said."""
    called: list[Any] = []
    said = {"sku": "A"} if made_up is Order else {"text": "A"}
    async with till(database_url, monkeypatch, tool_call("buy", {"what": said, "count": 1}), text("done")) as t:
        agent = Agent()

        def buy(what: Any, count: int) -> str:
            called.append(what)
            return "bought"

        buy.__annotations__["what"] = made_up
        agent.tool_plain(metadata=effect)(buy)
        await cut_off(t, agent)
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert (len(called), t.requests) == (1, 2)


async def test_the_key_of_a_call_is_that_of_what_was_said(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call fails, and is made again by the next attempt. Fails if what a model makes up is in the key."""
    keys: list[str] = []
    async with till(database_url, monkeypatch, tool_call("buy", {"what": {"sku": "A"}, "count": 1}), text("done")) as t:
        agent = Agent(deps_type=AgentContext)

        @agent.tool
        def buy(run: RunContext[AgentContext], what: Order, count: int) -> str:  # pyright: ignore[reportUnusedFunction]
            keys.append(run.deps.idempotency_key)
            if len(keys) == 1:
                raise TimeoutError
            return "bought"

        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert keys[0] == keys[1]


@pytest.mark.parametrize("edited", [None, {"what": {"text": "B"}, "count": 2}])
async def test_an_approved_call_is_made_once_although_its_arguments_hold_what_is_made_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, edited: dict[str, Any] | None
) -> None:
    """Seen to fail with: what was validated in the fingerprint of an approved call."""
    called: list[Any] = []
    async with till(database_url, monkeypatch, tool_call("buy", {"what": {"text": "A"}, "count": 1}), text("ok")) as t:
        agent = Agent()

        @agent.tool_plain(requires_approval=True, metadata=once())
        def buy(what: Note, count: int) -> str:  # pyright: ignore[reportUnusedFunction]
            called.append((what.text, count))
            return "bought"

        assert (await t.attempt(agent, approval_edits=True)).outcome is Outcome.WAITING
        (row,) = (await list_approvals(t.conn, state="pending")).rows
        await decide_approval(t.conn, row.id, approve=True, digest=row.digest, arguments=edited)
        await cut_off(t, agent, approval_edits=True)
        assert (await t.attempt(agent, approval_edits=True)).outcome is Outcome.SUCCEEDED
        assert (called, t.requests) == ([("A", 1) if edited is None else ("B", 2)], 2)


def test_a_set_is_the_same_in_every_order() -> None:
    """0 and 8 fall into one place of a small set, so that who came first is first; texts differ by the process."""
    one, other = {0, 8}, {8, 0}
    assert [*one] != [*other]
    for value in (
        lambda numbers: {"of": numbers},
        lambda numbers: [frozenset(numbers)],
        lambda numbers: {"deep": [(1, {"of": numbers})]},
        lambda numbers: Order(sku="A", tags=numbers),
        lambda numbers: Numbers(numbers),
    ):
        assert lasting(value(one)) == lasting(value(other))
    assert lasting({"of": [0, 8]}) != lasting({"of": [8, 0]})
    assert lasting(Order(sku="A", tags={1})) == {"sku": "A", "marks": [1]}


@pytest.mark.parametrize("effect", [idempotent(), once()], ids=["idempotent", "once"])
async def test_a_call_with_bytes_is_kept_like_any_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch, effect: dict[str, Any]
) -> None:
    """Seen to fail with: bytes written as UTF-8."""
    called: list[bytes] = []
    async with till(database_url, monkeypatch, tool_call("upload", {"data": "/wA+Pw=="}), text("done")) as t:
        agent = Agent()

        @agent.tool_plain(metadata=effect)
        def upload(data: Base64Bytes) -> str:  # pyright: ignore[reportUnusedFunction]
            called.append(data)
            return "kept"

        await cut_off(t, agent)
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert (called, t.requests) == ([b"\xff\x00>?"], 2)


def test_what_was_said_stays() -> None:
    order_id = UUID(int=7)
    assert lasting({"what": Order(sku="A", order_id=order_id)}) == {
        "what": {"sku": "A", "marks": [], "order_id": str(order_id)}
    }
    assert lasting({"what": Note("A", order_id)}) == {"what": {"text": "A", "note_id": str(order_id)}}
