"""A run that waits for an event holds no slot, misses none, and gets the same one in every later attempt."""

import asyncio
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from psycopg import AsyncConnection
from pydantic_ai import Agent, RunContext

from reflex.agent.app import load_app
from reflex.agent.context import AgentContext
from reflex.agent.filters import Filter, any_event, event_filter, keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.agent.wait_for import WhoseKey
from reflex.core.awaiting import find_awaited, forget_awaited
from reflex.core.cursors import Cursor
from reflex.core.events import BaseEvent, EventRegistry, UntypedEvent
from reflex.core.log import append
from reflex.core.log_reading import drop_log, log_bounds
from reflex.core.settlement import Outcome
from reflex.core.waiting import WaitKind, end_waits
from reflex.testing.model import call
from reflex.testing.plugin import MakeAppTest
from tests.agent.stub_provider import text, tool_call
from tests.agent.till import till
from tests.core.log_fixtures import place_all
from tests.queue_fixtures import count, new_event

GUIDE = Path(__file__).parents[2] / "docs/guides/waiting.md"
PAID = type_filter("payment.received")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventRegistry, "classes", dict(EventRegistry.classes))


async def arrives(
    conn: AsyncConnection[Any], type: str = "payment.received", payload: str = "{}", **fields: Any
) -> None:
    await append(conn, [new_event(type, payload, **fields)])


def n_of(event: BaseEvent | None) -> str:
    assert isinstance(event, UntypedEvent)
    return event.payload["n"]


async def made_due(conn: AsyncConnection[Any]) -> None:
    """As if the time were over, or somebody woke it for nothing."""
    waiting = await (await conn.execute("SELECT trigger_id, event_id FROM reflex.waiting")).fetchall()
    assert await end_waits(conn, {(row[0], row[1]) for row in waiting})


async def woken(conn: AsyncConnection[Any]) -> int:
    """What a worker does that follows the log."""
    await place_all(conn)
    await conn.execute("UPDATE reflex.awaited SET look_at = now() WHERE look_at IS NOT NULL")
    found = (await find_awaited(conn)).deliveries
    if found:
        await end_waits(conn, found)
        await forget_awaited(conn, found)
    return len(found)


async def test_a_run_goes_on_with_the_event_and_pays_for_nothing_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, registry: None
) -> None:
    """Fails if the match is not recorded: a later event, or none, would be given back by the replay."""

    @EventRegistry.register
    class Payment(BaseEvent):  # pyright: ignore[reportUnusedClass]
        type: Literal["payment.received"] = "payment.received"
        amount: int

    got: list[Any] = []

    async def ships(ctx: AgentContext) -> str:
        await ctx.run_agent(Agent(name="packs"), "pack")
        payment = await ctx.wait_for(PAID & keyword_filter("amount", lambda amount: amount > 10), key=None)
        assert isinstance(payment, Payment)
        assert payment.meta is not None
        got.append((payment.amount, payment.meta.key, payment.meta.event_id))
        if len(got) < 3:
            raise ValueError
        return "shipped"

    async with till(database_url, monkeypatch, text("packed")) as t:
        parked = await t.attempt(ships)
        assert parked.wait is not None
        assert (parked.outcome, parked.wait.kind) == (Outcome.WAITING, WaitKind.EVENT)
        assert "payment.received" in parked.wait.reason
        await arrives(t.conn, payload='{"amount": 5}')
        await arrives(t.conn, payload='{"amount": 50}', key="K")
        assert await woken(t.conn) == 1
        assert (await t.attempt(ships)).outcome is Outcome.RETRY
        await arrives(t.conn, payload='{"amount": 500}')
        await t.conn.execute("DELETE FROM reflex.event WHERE type = 'payment.received'")
        assert (await t.attempt(ships)).outcome is Outcome.RETRY
        done = await t.attempt(ships)
        assert (done.outcome, done.output, t.requests) == (Outcome.SUCCEEDED, '"shipped"', 1)
        assert len(set(got)) == 1
        assert got[0][:2] == (50, "K")
        assert await t.journaled() == 0


