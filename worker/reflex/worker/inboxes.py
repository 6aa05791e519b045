"""The inboxes of a worker's runs: the leases that they took of their lanes, held until the run is settled, and then
settled with it.

A lease that was taken stands behind its run as one that was claimed with it would: it never runs meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg
import structlog

from reflex.agent.inbox import RunInbox
from reflex.agent.journal import Journal
from reflex.agent.ordering import WhileRunning
from reflex.agent.triggers import Trigger
from reflex.core.events import Event
from reflex.core.ids import DeliveryId
from reflex.core.inbox import came_meanwhile, take_inbox
from reflex.core.journal import JournalUnavailable, LeaseLost, Step, StepStore
from reflex.core.replies import reply_event
from reflex.core.settlement import Claimed, Outcome, Settlement, not_begun, settled
from reflex.worker.cancelling import Cancelled, Run, run_of

__all__ = ["Inbox", "Inboxes", "wants"]

# So many new events a run is given at once; what is more comes the next time.
AT_ONCE: Final = 100
# What is dropped is among so many of the newest in its lane.
LOOKED_AT: Final = 10_000
FOR_GOOD: Final = frozenset({Outcome.SUCCEEDED, Outcome.DEAD, Outcome.CANCELLED})
TAKES: Final = frozenset({WhileRunning.STEER, WhileRunning.COALESCE})
DROPPED: Final = "dropped: a run of this key was going on"


class Inbox:
    """What one run has taken. `left` is what its slot works off, the run's own lease first."""

    __slots__ = ("leases", "left", "run")

    def __init__(self, left: deque[Claimed]) -> None:
        self.left = left
        self.leases: dict[UUID, Claimed] = {}
        self.run: RunInbox | None = None

    @property
    def mates(self) -> list[UUID]:
        """The events of the leases behind the run: those that were claimed with it, and those that it took."""
        return [*(each.event_id for each in islice(self.left, 1, None)), *self.leases]


