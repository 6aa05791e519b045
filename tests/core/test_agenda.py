"""What the agenda finds."""

from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection

from reflex.core.agenda import Agenda, read_agenda
from reflex.core.cancelling import cancel_delivery
from reflex.core.ids import DeliveryId
from reflex.core.log import append
from reflex.core.queue import promote_scheduled
from tests.queue_fixtures import claim, enlisted, new_event, ordered_shop, publish, shop


async def test_an_empty_one(db: AsyncConnection[Any]) -> None:
    assert await read_agenda(db) == Agenda(None, False, False)


async def test_what_is_put_off_is_due_in_time(db: AsyncConnection[Any]) -> None:
    """Fails if the later one counts, or if what is due already is not seen any more."""
    await shop(db)
    await append(db, [new_event(delay=timedelta(hours=1)), new_event(delay=timedelta(minutes=1))])
    due_in = (await read_agenda(db)).due_in
    assert due_in is not None
    assert timedelta(seconds=50) < due_in <= timedelta(minutes=1)
    await db.execute("UPDATE reflex.scheduled SET available_at = now() - interval '1 second'")
    due_in = (await read_agenda(db)).due_in
    assert due_in is not None
    assert due_in < timedelta(0)
    await promote_scheduled(db)
    assert (await read_agenda(db)).due_in is None


async def test_a_lane_that_waits_is_due_too(db: AsyncConnection[Any]) -> None:
    """Fails if only deliveries without order are looked for: a retry in a lane would never come."""
    await ordered_shop(db)
    await append(db, [new_event(key="A")])
    assert (await read_agenda(db)).due_in is None
    await db.execute("UPDATE reflex.lane SET available_at = now() + interval '1 minute'")
    due_in = (await read_agenda(db)).due_in
    assert due_in is not None
    assert timedelta(seconds=50) < due_in <= timedelta(minutes=1)


async def test_a_run_that_is_to_end(db: AsyncConnection[Any]) -> None:
    registered = await shop(db)
    await publish(db)
    (lease,) = await claim(db, await enlisted(db, registered), list(registered.trigger_ids.values()))
    assert await cancel_delivery(db, DeliveryId(lease.trigger_id, lease.event_id)) == "cancelling"
    assert (await read_agenda(db)).cancelling
