"""Cancelling: a delivery ends wherever it is, once, and its lane goes on."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.cancelling import NotCancellable, asked_cancellations, cancel_delivery, finish_cancellations
from reflex.core.errors import NotFound
from reflex.core.ids import DeliveryId, new_id
from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.lanes import WhenDead
from reflex.core.log import append
from reflex.core.queue import exchange, promote_scheduled
from reflex.core.reads import read_deliveries
from reflex.core.replies import REPLY_TYPE, WAITED_FOR
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.waiting import Wait, WaitKind
from tests.queue_fixtures import (
    claim,
    claim_ordered,
    count,
    enlisted,
    is_quiet,
    new_event,
    ordered_shop,
    publish,
    settled,
    shop,
)

HOUR = timedelta(hours=1)
NO_GRACE = timedelta(0)
WAITS: dict[str, Any] = {"outcome": Outcome.WAITING, "retry_in": HOUR, "wait": Wait(WaitKind.TIME, "sleeps", HOUR)}


class Desk:
    """A shop with one worker, whose claims and settlements are made by hand."""

    def __init__(self, db: AsyncConnection[Any], registered: Any, worker_id: Any, *, ordered: bool) -> None:
        self.db, self.registered, self.worker_id, self.ordered = db, registered, worker_id, ordered
        (self.trigger_id,) = registered.trigger_ids.values()

    @classmethod
    async def opened(cls, db: AsyncConnection[Any], *, ordered: bool = False, **options: Any) -> "Desk":
        registered = await (ordered_shop(db, **options) if ordered else shop(db, **options))
        return cls(db, registered, await enlisted(db, registered), ordered=ordered)

    async def publish(self, *keys: str, **fields: Any) -> list[DeliveryId]:
        events = [new_event(key=key, **fields) for key in keys or ("A",)]
        await append(self.db, events)
        return [DeliveryId(self.trigger_id, event.event_id) for event in events]

    async def claim(self, *, rows: int = 1) -> list[Claimed]:
        if self.ordered:
            return await claim_ordered(self.db, self.worker_id, self.registered, rows=rows)
        return await claim(self.db, self.worker_id, [self.trigger_id])

    async def settle(self, *leases: Claimed, **fields: Any) -> frozenset[Any]:
        settlements = [settled(lease)._replace(**fields) for lease in leases]
        return await self.settles(*settlements)

    async def settles(self, *settlements: Settlement) -> frozenset[Any]:
        done = await exchange(self.db, worker_id=self.worker_id, settlements=settlements, trigger_ids=[], limit=0)
        return done.stale

    async def state(self, delivery_id: DeliveryId) -> str:
        (delivery,) = await read_deliveries(self.db, delivery_id.event_id)
        return delivery.state


async def cancelled_for(db: AsyncConnection[Any], delivery_id: DeliveryId) -> list[tuple[str, str | None]]:
    (delivery,) = await read_deliveries(db, delivery_id.event_id)
    assert delivery.state == "cancelled"
    return [(run.outcome, run.error) for run in delivery.runs]


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
@pytest.mark.parametrize("place", ["pending", "put off", "retried", "waiting", "dead"])
async def test_what_does_not_run_ends_at_once(db: AsyncConnection[Any], place: str, ordered: bool) -> None:
    """Fails if one of the places is forgotten, if a lane still counts what is gone, or still waits for it."""
    desk = await Desk.opened(db, ordered=ordered, **({"when_dead": WhenDead.HOLD} if ordered else {}))
    (delivery_id,) = await desk.publish("A", **({"delay": HOUR} if place == "put off" else {}))
    if place not in ("pending", "put off"):
        (lease,) = await desk.claim()
        await journal_step(db, delivery_id, lease.lease_epoch, Step(StepKind.WAIT, b"x", 0, 0, "{}"))
        await desk.settle(lease, **{
            "retried": {"outcome": Outcome.RETRY, "retry_in": HOUR, "error": "e"},
            "waiting": WAITS,
            "dead": {"outcome": Outcome.DEAD, "error": "e"},
        }[place])  # fmt: skip
    (behind,) = await desk.publish("A")
    assert await cancel_delivery(db, delivery_id, reason="a mistake") == "cancelled"
    said = "cancelled by a person: a mistake" + ("; it was a dead letter (failed)" if place == "dead" else "")
    assert (await cancelled_for(db, delivery_id))[-1] == ("cancelled", said)
    assert (await count(db, "waiting"), await count(db, "step")) == (0, 0)
    assert [lease.event_id for lease in await desk.claim()] == [behind.event_id]
    with pytest.raises(NotCancellable, match="has ended: cancelled"):
        await cancel_delivery(db, delivery_id)
    await promote_scheduled(db, now=datetime.now(UTC) + 2 * HOUR)
    assert await count(db, "delivery") == 0


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_lane_goes_on_without_what_was_in_it(db: AsyncConnection[Any], cancelled: int) -> None:
    """Fails if the lane's counts are wrong afterwards: it would stand still, or be taken for empty."""
    desk = await Desk.opened(db, ordered=True)
    deliveries = await desk.publish("A", "A", "A")
    await desk.publish("B")
    await cancel_delivery(db, deliveries.pop(cancelled))
    seen: list[Any] = []
    while leases := await desk.claim():
        seen += [lease.event_id for lease in leases if lease.lane_key == "A"]
        await desk.settle(*leases)
    assert seen == [delivery.event_id for delivery in deliveries]
    (lane,) = await (await db.execute("SELECT pending, running FROM reflex.lane WHERE key = 'A'")).fetchall()
    assert lane == (0, 0)