class Inboxes:
    """The inboxes of the runs of triggers that do something with new events while they run."""

    def __init__(
        self, triggers: Mapping[int, Trigger] | None = None, steps: StepStore | None = None,
        cancelled: Cancelled | None = None,
    ) -> None:  # fmt: skip
        self.triggers = {
            trigger_id: trigger
            for trigger_id, trigger in (triggers or {}).items()
            if trigger.while_running is not WhileRunning.QUEUE and steps is not None
        }
        self.steps = steps
        self.cancelled = cancelled or Cancelled()
        # Whether something may have been taken that is not known here: the answer was lost, or nobody waited for it.
        self.doubtful = False
        self.on_begun: Callable[[], None] = lambda: None
        self._inboxes: dict[Run, Inbox] = {}
        self.log: Any = structlog.get_logger()

    def begin(self, lease: Claimed, left: deque[Claimed]) -> bool:
        """A run of one of the triggers is about to begin, at the head of `left`. True: what was claimed behind it has
        interrupted it already, and it is cancelled."""
        self._inboxes[run_of(lease)] = Inbox(left)
        trigger = self.triggers[lease.trigger_id]
        if trigger.while_running is WhileRunning.INTERRUPT:
            newer = next((each.event_id for each in islice(left, 1, None) if wants(trigger, each.record)), None)
            if newer is not None and lease not in self.cancelled:
                self.cancelled.interrupt(lease, newer)
                return True
            self.on_begun()
        return False

    def opened(self, lease: Claimed, journal: Journal | None) -> RunInbox | None:
        """The inbox for the run itself; None if its trigger lets it take nothing."""
        trigger = self.triggers.get(lease.trigger_id)
        if trigger is None or journal is None or trigger.while_running not in TAKES:
            return None
        inbox = self._inboxes.get(run_of(lease))
        run = RunInbox(trigger, journal, None if inbox is None else partial(self.take, lease, inbox))
        if inbox is not None:
            inbox.run = run
        return run

    def leases(self) -> Iterator[Claimed]:
        """All that was taken and is not settled yet."""
        for inbox in self._inboxes.values():
            yield from inbox.leases.values()

    def cancel(self, asked: Mapping[tuple[int, UUID], str]) -> None:
        """Deliveries that runs have taken are to end. The runs have seen them; they are settled as that when the runs
        are."""
        for lease in self.leases():
            if lease[:2] in asked and lease not in self.cancelled:
                self.cancelled.add(lease, asked[lease[:2]])

    async def ended(self, lease: Claimed, settlement: Settlement) -> Settlement:
        """The settlement of a run, with those of what it took, and of what is dropped with it."""
        inbox = self._inboxes.get(run_of(lease))
        if inbox is None:
            return settlement
        dropping = self.triggers[lease.trigger_id].while_running is WhileRunning.DROP
        if dropping and settlement.outcome in FOR_GOOD:
            try:
                await self._take_what_came(lease, inbox)
            except asyncio.CancelledError:
                # The run has ended before. Who took up none of it finds it at the next look for strays.
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
                if lease in self.cancelled:
                    settlement = self.cancelled.settlement(lease, instead_of=settlement)
            except (LeaseLost, JournalUnavailable, psycopg.Error) as error:
                self.log.warning("what came in during a run is not dropped, and runs", error=str(error).strip(),
                                 delivery_id=str(lease.delivery_id))  # fmt: skip
        self._inboxes.pop(run_of(lease), None)
        if not inbox.leases:
            return settlement
        left = [each for each in inbox.left if each.event_id not in inbox.leases]
        inbox.left.clear()
        inbox.left.extend(left)
        return settlement._replace(
            with_it=tuple(self._settled(each, settlement, inbox.run) for each in inbox.leases.values())
        )

    def given_back(self, lease: Claimed) -> list[Settlement]:
        """What a run has taken, given back while the run does not end."""
        inbox = self._inboxes.pop(run_of(lease), None)
        left = {each.event_id for each in inbox.left} if inbox is not None else ()
        leases = inbox.leases.values() if inbox is not None else ()
        return [self.cancelled.released(each) for each in leases if each.event_id not in left]

    async def _take_what_came(self, lease: Claimed, inbox: Inbox) -> None:
        assert self.steps is not None
        mates = inbox.mates
        came = await self.steps.patiently(lambda conn: came_meanwhile(conn, lease, limit=LOOKED_AT, mates=mates))
        if came:
            await self.take(lease, inbox, only=came)

    async def take(
        self,
        lease: Claimed,
        inbox: Inbox,
        *,
        only: Sequence[UUID] | None = None,
        note: Callable[[list[Claimed]], Step] | None = None,
    ) -> list[Claimed]:
        """Take what stands behind the run, and keep it until the run ends. Arguments as those of `take_inbox`."""
        assert self.steps is not None
        mates = inbox.mates
        try:
            taken = await self.steps.patiently(
                lambda conn: take_inbox(conn, lease, limit=AT_ONCE, mates=mates, only=only, note=note)
            )
        except BaseException:
            self.doubtful = True
            raise
        inbox.leases.update((each.event_id, each) for each in taken if each.lease_epoch > 0)
        return taken

    def _settled(self, lease: Claimed, settlement: Settlement, run: RunInbox | None) -> Settlement:
        if lease in self.cancelled:
            return self.cancelled.settlement(lease)
        trigger = self.triggers[lease.trigger_id]
        if trigger.while_running is WhileRunning.DROP:
            return answered(lease, trigger, settled(lease, Outcome.SKIPPED, error=DROPPED))
        end = run.ends.get(lease.event_id) if run is not None and settlement.outcome is Outcome.SUCCEEDED else None
        match end:
            case None:
                return not_begun(settled(lease, Outcome.RELEASED))
            case Outcome.SUCCEEDED:
                output = orjson.dumps(
                    {"taken_by": str(DeliveryId(settlement.trigger_id, settlement.event_id))}
                ).decode()
                return answered(lease, trigger, settled(lease, end, output=output))
            case _:
                return answered(lease, trigger, settled(lease, end))


def wants(trigger: Trigger, event: Event) -> bool:
    """Whether the filter matches. One that raises does so in the event's own run, which says so."""
    try:
        return trigger.matches(event)
    except Exception:  # noqa: BLE001
        return False


def answered(lease: Claimed, trigger: Trigger, settlement: Settlement) -> Settlement:
    """With the reply, if somebody waits for one."""
    if lease.reply_to is None:
        return settlement
    reply = reply_event(lease, trigger=trigger.name, outcome=settlement.outcome, output_json=settlement.output)
    return settlement._replace(published=(reply,)) if reply else settlement