async def test_an_event_that_arrived_before_the_run_could_be_woken_is_not_missed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks for waits. Fails if the log is read from its end on each attempt, and not from where the wait
    began."""

    async def waits(ctx: AgentContext) -> str:
        return n_of(await ctx.wait_for(PAID, key=None))

    async with till(database_url, monkeypatch) as t:
        await arrives(t.conn, payload='{"n": "too early"}')
        await place_all(t.conn)
        assert (await t.attempt(waits)).outcome is Outcome.WAITING
        await arrives(t.conn, payload='{"n": "first"}')
        await arrives(t.conn, payload='{"n": "second"}')
        await made_due(t.conn)
        done = await t.attempt(waits)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '"first"')


async def test_a_wait_begins_where_it_is_told_to(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if `after` is ignored: what came a moment before the wait was reached would be missed, and of two events in
    quick succession the second."""

    async def talks(ctx: AgentContext) -> list[str]:
        first = await ctx.wait_for(PAID, key=None, after=ctx.event)
        second = await ctx.wait_for(PAID, key=None, after=first)
        third = await ctx.wait_for(PAID, key=None, timeout=0)
        fourth = await ctx.wait_for(PAID, key=None, after=str(Cursor(2, 1)))
        assert second is not None
        assert second.meta is not None
        fifth = await ctx.wait_for(PAID, key=None, after=second.meta.event_id)
        return [n_of(each) if each else "none" for each in (first, second, third, fourth, fifth)]

    async with till(database_url, monkeypatch) as t:
        for n in "abc":
            await arrives(t.conn, payload=f'{{"n": "{n}"}}')
        done = await t.attempt(talks)
        assert (done.outcome, done.output) == (Outcome.SUCCEEDED, '["a","b","none","b","c"]')


async def test_the_runs_own_event_is_never_the_one_it_waits_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch, other: AsyncConnection[Any]
) -> None:
    """Its place in the log comes after the wait has begun. Fails if it is not left out."""

    async def waits(ctx: AgentContext) -> str:
        return str(await ctx.wait_for(type_filter("order.created"), key=None))

    async with till(database_url, monkeypatch) as t:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(7305412002)")  # somebody places, and takes their time
            assert (await t.attempt(waits)).outcome is Outcome.WAITING
        await place_all(t.conn)
        await made_due(t.conn)
        assert (await t.attempt(waits)).outcome is Outcome.WAITING


