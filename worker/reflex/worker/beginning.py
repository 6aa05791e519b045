"""What is decided before a run begins: whether a stateful filter lets the event through, and whether it is kept for a
run to come. A trigger with neither has nothing decided."""

from collections.abc import Sequence
from typing import Any

from reflex.agent.context import read_event
from reflex.agent.gates import limits_of
from reflex.agent.triggers import Trigger
from reflex.core.batches import take_batch
from reflex.core.events import Event
from reflex.core.journal import StepStore
from reflex.core.passing import let_through
from reflex.core.replies import reply_event
from reflex.core.settlement import Claimed, Outcome, Settlement, settled

__all__ = ["begin", "may_have_steps", "skipped"]


async def begin(
    claimed: Claimed, trigger: Trigger, record: Event, steps: StepStore
) -> Settlement | Sequence[Event] | None:
    """The settlement of a delivery that does not run now; or the events that it hands over, for its run; or None, for
    a run of its own event alone.

    Raises:
        LeaseLost: The delivery is another worker's by now.
        JournalUnavailable: The database was away for too long.
        EventRejected: The event's class refuses it: no batch gets it.
    """
    if gates := trigger.filter.gates:
        limits = limits_of(gates, record)
        refused = await steps.patiently(lambda conn: let_through(conn, claimed, limits))
        if refused is not None:
            return skipped(claimed, trigger, error=refused)
    if trigger.when is None:
        return None
    # A delivery that was never claimed before hands nothing over.
    if claimed.lease_epoch > 1:
        batch = await steps.patiently(lambda conn: take_batch(conn, claimed.delivery_id))
        if batch is not None:
            return batch
    read_event(record)
    return skipped(claimed, trigger, gathers=trigger.when.gathering(record))


def skipped(claimed: Claimed, trigger: Trigger, **rest: Any) -> Settlement:
    """No run for the event. Who waits for it is told."""
    reply = reply_event(claimed, trigger=trigger.name, outcome=Outcome.SKIPPED, output_json=None)
    return settled(
        claimed,
        Outcome.SKIPPED,
        published=(reply,) if reply else (),
        forget_steps=may_have_steps(claimed, trigger),
        **rest,
    )


def may_have_steps(claimed: Claimed, trigger: Trigger) -> bool:
    """Whether there may be steps of the delivery that its run has not looked at: of an earlier attempt, or of the
    filter."""
    return claimed.lease_epoch > 1 or bool(trigger.filter.gates)
