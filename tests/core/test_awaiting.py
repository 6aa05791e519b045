"""Finding waiting deliveries for which there are new events: none is missed, whatever commits overlapped."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.agenda import read_agenda
from reflex.core.awaiting import (
    AWAIT_CHANNEL,
    Awaited,
    find_awaited,
    forget_awaited,
    place_of_event,
    sweep_awaited,
)
from reflex.core.log import append
from reflex.core.log_reading import drop_log, log_bounds
from reflex.core.queue import exchange
from reflex.core.settlement import Outcome, Settlement
from reflex.core.waiting import Wait, WaitKind, end_waits
from tests.core.log_fixtures import place_all
from tests.queue_fixtures import claim, count, enlisted, new_event, publish, settled, shop

Key = tuple[int, UUID]


class Patient:
    """A delivery that is claimed, to be settled as waiting."""

    def __init__(self, db: AsyncConnection[Any], worker_id: UUID, lease: Any) -> None:
        self.db, self.worker_id, self.lease = db, worker_id, lease
        self.key: Key = (lease.trigger_id, lease.event_id)

    def settlement(self, *awaited: Awaited) -> Settlement:
        wait = Wait(WaitKind.EVENT, "waits", timedelta(hours=1), awaited)
        return settled(self.lease)._replace(outcome=Outcome.WAITING, retry_in=wait.at_most, wait=wait)

    async def waits(self, *awaited: Awaited, conn: AsyncConnection[Any] | None = None) -> None:
        settlement = self.settlement(*awaited)
        conn = conn or self.db
        await exchange(conn, worker_id=self.worker_id, settlements=[settlement], trigger_ids=[], limit=0)


async def patients(db: AsyncConnection[Any], number: int = 1) -> list[Patient]:
    registered = await shop(db)
    await publish(db, number)
    await place_all(db)
    worker_id = await enlisted(db, registered)
    leases = await claim(db, worker_id, list(registered.trigger_ids.values()), limit=number)
    return [Patient(db, worker_id, lease) for lease in leases]


async def end(db: AsyncConnection[Any]) -> int:
    return (await log_bounds(db)).end.position


async def publishes(db: AsyncConnection[Any], type: str = "payment.received", key: str | None = "A") -> None:
    await append(db, [new_event(type, key=key)])
    await place_all(db)


@pytest.mark.parametrize("followed", [True, False], ids=["followed", "not followed yet"])
@pytest.mark.parametrize(
    ("types", "key", "type", "event_key", "meets"),
    [
        (("payment.received",), "A", "payment.received", "A", True),
        (("payment.received",), "A", "payment.received", "B", False),
        (("payment.received",), "A", "payment.received", None, False),
        (("payment.received",), None, "payment.received", None, True),
        (("payment.received",), None, "payment.received", "B", True),
        (("payment.received",), "A", "payment.receive", "A", False),
        (("payment.*", "refund"), "A", "refund", "A", True),
        (("payment.*",), "A", "payment.a.b", "A", True),
        (("payment.*",), "A", "payment", "A", False),
        (("*",), "A", "anything", "A", True),
        (("*",), None, "reflex.reply", None, False),
        (("reflex.*",), None, "reflex.reply", None, True),
    ],
)
async def test_types_and_keys_are_those_of_filters(
    db: AsyncConnection[Any], types: tuple[str, ...], key: str | None, type: str, event_key: str | None, meets: bool,
    followed: bool,
) -> None:  # fmt: skip
    """Fails if a pattern, a key or Reflex's own types mean something else here than in a filter."""
    (patient,) = await patients(db)
    await patient.waits(Awaited(types, key, await end(db)))
    if followed:
        assert not (await find_awaited(db)).deliveries
    await publishes(db, type, event_key)
    assert (await find_awaited(db)).deliveries == ({patient.key} if meets else set())


