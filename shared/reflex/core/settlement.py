"""How a run ends: the outcomes, and the pure decision what becomes of a delivery after a failed attempt."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from reflex.core.batches import Gathering
from reflex.core.events import Event, NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.retry import RetryPolicy
from reflex.core.states import StateChange
from reflex.core.waiting import Wait

__all__ = ["NOT_BEGUN", "Claimed", "Outcome", "Settlement", "after_failure", "as_arrays", "not_begun", "settled"]

# The reason of an ordered delivery that was released: it was claimed behind another one of its lane. It leaves no run.
NOT_BEGUN: Final = "not_begun"


class Outcome(StrEnum):
    """How a run ended. Stored; never renamed."""

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"  # the filter did not match
    RETRY = "retry"  # failed; there is another attempt
    DEAD = "dead"  # failed; there is none
    RELEASED = "released"  # given back unfinished by a worker that stops; uses up no attempt
    LOST = "lost"  # its worker stopped sending heartbeats
    CANCELLED = "cancelled"
    WAITING = "waiting"  # cannot go on yet; uses up no attempt


class Claimed(NamedTuple):
    """A delivery under our lease, with its event. The order of the fields is that of `sql/settle_and_claim.sql`.

    `lane_key` and `position` are set if it is ordered: those of one trigger and one lane key run one after the other,
    in the order in which they were claimed.
    """

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
    lane_key: str | None = None
    position: int | None = None

    @property
    def delivery_id(self) -> DeliveryId:
        return DeliveryId(self.trigger_id, self.event_id)

    @property
    def record(self) -> Event:
        """The event, as it is in the log."""
        return Event(self.event_id, *self[4:13])


class Settlement(NamedTuple):
    """The end of one run. `lease_epoch` is the fence: if the lease is gone, all of this changes nothing.

    `retry_in` is when a delivery that goes on is due again. `output` and `usage` are JSON text. `published` is appended
    in the same transaction; `forget_steps` deletes the delivery's journal in it. `lane_key` is that of the lease.
    `wait` says for what a delivery waits. `state` is written in it, too, if nobody else has changed that state
    meanwhile; else the delivery is given back. `with_it` are the settlements of what the run has taken of its lane, in
    the same transaction. `gathers` says for what the event is kept instead of being run; `hands_over` that the run was
    given the batch of its delivery.
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
    lane_key: str | None = None
    wait: Wait | None = None
    state: StateChange | None = None
    with_it: tuple["Settlement", ...] = ()
    gathers: Gathering | None = None
    hands_over: bool = False


def settled(claimed: Claimed, outcome: Outcome, **rest: Any) -> Settlement:
    """The settlement of a lease; `rest` as `Settlement` has it."""
    return Settlement(
        claimed.trigger_id, claimed.event_id, claimed.lease_epoch, outcome, lane_key=claimed.lane_key, **rest
    )


def not_begun(settlement: Settlement) -> Settlement:
    """The delivery is given back, whatever it would have been settled as: it uses up no attempt and leaves no run."""
    return settlement._replace(
        outcome=Outcome.RELEASED, reason=NOT_BEGUN, error=None, output=None, usage=None, published=(),
        forget_steps=False,
    )  # fmt: skip


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


def as_arrays(settlements: Sequence[Settlement]) -> dict[str, Any]:
    """The settlements as the statements that settle take them: one array for each column."""
    given = zip(*settlements, strict=True) if settlements else [()] * len(Settlement._fields)
    columns = dict(zip(Settlement._fields, given, strict=True))
    # Columns without any value go as empty arrays, which unnest() pads with NULLs.
    arrays: dict[str, Any] = {
        name: list(columns[name]) if any(value is not None for value in columns[name]) else []
        for name in ("error", "output", "usage", "retry_in", "reason", "trace_id")
    }
    # Numbers, ids and outcomes need no quoting: joined by hand they cost a fifth of psycopg's array dumper.
    arrays.update(
        trigger_id=array_text(map(str, columns["trigger_id"])),
        event_id=array_text([event_id.hex for event_id in columns["event_id"]]),
        lease_epoch=array_text(map(str, columns["lease_epoch"])),
        outcome=array_text(columns["outcome"]),
    )
    return arrays


def array_text(values: Iterable[str]) -> str:
    """A PostgreSQL array of values that need no quoting."""
    return "{" + ",".join(values) + "}"
