"""What an agent knows of its run, and what it may do: publish events, run a pydantic-ai agent, write to the log."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from uuid import UUID

import structlog
from pydantic import ValidationError

from reflex.agent.approval_policy import ApprovalPolicy
from reflex.agent.divergence import Course
from reflex.agent.effects import Effect, EffectMisuse
from reflex.agent.filters import Filter
from reflex.agent.inbox import new_events
from reflex.agent.journal import Journal, current_call, note_published
from reflex.agent.progress import RunProgress
from reflex.agent.publishing import PublishError, RunLimits, caused_event
from reflex.agent.run_events import RunEvents
from reflex.agent.state import StateError
from reflex.agent.suspension import sleep
from reflex.agent.wait_for import WhoseKey, wait_for
from reflex.core.cursors import Cursor
from reflex.core.errors import EventRejected
from reflex.core.events import BaseEvent, Event, EventRegistry, NewEvent
from reflex.core.ids import DeliveryId

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.run import AgentRunResult
    from structlog.typing import FilteringBoundLogger

    from reflex.agent.inbox import RunInbox
    from reflex.agent.memory import RunMemory
    from reflex.agent.models import Models
    from reflex.agent.remembering import Remembered
    from reflex.agent.spending import Spending

__all__ = ["AgentContext", "read_event"]

OutputT = TypeVar("OutputT")
NO_LIMITS_GIVEN: Final = RunLimits()
NO_EFFECTS: Final[Mapping[str, Effect]] = MappingProxyType(dict[str, Effect]())


class AgentContext:
    """One run: the argument of an agent function, and the `deps` of a pydantic-ai agent (`RunContext[AgentContext]`).

    Attributes:
        event: The event, as its registered class or as an `UntypedEvent`; `event.meta` is the record in the log.
        key: What the event is about; events that this run publishes inherit it.
        events: With `when=`, all events that were gathered for this run, in the order in which they were accepted;
            `event` is then the one whose delivery runs. Without, that one alone. `events.summary()` is for prompts.
        attempt: 1 for the first.
        is_replay: Whether a replay made the delivery: the event is not new, and what came of it before may stand. True
            in each of its attempts. Always False outside a worker.
        delivery_id: Stays the same in all attempts: `str(ctx.delivery_id)` is an idempotency key for other systems.
        trigger: The trigger's name.
        deps: What the trigger was given as `deps`.
        log: A structlog logger that already knows trigger, delivery and attempt.
        deadline: When the run is stopped, by this machine's clock. None if it is not.
        published: The events published so far. They are stored with the run's success, or not at all.
        journal: Where the steps of pydantic-ai agents are kept, so that a retry does not pay for them again. None
            outside a worker.
        progress: What the run shows to those who watch it. None outside a worker.
        spending: What the run may spend. None outside a worker, and if its trigger has no budgets.
        effects: What the trigger declares of tools, by their names.
        course: The places of the runs of agents. None if the run may diverge from its journal.
        remembered: What `state` and `memory` show. None if the trigger declares neither, and outside a worker.
        incoming: What `inbox` asks. None if the trigger neither steers nor coalesces, and outside a worker.
    """

    def __init__(
        self,
        event: BaseEvent,
        *,
        trigger: str,
        delivery_id: DeliveryId,
        attempt: int = 1,
        deps: Any = None,
        limits: RunLimits = NO_LIMITS_GIVEN,
        trace_context: str | None = None,
        log: "FilteringBoundLogger | None" = None,
        journal: Journal | None = None,
        progress: RunProgress | None = None,
        effects: Mapping[str, Effect] = NO_EFFECTS,
        course: Course | None = None,
        is_replay: bool = False,
    ) -> None:
        if event.meta is None:
            raise ValueError(f"{event!r} has no record in the log; read one with read_event()")
        self.event = event
        self.trigger = trigger
        self.delivery_id = delivery_id
        self.attempt = attempt
        self.is_replay = is_replay
        self.deps = deps
        self.limits = limits
        self.deadline: datetime | None = None
        self.published: list[NewEvent] = []
        self.trace_context = trace_context
        self.journal = journal
        self.progress = progress
        self.effects = effects
        self.course = course
        self.models: Models | None = None
        self.approvals = ApprovalPolicy()
        self.spending: Spending | None = None
        self.remembered: Remembered | None = None
        self.incoming: RunInbox | None = None
        # One entry for each call of a pydantic-ai agent, those that failed too: what was paid for is recorded.
        self.usages: list[Any] = []
        self.finished = False
        self.events = RunEvents([event])
        self._record: Event = event.meta
        self._log = log

    @property
    def key(self) -> str | None:
        return self._record.key

    @property
    def idempotency_key(self) -> str:
        """For other systems: inside a tool, the same for this call in every attempt, and another one for any other
        call. Outside of tools, and outside a worker, that of the delivery."""
        call = current_call()
        return str(self.delivery_id) if call is None or call.key is None else call.key

    @property
    def connection(self) -> "AsyncConnection[Any]":
        """Inside a transactional tool: a connection to the database of Reflex, in the transaction in which the call is
        recorded. Not to be committed, nor to be kept.

        Raises:
            EffectMisuse: There is none here.
        """
        call = current_call()
        if call is None or call.connection is None:
            raise EffectMisuse("ctx.connection is there inside a tool declared transactional(), in a worker, only")
        return call.connection

    @property
    def state(self) -> Any:
        """The state of the event's key, a model of the class that the trigger declares: change it, or assign another
        one. It is stored when the run succeeds. Raises StateError if there is none to be had."""
        return self._remembered.state

    @state.setter
    def state(self, state: Any) -> None:
        self._remembered.state = state

    @property
    def memory(self) -> "RunMemory":
        """The conversation of the event's key: `messages`, `usage`, `clear()`. Raises StateError if the trigger
        declares no memory."""
        return self._remembered.memory

    @property
    def _remembered(self) -> "Remembered":
        if self.remembered is None:
            raise StateError(f"trigger {self.trigger!r} declares neither a state nor a memory")
        return self.remembered

    @property
    def log(self) -> "FilteringBoundLogger":
        if self._log is None:
            logger: FilteringBoundLogger = structlog.get_logger("reflex.agent")
            self._log = logger.bind(
                trigger=self.trigger, delivery_id=str(self.delivery_id), attempt=self.attempt, type=self.event.type
            )
            if self.is_replay:
                self._log = self._log.bind(replay=True)
        return self._log

    @overload
    async def publish(
        self,
        event: BaseEvent,
        /,
        *,
        key: str | None = ...,
        source: str | None = ...,
        delay: timedelta | float | None = ...,
    ) -> UUID: ...
    @overload
    async def publish(
        self, type: str, payload: dict[str, Any] | None = ..., /, *, key: str | None = ..., source: str | None = ...,
        delay: timedelta | float | None = ...,
    ) -> UUID: ...  # fmt: skip
    async def publish(
        self,
        event: BaseEvent | str,
        payload: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        source: str | None = None,
        delay: timedelta | float | None = None,
    ) -> UUID:
        """Publish an event, as an object or as a type and a payload. It is stored when the run succeeds.

        Args:
            key: This event's key by default.
            source: `agent:<trigger>` by default.
            delay: How long to put its deliveries off, as a `timedelta` or in seconds.

        Returns:
            Its id.

        Raises:
            PublishError: The gateway would not take it, there are too many of them, or the chain of events that
                cause one another is too long. The delivery is dead, unless the agent catches it.
        """
        if self.finished:
            raise PublishError(f"trigger {self.trigger!r} published an event after its run had ended: await all work")
        if len(self.published) >= self.limits.max_published:
            raise PublishError(
                f"trigger {self.trigger!r} published {self.limits.max_published} events in one run, which is the limit "
                "(REFLEX_MAX_PUBLISHED)"
            )
        new = caused_event(
            event, payload, cause=self._record, trigger=self.trigger, key=self.key if key is None else key,
            source=source, delay=delay, trace_context=self.trace_context, limits=self.limits,
        )  # fmt: skip
        self.published.append(new)
        note_published(new)
        return new.event_id

    def publish_again(self, events: Iterable[NewEvent]) -> None:
        """Publish what a tool call had published in an earlier attempt, of which nothing was stored. Under the same
        ids: the tool may have told the model."""
        for event in events:
            again = event._replace(trace_context=self.trace_context)
            self.published.append(again)
            note_published(again)

    async def sleep(self, duration: timedelta | float | datetime) -> None:
        """Wait without a slot: the run ends here, and when the time is over the delivery runs again from its beginning.
        What agents have completed by then is replayed from the journal; an agent function's own code runs again.

        Args:
            duration: A `timedelta`, seconds, or a moment with a time zone. Of two equal ones in one run, each counts.

        Raises:
            ValueError: It is longer than ten years, or a moment without a time zone.
        """
        await sleep(self.journal, duration)

    async def wait_for(
        self,
        filter: Filter,
        *,
        timeout: timedelta | float | None = None,
        key: str | WhoseKey | None = WhoseKey.OWN,
        after: BaseEvent | UUID | Cursor | str | None = None,
    ) -> BaseEvent | None:
        """Wait without a slot for an event that the filter matches: the run ends here, and when the event is there the
        delivery runs again from its beginning, as after `sleep`. Each later attempt gets the very same event.

        Args:
            filter: As a trigger's. Its types and the key decide when the run is woken, the rest of it is asked then.
            timeout: How long at most, as a `timedelta` or in seconds. It counts from when the wait was first reached.
            key: The event's key: that of this run's event by default; None for any, and for events without one.
            after: From where in the log to look: behind an event that was received (`ctx.event`, or what an earlier
                wait returned) or that has this id, or behind a cursor. By default, from where the wait was first
                reached.

        Returns:
            The event, as `ctx.event` is one; None when the time is over.

        Raises:
            TypeError, ValueError: An argument makes no sense; or the key is this run's, and its event has none.
            FilterError: The filter raised. If it is not caught, the run counts as failed.
        """
        return await wait_for(self.journal, self._record, filter, timeout=timeout, key=key, after=after)

    async def inbox(self) -> list[BaseEvent]:
        """The events of this run's key that have come since the last time, oldest first; with "coalesce" all that had
        come when the run began. They are settled with this run if it succeeds. A later attempt gets the same ones.

        Raises:
            InboxError: The trigger is declared with neither `while_running="steer"` nor `"coalesce"`; or a tool asks.
        """
        return await new_events(self)

    async def run_agent(
        self,
        agent: "AbstractAgent[Any, OutputT]",
        prompt: str | None = None,
        *,
        memory: bool = False,
        **options: Any,
    ) -> "AgentRunResult[OutputT]":
        """Run a pydantic-ai agent inside this run: it gets this context as `deps` and, if it names no model, the
        default one; its usage is recorded with the run.

        Args:
            prompt: By default the event's type and payload as JSON.
            memory: Whether it goes on with the conversation that the trigger remembers, and is remembered with it.
            options: Those of `Agent.run`.
        """
        from reflex.agent.execution import run_model_agent

        return await run_model_agent(agent, self, prompt, memory=memory, **options)

    def durable(self, agent: "AbstractAgent[Any, OutputT]") -> "AbstractAgent[Any, OutputT]":
        """The agent as `run_agent` runs it, for those who want to run it themselves: `run`, `run_stream`,
        `run_stream_events` and `iter` of what this returns are journaled."""
        from reflex.agent.durable_agent import DurableAgent

        return DurableAgent(agent, self)


def read_event(record: Event) -> BaseEvent:
    """The record as its registered class, or as an `UntypedEvent`.

    Raises:
        EventRejected: The class refuses the payload. The delivery is dead: the event will not change.
    """
    try:
        return EventRegistry.read(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        reason = f"{error.title} refuses the event: {first['msg']}{more}"
        raise EventRejected(reason, field="".join(f"/{part}" for part in ("payload", *first["loc"]))) from error
