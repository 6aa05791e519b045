"""Tool calls that a person has to approve: the run waits without a slot, is paid for once, and runs what was approved.
A real database; a provider over HTTP that counts."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import Any, cast

import pytest
from psycopg import AsyncConnection
from pydantic_ai import Agent, ApprovalRequired, DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.toolsets import FunctionToolset
from structlog.testing import capture_logs

from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event, type_filter
from reflex.agent.suspension import Suspended, wait_of
from reflex.agent.triggers import Trigger
from reflex.core.approvals import ApprovalOver, ApprovalRow, decide_approval, list_approvals
from reflex.core.ids import new_id
from reflex.core.queue import exchange
from reflex.core.settlement import Outcome
from reflex.core.waiting import Wait, WaitKind
from reflex.testing.model import call
from reflex.testing.plugin import MakeAppTest
from tests.agent.stub_provider import Answer, completion, refusal, text
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


async def deny(conn: AsyncConnection[Any], row: ApprovalRow, **options: Any) -> ApprovalRow:
    return await decide_approval(conn, row.id, approve=False, digest=row.digest, **options)


def said_to_model(t: Till) -> str:
    """What the last request brought."""
    return t.provider.requests[-1]["messages"][-1]["content"]


async def test_a_denied_call_is_not_made_and_the_model_reads_why(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a denial is an error of the run."""
    done: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("sorry")) as t:
        agent = refunding(done)
        await t.attempt(agent)
        (row,) = await asked(t.conn)
        await deny(t.conn, row, reason="ask the customer first")
        ended = await t.attempt(agent)
        assert (ended.outcome, ended.output, done) == (Outcome.SUCCEEDED, '"sorry"', {})
        assert said_to_model(t) == "The call was denied: ask the customer first"


