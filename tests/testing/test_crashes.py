"""Crashes at every step: good apps pass, and each kind of bad one is found."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from pydantic_ai import Agent, ApprovalRequired, RunContext

from reflex.agent import effects
from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.retry import RetryPolicy
from reflex.testing.crashes import crash_at_every_step
from reflex.testing.findings import CrashReport
from reflex.testing.model import FakeModel, call, rate_limited

PATIENT = RetryPolicy(max_attempts=5, base=timedelta(0))


def cashier(charged: Counter[str] | None = None) -> Agent[Any, Any]:
    """An agent with one tool that only reads and one that takes money."""
    agent = Agent()

    @agent.tool_plain
    def balance(customer: str) -> int:  # pyright: ignore[reportUnusedFunction]
        return 100

    @agent.tool_plain
    def charge(customer: str, amount: int) -> str:  # pyright: ignore[reportUnusedFunction]
        if charged is not None:
            charged[customer] += amount
        return "charged"

    return agent


SCRIPT = [call("balance", customer="ada"), call("charge", customer="ada", amount=8), "paid"]


def kinds(report: CrashReport) -> set[str]:
    return {str(finding.kind) for finding in report.findings}


def moments(report: CrashReport, kind: str) -> list[str]:
    return [finding.point.moment for finding in report.of(kind) if finding.point]


async def test_a_good_app_passes_at_every_point() -> None:
    """Two triggers, the second set off by the first. Five steps, each cut before and after its record, and the ends of
    two runs. Fails with: a worker that is killed and settles after all; a lease that is not reaped (no end)."""
    charged: Counter[str] = Counter()
    agent = cashier(charged)

    async def pay(ctx: AgentContext) -> str:
        assert ctx.event.meta
        result = await ctx.run_agent(agent)
        await ctx.publish("paid", {"order": ctx.event.meta.payload["order"]})
        return result.output

    async def thank(ctx: AgentContext) -> str:
        assert ctx.event.meta
        return f"thanks for {ctx.event.meta.payload['order']}"

    lives: list[int] = []
    app = [Trigger("pay", type_filter("order"), pay), Trigger("thank", type_filter("paid"), thank)]
    report = await crash_at_every_step(
        app, "order", {"order": "A1"}, script=SCRIPT, repeatable={"balance", "charge"},
        before_each=lambda: lives.append(charged["ada"]),
    )  # fmt: skip
    assert report.ok, str(report)
    assert [f"{point.trigger}: {point.moment}" for point in report.points] == [
        "pay: before step 1 (model request) is recorded",
        "pay: after step 1 (model request)",
        "pay: before step 2 (balance) is recorded",
        "pay: after step 2 (balance)",
        "pay: before step 3 (model request) is recorded",
        "pay: after step 3 (model request)",
        "pay: before step 4 (charge) is recorded",
        "pay: after step 4 (charge)",
        "pay: before step 5 (model request) is recorded",
        "pay: after step 5 (model request)",
        "pay: before the run is settled",
        "thank: before the run is settled",
    ]
    assert "killed at 12 points, and nothing was repeated, lost or changed" in str(report)
    # Once in each of the thirteen runs, and once more where it was cut before its record.
    assert (len(lives), charged["ada"]) == (13, 14 * 8)


async def test_a_tool_that_was_cut_before_its_record_runs_again() -> None:
    """Found for each tool that is not said to be repeatable. Fails with: `recorded` set before the step is written."""
    report = await crash_at_every_step(
        [Trigger("pay", any_event(), cashier())], "order", script=SCRIPT, repeatable={"balance"}
    )
    assert kinds(report) == {"not recorded"}
    assert moments(report, "not recorded") == ["before step 4 (charge) is recorded"]
    text = repr(report)
    assert 'NOT RECORDED  pay: charge({"amount":8,"customer":"ada"})' in text
    assert "killed at   7. pay: before step 4 (charge) is recorded" in text
    assert "repeatable={…}" in text
    with pytest.raises(AssertionError, match="there is something to look into"):
        report.check()


@pytest.mark.parametrize("by_trigger", [True, False])
async def test_a_tool_that_is_declared_to_only_read_may_run_again(*, by_trigger: bool) -> None:
    """By the trigger or by itself; it need not be named. Fails if what is declared is not looked at, and if what the
    trigger says does not win: then nothing is found of the tool that takes money."""
    agent = Agent()

    @agent.tool_plain(metadata=None if by_trigger else effects.pure())
    def balance(customer: str) -> int:  # pyright: ignore[reportUnusedFunction]
        return 100

    @agent.tool_plain(metadata=effects.pure())
    def charge(customer: str, amount: int) -> str:  # pyright: ignore[reportUnusedFunction]
        return "charged"

    declared = {"charge": effects.idempotent()} | ({"balance": effects.pure()} if by_trigger else {})
    report = await crash_at_every_step([Trigger("pay", any_event(), agent, effects=declared)], "order", script=SCRIPT)
    assert moments(report, "not recorded") == ["before step 4 (charge) is recorded"]
    with pytest.raises(TypeError, match=r"pass names of tools, as in \{'charge'\}"):
        await crash_at_every_step([Trigger("again", any_event(), agent)], "order", repeatable="charge")


async def test_a_tool_that_must_not_be_repeated_is_cut_on_both_sides_of_its_work() -> None:
    """Its probe finds what was done. Without one, the delivery waits for a person.

    Fails with: crashes only at steps that are replayed.
    """
    charged: list[str] = []

    async def was_charged(ctx: AgentContext, arguments: dict[str, Any], key: str) -> effects.Done | effects.NotDone:
        return effects.Done("charged") if key in charged else effects.NotDone()

    for probe, kinds_found in ((was_charged, set[str]()), (None, {"other end"})):
        agent = Agent(deps_type=AgentContext)

        @agent.tool(metadata=effects.once(probe=probe))
        def charge(run: RunContext[AgentContext]) -> str:  # pyright: ignore[reportUnusedFunction]
            charged.append(run.deps.idempotency_key)
            return "charged"

        app = [Trigger("pay", any_event(), agent)]
        report = await crash_at_every_step(app, "order", script=[call("charge"), "paid"], before_each=charged.clear)
        assert kinds(report) == kinds_found, str(report)
        assert [point.moment for point in report.points][2:6] == [
            "before step 2 (charge) is begun",
            "after step 2 (charge) is begun, before its work",
            "before step 3 (charge) is recorded",
            "after step 3 (charge)",
        ]
    assert moments(report, "other end") == [report.points[3].moment, report.points[4].moment]


async def test_the_time_of_day_in_a_prompt_repeats_what_was_recorded() -> None:
    """Fails with: what a worker's next life executes not counted; steps that the journal has left not looked at."""
    agent = cashier()

    async def pay(ctx: AgentContext) -> str:
        return (await ctx.run_agent(agent, f"It is {datetime.now(UTC).isoformat()}. Charge.")).output

    def script(model: FakeModel) -> None:
        answers = dict(enumerate(SCRIPT))
        model.on(lambda asked: True, lambda asked: answers[len(asked.tool_results)])

    report = await crash_at_every_step(
        [Trigger("pay", any_event(), pay)], "order", script=script, repeatable={"balance", "charge"}
    )
    assert kinds(report) == {"repeated", "diverged"}
    repeated = {finding.what for finding in report.of("repeated")}
    assert 'pay: charge({"amount":8,"customer":"ada"})' in repeated
    assert "pay: a model request" in repeated
    assert "after step 4 (charge)" in moments(report, "diverged")
    # Where nothing was recorded yet there is nothing to repeat.
    assert "before step 1 (model request) is recorded" not in moments(report, "diverged")
    assert "time of day" in str(report)


