"""`ctx.state`: loaded before the run, written with its success, and not lost to another run. A real database."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, computed_field, field_serializer
from pydantic_ai import Agent, RunContext

from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event
from reflex.agent.publishing import RunLimits
from reflex.agent.remembering import Remembered, StateRecord
from reflex.agent.state import State, StateError, StateUnreadable
from reflex.agent.triggers import Trigger
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.states import StoredState
from tests.agent.stub_provider import Answer, refusal, text, tool_call
from tests.agent.till import Till, till
from tests.queue_fixtures import count, new_event


class Line(BaseModel):
    sku: str = ""


class OrderState(BaseModel):
    count: int = 0
    lines: list[Line] = []
    due: date | None = None


NOTHING = StoredState("A", 0, None, None, None, None)


@asynccontextmanager
async def keyed(database_url: str, monkeypatch: pytest.MonkeyPatch, *script: Answer) -> AsyncGenerator[Till]:
    """A till whose event is about A."""
    async with till(database_url, monkeypatch, *script) as t:
        await t.conn.execute("UPDATE reflex.event SET key = 'A'")
        yield t


async def another(t: Till, key: str | None = "A") -> None:
    await append(t.conn, [new_event(key=key)])


async def stored(t: Till) -> tuple[int | None, Any]:
    """Schema version and state of the one row; None if there is none."""
    rows = await (await t.conn.execute("SELECT schema_version, data FROM reflex.state")).fetchall()
    return rows[0] if rows else (None, None)


async def settle(t: Till, worker_id: Any, settlement: Settlement) -> None:
    await exchange(t.conn, worker_id=worker_id, settlements=[settlement], trigger_ids=[], limit=0)


async def counts(ctx: AgentContext) -> int:
    ctx.state.count += 1
    ctx.state.lines.append(Line(sku=f"S{ctx.state.count}"))
    return ctx.state.count


async def test_a_state_is_there_again_for_the_next_run_of_its_key(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without `state=` in the settlement of Attempts; fails if another key got the same."""
    async with keyed(database_url, monkeypatch) as t:
        assert (await t.attempt(counts, state=OrderState)).output == "1"
        await another(t)
        assert (await t.attempt(counts, state=OrderState)).output == "2"
        await another(t, "B")
        assert (await t.attempt(counts, state=OrderState)).output == "1"
        cursor = await t.conn.execute("SELECT key, data FROM reflex.state ORDER BY key")
        first, second = await cursor.fetchall()
        assert first == ("A", {"count": 2, "lines": [{"sku": "S1"}, {"sku": "S2"}], "due": None})
        assert (second[0], second[1]["count"]) == ("B", 1)