async def test_behind_a_retry_a_cancellation_ends_no_wait(db: AsyncConnection[Any]) -> None:
    """Fails if removing any delivery of a lane makes it ready: the first one's back-off would be cut short."""
    desk = await Desk.opened(db, ordered=True)
    _, second = await desk.publish("A", "A")
    (lease,) = await desk.claim()
    await desk.settle(lease, outcome=Outcome.RETRY, retry_in=HOUR)
    await cancel_delivery(db, second)
    assert await desk.claim() == []


async def test_a_lane_that_a_dead_letter_held_goes_on(db: AsyncConnection[Any]) -> None:
    desk = await Desk.opened(db, ordered=True, when_dead=WhenDead.HOLD)
    first, second = await desk.publish("A", "A")
    await desk.settle(*await desk.claim(), outcome=Outcome.DEAD, error="e")
    assert await desk.claim() == []
    await cancel_delivery(db, first)
    assert [lease.event_id for lease in await desk.claim()] == [second.event_id]


async def test_a_running_one_is_asked_for_once_and_its_worker_ends_it(db: AsyncConnection[Any]) -> None:
    """Fails if the request stays after the run has ended: a delivery that is replayed would be cancelled."""
    desk = await Desk.opened(db)
    (delivery_id,) = await desk.publish()
    (lease,) = await desk.claim()
    assert await cancel_delivery(db, delivery_id, reason="why not") == "cancelling"
    assert await asked_cancellations(db, desk.worker_id) == {lease[:2]: "cancelled by a person: why not"}
    assert await asked_cancellations(db, new_id()) == {}
    with pytest.raises(NotCancellable, match="already"):
        await cancel_delivery(db, delivery_id)
    assert await finish_cancellations(db, grace=HOUR) == []
    assert await desk.state(delivery_id) == "running"
    assert not await desk.settle(lease, outcome=Outcome.CANCELLED, forget_steps=True)
    assert await desk.state(delivery_id) == "cancelled"
    assert await count(db, "cancellation") == 0


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_one_that_does_not_end_loses_its_lease_and_counts_for_nothing(
    db: AsyncConnection[Any], ordered: bool
) -> None:
    """Fails if the lease stays: the run would be settled as succeeded, with what it published."""
    desk = await Desk.opened(db, ordered=ordered)
    delivery_id, _ = await desk.publish("A", "A")
    lease = next(lease for lease in await desk.claim() if lease.event_id == delivery_id.event_id)
    await journal_step(db, delivery_id, lease.lease_epoch, Step(StepKind.WAIT, b"x", 0, 0, "{}"))
    await cancel_delivery(db, delivery_id)
    assert await finish_cancellations(db, grace=NO_GRACE) == [delivery_id]
    assert await cancelled_for(db, delivery_id) == [("cancelled", "cancelled by a person")]
    published = (new_event("order.packed"),)
    assert await desk.settle(lease, published=published) == {lease[:2]}
    assert await cancelled_for(db, delivery_id) == [("cancelled", "cancelled by a person")]
    assert await count(db, "step") == 0
    assert await finish_cancellations(db, grace=NO_GRACE) == []
    if ordered:
        assert len(await desk.claim()) == 1


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.WAITING, Outcome.RELEASED, Outcome.DEAD])
async def test_a_run_that_ends_otherwise_while_it_is_asked_for_is_cancelled_all_the_same(
    db: AsyncConnection[Any], outcome: Outcome
) -> None:
    """Fails if a request is only for the run: the delivery would be tried again."""
    desk = await Desk.opened(db)
    (delivery_id,) = await desk.publish()
    (lease,) = await desk.claim()
    await cancel_delivery(db, delivery_id)
    await desk.settle(lease, **(WAITS if outcome is Outcome.WAITING else {"outcome": outcome, "retry_in": HOUR}))
    await finish_cancellations(db, grace=HOUR)
    assert await desk.state(delivery_id) == "cancelled"
    assert await count(db, "cancellation") == 0


