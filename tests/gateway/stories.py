"""A database in which everything has happened once, so that every answer has something in it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.ids import DeliveryId
from reflex.core.log import append
from reflex.core.registration import EventType, Manifest, TriggerDefinition, register
from reflex.core.settlement import Outcome
from tests.queue_fixtures import claim, enlisted, new_event, settled

__all__ = ["Story", "tell"]


@dataclass(frozen=True, slots=True)
class Story:
    """Ids of what is in the database."""

    event_id: UUID
    unrouted_id: UUID
    follow_up_id: UUID
    dead: DeliveryId
    worker_id: UUID


async def tell(conn: AsyncConnection[Any]) -> Story:
    """One event for four triggers (succeeded, retrying, running, dead), its follow-up, and one that nobody wants."""
    names = ("succeed", "retry", "run", "die")
    triggers = tuple(TriggerDefinition(name, ("order.created",), 5, {"agent": name}) for name in names)
    schema = {"type": "object", "properties": {"order_id": {"type": "string"}}}
    registered = await register(conn, Manifest("shop", (EventType("order.created", schema),), triggers))
    worker_id = await enlisted(conn, registered)
    event = new_event(payload='{"order_id": "A1"}', source="shop", key="A1", correlation_id="checkout-7")
    unrouted = new_event("nobody.knows")
    follow_up = new_event("order.packed", correlation_id="checkout-7", causation_id=event.event_id, depth=1)
    await append(conn, [event])
    leases = {lease.trigger_id: lease for lease in await claim(conn, worker_id, list(registered.trigger_ids.values()))}
    succeeded, retried, _, died = (leases[registered.trigger_ids[name]] for name in names)
    settlements = [
        settled(
            succeeded, output='{"ok": true}', usage='{"requests": 1}', trace_id="0" * 31 + "1", published=(follow_up,)
        ),
        settled(retried, Outcome.RETRY, error="later", retry_in=timedelta(hours=1)),
        settled(died, Outcome.DEAD, error="boom", reason="failed"),
    ]
    await queue.exchange(conn, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    await append(conn, [unrouted])
    return Story(event.event_id, unrouted.event_id, follow_up.event_id, died.delivery_id, worker_id)
