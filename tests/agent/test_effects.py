"""Tools that must not be repeated: what a crash cuts off is looked into, never done again on suspicion. A real
database; a provider over HTTP that counts; a delivery attempted by hand, with its lease taken away at the worst moment.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from structlog.testing import capture_logs

from reflex.agent import once as once_calls
from reflex.agent.context import AgentContext
from reflex.agent.effects import Done, NotDone, Unknown, once
from reflex.core.dead_letters import retry_dead_letter
from reflex.core.effects import DeliveryRunning, EffectId, EffectRow, list_effects, resolve_effect
from reflex.core.errors import NotFound
from reflex.core.reads import read_deliveries
from reflex.core.rows import StoredJson
from reflex.core.settlement import Outcome, Settlement
from reflex.core.waiting import WaitKind
from tests.agent.stub_provider import refusal, text, tool_call
from tests.agent.test_journal import tool_calls
from tests.agent.till import Till, till

CHARGE = tool_call("charge", {"order": "A"})
PAID = text("paid")


@dataclass
class Bank:
    """What the tool does to the outside: charges, by idempotency key, and what happens after each."""

    till: Till
    charged: list[str] = field(default_factory=list[str])
    asked: list[tuple[dict[str, Any], str]] = field(default_factory=list[tuple[dict[str, Any], str]])
    then: list[Any] = field(default_factory=list[Any])

    def agent(self, answer: Any = None, **metadata: Any) -> Agent[AgentContext, str]:
        """An agent that charges; `answer` is what the probe finds."""
        agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

        async def probe(ctx: AgentContext, arguments: dict[str, Any], key: str) -> Any:
            assert ctx.idempotency_key == key
            self.asked.append((arguments, key))
            found = answer(key) if callable(answer) else answer
            if isinstance(found, Exception) and not isinstance(found, NotDone):
                raise found
            return found

        @agent.tool(metadata=metadata or once(probe=probe if answer is not None else None))
        async def charge(run: RunContext[AgentContext], order: str) -> str:  # pyright: ignore[reportUnusedFunction]
            self.charged.append(run.deps.idempotency_key)
            match self.then.pop(0) if self.then else None:
                case "taken away":
                    await self.till.taken_away()
                case Exception() as error:
                    raise error
                case None:
                    pass
                case wait:
                    await wait
            return f"receipt {len(self.charged)}"

        return agent

    async def unknown(self) -> list[EffectRow]:
        return (await list_effects(self.till.conn, state="unknown")).rows

    async def cut_off(self, agent: Any, **options: Any) -> Settlement:
        """An attempt whose worker is declared dead while the tool works."""
        self.then = ["taken away"]
        _, lease = await self.till.claimed()
        settlement = await self.till.attempts(agent, **options)(lease)
        assert settlement.outcome is Outcome.RELEASED, "of a lease that is gone: it changes nothing"
        return settlement


@pytest.fixture
async def bank(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bank]:
    async with till(database_url, monkeypatch, CHARGE, PAID) as t:
        yield Bank(t)


def asks(t: Till, *script: Any) -> None:
    t.provider.script = list(script)


async def test_a_call_that_was_cut_off_is_not_repeated_and_a_person_is_asked(bank: Bank) -> None:
    """Fails if the intent is written after the tool, or not at all (two charges), or if the run does not wait."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    assert len(bank.charged) == 1
    with capture_logs() as lines:
        parked = await t.attempt(agent)
    assert (parked.outcome, len(bank.charged), t.requests) == (Outcome.WAITING, 1, 1)
    assert parked.wait is not None
    assert parked.wait.kind is WaitKind.EFFECT
    (effect,) = await bank.unknown()
    assert (effect.tool, effect.arguments.value, effect.key, effect.waits, effect.trigger) == (
        "charge", {"order": "A"}, bank.charged[0], True, "pack",
    )  # fmt: skip
    # All that a person needs: what, with which key, and what to type.
    for part in ("'charge'", effect.key, f"reflex effects resolve {effect.delivery_id} {effect.step}", "--not-done"):
        assert part in parked.wait.reason
    assert [line["effect"] for line in lines if "not known" in line["event"]] == [effect.id]
    (delivery,) = await read_deliveries(t.conn, parked.event_id)
    assert (delivery.state, delivery.waiting_for) == ("waiting", parked.wait.reason)
    assert (await list_effects(t.conn, state="running")).rows == []