async def test_an_event_between_the_runs_look_and_its_settling_is_found(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """The mark goes past the event while the wait cannot be seen. Fails if what is not followed yet is not looked at by
    itself: the delivery would sleep on."""
    patient, elsewhere = await patients(db, 2)
    await elsewhere.waits(Awaited(("other",), None, await end(db)))
    await find_awaited(db)
    looked = await end(db)
    async with other.transaction():
        await patient.waits(Awaited(("payment.received",), "A", looked), conn=other)
        await publishes(db)
        assert not (await find_awaited(db)).deliveries
    assert (await find_awaited(db)).deliveries == {patient.key}


async def test_what_was_found_and_not_woken_is_found_again(db: AsyncConnection[Any]) -> None:
    """Whoever found it was killed. Fails if a look forgets what it found: the mark is past the event."""
    first, second = await patients(db, 2)
    await first.waits(Awaited(("payment.received",), "A", await end(db)))
    await find_awaited(db)
    await second.waits(Awaited(("payment.received",), "A", await end(db)))
    await publishes(db)
    assert (await find_awaited(db)).deliveries == {first.key, second.key}
    assert not (await find_awaited(db)).deliveries
    await db.execute("UPDATE reflex.awaited SET look_at = look_at - interval '1 second'")
    assert (await find_awaited(db)).deliveries == {first.key, second.key}


async def test_whoever_finds_the_mark_taken_does_nothing(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """Fails without SKIP LOCKED: every worker would wait for one that is frozen."""
    (patient,) = await patients(db)
    await patient.waits(Awaited(("payment.received",), "A", await end(db)))
    await publishes(db)
    async with other.transaction():
        assert (await find_awaited(other)).deliveries == {patient.key}
        await db.execute("SET lock_timeout = '1s'")
        assert not (await find_awaited(db)).deliveries


async def test_quiet_waits_are_not_looked_at_and_miss_nothing(db: AsyncConnection[Any]) -> None:
    """Fails if a wait is followed while it is quiet (it would be woken), or if what came meanwhile is lost."""
    (patient,) = await patients(db)
    await patient.waits(Awaited(("payment.received",), "A", await end(db), timedelta(minutes=1)))
    await publishes(db)
    found = await find_awaited(db)
    assert not found.deliveries
    assert found.anything
    assert found.next_in is not None
    assert timedelta(seconds=50) < found.next_in <= timedelta(minutes=1)
    await db.execute("UPDATE reflex.awaited SET look_at = now()")
    assert (await find_awaited(db)).deliveries == {patient.key}


async def test_a_look_is_bounded_and_the_next_goes_on(db: AsyncConnection[Any]) -> None:
    """Fails if the mark is set to the end of the log after a look that did not get there."""
    (patient,) = await patients(db)
    await patient.waits(Awaited(("payment.received",), "A", await end(db)))
    await find_awaited(db)
    for _ in range(5):
        await publishes(db, "noise")
    await publishes(db)
    assert [(found.more, len(found.deliveries)) for found in [await find_awaited(db, appends=4) for _ in range(2)]] == [
        (True, 0),
        (False, 1),
    ]


async def test_a_wait_that_is_far_behind_is_woken_instead_of_being_looked_at(db: AsyncConnection[Any]) -> None:
    """Fails if the look walks over all of the log for each of them."""
    (patient,) = await patients(db)
    looked = await end(db)
    for _ in range(6):
        await publishes(db, "noise")
    await patient.waits(Awaited(("payment.received",), "A", looked))
    assert (await find_awaited(db, appends=4)).deliveries == {patient.key}


async def test_a_wait_that_is_over_is_swept_and_one_that_is_not_stays(db: AsyncConnection[Any]) -> None:
    """Fails if rows are kept for deliveries that wait no more: somebody would follow the log for ever. Fails if `since`
    is not compared: what a delivery awaited before would be taken for what it awaits now."""
    woken, patient = await patients(db, 2)
    for one in (woken, patient):
        await one.waits(Awaited(("payment.received",), "A", await end(db)), Awaited(("refund",), None, await end(db)))
    assert await end_waits(db, {woken.key}) == {woken.key}
    (again,) = await claim(db, woken.worker_id, [woken.key[0]])
    await Patient(db, woken.worker_id, again).waits(Awaited(("cancelled",), None, await end(db)))
    await forget_awaited(db, {patient.key})
    assert await count(db, "awaited") == 5
    assert await sweep_awaited(db) == 2
    await publishes(db)
    assert (await find_awaited(db)).deliveries == {patient.key}
    await publishes(db, "cancelled", None)
    assert (await find_awaited(db)).deliveries == {woken.key}
    await end_waits(db, {woken.key, patient.key})
    await forget_awaited(db, {woken.key, patient.key})
    assert not (await read_agenda(db)).awaited
    assert not (await find_awaited(db)).anything


async def test_a_worker_that_lost_its_lease_awaits_nothing(db: AsyncConnection[Any]) -> None:
    (patient,) = await patients(db)
    patient.lease = patient.lease._replace(lease_epoch=7)
    await patient.waits(Awaited(("payment.received",), "A", await end(db)))
    assert not (await read_agenda(db)).awaited


async def test_workers_are_told_of_a_wait(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """Fails without the notification: the first wait would not be noticed before somebody looks by themselves."""
    (patient,) = await patients(db)
    await other.execute(f"LISTEN {AWAIT_CHANNEL}".encode())
    await patient.waits(Awaited(("payment.received",), "A", await end(db)))
    told = [each.channel async for each in other.notifies(timeout=10, stop_after=1)]
    assert told == [AWAIT_CHANNEL]


async def test_where_an_event_stands(db: AsyncConnection[Any]) -> None:
    """Fails if the search begins behind the event, or forgets that the log may have been dropped up to behind it."""
    await shop(db)
    events = [new_event() for _ in range(7)]
    await append(db, events[:1])
    await place_all(db)
    await append(db, events[1:4])
    await append(db, events[4:6])
    await place_all(db)
    bounds = await log_bounds(db)
    places = [await place_of_event(db, event.event_id, bounds) for event in events[:6]]
    assert [place.place for place in places] == [1, 1, 2, 3, 1, 2]
    assert places == sorted(places)
    await append(db, events[6:])
    assert await place_of_event(db, events[6].event_id, bounds) == bounds.end
    assert await place_of_event(db, new_event().event_id, bounds) == bounds.start
    await drop_log(db, until=places[2])
    bounds = await log_bounds(db)
    assert await place_of_event(db, events[0].event_id, bounds) == places[2]
    assert await place_of_event(db, events[3].event_id, bounds) == places[3]