async def test_an_agent_that_publishes_something_else_the_second_time_is_found() -> None:
    """By what the process remembers. Fails with: events compared by their type alone."""
    numbers = count(1)

    async def number(ctx: AgentContext) -> None:
        await ctx.publish("numbered", {"number": next(numbers)})

    once = [Trigger("number", type_filter("order"), number)]
    report = await crash_at_every_step(once, "order")
    assert kinds(report) == {"lost event", "other event"}
    assert '"payload":{"number":1}' in report.of("lost event")[0].what
    report = await crash_at_every_step(once, "order", same=lambda event: event.type)
    assert report.ok, str(report)


async def test_an_agent_that_publishes_only_in_its_first_attempt_loses_events() -> None:
    async def announce(ctx: AgentContext) -> None:
        if ctx.attempt == 1:
            await ctx.publish("announced")

    report = await crash_at_every_step([Trigger("announce", type_filter("order"), announce)], "order")
    assert [(finding.kind, finding.what) for finding in report.findings] == [
        ("lost event", 'announced {"key":null,"payload":{}}')
    ]


async def test_a_single_attempt_does_not_survive_a_crash() -> None:
    """Fails if only what is published is compared."""

    async def once(ctx: AgentContext) -> None:
        pass

    app = [Trigger("once", any_event(), once, retry=RetryPolicy(max_attempts=1))]
    report = await crash_at_every_step(app, "order")
    assert [finding.what for finding in report.findings] == ["once on order: succeeded became once on order: dead"]