async def test_what_a_person_says_was_done_is_the_result(bank: Bank) -> None:
    """Fails if the verdict is not put into the step, or the delivery is not made due."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    await t.attempt(agent)
    (effect,) = await bank.unknown()
    huge = '{"receipt": 123456789012345678901234567890}'
    resolved = await resolve_effect(t.conn, EffectId.parse(effect.id), done=StoredJson(huge))
    assert (resolved.done, resolved.due) == (True, True)
    assert await bank.unknown() == []
    done = await t.attempt(agent)
    assert (done.outcome, done.output, len(bank.charged), t.requests) == (Outcome.SUCCEEDED, '"paid"', 1, 2)
    assert "123456789012345678901234567890" in str(t.provider.requests[-1]["messages"])
    with pytest.raises(NotFound):
        await resolve_effect(t.conn, EffectId.parse(effect.id), done=None)
    assert await t.journaled() == 0


async def test_what_a_person_says_was_not_done_is_done_under_the_same_key(bank: Bank) -> None:
    """Fails if the key is made from the lease or the attempt; if the intent stays."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    await t.attempt(agent)
    (effect,) = await bank.unknown()
    assert (await resolve_effect(t.conn, EffectId.parse(effect.id), done=None)).due
    assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert len(bank.charged) == 2
    assert len(set(bank.charged)) == 1