async def test_a_tool_may_decide_for_itself_that_it_needs_an_approval(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ApprovalRequired out of a tool, with metadata. Fails if the call that asked were journaled as completed. Then a
    run that fails behind the tool: fails if its approval were asked for again, or its result not in the journal."""
    done: Counter[str] = Counter()
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    def refund(run: RunContext[AgentContext], order: str, cents: int) -> str:  # pyright: ignore[reportUnusedFunction]
        if cents > 1000 and not run.tool_call_approved:
            raise ApprovalRequired(metadata={"limit": 1000, "who": Decider})
        done[f"refund {cents}"] += 1
        done[f"approved by {(run.tool_call_metadata or {}).get('decided_by')}"] += 1
        return f"refunded {order}"

    small = ("c1", "refund", {"order": "A1", "cents": 5})
    script = (calls(small, ("c2", "refund", REFUND)), refusal(500), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        (row,) = await asked(t.conn)
        assert row.metadata is not None
        assert row.metadata.value == {"limit": 1000, "who": repr(Decider)}
        await approve(t.conn, row, by="ann")
        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert done == {"refund 5": 1, "refund 4200": 1, "approved by None": 1, "approved by ann": 1}
        assert await count(t.conn, "approval") == 1
        assert t.requests == 3


class Decider:
    """No data: shown as Python shows it."""


async def test_several_calls_wait_for_all_their_decisions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a run goes on with the first decision: the other call would be dropped, or made."""
    done: Counter[str] = Counter()
    other = {"order": "B2", "cents": 7}
    script = (calls(("c1", "refund", REFUND), ("c2", "refund", other)), text("done"))
    async with till(database_url, monkeypatch, *script) as t:
        agent = refunding(done)
        await t.attempt(agent)
        second, first = await asked(t.conn)
        assert [row.arguments.value for row in (first, second)] == [REFUND, other]
        await approve(t.conn, first)
        between = await t.attempt(agent)
        assert (between.outcome, done) == (Outcome.WAITING, {})
        assert between.wait is not None
        assert between.wait.reason == f"somebody has to approve refund ({second.id})"
        assert between.retry_in is not None
        assert timedelta(days=6) < between.retry_in < timedelta(days=7), "the time began when it was asked"
        assert [row.id for row in await asked(t.conn)] == [second.id]
        await deny(t.conn, second)
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert done == {"refund A1 4200": 1}


async def test_who_approves_may_change_the_arguments(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the edited arguments do not reach the tool."""
    done: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("done")) as t:
        agent = refunding(done)
        await t.attempt(agent, approval_edits=True)
        (row,) = await asked(t.conn)
        assert row.edits_allowed
        await approve(t.conn, row, arguments={"order": "A1", "cents": 1})
        assert (await t.attempt(agent, approval_edits=True)).outcome is Outcome.SUCCEEDED
        assert done == {"refund A1 1": 1}


async def test_a_call_that_nobody_approves_in_time_counts_as_denied(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the run that finds it late does not say so for good: a decision a moment later would be taken, of a call
    that was not made."""
    done: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("too late")) as t:
        agent = refunding(done)
        first = await t.attempt(agent, approval_timeout=timedelta(milliseconds=50))
        assert first.retry_in == timedelta(milliseconds=50)
        (row,) = await asked(t.conn, None)
        await asyncio.sleep(0.1)
        ended = await t.attempt(agent)
        assert (ended.outcome, ended.output, done) == (Outcome.SUCCEEDED, '"too late"', {})
        assert "nobody approved it within 0:00:00.05" in said_to_model(t)
        ((payload, *_),) = await events(t.conn, "approval.decided")
        assert (payload["decision"], payload["approval_id"]) == ("expired", str(row.id))
        await t.conn.execute("UPDATE reflex.approval SET expires_at = now() + interval '1 day'")
        with pytest.raises(ApprovalOver):
            await approve(t.conn, row)


async def test_another_conversation_or_tool_is_asked_for_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call with the same id, but the code was changed meanwhile: what its default is, and with it what the
    call does. Fails if an approval is found by its arguments and id alone."""
    done: Counter[str] = Counter()

    def agent_of(default: int) -> Agent[AgentContext, str]:
        agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

        def refund(order: str, cents: int = default) -> str:
            done[f"refund {cents}"] += 1
            return f"refunded {order}"

        agent.tool_plain(requires_approval=True)(refund)
        return agent

    call = calls(("call_0", "refund", {"order": "A1"}))
    async with till(database_url, monkeypatch, call, call, text("done")) as t:
        await t.attempt(agent_of(5))
        (row,) = await asked(t.conn)
        await approve(t.conn, row)
        assert (await t.attempt(agent_of(5000))).outcome is Outcome.WAITING
        (anew,) = await asked(t.conn)
        assert (anew.digest, anew.arguments.text) == (row.digest, row.arguments.text)
        assert anew.id != row.id
        assert done == {}


async def test_what_was_approved_is_compared_with_what_would_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without the comparison of digests before an approved call is made."""
    done: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("done")) as t:
        agent = refunding(done)
        await t.attempt(agent)
        (row,) = await asked(t.conn)
        await approve(t.conn, row)
        await t.conn.execute("UPDATE reflex.approval SET digest = sha256('another call')")
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        assert done == {}
        (anew,) = await asked(t.conn)
        await approve(t.conn, anew)
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert done == {"refund A1 4200": 1}