async def test_an_app_that_fails_without_a_crash_is_not_crashed() -> None:
    async def broken(ctx: AgentContext) -> None:
        raise RuntimeError("a bug")

    retry = RetryPolicy(max_attempts=2)
    report = await crash_at_every_step([Trigger("broken", any_event(), broken, retry=retry)], "order")
    assert (kinds(report), report.points) == ({"failed"}, ())
    assert "broken is dead: RuntimeError: a bug" in str(report)
    report = await crash_at_every_step([Trigger("broken", type_filter("other"), broken)], "order")
    assert report.of("failed")[0].what == "without a crash, no delivery of the event came to an end"


async def test_an_app_that_goes_another_way_each_time_is_not_taken_for_tested() -> None:
    """Two agents the first time, none from then on. Fails if a point that was not reached counts as passed."""
    agent, times = Agent(), count()

    async def wayward(ctx: AgentContext) -> None:
        if next(times) == 0:
            await ctx.run_agent(agent)

    report = await crash_at_every_step([Trigger("wayward", any_event(), wayward)], "order")
    assert moments(report, "unreached") == ["after step 1 (model request)", "before the run is settled"]


async def test_a_rate_limit_on_the_way_and_a_wait_change_nothing() -> None:
    """The model's answers are those of the requests, also if one is asked again. Fails with: a script that goes on to
    its next answer after a crash (the end of the agent is another one)."""
    agent = cashier()

    async def slow(ctx: AgentContext) -> str:
        first = await ctx.run_agent(agent)
        await ctx.sleep(timedelta(hours=1))
        second = await ctx.run_agent(agent, "and now?")
        await ctx.publish("told", {"said": [first.output, second.output]})
        return "done"

    script = [SCRIPT[0], rate_limited(retry_after=60), "one", "two"]
    report = await crash_at_every_step(
        [Trigger("slow", type_filter("order"), slow, retry=PATIENT)], "order", script=script, repeatable={"balance"}
    )
    assert report.ok, str(report)
    assert "before step 4 (wait) is recorded" in [point.moment for point in report.points]


async def test_nothing_of_a_killed_worker_goes_on() -> None:
    """A tool that works beside the one that is cut, the author's `finally`, and a second run in another slot: none of
    them does anything before the app has come to its end. Fails with: the run cancelled at once; parallel tools not
    stopped at their next step."""
    happened: list[str] = []
    agent = Agent()

    @agent.tool_plain
    async def fast() -> str:  # pyright: ignore[reportUnusedFunction]
        return "fast"

    @agent.tool_plain
    async def slow() -> str:  # pyright: ignore[reportUnusedFunction]
        await asyncio.sleep(0.05)
        return "slow"

    async def both(ctx: AgentContext) -> str:
        try:
            result = await ctx.run_agent(agent)
            happened.append(f"attempt {ctx.attempt} has its answer")
            return result.output
        finally:
            happened.append(f"attempt {ctx.attempt} ends")

    begun: list[list[str]] = []

    def note() -> None:
        begun.append(happened.copy())
        happened.clear()

    report = await crash_at_every_step(
        [Trigger("both", any_event(), both)], "order", script=[[call("fast"), call("slow")], "done"],
        repeatable={"fast", "slow"}, before_each=note,
    )  # fmt: skip
    note()
    assert report.ok, str(report)
    whole, *cut = begun[1:]
    assert whole == ["attempt 1 has its answer", "attempt 1 ends"]
    # Up to the end of the run each was cut in the middle, and its `finally` ran when all was over.
    assert cut[:-1] == [["attempt 2 has its answer", "attempt 2 ends", "attempt 1 ends"]] * (len(report.points) - 1)
    assert cut[-1] == [*whole, "attempt 2 has its answer", "attempt 2 ends"]


