"""One attempt at a delivery: filter, run the agent, turn whatever happened into a settlement."""

import asyncio
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID

import orjson
import structlog

from reflex.agent.context import AgentContext, read_event
from reflex.agent.divergence import Course, Diverged, WhenDiverged, diverged_of
from reflex.agent.execution import run_agent, usage_of
from reflex.agent.failures import Failure, classify
from reflex.agent.journal import Journal
from reflex.agent.models import Models
from reflex.agent.progress import Audience, RunProgress
from reflex.agent.publishing import RunLimits
from reflex.agent.remembering import recall
from reflex.agent.run_events import read_events
from reflex.agent.spending import Spending
from reflex.agent.suspension import wait_of
from reflex.agent.triggers import Trigger
from reflex.agent.waits import together
from reflex.core import telemetry
from reflex.core.events import Event, NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.journal import LeaseLost, StepStore
from reflex.core.logs import run_fields
from reflex.core.queue import dead_settlement
from reflex.core.replaying import is_replay
from reflex.core.replies import WAITED_FOR, reply_event
from reflex.core.settlement import Claimed, Outcome, Settlement, after_failure, settled
from reflex.worker.beginning import begin, may_have_steps, skipped
from reflex.worker.inboxes import Inboxes
from reflex.worker.run_log import RunLog

__all__ = ["Attempts"]