async def test_a_delivery_that_is_run_once_more_needs_a_new_approval(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that repeats its ids, and an event that is given to its trigger again after it succeeded. Fails if an
    approval outlives the journal of the run that asked: one consent, two refunds."""
    done: Counter[str] = Counter()
    call = calls(("call_0", "refund", REFUND))
    async with till(database_url, monkeypatch, call, text("done"), call, text("done")) as t:
        agent = refunding(done)
        await t.attempt(agent)
        await approve(t.conn, (await asked(t.conn))[0])
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        await t.conn.execute(
            "INSERT INTO reflex.delivery SELECT trigger_id, event_id, 0, max(lease_epoch) FROM reflex.run GROUP BY 1, 2"
        )
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        assert done == {"refund A1 4200": 1}
        assert len(await asked(t.conn)) == 1


async def test_a_worker_that_dies_before_it_has_asked_asks_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question is in the journal, and the run was never settled. Fails if the next run made up another id, or took
    the question for asked: nobody would ever see it."""
    done: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("done")) as t:
        agent = refunding(done)
        _, lease = await t.claimed()
        lost = await t.attempts(agent)(lease)
        assert lost.wait is not None
        await t.taken_away()
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        (row,) = await asked(t.conn)
        assert row.id == lost.wait.asks[0].approval_id
        assert len(await events(t.conn, "approval.requested")) == 1
        await approve(t.conn, row)
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert (t.requests, done) == (2, {"refund A1 4200": 1})