async def test_a_running_delivery_is_not_resolved(bank: Bank) -> None:
    """Fails without the look for a lease: the run has read the intent, and would wait although all was said."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    _, lease = await t.claimed()
    (effect,) = await bank.unknown()
    with pytest.raises(DeliveryRunning):
        await resolve_effect(t.conn, EffectId.parse(effect.id), done=None)
    await t.taken_away()
    await resolve_effect(t.conn, EffectId.parse(effect.id), done=StoredJson('"by hand"'))
    late = await t.attempts(agent)(lease)
    assert late.outcome is Outcome.RELEASED, "it lost its lease, and can park nothing"
    assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert len(bank.charged) == 1


async def test_what_was_said_just_before_a_run_would_wait_is_heard(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person comes between the run's reading of the journal and its waiting. Fails if park_intent.sql updates
    whatever is there: the delivery would wait for what was said already."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    (effect,) = await bank.unknown()
    _, lease = await t.claimed()
    park = t.steps.park

    async def a_person_is_faster(*arguments: Any) -> bool:
        # As if they had locked the row before the claim: the lease was not there when they looked.
        await t.conn.execute(
            "UPDATE reflex.step SET kind = 'effect', result = (left(result::text, -1) || %s)::json "
            "WHERE kind = 'intent'", (',"verdict":{"value":"by hand"}}',),
        )  # fmt: skip
        return await park(*arguments)

    monkeypatch.setattr(t.steps, "park", a_person_is_faster)
    settlement = await t.attempts(agent)(lease)
    assert (settlement.outcome, settlement.output) == (Outcome.SUCCEEDED, '"paid"')
    assert "by hand" in str(t.provider.requests[-1]["messages"])
    assert (len(bank.charged), effect.tool) == (1, "charge")


@pytest.mark.parametrize(
    ("answer", "outcome", "charges", "told"),
    [
        (Done("receipt found"), Outcome.SUCCEEDED, 1, "receipt found"),
        (NotDone(), Outcome.SUCCEEDED, 2, "receipt 2"),
        (Unknown("the bank is closed"), Outcome.WAITING, 1, "the bank is closed"),
        (ValueError("no route"), Outcome.WAITING, 1, "no route"),
        (True, Outcome.WAITING, 1, "neither Done"),
    ],
)
async def test_a_probe_says_what_became_of_a_call(
    bank: Bank, answer: Any, outcome: Outcome, charges: int, told: str
) -> None:
    """Fails if the probe is not asked, or if what it raises counts as an answer."""
    agent, t = bank.agent(answer), bank.till
    await bank.cut_off(agent)
    settlement = await t.attempt(agent)
    assert (settlement.outcome, len(bank.charged)) == (outcome, charges)
    assert bank.asked == [({"order": "A"}, bank.charged[0])]
    assert told in (str(t.provider.requests[-1]["messages"]) if settlement.wait is None else settlement.wait.reason)
    if settlement.wait is not None:  # it looks again by itself
        assert settlement.wait.at_most == timedelta(minutes=1)


async def test_a_failure_of_the_tool_may_have_come_after_its_work(bank: Bank) -> None:
    """A time-out, say. Fails if an exception of the tool counts as "not done": the retry would charge again."""
    agent, t = bank.agent(), bank.till
    bank.then = [TimeoutError("no answer from the bank with key sk-live-1234567890")]
    parked = await t.attempt(agent)
    assert (parked.outcome, len(bank.charged)) == (Outcome.WAITING, 1)
    (effect,) = await bank.unknown()
    assert "TimeoutError" in (effect.reason or "")
    assert "sk-live" not in (effect.reason or "")


async def test_a_failure_is_looked_into_at_once_and_the_run_goes_on(bank: Bank) -> None:
    """Fails if the probe is only asked by the next attempt."""
    agent, t = bank.agent(Done("receipt found")), bank.till
    bank.then = [TimeoutError()]
    assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert "receipt found" in str(t.provider.requests[-1]["messages"])


@pytest.mark.parametrize("error", [NotDone("not enough money"), ModelRetry("which order?")])
async def test_a_tool_may_say_that_it_has_done_nothing(bank: Bank, error: Exception) -> None:
    """Fails if the intent stays after NotDone or ModelRetry: the delivery would wait for a person."""
    agent, t = bank.agent(), bank.till
    bank.then = [error]
    asks(t, *[CHARGE] * (2 if isinstance(error, ModelRetry) else 1), PAID)
    first = await t.attempt(agent)
    if isinstance(error, NotDone):
        assert first.outcome is Outcome.RETRY
        assert "not enough money" in (first.error or "")
        first = await t.attempt(agent)
        assert len(set(bank.charged)) == 1
    assert (first.outcome, len(bank.charged)) == (Outcome.SUCCEEDED, 2)


async def test_a_time_out_that_pydantic_ai_makes_a_retry_of_is_no_answer(bank: Bank) -> None:
    """Fails if every ModelRetry counts as "not done"."""
    t = bank.till
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool(metadata=once(), timeout=0.05)
    async def charge(run: RunContext[AgentContext], order: str) -> str:  # pyright: ignore[reportUnusedFunction]
        bank.charged.append(run.deps.idempotency_key)
        await asyncio.sleep(5)
        return "late"

    assert (await t.attempt(agent)).outcome is Outcome.WAITING
    assert len(await bank.unknown()) == 1


async def test_a_conversation_that_is_begun_anew_finds_what_was_done(bank: Bank) -> None:
    """The provider refuses the conversation after the charge: its journal is poison, and the model is asked anew, in
    other words. Fails if forget_steps takes effects, too; if the fingerprint of the conversation is the address."""
    t = bank.till
    agent = bank.agent()
    asks(t, CHARGE, refusal(400), text("hm"), tool_call("charge", {"order": "A"}), PAID)

    async def function(ctx: AgentContext) -> str:
        if ctx.attempt == 2:
            await ctx.run_agent(Agent(), "think first")
        return (await ctx.run_agent(agent, f"attempt {ctx.attempt}")).output

    assert (await t.attempt(function)).outcome is Outcome.RETRY
    assert await t.journaled() == 1
    assert (await t.attempt(function)).outcome is Outcome.SUCCEEDED
    assert (len(bank.charged), t.requests) == (1, 5)
    assert await t.journaled() == 0, "a delivery that has ended needs no ledger"


async def test_an_intent_outlives_poison_too(bank: Bank) -> None:
    """Fails if forget_steps takes intents: nobody would ever ask what became of the charge."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    asks(t, refusal(400), CHARGE, PAID)

    async def other_words(ctx: AgentContext) -> str:
        return (await ctx.run_agent(agent, f"attempt {ctx.attempt}")).output

    assert (await t.attempt(other_words)).outcome is Outcome.RETRY
    assert (await t.attempt(other_words)).outcome is Outcome.WAITING
    assert len(bank.charged) == 1


