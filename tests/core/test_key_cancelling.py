"""Cancelling by an event: what is open of its key and was there before it, wherever that is; nothing else."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core import key_cancelling
from reflex.core.cancelling import ask_all, asked_cancellations
from reflex.core.database import connect
from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId, new_id
from reflex.core.key_cancelling import KeyCancelled, cancel_key
from reflex.core.log import append
from reflex.core.queue import exchange
from reflex.core.reads import read_deliveries
from reflex.core.registration import Manifest, TriggerDefinition, register
from reflex.core.settlement import Claimed, Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.processes import eventually
from tests.queue_fixtures import claim, claim_ordered, enlisted, new_event, settled

HOUR = timedelta(hours=1)
WAITS: dict[str, Any] = {"outcome": Outcome.WAITING, "retry_in": HOUR, "wait": Wait(WaitKind.TIME, "sleeps", HOUR)}


class Packing:
    """A trigger `pack` whose key is at a path, and the one beside it that cancels. Claims and settlements are made by
    hand."""

    def __init__(self, db: AsyncConnection[Any], path: str, *, ordered: bool) -> None:
        self.db, self.path, self.ordered = db, path, ordered

    async def open(self) -> "Packing":
        pack = TriggerDefinition("pack", ("order.created",), 3, {}, self.path if self.ordered else None)
        canceller = TriggerDefinition("pack.cancel", ("order.cancelled", "order.created"), 3, {})
        self.registered = await register(self.db, Manifest("shop", (), (pack, canceller)))
        self.pack, self.canceller = (self.registered.trigger_ids[name] for name in ("pack", "pack.cancel"))
        self.worker_id = await enlisted(self.db, self.registered)
        return self

    def event(self, key: str | None, type: str = "order.created", **fields: Any) -> NewEvent:
        match self.path:
            case "key":
                return new_event(type, key=key, **fields)
            case "source":
                return new_event(type, source=key or "nobody", **fields)
            case _:
                # The event's own key is not the one that counts.
                return new_event(type, f'{{"order": "{key}"}}' if key else "{}", key="A", **fields)

    async def publish(self, key: str | None = "A", type: str = "order.created", **fields: Any) -> DeliveryId:
        event = self.event(key, type, **fields)
        await append(self.db, [event])
        return DeliveryId(self.pack if type == "order.created" else self.canceller, event.event_id)

    async def claimed(self) -> Claimed:
        if self.ordered:
            return (await claim_ordered(self.db, self.worker_id, self.registered, rows=1))[-1]
        (lease,) = await claim(self.db, self.worker_id, [self.pack], limit=1)
        return lease

    async def publish_and_settle(self, **fields: Any) -> DeliveryId:
        delivery_id = await self.publish()
        await self.settle(await self.claimed(), **fields)
        return delivery_id

    async def settle(self, lease: Claimed, **fields: Any) -> None:
        ended = settled(lease)._replace(**fields)
        await exchange(self.db, worker_id=self.worker_id, settlements=[ended], trigger_ids=[], limit=0)

    async def cancel(self, cancellation: DeliveryId) -> KeyCancelled:
        return await cancel_key(
            self.db, cancellation, trigger="pack", key_path=self.path, by=f"event {cancellation.event_id}"
        )

    async def states(self, *deliveries: DeliveryId) -> list[str]:
        return [
            delivery.state
            for delivery_id in deliveries
            for delivery in await read_deliveries(self.db, delivery_id.event_id)
            if delivery.trigger == "pack"
        ]


@pytest.mark.parametrize("path", ["key", "source", "payload.order"])
async def test_what_is_open_of_the_key_ends_wherever_it_is(db: AsyncConnection[Any], path: str) -> None:
    """Fails if one of the places is not looked at; without the comparison of keys or of when events were accepted;
    without dead_too (a dead letter would be gone); if runs that are asked to end already are found again."""
    packing = await Packing(db, path, ordered=False).open()
    dead = await packing.publish_and_settle(outcome=Outcome.DEAD, error="e")
    over = await packing.publish_and_settle()
    waiting = await packing.publish_and_settle(**WAITS)
    retried = await packing.publish_and_settle(outcome=Outcome.RETRY, retry_in=HOUR, error="e")
    running = await packing.publish()
    await packing.claimed()
    pending, put_off = await packing.publish(), await packing.publish(delay=HOUR)
    another, none = await packing.publish("B"), await packing.publish(None)
    cancellation = await packing.publish(type="order.cancelled")
    later = await packing.publish()
    assert await packing.cancel(cancellation) == KeyCancelled("A", cancelled=4, cancelling=1)
    assert await packing.states(waiting, retried, pending, put_off) == ["cancelled"] * 4
    assert await packing.states(dead, over, another, none, later) == ["dead", "succeeded", *["pending"] * 3]
    said = f"cancelled by event {cancellation.event_id}"
    assert await asked_cancellations(db, packing.worker_id) == {(packing.pack, running.event_id): said}
    (delivery,) = [each for each in await read_deliveries(db, pending.event_id) if each.trigger == "pack"]
    assert delivery.runs[-1].error == said
    assert await packing.cancel(cancellation) == KeyCancelled("A")
    keyless = await packing.publish(None, type="order.cancelled")
    if path != "source":
        assert await packing.cancel(keyless) == KeyCancelled(None)
    assert await packing.states(another, none, later) == ["pending"] * 3


async def test_what_runs_is_asked_to_end_all_at_once(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if one is asked after the other: the slot that the first one frees would begin the next, which was claimed
    ahead, and do what was to be cancelled. One that is being settled is waited for, and keeps nobody waiting."""
    packing = await Packing(db, "key", ordered=False).open()
    running = [await packing.publish() for _ in range(4)]
    for _ in running:
        await packing.claimed()
    cancellation = await packing.publish(type="order.cancelled")
    async with await connect(database_url, name="t") as other:
        async with other.transaction():
            await other.execute("DELETE FROM reflex.lease WHERE event_id = %s", [running[0].event_id])
            cancelling = asyncio.create_task(packing.cancel(cancellation))

            async def asked() -> list[int]:
                cursor = await other.execute("SELECT count(*) FROM reflex.cancellation GROUP BY xmin")
                return [row[0] for row in await cursor.fetchall()]

            assert await eventually(asked) == [3]
            await asyncio.sleep(0.3)
            assert not cancelling.done()
        assert await cancelling == KeyCancelled("A", cancelling=3)