async def test_when_the_time_is_over_there_is_no_event_in_any_later_attempt(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the end is not recorded: an event that comes later would turn what the run did into something else."""
    seen: list[object] = []

    async def waits(ctx: AgentContext) -> str:
        seen.append(await ctx.wait_for(PAID, key=None, timeout=0.2))
        if len(seen) == 1:
            raise ValueError
        return "gave up"

    async with till(database_url, monkeypatch) as t:
        parked = await t.attempt(waits)
        assert parked.retry_in is not None
        assert parked.retry_in.total_seconds() <= 0.2
        await asyncio.sleep(0.25)
        assert (await t.attempt(waits)).outcome is Outcome.RETRY
        await arrives(t.conn)
        done = await t.attempt(waits)
        assert (done.output, seen) == ('"gave up"', [None, None])


@pytest.mark.parametrize(
    ("key", "own_key", "found"),
    [
        (WhoseKey.OWN, "A", "for A"),
        ("B", "A", "for B"),
        (None, "A", "for nobody"),
    ],
)
async def test_the_key_is_the_runs_own_by_default(
    database_url: str, monkeypatch: pytest.MonkeyPatch, key: Any, own_key: str, found: str
) -> None:
    async def waits(ctx: AgentContext) -> str:
        return n_of(await ctx.wait_for(PAID, key=key))

    async with till(database_url, monkeypatch) as t:
        await t.conn.execute("UPDATE reflex.event SET key = %s", [own_key])
        assert (await t.attempt(waits)).outcome is Outcome.WAITING
        for each in (None, "A", "B"):
            await arrives(t.conn, payload=f'{{"n": "for {each or "nobody"}"}}', key=each)
        assert await woken(t.conn) == 1
        assert (await t.attempt(waits)).output == f'"{found}"'


async def test_a_filter_that_refuses_what_its_types_let_in_is_woken_less_and_less(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a fruitless wake-up is not counted, or not kept: a busy type would make the delivery run for each of its
    events."""
    asked: list[object] = []

    def refuses(event: Any) -> bool:
        asked.append(event.event_id)
        return False

    async def waits(ctx: AgentContext) -> None:
        await ctx.wait_for(PAID & event_filter(refuses), key=None)

    quiet: list[float] = []
    async with till(database_url, monkeypatch) as t:
        for _ in range(10):
            parked = await t.attempt(waits)
            assert parked.wait is not None
            quiet.append(parked.wait.awaited[0].quiet.total_seconds())
            await arrives(t.conn)
            await made_due(t.conn)
        assert quiet == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
        # What it has looked at it does not look at again.
        assert len(asked) <= len(set(asked)) * 9
        await t.attempt(waits)
        await made_due(t.conn)
        untouched = await t.attempt(waits)  # woken, but by nothing that it waits for
        assert untouched.wait is not None
        assert untouched.wait.awaited[0].quiet.total_seconds() == 10


async def test_of_several_waits_any_wakes_and_a_sleep_ends_them(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the run ends with the first wait that finds nothing: nobody would look for the others' events."""

    async def waits(ctx: AgentContext) -> str:
        both = await asyncio.gather(
            ctx.wait_for(PAID, key=None), ctx.sleep(1800), ctx.wait_for(type_filter("refund"), key=None)
        )
        return " ".join(each.type for each in both if each)

    async with till(database_url, monkeypatch) as t:
        parked = await t.attempt(waits)
        assert parked.wait is not None
        assert parked.retry_in is not None
        assert 1790 < parked.retry_in.total_seconds() <= 1800
        assert "sleeps until" in parked.wait.reason
        assert {one.types for one in parked.wait.awaited} == {("payment.received",), ("refund",)}
        for each in ("refund", "payment.received"):
            await arrives(t.conn, each)
            assert await woken(t.conn) == 1
            parked = await t.attempt(waits)
            assert parked.outcome is Outcome.WAITING
        assert parked.wait is not None
        assert parked.wait.awaited == ()


async def test_a_tool_may_wait_and_its_result_is_kept(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if pydantic-ai takes the wait for the tool's failure, or if the wait of a replayed tool is begun anew."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def payment(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        return n_of(await run.deps.wait_for(PAID, key=None))

    async with till(database_url, monkeypatch, tool_call("payment", {}), text("thank you")) as t:
        assert (await t.attempt(agent)).outcome is Outcome.WAITING
        await arrives(t.conn, payload='{"n": "12 dollars"}')
        assert await woken(t.conn) == 1
        done = await t.attempt(agent)
        assert (done.outcome, done.output, t.requests) == (Outcome.SUCCEEDED, '"thank you"', 2)
        assert "12 dollars" in str(t.provider.requests[1])


@pytest.mark.parametrize("inside", [False, True])
async def test_a_tool_that_is_called_again_waits_again(reflex_app: MakeAppTest, *, inside: bool) -> None:
    """Fails if a call that is replayed as a whole does not keep its wait: the second call finds the first one's, and
    gets the event that the first one got. And inside of a tool that runs an agent, if it keeps it for itself only."""
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)
    outer: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @outer.tool
    async def delegate(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
        return (await run.deps.run_agent(agent, "how many?")).output

    @agent.tool
    async def reply(run: RunContext[AgentContext]) -> int:  # pyright: ignore[reportUnusedFunction]
        event = await run.deps.wait_for(type_filter("said"))
        assert event is not None
        assert event.meta is not None
        return event.meta.payload["number"]

    twice = [call("reply"), call("reply"), "both"]
    answers = [call("delegate"), *twice, call("delegate"), call("reply"), "one", "thanks"] if inside else [*twice]
    async with reflex_app([Trigger("t", type_filter("begin"), outer if inside else agent)]) as t:
        t.model.answers(answers)
        await t.publish("begin", key="k")
        numbers = [1, 2, 3] if inside else [1, 2]
        for number in numbers:
            await t.run()
            await t.publish("said", {"number": number}, key="k")
        await t.run()
        assert t.runs.outcomes == ["waiting"] * len(numbers) + ["succeeded"]
        told = [asked.tool_results["reply"] for asked in t.model.requests if "reply" in asked.tool_results]
        assert told == numbers


async def test_a_worker_that_dies_between_the_match_and_settling_loses_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the match is kept with the settling only: the second worker would find the later event, or none."""
    got: list[str] = []

    async def waits(ctx: AgentContext) -> str:
        got.append(n_of(await ctx.wait_for(PAID, key=None, after=ctx.event)))
        return got[-1]

    async with till(database_url, monkeypatch) as t:
        await arrives(t.conn, payload='{"n": "a"}')
        _, lease = await t.claimed()
        await t.attempts(waits)(lease)
        await t.taken_away()
        await t.conn.execute("DELETE FROM reflex.event WHERE type = 'payment.received'")
        await arrives(t.conn, payload='{"n": "b"}')
        assert (await t.attempt(waits)).output == '"a"'
        assert got == ["a", "a"]


async def test_a_wait_outlives_the_order_of_the_log(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log was dropped up to behind where the wait began. Fails if that ends the run: what was dropped has been held
    against the wait."""

    async def waits(ctx: AgentContext) -> str:
        return str((await ctx.wait_for(PAID, key=None)) is not None)

    async with till(database_url, monkeypatch) as t:
        assert (await t.attempt(waits)).outcome is Outcome.WAITING
        await arrives(t.conn, "noise")
        await woken(t.conn)
        await drop_log(t.conn, until=(await log_bounds(t.conn)).end)
        await made_due(t.conn)
        assert (await t.attempt(waits)).outcome is Outcome.WAITING
        await arrives(t.conn)
        assert await woken(t.conn) == 1
        assert (await t.attempt(waits)).outcome is Outcome.SUCCEEDED


async def test_an_event_that_its_class_refuses_is_passed_over(
    database_url: str, monkeypatch: pytest.MonkeyPatch, registry: None
) -> None:
    """Fails if it kills the delivery that waits, which has done nothing wrong."""

    @EventRegistry.register
    class Payment(BaseEvent):  # pyright: ignore[reportUnusedClass]
        type: Literal["payment.received"] = "payment.received"
        amount: int

    async def waits(ctx: AgentContext) -> int:
        event = await ctx.wait_for(PAID, key=None, after=ctx.event)
        assert isinstance(event, Payment)
        return event.amount

    async with till(database_url, monkeypatch) as t:
        await arrives(t.conn, payload='{"amount": "a lot"}')
        await arrives(t.conn, payload='{"amount": 7}')
        assert (await t.attempt(waits)).output == "7"


async def test_a_deployment_that_moves_a_lambda_does_not_begin_the_wait_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the line in which the filter was written is part of the step's address."""
    before = PAID & event_filter(lambda event: True)
    after = PAID & event_filter(lambda event: True)
    assert repr(before) != repr(after)
    filters: list[Filter] = [before, after]

    async def waits(ctx: AgentContext) -> str:
        return str(await ctx.wait_for(filters.pop(0), key=None) is not None)

    async with till(database_url, monkeypatch) as t:
        assert (await t.attempt(waits)).outcome is Outcome.WAITING
        await arrives(t.conn)
        await made_due(t.conn)
        assert (await t.attempt(waits)).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "has no key"),
        ({"key": None, "timeout": 4e9}, "longer than"),
        ({"key": None, "after": "nonsense"}, "no cursor"),
        ({"key": None, "after": UntypedEvent(type="a")}, "not from the log"),
        ({"key": "A\x00"}, r"key is 'A\x00', which no event has"),
        ({"key": "\udcff"}, r"key is '\udcff', which no event has"),
        ({"key": None, "filter": "payment.received"}, "pass a filter"),
        ({"key": None, "filter": type_filter("a") & type_filter("b")}, "match no event"),
    ],
)
async def test_a_wait_that_makes_no_sense_is_refused(
    database_url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    async def waits(ctx: AgentContext) -> None:
        given: dict[str, Any] = {"filter": any_event(), **options}
        await ctx.wait_for(**given)

    async with till(database_url, monkeypatch) as t:
        failed = await t.attempt(waits)
        assert failed.outcome in (Outcome.RETRY, Outcome.DEAD)
        assert said in (failed.error or "")
        assert await count(t.conn, "awaited") == 0


async def test_a_predicate_that_raises_fails_the_attempt(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def waits(ctx: AgentContext) -> None:
        await ctx.wait_for(PAID & keyword_filter("n", lambda n: n > 1), key=None, after=ctx.event)

    async with till(database_url, monkeypatch) as t:
        await arrives(t.conn, payload='{"n": "a"}')
        failed = await t.attempt(waits)
        assert (failed.outcome, "keyword_filter" in (failed.error or "")) == (Outcome.RETRY, True)


async def test_the_guide_does_what_it_says(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails if the example of the guide does not load, or if an event that came before the wait is missed."""
    block, _ = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    (tmp_path / "example_of_waiting.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    (trigger,) = load_app("example_of_waiting").triggers
    async with till(database_url, monkeypatch) as t:
        await t.conn.execute("UPDATE reflex.event SET key = 'A'")
        await arrives(t.conn, payload='{"complete": false, "amount": 1}', key="A")
        await arrives(t.conn, payload='{"complete": true, "amount": 2}', key="A")
        asleep = await t.attempt(trigger.agent)
        assert asleep.wait is not None
        assert asleep.wait.kind is WaitKind.TIME
