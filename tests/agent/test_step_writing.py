"""Steps are written while the agent goes on, and no further than to the next one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic_ai import Agent

from reflex.agent.context import AgentContext
from reflex.agent.journal import Journal
from reflex.core.errors import ReflexError
from reflex.core.journal import LeaseLost, Step, StepKind, StepStore
from reflex.core.settlement import Outcome, Settlement
from tests.agent.stub_provider import silence, text, tool_call
from tests.agent.till import Till, till
from tests.processes import eventually

CLAIMED = tool_call("look", {})


class Gate:
    """In front of the journal: writes wait until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.waiting = 0
        through = StepStore.journal

        async def journal(store: StepStore, *args: Any) -> None:
            self.waiting += 1
            await self.open.wait()
            await through(store, *args)

        monkeypatch.setattr(StepStore, "journal", journal)

    async def has_one(self) -> bool:
        return self.waiting > 0


@asynccontextmanager
async def running(t: Till, agent: Any, **options: Any) -> AsyncGenerator["asyncio.Task[Settlement]"]:
    run = asyncio.create_task(t.attempt(agent, **options))
    try:
        yield run
    except BaseException:
        run.cancel()
        raise
    finally:
        await asyncio.wait([run])


async def settled_loop() -> None:
    """Whatever the event loop can do without anybody's answer is done."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_call_waits_for_the_answer_that_asks_for_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a tool is called before the model's answer is on record: killed then, a run would ask the model again
    and might do something else beside."""
    looked: list[int] = []
    async with till(database_url, monkeypatch, CLAIMED, text("done")) as t:
        gate = Gate(monkeypatch)
        agent = Agent()

        @agent.tool_plain
        def look() -> str:  # pyright: ignore[reportUnusedFunction]
            looked.append(1)
            return "7 left"

        async with running(t, agent) as run:
            await eventually(gate.has_one)
            await settled_loop()
            assert (looked, t.requests) == ([], 1)
            gate.open.set()
        assert (run.result().outcome, looked, t.requests) == (Outcome.SUCCEEDED, [1], 2)


async def test_who_is_cancelled_while_he_waits_does_not_cancel_the_write(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls wait for the answer that asks for both, and one is cancelled. Fails if the write is: the answer was
    paid for, and the other call would go ahead without it."""
    async with till(database_url, monkeypatch) as t:
        gate = Gate(monkeypatch)
        _, lease = await t.claimed()
        journal = Journal(t.steps, lease.delivery_id, lease.lease_epoch)
        step = await journal.look_up(StepKind.MODEL_REQUEST, b"f" * 32)
        journal.begin_to_record(step, '"7 left"')
        cancelled, other = (asyncio.create_task(journal.written()) for _ in range(2))
        await eventually(gate.has_one)
        await settled_loop()
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert not other.done()
        gate.open.set()
        await other
        assert await t.journaled() == 1


async def test_a_run_that_is_cancelled_leaves_alone_what_others_write(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents at once, of which the function gives up one while the answer to the other is being written. Fails, by
    an attempt that ends as cancelled, if all that is being written is cancelled with a run."""
    async with till(database_url, monkeypatch, silence(asyncio.Event()), text("quick"), text("again")) as t:
        gate = Gate(monkeypatch)

        async def function(ctx: AgentContext) -> str:
            hangs = asyncio.create_task(ctx.run_agent(Agent(), "slow"))
            await eventually(lambda: t.requests == 1)
            quick = asyncio.create_task(ctx.run_agent(Agent(), "quick"))
            await eventually(gate.has_one)
            hangs.cancel()
            await asyncio.wait([hangs])
            gate.open.set()
            return (await quick).output

        async with running(t, function) as run:
            await asyncio.wait([run])
        assert (run.result().outcome, run.result().output) == (Outcome.SUCCEEDED, '"quick"')


async def test_a_request_waits_for_the_result_before_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the model is asked on before a tool's result is on record."""
    async with till(database_url, monkeypatch, CLAIMED, text("done")) as t:
        agent = Agent()
        gates: list[Gate] = []

        @agent.tool_plain
        def look() -> str:  # pyright: ignore[reportUnusedFunction]
            gates.append(Gate(monkeypatch))
            return "7 left"

        async def shut() -> bool:
            return bool(gates) and gates[0].waiting > 0

        async with running(t, agent) as run:
            await eventually(shut)
            await settled_loop()
            assert t.requests == 1
            gates[0].open.set()
        assert (run.result().outcome, t.requests) == (Outcome.SUCCEEDED, 2)


@pytest.mark.parametrize("as_tool", [False, True])
async def test_the_authors_code_gets_an_output_that_is_on_record(
    database_url: str, monkeypatch: pytest.MonkeyPatch, as_tool: bool
) -> None:
    """Whether the output is a text or a call of an output tool. Fails if its validator runs before."""
    validated: list[str] = []
    answer = tool_call("final_result", {"response": 7}) if as_tool else text("7")
    async with till(database_url, monkeypatch, answer) as t:
        gate = Gate(monkeypatch)
        agent: Agent[Any, Any] = Agent(output_type=int if as_tool else str)

        @agent.output_validator
        def check(output: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
            validated.append(str(output))
            return output

        async with running(t, agent):
            await eventually(gate.has_one)
            await settled_loop()
            assert not validated
            gate.open.set()
        assert validated == ["7"]


async def test_a_write_that_fails_ends_the_run_at_the_next_step(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost while the answer is written. Fails if the error of a write that nobody waited for is lost, if
    the tool is called, or if a tool that swallows it pays for more."""
    looked: list[int] = []

    async def lost(store: StepStore, *args: Any) -> None:
        raise LeaseLost("the delivery was given to another worker")

    async with till(database_url, monkeypatch, CLAIMED, text("done")) as t:
        monkeypatch.setattr(StepStore, "journal", lost)
        agent = Agent()
        errors: list[ReflexError] = []

        @agent.tool_plain
        def look() -> str:  # pyright: ignore[reportUnusedFunction]
            looked.append(1)
            return "7 left"

        async def function(ctx: AgentContext) -> None:
            for _ in range(2):
                try:
                    await ctx.run_agent(agent)
                except LeaseLost as error:
                    errors.append(error)

        await t.attempts(function)((await t.claimed())[1])
        assert (len(errors), looked, t.requests) == (2, [], 1)


async def test_a_run_that_fails_keeps_what_it_has_paid_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of the author's raises while the answer is still being written. Fails if the run ends without waiting:
    the step would be refused, since its lease is given up by then."""
    written: list[Step] = []
    through = StepStore.journal

    async def slowly(store: StepStore, delivery_id: Any, lease_epoch: int, *steps: Step) -> None:
        await asyncio.sleep(0.05)
        await through(store, delivery_id, lease_epoch, *steps)
        written.extend(steps)

    async with till(database_url, monkeypatch, CLAIMED, text("done")) as t:
        monkeypatch.setattr(StepStore, "journal", slowly)
        agent = Agent()

        @agent.tool_plain(args_validator=refuse)
        def look() -> str:  # pyright: ignore[reportUnusedFunction]
            return "7 left"

        assert (await t.attempt(agent)).outcome is Outcome.RETRY
        assert len(written) == await t.journaled() == 1


def refuse(ctx: Any) -> None:
    raise RuntimeError("a bug in the author's check of the arguments")
