"""Crashes at every step: an app is run once to see where it can be cut, and then once for each place, with a worker
that is killed there and another one that takes over."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from reflex.agent.app import App
from reflex.core.approval_event import APPROVAL_DECIDED, APPROVAL_REQUESTED
from reflex.core.errors import ReflexError
from reflex.core.events import BaseEvent
from reflex.core.journal import StepKind
from reflex.core.settlement import Outcome
from reflex.testing.app import AppTest, Tested, tested_app
from reflex.testing.databases import Databases
from reflex.testing.findings import CrashReport, Finding, FindingKind
from reflex.testing.model import Answer, FakeModel
from reflex.testing.remembering import Remembering
from reflex.testing.results import Run, record_of, short
from reflex.testing.watching import CrashPoint, Done, Watch, canonical

__all__ = ["crash_at_every_step"]

Script: TypeAlias = Sequence[Answer] | Callable[[FakeModel], object]
# What is put off for longer waits for a person, or is none of this run.
LONGEST_WAIT: Final = timedelta(days=366)
NEW_EACH_TIME: Final = frozenset({"approval_id", "delivery_id", "digest", "expires_at", "decided_at"})
ENDS: Final = frozenset({Outcome.SUCCEEDED, Outcome.SKIPPED, Outcome.DEAD, Outcome.CANCELLED})


async def crash_at_every_step(
    app: Tested,
    event: BaseEvent | str,
    payload: dict[str, Any] | None = None,
    *,
    key: str | None = None,
    script: Script | None = None,
    repeatable: Collection[str] = (),
    same: Callable[[BaseEvent], Any] | None = None,
    before_each: Callable[[], object] | None = None,
    timeout_s: float = 30,
    databases: Databases | None = None,
) -> CrashReport:
    """Kill the worker at every step of what an event sets off, and see what comes of it.

    The steps are model requests and tool calls, of all runs that follow from the event. The worker is killed before
    each is recorded, after that, and at the end of each run before it is settled; each time on a database of its own.
    A killed worker stands still: nothing of it is settled, and nothing of its code runs any more. It is declared dead,
    and another takes its deliveries over, with their next lease.

    In the same process, though: what the app keeps in memory survives. `before_each` can reset it.

    Args:
        app: As for `AppTest`.
        event: What to publish, or its type, with `payload`.
        script: What the model says: a list as for `FakeModel.answers`, or a function that is given the model. A request
            that is asked again after a crash gets the same answer again. By default the offline model.
        repeatable: Names of tools that may be executed again if the crash comes before the record, beside those that
            are declared `pure`.
        same: What of a published event has to be the same each time. By default its type, key and payload.
        before_each: Called before each of the runs, the first one included.
        timeout_s: How long one run of the app may take, in real time.

    Returns:
        `assert report.ok, str(report)`, or `report.check()`.
    """
    if isinstance(repeatable, str):
        raise TypeError(f"repeatable is the text {repeatable!r}; pass names of tools, as in {{{repeatable!r}}}")
    loaded = tested_app(app)
    trial = Trial(loaded, event, payload, key, script, same or all_that_counts, before_each, timeout_s, databases)
    title = f"{loaded.name}, {event if isinstance(event, str) else event.type}"
    whole = await trial.run(None)
    findings = list(failures(whole))
    if findings:
        return CrashReport(title, (), findings, repeatable)
    for point in whole.points:
        cut = await trial.run(point.number)
        findings += differences(whole, cut, cut.killed_at or point, frozenset(repeatable))
    return CrashReport(title, whole.points, findings, repeatable)


@dataclass(frozen=True, slots=True)
class Course:
    """What one run of the app did."""

    points: Sequence[CrashPoint]
    killed_at: CrashPoint | None
    done: Sequence[Done]
    unused: Sequence[tuple[str, Any]]
    events: Counter[str]
    ends: Counter[str]
    runs: Sequence[Run]


@dataclass(frozen=True, slots=True)
class Trial:
    """How the app is run."""

    app: App
    event: BaseEvent | str
    payload: dict[str, Any] | None
    key: str | None
    script: Script | None
    same: Callable[[BaseEvent], Any]
    before_each: Callable[[], object] | None
    timeout_s: float
    databases: Databases | None

    async def run(self, kill_at: int | None) -> Course:
        """Run the app on the event until nothing is left to do, with a crash at that point."""
        if self.before_each is not None:
            self.before_each()
        watch = Watch(kill_at, self.app.triggers)
        async with AppTest(self.app, timeout_s=self.timeout_s, databases=self.databases, watch=watch) as t:
            remembering = Remembering(t.model)
            if callable(self.script):
                self.script(t.model)
            elif self.script is not None:
                t.model.answers(self.script)
            given: tuple[Any, ...] = (self.event,) if isinstance(self.event, BaseEvent) else (self.event, self.payload)
            await t.publish(*given, key=self.key)
            # A model without an answer fails the run, and so shows in its end.
            with suppress(ReflexError):
                await t.run_out(longest=LONGEST_WAIT)
            if watch.dead.is_set():
                remembering.begin_again()
                await t.kill_and_replace()
                with suppress(ReflexError):
                    await t.run_out(longest=LONGEST_WAIT)
            return Course(
                points=watch.passed,
                killed_at=watch.killed_at,
                done=watch.done,
                unused=watch.unused,
                events=Counter(f"{event.type} {described(self.same(event))}" for event in t.published),
                ends=Counter(ends_of(t)),
                runs=t.runs,
            )


def all_that_counts(event: BaseEvent) -> Any:
    """Its key and payload. Of Reflex's own events about approvals not what is another one each time."""
    meta = record_of(event)
    new = NEW_EACH_TIME if event.type in (APPROVAL_REQUESTED, APPROVAL_DECIDED) else ()
    return {"key": meta.key, "payload": {name: value for name, value in meta.payload.items() if name not in new}}


