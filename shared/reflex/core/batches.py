"""Batches: the events that a trigger has gathered for one run, and the delivery that hands them over.

    open ──full, or its time is over──► sealed ──the run ends──► gone

The delivery waits while its batch is open, runs when it is sealed, and is tried again like any other: each time it gets
the same events.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.events import Event
from reflex.core.ids import DeliveryId
from reflex.core.statements import statement

if TYPE_CHECKING:
    from reflex.core.settlement import Settlement

__all__ = ["Gathering", "end_batches", "take_batch"]


class Gathering(NamedTuple):
    """What a trigger gathers an event for: a run with `enough` events of its subject.

    With `max_interval` each event is in one batch, which is handed over after that time however few there are. With
    `within` a batch is what has come within that time, and events of which fewer come are handed to no run.
    """

    subject: str
    enough: int
    max_interval: timedelta | None = None
    within: timedelta | None = None


async def take_batch(conn: AsyncConnection[Any], delivery_id: DeliveryId) -> list[Event] | None:
    """Seal the batch that this delivery is to hand over. It does no harm to do it twice.

    Args:
        conn: Autocommit: who adds to the batch meanwhile is waited for, and then seen.

    Returns:
        Its events in the order in which they were accepted, the delivery's own among them; None if it has no batch.
    """
    parameters = {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id}
    if await (await conn.execute(statement("seal_batch"), parameters)).fetchone() is None:
        return None
    return [Event(*row) for row in await (await conn.execute(statement("batch_events"), parameters)).fetchall()]


async def end_batches(conn: AsyncConnection[Any], settlements: Sequence["Settlement"]) -> None:
    """The runs that these settlements end were given the batches of their deliveries, and need them no more."""
    ids: tuple[list[int], list[UUID]] = [s.trigger_id for s in settlements], [s.event_id for s in settlements]
    await conn.execute(statement("end_batches"), {"trigger_id": ids[0], "event_id": ids[1]})
