"""Waiting: a run that cannot go on gives its slot back, and its delivery is due again when there is something new.

    running ──settle as waiting──► scheduled (or the first of a lane), with a row that says for what ──due──► pending

The delivery then runs again from its journal, and asks for itself whether what it waited for is there. So it does no
harm to make it due too early, and a wait needs no exact match between who waits and who wakes.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.awaiting import Awaited, begin_awaiting
from reflex.core.statements import statement

if TYPE_CHECKING:
    from reflex.core.approval_waits import ApprovalRequest
    from reflex.core.settlement import Settlement

__all__ = ["LONGEST_WAIT", "Wait", "WaitKind", "begin_waits", "end_waits"]

# A wait that only a person ends has this end.
LONGEST_WAIT: Final = timedelta(days=36_500)


class WaitKind(StrEnum):
    """What a delivery waits for. Stored; never renamed."""

    TIME = "time"
    EVENT = "event"
    APPROVAL = "approval"
    EFFECT = "effect"  # a person says whether a tool that must not be repeated has done its work
    BUDGET = "budget"
    PROVIDER = "provider"  # the model's provider fails


class Wait(NamedTuple):
    """For what, and for how long at most. `reason` is a sentence for people. Any of the events that are `awaited`, once
    it is in the log, makes the delivery due.

    `asks` are approvals to ask for with it, `awaits` the ids of those asked for before that nobody has decided yet.
    """

    kind: WaitKind
    reason: str
    at_most: timedelta = LONGEST_WAIT
    awaited: tuple[Awaited, ...] = ()
    asks: tuple["ApprovalRequest", ...] = ()
    awaits: tuple[UUID, ...] = ()


async def begin_waits(conn: AsyncConnection[Any], settlements: Sequence["Settlement"]) -> None:
    """Say for what these settlements' deliveries wait, in the transaction that settles them."""
    waits = [(settlement, settlement.wait) for settlement in settlements if settlement.wait is not None]
    await conn.execute(
        statement("begin_waits"),
        {
            "trigger_id": [settlement.trigger_id for settlement, _ in waits],
            "event_id": [settlement.event_id for settlement, _ in waits],
            "lane_key": [settlement.lane_key for settlement, _ in waits],
            "kind": [wait.kind for _, wait in waits],
            "reason": [wait.reason for _, wait in waits],
        },
    )
    if awaiting := [(s.trigger_id, s.event_id, wait.awaited) for s, wait in waits if wait.awaited]:
        await begin_awaiting(conn, awaiting)


async def end_waits(conn: AsyncConnection[Any], deliveries: Collection[tuple[int, UUID]]) -> set[tuple[int, UUID]]:
    """Make deliveries (trigger id, event id) due that wait. Returns those that did."""
    if not deliveries:
        return set()
    trigger_ids, event_ids = zip(*sorted(deliveries), strict=True)
    cursor = await conn.execute(statement("end_waits"), {"trigger_id": list(trigger_ids), "event_id": list(event_ids)})
    return {(row[0], row[1]) for row in await cursor.fetchall()}
