"""Cancelled runs: which runs of this worker a person or an event ends, and how such a run is settled."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.core.cancelling import asked_cancellations, finish_cancellations
from reflex.core.database import connect
from reflex.core.replies import reply_event
from reflex.core.settlement import NOT_BEGUN, Claimed, Outcome, Settlement, settled

__all__ = ["Cancelled", "Cancelling", "Run", "TakingAway", "run_of"]

Key = tuple[int, UUID]
Run = tuple[int, UUID, int]


class Cancelled:
    """The runs of a worker that were cancelled and have not been settled yet."""

    def __init__(self, trigger_names: Mapping[int, str] | None = None) -> None:
        self._trigger_names = trigger_names or {}
        self._errors: dict[Run, str] = {}

    def __contains__(self, lease: object) -> bool:
        return bool(self._errors) and isinstance(lease, Claimed) and run_of(lease) in self._errors

    def add(self, lease: Claimed, error: str) -> None:
        """`error` is what the run ends with."""
        self._errors[run_of(lease)] = error

    def interrupt(self, lease: Claimed, event_id: UUID) -> None:
        """By a newer event of its key."""
        self.add(lease, f"interrupted by event {event_id}")

    def settlement(self, lease: Claimed, *, instead_of: Settlement | None = None) -> Settlement:
        """How the run is settled, whatever it returned or raised. What it paid for is kept."""
        error = self._errors.pop(run_of(lease))
        trigger = self._trigger_names.get(lease.trigger_id, str(lease.trigger_id))
        reply = reply_event(lease, trigger=trigger, outcome=Outcome.CANCELLED, output_json=None)
        return settled(
            lease,
            Outcome.CANCELLED,
            error=error,
            usage=instead_of.usage if instead_of is not None else None,
            trace_id=instead_of.trace_id if instead_of is not None else None,
            published=(reply,) if reply else (),
            forget_steps=True,
        )

    def released(self, lease: Claimed, *, begun: bool = False) -> Settlement:
        """The delivery is given back; but if it was cancelled, it ends."""
        if lease in self:
            return self.settlement(lease)
        return settled(lease, Outcome.RELEASED, reason=None if begun else NOT_BEGUN)


def run_of(lease: Claimed) -> Run:
    """A later lease of the same delivery is another run."""
    return lease.trigger_id, lease.event_id, lease.lease_epoch


class Cancelling:
    """The chore that carries out cancellations: stops this worker's runs, and does what nobody else will."""

    def __init__(self, worker_id: UUID, *, grace_s: float, stop: Callable[[Mapping[Key, str]], None]) -> None:
        """`stop` is told which leases of this worker are to end, and each one's error. A run that has not ended after
        `grace_s` loses its lease."""
        self.worker_id = worker_id
        self.grace = timedelta(seconds=grace_s)
        self.stop = stop

    async def carry_out(self, conn: AsyncConnection[Any]) -> None:
        self.stop(await asked_cancellations(conn, self.worker_id))
        await taken_away(conn, self.grace)


class TakingAway:
    """Takes the leases from cancelled runs that block the event loop: from a thread, over a connection of its own."""

    def __init__(self, url: str, *, grace_s: float) -> None:
        self.url = url
        self.grace = timedelta(seconds=grace_s)
        self.thread: threading.Thread | None = None

    def begin(self) -> None:
        """Returns at once. May be called from any thread, but only from one."""
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=lambda: asyncio.run(self.take()), name="cancelling", daemon=True)
            self.thread.start()

    async def take(self) -> None:
        try:
            async with (
                asyncio.timeout(self.grace.total_seconds()),
                await connect(self.url, name="reflex cancelling") as conn,
            ):
                await taken_away(conn, self.grace)
        except (psycopg.Error, OSError, TimeoutError) as error:
            structlog.get_logger().warning("could not take the lease from a cancelled run; trying again",
                                           error=str(error).strip())  # fmt: skip


async def taken_away(conn: AsyncConnection[Any], grace: timedelta) -> None:
    for delivery_id in await finish_cancellations(conn, grace=grace):
        structlog.get_logger().warning(
            "a cancelled run does not end, and loses its lease: nothing it does counts", delivery_id=str(delivery_id)
        )
