"""Tool calls that a person has to approve: the run waits without a slot, is paid for once, and runs what was approved.
A real database; a provider over HTTP that counts."""

import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from pydantic_ai import Agent, DeferredToolRequests

from reflex.agent.context import AgentContext
from reflex.core.approvals import ApprovalRow, decide_approval, list_approvals
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import Answer, completion, text
from tests.agent.till import Till, till
from tests.queue_fixtures import count

REFUND = {"order": "A1", "cents": 4200}


def calls(*each: tuple[str, str, dict[str, Any]]) -> Answer:
    """A response that makes several calls: id, tool, arguments."""
    made = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for id, name, arguments in each
    ]
    return completion({"role": "assistant", "content": None, "tool_calls": made}, "tool_calls")


def refunding(done: Counter[str], **options: Any) -> Agent[AgentContext, Any]:
    """A plain agent, whose tool needs an approval."""
    agent: Agent[AgentContext, Any] = Agent(deps_type=AgentContext, **options)

    @agent.tool_plain(requires_approval=True)
    def refund(order: str, cents: int) -> str:  # pyright: ignore[reportUnusedFunction]
        done[f"refund {order} {cents}"] += 1
        return f"refunded {cents}"

    @agent.tool_plain
    def look(order: str) -> str:  # pyright: ignore[reportUnusedFunction]
        done[f"look {order}"] += 1
        return "a book"

    return agent


async def asked(conn: AsyncConnection[Any], state: Any = "pending") -> list[ApprovalRow]:
    return (await list_approvals(conn, state=state)).rows


async def approve(conn: AsyncConnection[Any], row: ApprovalRow, **options: Any) -> ApprovalRow:
    return await decide_approval(conn, row.id, approve=True, digest=row.digest, **options)


async def events(conn: AsyncConnection[Any], type: str) -> list[tuple[Any, ...]]:
    cursor = await conn.execute(
        "SELECT payload, source, key, correlation_id, causation_id, depth FROM reflex.event WHERE type = %s "
        "ORDER BY event_id",
        (type,),
    )
    return await cursor.fetchall()


@pytest.mark.parametrize("output", [str, [str, DeferredToolRequests]])
async def test_a_call_waits_for_its_approval_and_is_made_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, output: Any
) -> None:
    """Fails without Approving among the capabilities: pydantic-ai refuses the run, or ends it with the questions as
    its output. Fails if the question's id is not journaled: it would be asked for ever."""
    done: Counter[str] = Counter()
    agent = refunding(done, output_type=output)
    script = (calls(("c1", "look", {"order": "A1"}), ("c2", "refund", REFUND)), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        parked = await t.attempt(agent)
        assert parked.outcome is Outcome.WAITING
        assert parked.retry_in == timedelta(days=7)
        assert done == {"look A1": 1}
        (row,) = await asked(t.conn)
        assert (row.tool, row.arguments.value, row.trigger, row.edits_allowed) == ("refund", REFUND, "pack", False)
        assert row.expires_at - row.created_at == timedelta(days=7)
        ((payload, source, _, correlation_id, causation_id, depth),) = await events(t.conn, "approval.requested")
        assert (payload["approval_id"], payload["digest"]) == (str(row.id), row.digest)
        assert (payload["arguments"], payload["tool"], payload["delivery_id"]) == (REFUND, "refund", row.delivery_id)
        assert (source, correlation_id, causation_id, depth) == ("agent:pack", str(row.event_id), row.event_id, 1)
        early = await wakes(t, agent)
        assert (early.outcome, t.requests) == (Outcome.WAITING, 1)
        assert [again.id for again in await asked(t.conn)] == [row.id]
        assert await count(t.conn, "approval") == len(await events(t.conn, "approval.requested")) == 1
        decided = await approve(t.conn, row, by="ann", reason="a regular")
        assert (decided.state, decided.decided_by, decided.reason) == ("approved", "ann", "a regular")
        assert await count(t.conn, "waiting") == 0
        ended = await t.attempt(agent)
        assert (ended.outcome, ended.output) == (Outcome.SUCCEEDED, '"done"')
        assert (t.requests, done) == (2, {"look A1": 1, "refund A1 4200": 1})
        ((payload, *_),) = await events(t.conn, "approval.decided")
        assert (payload["decision"], payload["by"], payload["arguments"]) == ("approved", "ann", REFUND)
        assert payload["edited"] is False


async def wakes(t: Till, agent: Any, **options: Any) -> Any:
    """Made due although nothing has happened, and run."""
    await t.conn.execute("UPDATE reflex.scheduled SET available_at = now()")
    return await t.attempt(agent, **options)
