"""What comes into the lane of a run while it goes on, as the run gets it: each event once, and in a later attempt the
same ones at the same place.

    nothing recorded ──take──► journaled, with the taking, as one commit ──► the events
    recorded ──take the very same again──► the events

Knows nothing of pydantic-ai: `steering` puts what is received into a conversation.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Protocol
from uuid import UUID

import orjson

from reflex.agent.journal import inside_tool
from reflex.agent.ordering import WhileRunning
from reflex.core.errors import ReflexError
from reflex.core.events import BaseEvent
from reflex.core.journal import LeaseLost, Step, StepKind
from reflex.core.settlement import Claimed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from reflex.agent.context import AgentContext
    from reflex.agent.journal import Journal
    from reflex.agent.triggers import Trigger

__all__ = ["InboxError", "RunInbox", "Take", "new_events"]

BY_HAND: Final = hashlib.sha256(b"inbox").digest()


class InboxError(ReflexError):
    """The trigger does not let its runs take anything, or not there. Final: the code will not change."""

    code: ClassVar[str] = "inbox"


class Take(Protocol):
    """Takes what stands behind the run, or the very events that are given; `note` makes the step kept with it."""

    async def __call__(
        self, *, only: Sequence[UUID] | None = None, note: "Callable[[list[Claimed]], Step] | None" = None
    ) -> list[Claimed]: ...


class RunInbox:
    """The inbox of one run.

    Attributes:
        ends: How deliveries that were taken are settled if the run succeeds: succeeded where the run was given the
            event, skipped where the trigger's filter did not want it. Those that are not in it are given back.
    """

    def __init__(self, trigger: "Trigger", journal: "Journal", take: Take | None) -> None:
        """`take` is None for an event without a key: it stands in no lane."""
        self.ends: dict[UUID, Outcome] = {}
        self._trigger = trigger
        self._journal = journal
        self._take = take
        self._at_begin: list[BaseEvent] | None = None

    @property
    def coalesces(self) -> bool:
        return self._trigger.while_running is WhileRunning.COALESCE

    async def begin(self) -> list[BaseEvent]:
        """What had come by when the run began. Asked again, the same."""
        if self._at_begin is None:
            self._at_begin = await self.receive(BY_HAND)
        return list(self._at_begin)

    async def new(self) -> list[BaseEvent]:
        """What `ctx.inbox()` returns: what has come since the last time, or, under "coalesce", by the beginning.

        Raises:
            InboxError: It is asked for inside a tool. A tool that is replayed would not ask for it again.
        """
        if self.coalesces:
            return await self.begin()
        if inside_tool():
            raise InboxError(
                f"trigger {self._trigger.name!r}: a tool asked for the inbox; a function asks outside of tools, and an "
                "agent of the trigger's own is told of what comes in anyway"
            )
        return await self.receive(BY_HAND)

    async def receive(self, place: bytes) -> list[BaseEvent]:
        """What has come since the last time, oldest first.

        Args:
            place: Says at which place in the run this is, as the fingerprint of a step does. Of equal ones each counts.

        Raises:
            LeaseLost: Another worker has the delivery. The run must stop.
            JournalUnavailable: The database was away for too long.
            EventRejected: An earlier attempt has received an event that its class refuses by now.
        """
        if self._take is None:
            return []
        step = await self._journal.look_up(StepKind.INBOX, place)
        with self._journal.broken_by(LeaseLost):
            if step.recorded is not None:
                return await self._received_before(self._take, [UUID(text) for text in orjson.loads(step.recorded)])
            events: list[BaseEvent] = []

            def note(taken: list[Claimed]) -> Step:
                # A lost answer makes it happen twice.
                for event in events:
                    assert event.meta
                    self.ends.pop(event.meta.event_id, None)
                events[:] = self._accepted(taken)
                ids = orjson.dumps([event.meta.event_id for event in events if event.meta]).decode()
                return Step(StepKind.INBOX, place, step.occurrence, self._journal.next_position(), ids)

            await self._take(note=note)
        return events

    async def _received_before(self, take: Take, ids: list[UUID]) -> list[BaseEvent]:
        from reflex.agent.context import read_event

        if not ids:
            return []
        events: list[BaseEvent] = []
        for lease in await take(only=ids):
            # Cancelled meanwhile, or settled by a run of its own: this run has seen it all the same.
            if lease.lease_epoch > 0:
                self.ends[lease.event_id] = Outcome.SUCCEEDED
            events.append(read_event(lease.record))
        return events

    def _accepted(self, taken: list[Claimed]) -> list[BaseEvent]:
        from reflex.agent.context import read_event

        events: list[BaseEvent] = []
        for lease in taken:
            if lease.event_id in self.ends:
                continue
            try:
                if not self._trigger.matches(lease.record):
                    self.ends[lease.event_id] = Outcome.SKIPPED
                    continue
                event = read_event(lease.record)
            except Exception:  # noqa: BLE001, S112 (its own run fails of it, and says so)
                continue
            self.ends[lease.event_id] = Outcome.SUCCEEDED
            events.append(event)
        return events


async def new_events(ctx: "AgentContext") -> list[BaseEvent]:
    """What `ctx.inbox()` returns; outside a worker nothing comes in.

    Raises:
        InboxError: The trigger lets its runs take nothing.
    """
    if ctx.incoming is not None:
        return await ctx.incoming.new()
    if ctx.journal is None:
        return []
    raise InboxError(
        f"trigger {ctx.trigger!r} has no inbox: pass while_running='steer' or 'coalesce' to it, with ordered=True"
    )