async def test_what_is_unknown_when_its_delivery_succeeds_stays_listed(bank: Bank) -> None:
    """The next attempt goes another way and never comes to the call. Fails if success forgets intents. Then either
    verdict just ends it."""
    t = bank.till
    await bank.cut_off(bank.agent())
    asks(t, text("no need"))
    assert (await t.attempt(Agent(instructions="Something else."))).outcome is Outcome.SUCCEEDED
    (effect,) = await bank.unknown()
    assert not effect.waits
    resolved = await resolve_effect(t.conn, EffectId.parse(effect.id), done=StoredJson("1"))
    assert (resolved.due, await t.journaled()) == (False, 0)


async def test_a_verdict_on_a_dead_letter_is_kept_until_it_is_retried(bank: Bank) -> None:
    """Fails if a verdict on a dead letter drops the result: retried, it would charge again."""
    agent, t = bank.agent(), bank.till
    await bank.cut_off(agent)
    await t.attempt(agent)
    (effect,) = await bank.unknown()
    await t.conn.execute("DELETE FROM reflex.scheduled")
    await t.conn.execute("DELETE FROM reflex.waiting")
    await t.conn.execute(
        "INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason) "
        "SELECT trigger_id, event_id, 1, 7, 'failed' FROM reflex.step LIMIT 1"
    )
    delivery_id = EffectId.parse(effect.id).delivery_id
    await resolve_effect(t.conn, EffectId.parse(effect.id), done=StoredJson('"by hand"'))
    await retry_dead_letter(t.conn, delivery_id)
    assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert len(bank.charged) == 1


async def test_two_equal_calls_are_two_and_stay_two(bank: Bank) -> None:
    """Each has its key and its entry. Fails if the number is left out of the address (one charge), or if entries are
    not taken in the attempt (a second result given for both)."""
    agent, t = bank.agent(), bank.till
    asks(t, tool_calls({"order": "A"}, {"order": "A"}, name="charge"), PAID)

    async def function(ctx: AgentContext) -> str:
        output = (await ctx.run_agent(agent)).output
        if ctx.attempt == 1:
            raise RuntimeError("a bug")
        return output

    assert (await t.attempt(function)).outcome is Outcome.RETRY
    assert len(set(bank.charged)) == 2
    second = await t.attempt(function)
    assert (second.outcome, len(bank.charged), t.requests) == (Outcome.SUCCEEDED, 2, 2)
    assert '"replayed_tool_calls":2' in (second.usage or "")