@pytest.mark.parametrize("path", ["key", "payload.order"])
async def test_a_lane_ends_as_a_whole_and_the_others_go_on(db: AsyncConnection[Any], path: str) -> None:
    """Fails if what is in lanes is not looked at, if that of another one is, or without
    the keys of what was put off."""
    packing = await Packing(db, path, ordered=True).open()
    running = await packing.publish()
    await packing.claimed()
    behind, put_off = [await packing.publish(), await packing.publish()], await packing.publish(delay=HOUR)
    another, another_later = await packing.publish("B"), await packing.publish("B", delay=HOUR)
    cancellation = await packing.publish(type="order.cancelled")
    later = await packing.publish()
    assert await packing.cancel(cancellation) == KeyCancelled("A", cancelled=3, cancelling=1)
    assert await packing.states(*behind, put_off) == ["cancelled"] * 3
    assert await packing.states(running, another, another_later, later) == ["running", *["pending"] * 3]


async def test_before_is_what_was_accepted_before_not_what_was_named_before(db: AsyncConnection[Any]) -> None:
    """Ids are made by whoever publishes, perhaps long before the event is accepted. Fails if they decide alone."""
    packing = await Packing(db, "key", ordered=False).open()
    early, late = [packing.event("A")._replace(event_id=new_id()) for _ in range(2)]
    cancelling = packing.event("A", "order.cancelled")
    after = packing.event("A")
    await append(db, [late, after])
    await append(db, [cancelling])
    await append(db, [early])
    cancellation = DeliveryId(packing.canceller, cancelling.event_id)
    assert early.event_id < cancelling.event_id < after.event_id
    assert await packing.cancel(cancellation) == KeyCancelled("A", cancelled=2)
    assert await packing.states(DeliveryId(packing.pack, early.event_id)) == ["pending"]


async def test_of_one_append_the_ids_decide_and_no_event_ends_what_it_began(db: AsyncConnection[Any]) -> None:
    """Fails without the ids beside the moments, or if an event with the id of the cancelling one counts as before."""
    packing = await Packing(db, "key", ordered=False).open()
    events = [packing.event("A") for _ in range(3)]
    await append(db, events)
    first, second, third = (DeliveryId(packing.pack, event.event_id) for event in events)
    assert await packing.cancel(DeliveryId(packing.canceller, second.event_id)) == KeyCancelled("A", cancelled=1)
    assert await packing.states(first, second, third) == ["cancelled", "pending", "pending"]


async def test_one_that_dies_meanwhile_stays_a_dead_letter(
    db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being found and being cancelled. Fails without dead_too."""
    packing = await Packing(db, "key", ordered=False).open()
    dying, other = await packing.publish(), await packing.publish()
    lease = await packing.claimed()

    async def after_its_death(conn: AsyncConnection[Any], trigger_id: int, event_ids: list[UUID], *, by: str) -> Any:
        assert event_ids == [dying.event_id]
        await packing.settle(lease, outcome=Outcome.DEAD, error="e")
        return await ask_all(conn, trigger_id, event_ids, by=by)

    monkeypatch.setattr(key_cancelling, "ask_all", after_its_death)
    assert await packing.cancel(await packing.publish(type="order.cancelled")) == KeyCancelled("A", cancelled=1)
    assert await packing.states(dying, other) == ["dead", "cancelled"]


async def test_only_triggers_of_the_same_app_and_each_of_many(db: AsyncConnection[Any]) -> None:
    """More than one page of them. Fails if a trigger is found by its name alone, or only the first page is read."""
    await register(db, Manifest("other", (), (TriggerDefinition("pack", ("order.created",), 3, {}),)))
    packing = await Packing(db, "key", ordered=False).open()
    await append(db, [packing.event("A") for _ in range(250)])
    assert await packing.cancel(await packing.publish(type="order.cancelled")) == KeyCancelled("A", cancelled=250)
    cursor = await db.execute("SELECT trigger_id, count(*) FROM reflex.delivery GROUP BY trigger_id ORDER BY 1")
    assert await cursor.fetchall() == [(1, 250), (packing.canceller, 251)]