@pytest.mark.timeout(300)  # the seconds of a machine that has nothing else to do
async def test_an_agent_of_twenty_steps_is_done_in_seconds() -> None:
    """Twenty-one steps, 43 points: measured as 5.1 s of processor time in this process. The bound is no benchmark; it
    is there for a point that costs seconds instead of a tenth of one."""
    agent = Agent()

    @agent.tool_plain
    def look(n: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return n

    script = [*(call("look", n=n) for n in range(10)), "done"]
    started = time.process_time()
    report = await crash_at_every_step(
        [Trigger("twenty", any_event(), agent)], "order", script=script, repeatable={"look"}
    )
    assert report.ok, str(report)
    assert len(report.points) == 43
    assert time.process_time() - started < 30


async def test_a_streamed_request_is_one_like_any_other() -> None:
    """A list of answers is enough. Fails if what is asked again in a stream gets the next answer."""
    agent: Agent[Any, str] = Agent()

    @agent.tool_plain
    def look() -> int:  # pyright: ignore[reportUnusedFunction]
        return 1

    async def write(ctx: AgentContext) -> str:
        async with ctx.durable(agent).run_stream("go on") as streamed:
            return await streamed.get_output()

    report = await crash_at_every_step(
        [Trigger("write", any_event(), write)], "order", script=[call("look"), "done"], repeatable={"look"}
    )
    assert report.ok, report
    assert len(report.points) == 7


async def test_a_streamed_request_that_is_repeated_is_found() -> None:
    """Fails if only requests that are not streamed are counted."""

    async def write(ctx: AgentContext) -> str:
        agent: Agent[Any, str] = Agent()
        async with ctx.durable(agent).run_stream(f"It is {time.monotonic_ns()}.") as streamed:
            return await streamed.get_output()

    report = await crash_at_every_step(
        [Trigger("write", any_event(), write)], "order", script=lambda model: model.on(lambda asked: True, "well")
    )
    assert "repeated" in kinds(report)


async def test_who_asks_for_an_approval_has_done_nothing_and_asks_once() -> None:
    """Nobody decides, so it counts as denied at last. Fails if the ids and times of what Reflex asks for count as the
    app's own, or a tool that asks as one that was executed."""
    agent: Agent[Any, str] = Agent()

    @agent.tool
    def charge(run: RunContext[Any], amount: int) -> str:  # pyright: ignore[reportUnusedFunction]
        raise ApprovalRequired

    report = await crash_at_every_step(
        [Trigger("pay", type_filter("order"), agent)], "order", script=[call("charge", amount=8), "not paid"]
    )
    assert report.ok, report


async def test_a_run_is_cut_where_it_is_given_what_has_come() -> None:
    """Fails if what a run was given is no step to be killed at, or if a crash there changes what it is given."""

    async def begin(ctx: AgentContext) -> None:
        for number in range(3):
            await ctx.publish("said", {"number": number}, key="a")

    async def answer(ctx: AgentContext) -> None:
        numbers = [event.meta.payload["number"] for event in await ctx.inbox() if event.meta]
        await ctx.publish("heard", {"numbers": numbers})

    report = await crash_at_every_step(
        [
            Trigger("begin", type_filter("begun"), begin),
            Trigger("answer", type_filter("said"), answer, ordered=True, while_running="steer"),
        ],
        "begun",
    )
    assert report.ok, report
    moments = [point.moment for point in report.points if point.trigger == "answer"]
    assert moments == ["before step 1 (inbox) is recorded", "after step 1 (inbox)", "before the run is settled"]
