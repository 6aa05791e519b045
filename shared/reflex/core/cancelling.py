"""Cancelling deliveries: what does not run ends at once; a run is asked to end, and loses its lease if it does not.

pending, put off, waiting, ordered, dead ──cancel──► cancelled
running ──asked──► its worker stops the run and settles it as cancelled
              └──not ended within the grace──► its lease is taken away
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from psycopg import AsyncConnection, Rollback

from reflex.core.consequences import forget_cancellations
from reflex.core.database import STANDSTILL
from reflex.core.dead_letters import purge_dead_letter
from reflex.core.errors import Conflict, NotFound
from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.journal import forget_steps
from reflex.core.lanes import lock_lanes
from reflex.core.log import append
from reflex.core.reads import fetch
from reflex.core.replies import reply_event
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.statements import statement

__all__ = ["CANCEL_CHANNEL", "NotCancellable", "ask_all", "asked_cancellations", "cancel_delivery",
           "finish_cancellations"]  # fmt: skip

CANCEL_CHANNEL: Final = "reflex_cancel"
# A delivery that moves between being looked at and being taken is looked at again, so often at most.
LOOKS: Final = 10
BATCH: Final = 100
# What a request without a word, of a version before, ends a run with.
UNSAID: Final = "cancelled by a person"

Key = tuple[int, UUID]


class NotCancellable(Conflict):
    """The delivery has ended, or is being cancelled already."""

    code: ClassVar[str] = "not_cancellable"


async def cancel_delivery(
    conn: AsyncConnection[Any],
    delivery_id: DeliveryId,
    *,
    reason: str | None = None,
    by: str = "a person",
    dead_too: bool = True,
    within: Restriction = UNRESTRICTED,
) -> Literal["cancelled", "cancelling"]:
    """End a delivery. Its event shows it as cancelled, with the reason; who waits for the event gets an answer.

    Args:
        conn: Autocommit.
        by: Who or what wants that. It stands in the run's error, before the reason.
        dead_too: Whether a dead letter is ended as well.

    Returns:
        "cancelled", or "cancelling" for one that runs: it ends soon, and what it does after that counts for nothing.

    Raises:
        NotFound: There is no such delivery.
        NotCancellable: It has ended, or somebody has asked for that before.
    """
    error = because(by, reason)
    shown = await within.shows(conn, delivery_id.event_id)
    for _ in range(LOOKS):
        now = await look(conn, delivery_id)
        if now is None or not shown:
            break
        match now["place"]:
            case None:
                raise NotCancellable(f"delivery {delivery_id} has ended: {now['last_outcome']}")
            case "running" if now["asked_before"]:
                raise NotCancellable(f"delivery {delivery_id} is being cancelled already")
            case "running":
                if await ask(conn, delivery_id, error):
                    return "cancelling"
            case "dead" if not dead_too:
                raise NotCancellable(f"delivery {delivery_id} is a dead letter")
            case _:
                if await taken(conn, delivery_id, now, error):
                    return "cancelled"
    else:
        raise NotCancellable(f"delivery {delivery_id} changes hands all the time; try again")
    raise NotFound(f"there is no delivery {delivery_id}")


async def look(conn: AsyncConnection[Any], delivery_id: DeliveryId) -> dict[str, Any] | None:
    """Where a delivery is; None if there never was one."""
    parameters = {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id}
    rows = await fetch(conn, "delivery_place", parameters)
    return None if not rows or rows[0]["place"] is rows[0]["last_outcome"] is None else rows[0]


async def ask(conn: AsyncConnection[Any], delivery_id: DeliveryId, error: str) -> bool:
    parameters = {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id, "reason": error}
    return (await conn.execute(statement("ask_cancellation"), parameters)).rowcount > 0


async def ask_all(conn: AsyncConnection[Any], trigger_id: int, event_ids: Sequence[UUID], *, by: str) -> set[UUID]:
    """Ask for the end of deliveries that run, in one statement. Returns the events of those that will end; what is the
    matter with any other, `cancel_delivery` says.

    Args:
        by: As for `cancel_delivery`.
    """
    parameters = {"trigger_id": trigger_id, "event_ids": list(event_ids), "reason": because(by, None)}
    cursor = await conn.execute(statement("ask_cancellations"), parameters)
    return {event_id for event_id, _ in await cursor.fetchall()}


async def taken(conn: AsyncConnection[Any], delivery_id: DeliveryId, now: dict[str, Any], error: str) -> bool:
    """End a delivery where it was seen. False: it is not there any more."""
    if now["place"] == "dead":
        try:
            await purge_dead_letter(conn, delivery_id, because=error)
        except NotFound:
            return False
        await forget_cancellations(conn, [key_of(delivery_id)])
        return True
    answer = answer_to(delivery_id, now)
    running = now["place"] == "running"
    key = {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id, "lane_key": now["lane_key"]}
    async with conn.transaction() as transaction:
        if answer is not None:
            # The answer may have lanes, too: all are locked before anything else, in one order, as by who settles.
            own = Settlement(*key_of(delivery_id), 0, Outcome.CANCELLED, lane_key=now["lane_key"])
            await lock_lanes(conn, [own] if own.lane_key is not None else [], [answer])
        await conn.execute(statement("lock_lane"), {**key, "standstill": STANDSTILL})
        cancelled = await conn.execute(statement("cancel_delivery"), {**key, "running": running, "error": error})
        if cancelled.rowcount == 0:
            raise Rollback(transaction)
        await forget_steps(conn, [(*key_of(delivery_id), True)])
        if answer is not None:
            await append(conn, [answer])
        return True
    return False


def key_of(delivery_id: DeliveryId) -> Key:
    return delivery_id.trigger_id, delivery_id.event_id


def answer_to(delivery_id: DeliveryId, now: dict[str, Any]) -> NewEvent | None:
    """What whoever waits for the event is told."""
    claimed = Claimed(
        *(delivery_id.trigger_id, delivery_id.event_id, 0, 0),
        *(now["type"], now["source"], now["key"], now["time"], {}, now["correlation_id"], None, now["depth"], None),
        reply_to=now["reply_to"],
    )
    return reply_event(claimed, trigger=now["trigger"], outcome=Outcome.CANCELLED, output_json=None)


def because(by: str, reason: str | None) -> str:
    """The error of a cancelled run."""
    return f"cancelled by {by}" + (f": {reason}" if reason else "")


async def asked_cancellations(conn: AsyncConnection[Any], worker_id: UUID) -> dict[Key, str]:
    """Which runs of a worker (trigger id, event id) are to end, with the error that they end with."""
    cursor = await conn.execute(statement("asked_cancellations"), {"worker_id": worker_id})
    return {(trigger_id, event_id): error or UNSAID for trigger_id, event_id, error in await cursor.fetchall()}


async def finish_cancellations(conn: AsyncConnection[Any], *, grace: timedelta) -> list[DeliveryId]:
    """Carry out what no worker will: end deliveries that were to be cancelled while they ran and are somewhere else by
    now, and take the lease from runs that have not ended within the grace. Returns the latter.

    Args:
        conn: Autocommit.
    """
    overdue: list[DeliveryId] = []
    cursor = await conn.execute(statement("due_cancellations"), {"grace": grace, "limit": BATCH})
    for trigger_id, event_id, error, is_overdue in await cursor.fetchall():
        delivery_id = DeliveryId(trigger_id, event_id)
        now = await look(conn, delivery_id)
        if now is None or now["place"] is None:
            await forget_cancellations(conn, [(trigger_id, event_id)])
        elif now["place"] == "running" and not is_overdue:
            pass  # claimed again meanwhile: its worker is asked for it
        elif await taken(conn, delivery_id, now, error or UNSAID) and is_overdue:
            overdue.append(delivery_id)
    return overdue
