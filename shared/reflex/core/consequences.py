"""What settlements bring with them, in the same transaction, if they hold: events, waits, and journals to forget."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.journal import forget_steps
from reflex.core.log import append
from reflex.core.settlement import Outcome, Settlement
from reflex.core.statements import statement
from reflex.core.waiting import begin_waits

__all__ = ["carry_out", "forget_cancellations", "have_consequences"]


def have_consequences(settlements: Sequence[Settlement]) -> bool:
    """Whether settling them needs a transaction of more than one statement."""
    return any(settlement.published or settlement.forget_steps or settlement.wait for settlement in settlements)


async def carry_out(
    conn: AsyncConnection[Any], settlements: Sequence[Settlement], stale: Collection[tuple[int, UUID]]
) -> None:
    """Append what the runs published, keep their waits and forget their journals, but for settlements that came too
    late.

    Args:
        conn: In the transaction that settled them.
        stale: Trigger and event of those that changed nothing.
    """
    held = [settlement for settlement in settlements if (settlement.trigger_id, settlement.event_id) not in stale]
    if events := [event for settlement in held for event in settlement.published]:
        await append(conn, events)
    if forgotten := [(s.trigger_id, s.event_id) for s in held if s.forget_steps]:
        await forget_steps(conn, forgotten)
    if cancelled := [(s.trigger_id, s.event_id) for s in held if s.outcome is Outcome.CANCELLED]:
        await forget_cancellations(conn, cancelled)
    if waits := [settlement for settlement in held if settlement.wait is not None]:
        await begin_waits(conn, waits)


async def forget_cancellations(conn: AsyncConnection[Any], deliveries: Collection[tuple[int, UUID]]) -> None:
    """These deliveries (trigger id, event id) have ended."""
    trigger_ids, event_ids = zip(*deliveries, strict=True)
    parameters = {"trigger_id": list(trigger_ids), "event_id": list(event_ids)}
    await conn.execute(statement("forget_cancellations"), parameters)