def described(value: Any) -> str:
    return short(canonical(value))


def ends_of(t: AppTest) -> Iterator[str]:
    """How each delivery ended; one that did not is no end."""
    for run in t.runs:
        if run.outcome in ENDS:
            yield f"{run.trigger} on {run.event.type}: {run.outcome}"
    for dead in t.dead_letters:
        if dead.reason == "worker_lost":
            yield f"{dead.trigger} on {dead.event.type}: dead"


def failures(whole: Course) -> Iterator[Finding]:
    """Why there is no use in crashing: it does not even work without."""
    for run in whole.runs:
        if run.outcome is Outcome.DEAD:
            yield Finding(FindingKind.FAILED, f"without a crash, {run.trigger} is dead: {short(run.error or '')}")
    if not whole.ends:
        yield Finding(FindingKind.FAILED, "without a crash, no delivery of the event came to an end")
    elif not whole.points:
        yield Finding(FindingKind.FAILED, "without a crash, every filter refused the event: nothing ran")


def differences(whole: Course, cut: Course, point: CrashPoint, repeatable: Collection[str]) -> Iterator[Finding]:
    """What the crash has changed. Pure."""
    if cut.killed_at is None:
        yield Finding(FindingKind.UNREACHED, "another run of the app took another way, without any crash", point)
        return
    yield from repetitions(whole, cut, point, repeatable)
    for event, number in (whole.events - cut.events).items():
        yield Finding(FindingKind.LOST_EVENT, f"{event}{times(number)}", point)
    for event, number in (cut.events - whole.events).items():
        yield Finding(FindingKind.OTHER_EVENT, f"{event}{times(number)}", point)
    # A run may take another way by itself, where an attempt fails without any crash.
    for trigger, steps in (unused_by_trigger(cut) - unused_by_trigger(whole)).items():
        what = f"{trigger}: {steps} recorded step{'s' if steps > 1 else ''} not used"
        yield Finding(FindingKind.DIVERGED, what, point)
    if whole.ends != cut.ends:
        was, became = ", ".join((whole.ends - cut.ends).elements()), ", ".join((cut.ends - whole.ends).elements())
        yield Finding(FindingKind.OTHER_END, f"{was or 'nothing more'} became {became or 'no end'}", point)


def repetitions(whole: Course, cut: Course, point: CrashPoint, repeatable: Collection[str]) -> Iterator[Finding]:
    """What was done more often than without the crash. As often as it was cut before its record, that is the reason."""
    more = Counter(done.what[:3] for done in cut.done) - Counter(done.what[:3] for done in whole.done)
    not_recorded = Counter(done.what for done in cut.done if done.life == 0 and not done.recorded)
    pure = {done.what[:3] for done in cut.done if done.is_pure}
    for what, excess in (Counter(done.what for done in cut.done) - Counter(done.what for done in whole.done)).items():
        trigger, kind, name, arguments = what
        # Other arguments alone are no repetition.
        number = min(excess, more[what[:3]])
        more[what[:3]] -= number
        text = f"{trigger}: {name}({short(arguments)})" if kind is StepKind.TOOL_CALL else f"{trigger}: a model request"
        again = min(number, not_recorded[what])
        if again and kind is StepKind.TOOL_CALL and name not in repeatable and what[:3] not in pure:
            yield Finding(FindingKind.NOT_RECORDED, text, point)
        if number > again:
            yield Finding(FindingKind.REPEATED, text, point)


def unused_by_trigger(course: Course) -> Counter[str]:
    return Counter(trigger for trigger, _ in course.unused)


def times(number: int) -> str:
    return f" ({number} times)" if number > 1 else ""