async def test_a_decision_while_the_run_goes_back_to_waiting_is_not_missed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Woken for nothing, the run has found no decision; it comes before the run is settled. Fails without
    lock_approvals in begin_approvals: the delivery would sleep for a week with its approval beside it."""
    done: Counter[str] = Counter()
    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("done")) as t:
        agent = refunding(done)
        await t.attempt(agent)
        (row,) = await asked(t.conn)
        await t.conn.execute("UPDATE reflex.scheduled SET available_at = now()")
        worker_id, lease = await t.claimed()
        waits = await t.attempts(agent)(lease)
        assert waits.outcome is Outcome.WAITING
        await approve(t.conn, row)
        await exchange(t.conn, worker_id=worker_id, settlements=[waits], trigger_ids=[], limit=0)
        assert await count(t.conn, "waiting") == 0
        assert await count(t.conn, "delivery") == 1
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("number", ["Infinity", "1" + "0" * 30])
async def test_what_cannot_be_shown_is_denied_and_the_model_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """A NUL is shown as U+FFFD in the event and kept as it is in the approval; a number that JSON does not have or
    the log does not take cannot be asked about. Fails if either ends the run."""
    done: Counter[str] = Counter()
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool_plain(requires_approval=True)
    def note(text: str = "", amount: float = 0.0) -> str:  # pyright: ignore[reportUnusedFunction]
        done[text or str(amount)] += 1
        return "noted"

    infinite = completion(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "note", "arguments": f'{{"amount": {number}}}'}}
            ],
        },
        "tool_calls",
    )
    async with till(database_url, monkeypatch, infinite, calls(("c2", "note", {"text": "a\0b"})), text("done")) as t:
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        assert "its arguments cannot be shown" in said_to_model(t)
        (row,) = await asked(t.conn)
        assert row.arguments.value == {"text": "a\0b"}
        ((payload, *_),) = await events(t.conn, "approval.requested")
        assert payload["arguments"] == {"text": "a\N{REPLACEMENT CHARACTER}b"}
        await approve(t.conn, row)
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert done == {"a\0b": 1}


async def test_toolsets_and_agents_inside_of_tools_ask_as_well(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pydantic-ai's approval toolset, as for MCP servers, around the tools of an agent that a tool runs. Fails if only
    the outer agent's calls can wait."""
    done: Counter[str] = Counter()

    def wipe(disk: str) -> str:
        done[f"wipe {disk}"] += 1
        return "wiped"

    inner: Agent[AgentContext, str] = Agent(
        deps_type=AgentContext, name="inner", toolsets=[FunctionToolset([wipe]).approval_required()]
    )
    outer: Agent[AgentContext, str] = Agent(deps_type=AgentContext, name="outer")

    @outer.tool
    async def clean(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        return (await run.deps.run_agent(inner, "clean it")).output

    script = (calls(("c1", "clean", {})), calls(("c2", "wipe", {"disk": "b"})), text("inner"), text("outer"))
    async with till(database_url, monkeypatch, *script) as t:
        assert (await t.attempt(outer)).outcome is Outcome.WAITING
        (row,) = await asked(t.conn)
        assert (row.tool, row.arguments.value) == ("wipe", {"disk": "b"})
        await approve(t.conn, row)
        assert (await t.attempt(outer)).output == '"outer"'
        assert (t.requests, done) == (4, {"wipe b": 1})


async def test_agents_that_run_at_once_each_ask(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both questions are stored, whichever wait is the shortest. Fails if wait_of keeps one wait's questions only."""
    one, other = (
        Wait(WaitKind.APPROVAL, "x", timedelta(hours=hours), awaits=(new_id(),), asks=(cast("Any", hours),))
        for hours in (2, 1)
    )
    both = wait_of(BaseExceptionGroup("", [Suspended(one), Suspended(other)]))
    assert both is not None
    assert (both.at_most, both.asks, set(both.awaits)) == (timedelta(hours=1), (2, 1), {*one.awaits, *other.awaits})


@pytest.mark.parametrize("approved", [True, False])
async def test_an_equal_call_of_another_agent_has_an_approval_of_its_own(
    reflex_app: MakeAppTest, *, approved: bool
) -> None:
    """A tool runs an agent, and is called twice with the same. Fails if its first call, replayed as a whole, does not
    keep its steps: the second one finds them, so the first consent and what came of it. The model is told of a refund
    that was approved and not made, or denied."""
    done: list[int] = []
    inner: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @inner.tool_plain(requires_approval=True)
    def refund(cents: int) -> str:  # pyright: ignore[reportUnusedFunction]
        done.append(cents)
        return "refunded"

    outer: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @outer.tool
    async def delegate(run: RunContext[AgentContext], what: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return (await run.deps.run_agent(inner, what)).output

    delegated = call("delegate", what="pay back 50")
    async with reflex_app([Trigger("t", type_filter("broken"), outer)]) as t:
        first = [delegated, call("refund", cents=50), "done"]
        t.model.answers([*first, delegated, call("refund", cents=50), "done, or not", "all done"])
        await t.publish("broken")
        for approve in (True, approved):
            await t.run()
            (question,) = await t.approvals()
            await t.decide(question, approve=approve, reason="as you wish")
        await t.run()
        assert (t.runs.outcomes, await t.approvals()) == (["waiting", "waiting", "succeeded"], [])
        assert done == ([50, 50] if approved else [50])
        told = t.model.requests[-2].tool_results["refund"]
        assert told == ("refunded" if approved else "The call was denied: as you wish")


async def test_the_author_may_answer_by_code_and_nobody_is_asked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if Reflex's hook comes before the author's own."""
    done: Counter[str] = Counter()

    async def small_ones(_: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        return requests.build_results(approve_all=True)

    async with till(database_url, monkeypatch, calls(("c1", "refund", REFUND)), text("done")) as t:
        agent = refunding(done, capabilities=[HandleDeferredToolCalls(handler=small_ones)])
        assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
        assert done == {"refund A1 4200": 1}
        assert await count(t.conn, "approval") == 0


async def test_the_log_lines_of_a_worker_hold_no_arguments(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the reason of the wait shows the call: arguments may hold secrets."""
    async with till(database_url, monkeypatch, calls(("c1", "refund", {"order": "s3cret", "cents": 1}))) as t:
        with capture_logs() as lines:
            await t.attempt(refunding(Counter()))
        assert any(line["event"] == "run waits" for line in lines)
        assert "s3cret" not in repr(lines)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"approval_timeout": 60}, TypeError, "pass a timedelta"),
        ({"approval_timeout": timedelta(0)}, ValueError, "longer than nothing"),
        ({"approval_timeout": timedelta(days=4000)}, ValueError, "at most 3660 days"),
        ({"approval_edits": "yes"}, TypeError, "pass True or False"),
    ],
)
def test_a_trigger_that_says_nonsense_of_approvals_is_refused(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"trigger 't': .*{said}"):
        Trigger("t", any_event(), refunding(Counter()), **options)