async def test_a_run_that_succeeds_first_has_succeeded(db: AsyncConnection[Any]) -> None:
    desk = await Desk.opened(db)
    (delivery_id,) = await desk.publish()
    (lease,) = await desk.claim()
    await cancel_delivery(db, delivery_id)
    await desk.settle(lease)
    assert await finish_cancellations(db, grace=NO_GRACE) == []
    assert await desk.state(delivery_id) == "succeeded"
    assert await count(db, "cancellation") == 0
    with pytest.raises(NotCancellable, match="has ended: succeeded"):
        await cancel_delivery(db, delivery_id)


async def test_what_never_was_is_not_found(db: AsyncConnection[Any]) -> None:
    desk = await Desk.opened(db, triggers={"pack": "order.created"})
    (event_id,) = await publish(db, type="other")
    for trigger_id, unknown in ((desk.trigger_id, new_id()), (99, event_id), (desk.trigger_id, event_id)):
        with pytest.raises(NotFound):
            await cancel_delivery(db, DeliveryId(trigger_id, unknown))


@pytest.mark.parametrize("running", [False, True])
async def test_whoever_waits_for_the_event_gets_an_answer(db: AsyncConnection[Any], running: bool) -> None:
    """Fails without the reply: a request would wait until it looks by itself."""
    desk = await Desk.opened(db)
    (delivery_id,) = await desk.publish(reply_to=WAITED_FOR)
    if running:
        await desk.claim()
    await cancel_delivery(db, delivery_id)
    await finish_cancellations(db, grace=NO_GRACE)
    cursor = await db.execute("SELECT payload, causation_id FROM reflex.event WHERE type = %s", [REPLY_TYPE])
    ((payload, causation_id),) = await cursor.fetchall()
    assert (payload["outcome"], causation_id) == ("cancelled", delivery_id.event_id)


async def test_of_two_who_cancel_at_once_one_does(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """Fails if both record a cancelled run, or if the second one fails with an error of the database's."""
    desk = await Desk.opened(db, ordered=True)
    deliveries = await desk.publish(*"AABBCC")
    for delivery_id in deliveries:
        both = await asyncio.gather(
            cancel_delivery(db, delivery_id), cancel_delivery(other, delivery_id), return_exceptions=True
        )
        assert sorted(map(str, (type(one).__name__ for one in both))) == ["NotCancellable", "str"]
    assert await is_quiet(db)
    assert await count(db, "run") == 6


async def test_a_claim_and_a_cancellation_at_once(db: AsyncConnection[Any], other: AsyncConnection[Any]) -> None:
    """The lane is locked by a claim while the cancellation looks. Fails if the delivery is looked for only once: it
    would be said not to be there."""
    desk = await Desk.opened(db, ordered=True)
    (delivery_id,) = await desk.publish("A")
    async with db.transaction():
        await desk.claim()
        waiting = asyncio.create_task(cancel_delivery(other, delivery_id))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    assert await waiting == "cancelling"