async def test_the_key_can_be_below_the_payload_without_an_order(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keyed(database_url, monkeypatch) as t:
        await t.conn.execute("""UPDATE reflex.event SET payload = '{"order": {"id": 7}}'""")
        await t.attempt(counts, state=OrderState, key="payload.order.id")
        assert await count(t.conn, "state WHERE key = '7'") == 1


async def test_what_a_failed_run_has_changed_is_not_kept(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if failed settlements carry a state."""

    async def fails(ctx: AgentContext) -> int:
        ctx.state.count += 1
        if ctx.attempt == 1:
            raise RuntimeError("a bug")
        return ctx.state.count

    async with keyed(database_url, monkeypatch) as t:
        assert (await t.attempt(fails, state=OrderState)).outcome is Outcome.RETRY
        assert await count(t.conn, "state") == 0
        assert (await t.attempt(fails, state=OrderState)).output == "1"


async def test_a_state_that_is_not_changed_is_not_written(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without the comparison in Remembered.change: each reader of a key would get in the way of all others."""

    async def reads(ctx: AgentContext) -> int:
        ctx.state = OrderState(count=ctx.state.count)
        return ctx.state.count

    async with keyed(database_url, monkeypatch) as t:
        settlement = await t.attempt(reads, state=OrderState)
        assert (settlement.outcome, settlement.state) == (Outcome.SUCCEEDED, None)
        assert await count(t.conn, "state") == 0


async def test_a_trigger_without_a_state_asks_for_none(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if recall runs for every trigger: then there is a connection of the journal."""

    async def agent(ctx: AgentContext) -> str:
        with pytest.raises(StateError, match="trigger 'pack' declares neither a state nor a memory"):
            _ = ctx.state
        return "done"

    async with keyed(database_url, monkeypatch) as t:
        settlement = await t.attempt(agent)
        assert (settlement.outcome, settlement.state) == (Outcome.SUCCEEDED, None)
        journal = "worker, pg_stat_activity WHERE application_name = 'reflex journal' AND datname = current_database()"
        assert await count(t.conn, journal) == 0
        await another(t)
        await t.attempt(counts, state=OrderState)
        assert await count(t.conn, journal) > 0


async def test_an_event_without_a_key_has_no_state(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a state of all events without a key is made up."""

    async def unconcerned(ctx: AgentContext) -> str:
        return "done"

    async with till(database_url, monkeypatch) as t:
        dead = await t.attempt(counts, state=OrderState)
        assert (dead.outcome, dead.reason) == (Outcome.DEAD, "keyless_event")
        assert "trigger 'pack' keeps its state by key, and this event has none" in (dead.error or "")
        await another(t, None)
        assert (await t.attempt(unconcerned, state=OrderState)).outcome is Outcome.SUCCEEDED
        assert await count(t.conn, "state") == 0


async def test_a_state_can_be_another_one_of_its_class_only(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def replaces(ctx: AgentContext) -> None:
        ctx.state = OrderState(count=7)

    async def mistakes(ctx: AgentContext) -> None:
        ctx.state = {"count": 7}

    async with keyed(database_url, monkeypatch) as t:
        await t.attempt(replaces, state=OrderState)
        assert (await stored(t))[1]["count"] == 7
        await another(t)
        failed = await t.attempt(mistakes, state=OrderState)
        assert "ctx.state is set to {'count': 7}, which is no OrderState" in (failed.error or "")


async def test_older_versions_are_brought_up_step_by_step(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an upcaster is left out or applied twice, and if reading alone writes the newer form."""
    second = State(OrderState, version=3, upcasters={
        1: lambda old: {"number": old["n"]},
        2: lambda old: {"count": old["number"] * 10},
    })  # fmt: skip

    async def reads(ctx: AgentContext) -> int:
        return ctx.state.count

    async with keyed(database_url, monkeypatch) as t:
        await t.attempt(counts, state=OrderState)
        await t.conn.execute("""UPDATE reflex.state SET data = '{"n": 4}'""")
        await another(t)
        assert (await t.attempt(reads, state=second)).output == "40"
        assert await stored(t) == (1, {"n": 4})
        await another(t)
        assert (await t.attempt(counts, state=second)).output == "41"
        version, data = await stored(t)
        assert (version, data["count"]) == (3, 41)
        await another(t)
        assert (await t.attempt(reads, state=second)).output == "41"


async def test_old_code_leaves_a_newer_state_alone_and_tries_later(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 11. Fails without StateTooNew: the old code would read what it can and write the rest away."""
    newer = State(OrderState, version=2, upcasters={1: lambda old: old})
    async with keyed(database_url, monkeypatch) as t:
        await t.attempt(counts, state=newer)
        before = await stored(t)
        await another(t)
        old = await t.attempt(counts, state=OrderState)
        assert old.outcome is Outcome.RETRY
        assert "newer code has stored version 2 of OrderState, and this worker's code knows up to version 1" in (
            old.error or ""
        )
        assert await stored(t) == before
        assert (await t.attempt(counts, state=newer)).output == "2"


async def test_a_stored_state_that_does_not_fit_names_the_field(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clumsy(old: dict[str, Any]) -> dict[str, Any]:
        return {"count": old["missing"]}

    async with keyed(database_url, monkeypatch) as t:
        await t.attempt(counts, state=OrderState)
        await t.conn.execute("""UPDATE reflex.state SET data = '{"lines": [{"sku": 1}]}'""")
        await another(t)
        failed = await t.attempt(counts, state=OrderState)
        assert failed.outcome is Outcome.RETRY
        assert "version 1 of OrderState does not fit version 1: lines.0.sku: Input should be a valid string" in (
            failed.error or ""
        )
        failed = await t.attempt(counts, state=State(OrderState, version=2, upcasters={1: clumsy}))
        assert "the upcaster of OrderState from version 1 raised KeyError: 'missing'" in (failed.error or "")


async def test_what_the_next_run_could_not_read_is_not_written(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pydantic checks no assignment. Fails without the reading in State.checked: the key would fail for ever after."""

    async def breaks(ctx: AgentContext) -> None:
        ctx.state.count = "many"

    async with keyed(database_url, monkeypatch) as t:
        dead = await t.attempt(breaks, state=OrderState)
        assert dead.outcome is Outcome.DEAD
        assert "the state OrderState does not read what it writes: count: Input should be a valid integer" in (
            dead.error or ""
        )
        assert await count(t.conn, "state") == 0


def test_a_state_has_a_limit_and_the_error_names_the_size() -> None:
    remembered = Remembered("pack", NOTHING, state=State(OrderState))
    remembered.state.lines = [Line(sku="x" * 2000)]
    with pytest.raises(StateError, match=r"the state has 20\d\d bytes of JSON; the limit is 1024 \(REFLEX_MAX_STATE"):
        remembered.change(RunLimits(max_state_bytes=1024))


def test_aliases_computed_and_frozen_fields_do_no_harm() -> None:
    """Fails without round_trip and by_name: a computed field is no input, and an alias no field."""

    class Careful(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)
        count: int = Field(default=0, alias="Count")
        note: str = Field(default="", validation_alias="in", serialization_alias="out")

        @computed_field
        @property
        def double(self) -> int:
            return 2 * self.count

    declared = State(Careful)
    remembered = Remembered("pack", NOTHING, state=declared)
    remembered.state = Careful.model_validate({"Count": 3, "in": "x"})
    change = remembered.change(RunLimits())
    assert change
    assert change.data == '{"count":3,"note":"x"}'
    again = Remembered("pack", NOTHING._replace(data=change.data, schema_version=1, version=5), state=declared)
    assert again.repeat(StateRecord(5, 1, {"count": 4}))
    assert (again.state.count, again.state.note) == (4, "x")


class Held(BaseModel):
    token: SecretStr | None = None


class Holder(BaseModel):
    own: SecretStr | None = None
    lent: dict[str, list[Held]] = {}
    said: SecretStr = SecretStr("")
    note: str = ""

    @field_serializer("said", when_used="json")
    def shown(self, said: SecretStr) -> str:
        return said.get_secret_value()


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"own": "pw"}, "own"), ({"lent": {"a": [{"token": None}, {"token": "pw"}]}}, r"lent\.a\.1\.token")],
)
def test_a_secret_of_which_only_the_mask_would_be_kept_is_refused(fields: dict[str, Any], where: str) -> None:
    """Fails without masked(): pydantic reads the asterisks as a secret like any other, and the next run has those. One
    that is written as it is does no harm, nor do asterisks that are none."""
    remembered = Remembered("pack", NOTHING, state=State(Holder))
    remembered.state = Holder.model_validate({**fields, "said": "*" * 10})
    with pytest.raises(StateError, match=rf"the field {where} of the state Holder is a secret, and pydantic writes"):
        remembered.change(RunLimits())
    remembered.state = Holder(said=SecretStr("pw"), note="*" * 10)
    change = remembered.change(RunLimits())
    assert change
    assert change.data is not None
    assert State(Holder).read(change.data, 1).said.get_secret_value() == "pw"


class Needy(BaseModel):
    order: str
    count: int = 0


class Whole(RootModel[dict[str, int]]):
    root: dict[str, int] = {}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (Needy, "trigger 't': the field 'order' of its state Needy has no default"),
        (State(Needy), "trigger 't': the field 'order' of its state Needy has no default"),
        (OrderState(), "trigger 't': a state is a pydantic model class with fields, not OrderState"),
        (Whole, "trigger 't': a state is a pydantic model class with fields"),
        (dict, "trigger 't': a state is a pydantic model class with fields"),
    ],
)
def test_a_state_that_is_none_is_refused(state: Any, said: str) -> None:
    async def agent(ctx: AgentContext) -> None: ...

    with pytest.raises(TypeError) as raised:
        Trigger("t", any_event(), agent, state=state)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version": 0}, "version is 0; the first one is 1"),
        ({"version": 3, "upcasters": {2: dict}}, "no upcaster from version 1"),
        ({"upcasters": {1: dict}}, "no upcaster leads from 1 to version 1"),
        ({"version": 2, "upcasters": {1: "x"}}, "the upcaster from 1 is 'x'"),
    ],
)
def test_versions_and_upcasters_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        State(OrderState, **options)


def test_people_see_what_a_trigger_keeps_and_others_are_as_before() -> None:
    async def agent(ctx: AgentContext) -> None: ...

    plain = Trigger("plain", any_event(), agent).definition()
    keeping = Trigger("keeping", any_event(), agent, state=OrderState, key="source").definition()
    assert keeping.keys() - plain.keys() == {"remembers_by", "state", "memory"}
    assert keeping["remembers_by"] == "source"
    assert keeping["key"] is None, "it is not ordered by it"
    assert keeping["state"] == {"model": "OrderState", "version": 1}


# Tools and the journal: a tool that is replayed does not run, and what it did to the state must not be lost with it.


def packer(called: Counter[str]) -> Agent[AgentContext, str]:
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)

    @agent.tool
    async def pack(run: RunContext[AgentContext], sku: str) -> int:  # pyright: ignore[reportUnusedFunction]
        called[sku] += 1
        run.deps.state.count += 1
        run.deps.state.lines.append(Line(sku=sku))
        return run.deps.state.count

    return agent


async def test_what_a_replayed_tool_has_changed_is_changed_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate limit after the tool. Fails without `repeat` in the replay (nothing is kept), and if the tool runs
    again."""
    called: Counter[str] = Counter()
    script = (tool_call("pack", {"sku": "S"}), refusal(429), text("packed"))
    async with keyed(database_url, monkeypatch, *script) as t:
        agent = packer(called)
        assert (await t.attempt(agent, state=OrderState)).outcome is Outcome.RETRY
        assert await count(t.conn, "state") == 0
        assert (await t.attempt(agent, state=OrderState)).outcome is Outcome.SUCCEEDED
        assert (t.requests, called) == (3, {"S": 1})
        assert (await stored(t))[1] == {"count": 1, "lines": [{"sku": "S"}], "due": None}


async def test_a_tool_that_has_seen_what_is_gone_runs_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run changes the state between the two attempts. Fails without the version in `repeat`: its change would
    be written over. The request before the tool is not paid for again."""
    called: Counter[str] = Counter()
    script = (tool_call("pack", {"sku": "S"}), refusal(429), text("packed"))
    async with keyed(database_url, monkeypatch, *script) as t:
        agent = packer(called)
        assert (await t.attempt(agent, state=OrderState)).outcome is Outcome.RETRY
        await t.conn.execute(
            "INSERT INTO reflex.state (trigger_id, key, version, schema_version, data) "
            """VALUES (1, 'A', nextval('reflex.state_version'), 1, '{"count": 5}')"""
        )
        assert (await t.attempt(agent, state=OrderState)).outcome is Outcome.SUCCEEDED
        assert (t.requests, called) == (3, {"S": 2})
        assert (await stored(t))[1] == {"count": 6, "lines": [{"sku": "S"}], "due": None}


async def test_a_run_that_gives_way_runs_again_with_its_journal(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one key at once. Fails if the loser's journal is forgotten (a third request), and without the
    release (its count is lost)."""

    async def notes(ctx: AgentContext) -> str:
        answer = await ctx.run_agent(Agent(), "weigh it")
        ctx.state.count += 1
        return answer.output

    async with keyed(database_url, monkeypatch, text("light"), text("heavy")) as t:
        worker_id, slow = await t.claimed()
        late: Settlement = await t.attempts(notes, state=OrderState)(slow)
        await another(t)
        assert (await t.attempt(notes, state=OrderState)).output == '"heavy"'
        await settle(t, worker_id, late)
        again = await t.attempt(notes, state=OrderState)
        assert (again.outcome, again.output, t.requests) == (Outcome.SUCCEEDED, '"light"', 2)
        assert (await stored(t))[1]["count"] == 2
        assert await t.journaled() == 0
        assert await run_attempts(t, slow) == [(1, "released"), (1, "succeeded")]


async def run_attempts(t: Till, lease: Claimed) -> list[tuple[int, str]]:
    cursor = await t.conn.execute(
        "SELECT attempt, outcome FROM reflex.run WHERE event_id = %s ORDER BY lease_epoch", (lease.event_id,)
    )
    return await cursor.fetchall()


def test_of_tools_that_changed_one_field_the_later_one_has_the_last_word_again() -> None:
    """They end in another order than they are replayed in. Fails without the numbers."""
    first = Remembered("pack", NOTHING, state=State(OrderState))
    one, other = first.before_tool(), first.before_tool()
    first.state.count = 1
    ended_first = first.after_tool(other, asked=False)
    first.state.count = 2
    first.state.due = date(2026, 1, 1)
    ended_last = first.after_tool(one, asked=False)
    assert ended_first
    assert ended_last
    again = Remembered("pack", NOTHING, state=State(OrderState))
    held = again.state
    for record in (ended_last, ended_first):
        assert again.repeat(StateRecord(**orjson.loads(orjson.dumps(record))))
    assert (held.count, held.due) == (2, date(2026, 1, 1)), "in the object that the code holds"


def test_a_tool_that_does_not_look_at_the_state_has_no_part_in_it() -> None:
    """Fails if every record carries a version: a conflict would repeat every tool."""
    remembered = Remembered("pack", NOTHING, state=State(OrderState))
    assert remembered.after_tool(remembered.before_tool(), asked=False) is None
    looked = remembered.after_tool(remembered.before_tool(), asked=True)
    assert looked
    assert looked == StateRecord(0, 1, {})
    later = Remembered("pack", NOTHING._replace(version=3), state=State(OrderState))
    assert not later.repeat(looked)


def test_a_state_of_the_code_from_before_that_cannot_be_read_says_so_at_once() -> None:
    with pytest.raises(StateUnreadable, match="count: Input should be a valid integer"):
        Remembered("pack", NOTHING._replace(data='{"count": "x"}', schema_version=1), state=State(OrderState))