NO_SPAN: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs the deliveries of one app's triggers."""

    triggers: Mapping[int, Trigger]
    models: Models
    worker_id: UUID
    limits: RunLimits
    steps: StepStore | None = None
    audience: Audience | None = None
    log: Any = field(default_factory=lambda: structlog.get_logger().bind())
    run_log: RunLog = field(default_factory=RunLog)
    cancelled: Container[Claimed] = ()
    inboxes: Inboxes = field(default_factory=Inboxes)
    traced: bool = field(default_factory=telemetry.enabled)
    open_journal: Callable[[StepStore, DeliveryId, int], Journal] = Journal

    async def __call__(self, claimed: Claimed) -> Settlement:
        """Run one delivery. Whatever user code raises becomes an outcome.

        Raises:
            asyncio.CancelledError: The worker stops; the run did not end.
        """
        trigger = self.triggers[claimed.trigger_id]
        record = claimed.record
        started = time.perf_counter()
        try:
            if not trigger.matches(record):
                return skipped(claimed, trigger)
            batch = None
            if (trigger.filter.gates or trigger.when is not None) and self.steps is not None:
                begun = await begin(claimed, trigger, record, self.steps)
                if isinstance(begun, Settlement):
                    return begun
                batch = begun
        except LeaseLost as error:
            self.log.warning("run not begun", reason=error.code, error=str(error))
            return settled(claimed, Outcome.RELEASED)
        except Exception as error:  # noqa: BLE001 (the edge of an attempt)
            return self.failed(claimed, trigger, classify(error), started)
        with self.span(claimed, trigger) if self.traced else NO_SPAN as span:
            settlement = await self.shown(claimed, trigger, record, started, batch)
            if span is not None:
                span.set_attribute("reflex.outcome", settlement.outcome)
                if settlement.error is not None:
                    telemetry.mark_failed(span, settlement.error)
        return settlement if batch is None else settlement._replace(hands_over=True)

    def span(self, claimed: Claimed, trigger: Trigger) -> Any:
        return telemetry.process_span(
            trigger.name,
            event_type=claimed.type,
            event_id=str(claimed.event_id),
            delivery_id=str(claimed.delivery_id),
            attempt=claimed.attempt,
            worker_id=str(self.worker_id),
            correlation_id=claimed.correlation_id,
            stored=claimed.trace_context,
        )

    async def shown(
        self, claimed: Claimed, trigger: Trigger, record: Event, started: float, batch: Sequence[Event] | None
    ) -> Settlement:
        """The run, its beginning and its end shown to those who watch."""
        if self.audience is None:
            return await self.run(claimed, trigger, record, started, None, batch)
        progress = RunProgress(self.audience, claimed, trigger.name)
        outcome = Outcome.RELEASED  # of a run that is cancelled
        progress.started()
        try:
            settlement = await self.run(claimed, trigger, record, started, progress, batch)
            outcome = settlement.outcome
            return settlement
        finally:
            progress.ended(outcome)

    async def run(
        self,
        claimed: Claimed,
        trigger: Trigger,
        record: Event,
        started: float,
        progress: RunProgress | None,
        batch: Sequence[Event] | None,
    ) -> Settlement:
        trace_context = (telemetry.trace_context() if self.traced else None) or record.trace_context
        trace_id = telemetry.trace_id(trace_context)
        # The run has an asyncio task, and so a context, of its own: what is set here ends with it.
        run_fields.set(partial(ids_of, claimed, trigger.name, trace_id))
        delivery_id = claimed.delivery_id
        journal = self.open_journal(self.steps, delivery_id, claimed.lease_epoch) if self.steps is not None else None
        if journal is not None:
            journal.max_step_bytes = self.limits.max_step_bytes
        ctx = None
        try:
            again = await self.is_replay(claimed)
            if again:
                run_fields.set(partial(ids_of, claimed, trigger.name, trace_id, replay=True))
            ctx = AgentContext(
                read_event(record),
                trigger=trigger.name,
                delivery_id=delivery_id,
                attempt=claimed.attempt,
                deps=trigger.deps,
                limits=self.limits,
                trace_context=trace_context,
                journal=journal,
                progress=progress,
                effects=trigger.effects,
                course=None if trigger.when_diverged is WhenDiverged.CONTINUE else Course(),
                is_replay=again,
            )
            if batch is not None:
                ctx.events = read_events(batch)
            if trigger.budgets and self.steps is not None:
                ctx.spending = Spending(self.steps, claimed, trigger.name, trigger.budgets, trigger.remembers_by)
            if trigger.remembers and self.steps is not None:
                ctx.remembered = await recall(trigger, delivery_id, self.steps)
            ctx.incoming = self.inboxes.opened(claimed, journal)
            execution = await run_agent(trigger, ctx, self.models)
            state = ctx.remembered.change(self.limits) if ctx.remembered is not None else None
        except LeaseLost as error:
            # No outcome of ours counts any more, not even that there is none.
            self.log.warning("run stopped", reason=error.code, error=str(error))
            return settled(claimed, Outcome.RELEASED)
        except BaseException as error:
            if (diverged := diverged_of(error)) is not None:
                return self.diverged(claimed, trigger, diverged, started, trace_id)
            usage = as_json(usage_of(ctx)) if ctx is not None else None
            if isinstance(error, asyncio.CancelledError) and claimed in self.cancelled:
                # By a person: it is settled as that where it was cancelled, with what it had paid for.
                return settled(claimed, Outcome.RELEASED, usage=usage, trace_id=trace_id)
            if (wait := wait_of(error)) is not None:
                if journal is not None:
                    wait = together(wait, journal.waits.open)
                self.log.info("run waits", waits_for=wait.kind, reason=wait.reason, duration_ms=milliseconds(started))
                return settled(
                    claimed,
                    Outcome.WAITING,
                    retry_in=wait.at_most,
                    wait=wait,
                    usage=usage,
                    trace_id=trace_id,
                    published=tuple(answering(claimed, [request.event for request in wait.asks])),
                )
            if not isinstance(error, Exception):
                raise
            if journal is not None:
                journal.report()
            return self.failed(claimed, trigger, classify(error), started, usage=usage, trace_id=trace_id)
        if journal is not None and journal.used:
            journal.report()
        self.run_log.succeeded(duration_ms=milliseconds(started), published=len(ctx.published))
        reply = reply_event(
            claimed,
            trigger=trigger.name,
            outcome=Outcome.SUCCEEDED,
            output_json=execution.output_json,
            trace_context=trace_context,
        )
        return settled(
            claimed,
            Outcome.SUCCEEDED,
            output=execution.output_json,
            usage=as_json(execution.usage),
            trace_id=trace_id,
            published=tuple(answering(claimed, [*ctx.published, reply] if reply else ctx.published)),
            # A run that looked at no step costs nothing more; an earlier one of this delivery may have written some.
            forget_steps=(journal is not None and journal.used) or may_have_steps(claimed, trigger),
            state=state,
        )

    async def is_replay(self, claimed: Claimed) -> bool:
        """Whether a replay made the delivery. Asked of few: in a run of a replay the lease counts more than the
        attempt, as it does after a wait or a retry by a person, and in hardly any other."""
        if self.steps is None or claimed.lease_epoch <= claimed.attempt:
            return False
        return await self.steps.patiently(lambda conn: is_replay(conn, claimed))

    def diverged(
        self, claimed: Claimed, trigger: Trigger, error: Diverged, started: float, trace_id: str | None
    ) -> Settlement:
        if trigger.when_diverged is WhenDiverged.DEAD:
            failure = Failure("dead", None, "diverged", str(error))
            return self.failed(claimed, trigger, failure, started, trace_id=trace_id)
        self.log.warning("the run begins anew", reason="diverged", error=str(error))
        # Nothing was paid: the attempt is not used up.
        return settled(claimed, Outcome.RELEASED, error=str(error), trace_id=trace_id, forget_steps=True)

    def failed(
        self, claimed: Claimed, trigger: Trigger, failure: Failure, started: float, **rest: str | None
    ) -> Settlement:
        error = failure.error_text.replace("\x00", "�")
        facts: dict[str, Any] = {
            **ids_of(claimed, trigger.name, rest.get("trace_id")),
            "duration_ms": milliseconds(started),
            "reason": failure.reason_code,
            "error": error,
        }
        if failure.kind == "retry":
            wait = after_failure(trigger.retry, claimed.attempt, retry_after=failure.retry_after)
            if wait is not None:
                self.log.warning("run failed, will be tried again", retry_in_s=round(wait.total_seconds(), 2), **facts)
                return settled(
                    claimed, Outcome.RETRY, error=error, retry_in=wait, forget_steps=failure.poisoned, **rest
                )
        self.log.error("delivery is dead: see `reflex dead-letters`", **facts)
        # A dead letter keeps its journal: when a person retries it, it goes on where it stopped.
        dead = dead_settlement(claimed, trigger=trigger.name, reason=failure.reason_code, error=error, **rest)
        return dead._replace(forget_steps=failure.poisoned)


def ids_of(claimed: Claimed, trigger: str, trace_id: str | None, *, replay: bool = False) -> dict[str, Any]:
    """What every log line about a run carries; `replay` is in those of a replay only."""
    event_id = str(claimed.event_id)
    delivery_id = f"{claimed.trigger_id}-{event_id}"  # as DeliveryId has it, in half the time
    ids: dict[str, Any] = {
        "trigger": trigger,
        "type": claimed.type,
        "event_id": event_id,
        "delivery_id": delivery_id,
        "run_id": f"{delivery_id}.{claimed.lease_epoch}",
        "attempt": claimed.attempt,
    }
    if replay:
        ids["replay"] = True
    return ids | {"trace_id": trace_id} if trace_id else ids


def answering(claimed: Claimed, published: Sequence[NewEvent]) -> Sequence[NewEvent]:
    """What a session asked for answers it through all that follows; who waits for an event waits for its own
    deliveries only."""
    if claimed.reply_to in (None, WAITED_FOR):
        return published
    return [event._replace(reply_to=claimed.reply_to) for event in published]


def as_json(usage: dict[str, Any] | None) -> str | None:
    return None if usage is None else orjson.dumps(usage).decode()


def milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
