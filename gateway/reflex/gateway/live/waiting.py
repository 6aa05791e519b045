"""Request and reply: POST /events?wait=30 answers with the outcome of every delivery of the event.

The log says when to look, so however many requests wait, the database is asked when something happened to their event.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection
from starlette.responses import Response

from reflex.core.errors import ReflexError
from reflex.core.events import NewEvent
from reflex.core.reads import get_event, has_open_deliveries
from reflex.core.replies import WAITED_FOR
from reflex.core.rows import DeliveryRow, DeliveryState, EventDetail, Json
from reflex.gateway.access import Grant
from reflex.gateway.answers import json_answer
from reflex.gateway.live.hub import Hub
from reflex.gateway.publishing import Publisher

__all__ = ["Settled", "SettledDelivery", "publish_and_wait", "wait_until_settled"]

# An event that was stored before anybody waited for it says nothing when a run returns nothing. So look now and then.
LOOK_AGAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class SettledDelivery:
    """How a delivery ended. `output` is what the agent returned; `error` is a dead one's."""

    id: str
    trigger: str
    app: str
    state: DeliveryState
    output: Json | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Every delivery of the event is settled; without any, no trigger matched. `duplicate`: it was there before."""

    id: UUID
    duplicate: bool
    deliveries: list[SettledDelivery]


async def publish_and_wait(
    hub: Hub, publisher: Publisher, event: NewEvent, trace_context: str | None, grant: Grant, *, wait_s: float
) -> Response:
    """Store the event and wait for its deliveries: 200 when all are settled, else 202.

    Raises:
        DatabaseUnavailable: Nothing is known of the event; or the log cannot be read, and nothing was stored.
        And what storing raises.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait_s
    with hub.watching():
        await hub.ready()
        stored = await publisher.store([event._replace(reply_to=WAITED_FOR)], trace_context, grant)
        event_id = stored[event.event_id]
        duplicate = event_id != event.event_id
        try:
            detail = await wait_until_settled(hub, event_id, within_s=ends_at - loop.time())
        except ReflexError:  # it is stored, so that it cannot be looked at now is no failure
            detail = None
    # The one that was there before may be of a type that the key is not to see.
    if detail is None or not grant.within.allows(detail.type, detail.source):
        answer = {"id": event_id, "see": f"/events/{event_id}"}
        return json_answer(answer | {"duplicate": True} if duplicate else answer, status=202)
    return json_answer(Settled(event_id, duplicate, [settled(delivery) for delivery in detail.deliveries]))


async def wait_until_settled(hub: Hub, event_id: UUID, *, within_s: float) -> EventDetail | None:
    """The event with its deliveries, once none of them is open; None if that takes longer, or the gateway stops. The
    caller is watching since before the event was stored.

    Raises:
        DatabaseUnavailable, Saturated: It cannot be looked at, or not now.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + within_s

    async def look(conn: AsyncConnection[Any]) -> EventDetail | None:
        return None if await has_open_deliveries(conn, event_id) else await get_event(conn, event_id)

    with hub.answers(event_id) as answered:
        while not hub.stopping:
            answered.clear()
            detail = await hub.read(look)
            left = ends_at - loop.time()
            if detail is not None or left <= 0:
                return detail
            try:
                async with asyncio.timeout(min(left, LOOK_AGAIN_S)):
                    await answered.wait()
            except TimeoutError:
                pass
    return None


def settled(delivery: DeliveryRow) -> SettledDelivery:
    last = delivery.runs[-1] if delivery.runs else None
    return SettledDelivery(
        delivery.id,
        delivery.trigger,
        delivery.app,
        delivery.state,
        last.output if last else None,
        delivery.error or (last.error if last else None),
    )
