"""How a run ends: the outcomes, and the pure decision what becomes of a delivery after a failed attempt."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.retry import RetryPolicy

__all__ = ["Claimed", "Outcome", "Settlement", "after_failure"]


class Outcome(StrEnum):
    """How a run ended. Stored; never renamed."""

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"  # the filter did not match
    RETRY = "retry"  # failed; there is another attempt
    DEAD = "dead"  # failed; there is none
    RELEASED = "released"  # given back unfinished by a worker that stops; uses up no attempt
    LOST = "lost"  # its worker stopped sending heartbeats
    CANCELLED = "cancelled"


class Claimed(NamedTuple):
    """A delivery under our lease, with its event. The order of the fields is that of `sql/settle_and_claim.sql`."""

    trigger_id: int
    event_id: UUID
    attempt: int
    lease_epoch: int
    type: str
    source: str
    key: str | None
    time: datetime
    payload: dict[str, Any]
    correlation_id: str | None
    causation_id: UUID | None
    depth: int
    trace_context: str | None
    reply_to: str | None = None

    @property
    def delivery_id(self) -> DeliveryId:
        return DeliveryId(self.trigger_id, self.event_id)


class Settlement(NamedTuple):
    """The end of one run. `lease_epoch` is the fence: if the lease is gone, all of this changes nothing.

    `output` and `usage` are JSON text. `published` and `dead_letter` are appended in the same transaction;
    `forget_steps` deletes the delivery's journal in it.
    """

    trigger_id: int
    event_id: UUID
    lease_epoch: int
    outcome: Outcome
    error: str | None = None
    output: str | None = None
    usage: str | None = None
    retry_in: timedelta | None = None
    reason: str | None = None
    trace_id: str | None = None
    published: tuple[NewEvent, ...] = ()
    forget_steps: bool = False


def after_failure(
    policy: RetryPolicy, attempt: int, *, retry_after: timedelta | None = None, fraction: float | None = None
) -> timedelta | None:
    """How long a delivery waits after a failed attempt; None if it is dead.

    Args:
        retry_after: What the failure itself asked for (a provider's Retry-After, `Retry(after=…)`). It replaces the
            wait, not the limit on attempts.
    """
    wait = policy.wait_after(attempt, fraction=fraction)
    return wait if wait is None or retry_after is None else retry_after
