"""Cancelling by an event: every delivery of a trigger that has its key, was there before it, and has not ended."""

from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.cancelling import NotCancellable, ask_all, cancel_delivery
from reflex.core.errors import NotFound, ReflexError
from reflex.core.ids import DeliveryId
from reflex.core.reads import fetch
from reflex.core.statements import statement

__all__ = ["KeyCancelled", "StillOpen", "cancel_key"]

PAGE: Final = 100
# So often at most none of those that were found could be had: all of them were changing hands.
IN_VAIN: Final = 10


class StillOpen(ReflexError):
    """Some of the deliveries change hands all the time. Those that were cancelled are; do it again for the rest."""

    code = "still_open"


class KeyCancelled(NamedTuple):
    """What was done: how many have ended, and how many run and end soon. `key` is None if the event has none: then
    nothing is cancelled."""

    key: str | None
    cancelled: int = 0
    cancelling: int = 0


async def cancel_key(
    conn: AsyncConnection[Any], canceller: DeliveryId, *, trigger: str, key_path: str, by: str
) -> KeyCancelled:
    """End what the canceller's event ends: deliveries of `trigger` that have the event's key, and whose events were
    accepted before it. Dead letters stay. Doing it again does no harm.

    Args:
        conn: Autocommit.
        canceller: The event, for a trigger of the same app.
        key_path: Where both events have the key: `key`, `source`, or a path below the payload.
        by: As for `cancel_delivery`.

    Raises:
        StillOpen: Not all could be had.
    """
    cursor = await conn.execute(
        statement("whose_key"),
        {
            "trigger_id": canceller.trigger_id,
            "event_id": canceller.event_id,
            "name": trigger,
            "key_path": key_path,
        },
    )
    row = await cursor.fetchone()
    if row is None or row[1] is None:
        return KeyCancelled(None)
    trigger_id, key, accepted_at = row
    parameters = {
        "trigger_id": trigger_id, "key": key, "key_path": key_path, "accepted_at": accepted_at,
        "before": canceller.event_id, "limit": PAGE,
    }  # fmt: skip
    done: dict[UUID, str] = {}
    in_vain = 0
    while in_vain < IN_VAIN:
        found = await fetch(conn, "open_of_key", parameters)
        if not found:
            states = list(done.values())
            return KeyCancelled(key, states.count("cancelled"), states.count("cancelling"))
        before = len(done)
        # What runs comes last, and is asked together: a slot or a lane that gets free must find none of the rest.
        idle = [row["event_id"] for row in found if not row["runs"]]
        done |= await cancelled(conn, trigger_id, idle, by=by)
        if running := [row["event_id"] for row in found if row["runs"]]:
            asked = await ask_all(conn, trigger_id, running, by=by)
            done |= dict.fromkeys(asked, "cancelling")
            done |= await cancelled(conn, trigger_id, [each for each in running if each not in asked], by=by)
        in_vain = 0 if len(done) > before else in_vain + 1
    raise StillOpen(f"deliveries of trigger {trigger!r} with key {key!r} change hands all the time; try again")


async def cancelled(
    conn: AsyncConnection[Any], trigger_id: int, event_ids: list[UUID], *, by: str
) -> dict[UUID, Literal["cancelled", "cancelling"]]:
    """Those that could be had. One that has ended meanwhile, or moves, is found again or is not."""
    done: dict[UUID, Literal["cancelled", "cancelling"]] = {}
    for event_id in event_ids:
        with suppress(NotFound, NotCancellable):
            done[event_id] = await cancel_delivery(conn, DeliveryId(trigger_id, event_id), by=by, dead_too=False)
    return done