async def test_a_call_is_let_finish_when_its_sibling_fails(bank: Bank) -> None:
    """Fails without the shield: pydantic-ai cancels the siblings of a tool that failed, and a charge that would have
    been done a moment later becomes one that a person has to look into."""
    t = bank.till
    agent = bank.agent()
    begun, failed = asyncio.Event(), asyncio.Event()

    @agent.tool_plain
    async def look(order: str) -> str:  # pyright: ignore[reportUnusedFunction]
        if failed.is_set():
            return "fine"
        await begun.wait()
        failed.set()
        raise RuntimeError("a bug")

    async def slow() -> None:
        begun.set()
        await failed.wait()
        await asyncio.sleep(0.1)

    bank.then = [slow()]
    calls = tool_calls({"order": "A"}, {"order": "A"}, name="charge")

    async def both() -> Any:
        response = await calls()
        response.body = bytes(response.body).replace(b'"name": "charge"', b'"name": "look"', 1)
        response.headers["content-length"] = str(len(response.body))
        return response

    asks(t, both, PAID)
    first = await t.attempt(agent)
    assert (first.outcome, "a bug" in (first.error or "")) == (Outcome.RETRY, True)
    assert await bank.unknown() == []
    assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert len(bank.charged) == 1


async def test_a_sync_tool_has_its_key_and_its_ledger_too(bank: Bank) -> None:
    """Fails if the key is not carried into the thread; if only async tools get an intent."""
    t = bank.till
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool(metadata=once())
    def charge(run: RunContext[AgentContext], order: str) -> str:  # pyright: ignore[reportUnusedFunction]
        bank.charged.append(run.deps.idempotency_key)
        raise OSError("the line is cut")

    parked = await t.attempt(agent)
    assert parked.outcome is Outcome.WAITING
    (effect,) = await bank.unknown()
    assert bank.charged == [effect.key]


async def test_what_the_trigger_says_of_a_tool_wins(bank: Bank) -> None:
    """Fails if `effects` is not asked first: a tool of somebody else's would be repeated."""
    agent, t = bank.agent(note="none"), bank.till
    await bank.cut_off(agent, effects={"charge": once()})
    assert (await t.attempt(agent, effects={"charge": once()})).outcome is Outcome.WAITING
    assert len(bank.charged) == 1


async def test_a_tool_that_declares_nothing_is_repeated_under_the_same_key(bank: Bank) -> None:
    """Fails if the key is that of the attempt, or that of the delivery."""
    agent, t = bank.agent(note="none"), bank.till
    settlement = await bank.cut_off(agent)
    assert (await t.attempt(agent)).outcome is Outcome.SUCCEEDED
    assert len(bank.charged) == 2
    assert len(set(bank.charged)) == 1
    assert str(settlement.event_id) not in bank.charged[0]


async def test_a_nested_equal_call_is_another_one(bank: Bank) -> None:
    """The first charge is inside of a tool that is replayed as a whole; the second one was never begun. Fails if the
    numbers of what a replayed tool had called are not taken: the second would get the first one's receipt."""
    t = bank.till
    inner, outer = bank.agent(), bank.agent()

    @outer.tool
    async def ask(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        return (await run.deps.run_agent(inner, "inside")).output

    asks(t, tool_call("ask", {}), CHARGE, text("inner paid"), refusal(503), CHARGE, PAID)
    assert (await t.attempt(outer)).outcome is Outcome.RETRY
    assert len(bank.charged) == 1
    assert (await t.attempt(outer)).outcome is Outcome.SUCCEEDED
    assert len(set(bank.charged)) == 2


async def test_an_agent_that_is_run_again_in_the_same_attempt_finds_the_call_that_was_cut_off(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The author's own code cancels the agent in the middle of the call, and tries once more. Fails if a call that was
    cancelled is not released in the ledger: it would be made a second time."""
    agent, t = bank.agent(), bank.till
    asks(t, CHARGE, CHARGE, PAID)
    begun = asyncio.Event()

    async def hangs() -> None:
        begun.set()
        await asyncio.sleep(60)

    bank.then = [hangs()]

    async def impatient(ctx: AgentContext) -> str:
        first = asyncio.create_task(ctx.run_agent(agent))
        await begun.wait()
        first.cancel()
        await asyncio.wait({first})
        return (await ctx.run_agent(agent, "again")).output

    monkeypatch.setattr(once_calls, "FINISH_S", 0.1)
    assert (await t.attempt(impatient)).outcome is Outcome.WAITING
    assert len(bank.charged) == 1
