"""Deliveries that wait: out of the queue, with a reason, without using up an attempt, and due again once."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.lanes import promote_lanes
from reflex.core.log import append
from reflex.core.queue import exchange, promote_scheduled
from reflex.core.reads import has_open_deliveries, read_deliveries
from reflex.core.registration import Registered
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.waiting import Wait, WaitKind, end_waits
from tests.queue_fixtures import claim, claim_ordered, count, enlisted, new_event, ordered_shop, publish, settled, shop

APPROVAL = Wait(WaitKind.APPROVAL, "somebody has to approve refund(order='A1')", timedelta(hours=1))


def waits(lease: Claimed, wait: Wait = APPROVAL) -> Settlement:
    return settled(lease)._replace(outcome=Outcome.WAITING, retry_in=wait.at_most, wait=wait)


async def settle(db: AsyncConnection[Any], worker_id: UUID, *settlements: Settlement) -> frozenset[tuple[int, UUID]]:
    done = await exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    return done.stale


@pytest.fixture
async def waiting(db: AsyncConnection[Any]) -> tuple[Registered, UUID, Claimed]:
    registered = await shop(db)
    await publish(db)
    worker_id = await enlisted(db, registered)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    assert not await settle(db, worker_id, waits(lease))
    return registered, worker_id, lease


async def test_a_waiting_delivery_says_for_what_and_is_not_claimed(
    db: AsyncConnection[Any], waiting: tuple[Registered, UUID, Claimed]
) -> None:
    """Fails without begin_waits in carry_out: it would look like any other that is put off."""
    registered, worker_id, lease = waiting
    assert await claim(db, worker_id, list(registered.trigger_ids.values())) == []
    (delivery,) = await read_deliveries(db, lease.event_id)
    assert (delivery.state, delivery.reason, delivery.waiting_for) == ("waiting", "approval", APPROVAL.reason)
    assert delivery.attempt == 0
    assert [run.outcome for run in delivery.runs] == ["waiting"]
    assert await has_open_deliveries(db, lease.event_id)


async def test_it_is_due_when_its_time_is_over_and_waits_no_more(
    db: AsyncConnection[Any], waiting: tuple[Registered, UUID, Claimed]
) -> None:
    """Fails without the deletion in promote_scheduled: a delivery that runs would still say that it waits. Fails if
    a wait uses up an attempt: a patient delivery would end as a dead letter."""
    registered, worker_id, _ = waiting
    assert (await promote_scheduled(db, now=datetime.now(UTC) + timedelta(minutes=59)))[0] == 0
    assert (await promote_scheduled(db, now=datetime.now(UTC) + timedelta(minutes=61)))[0] == 1
    (again,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    assert (again.attempt, again.lease_epoch) == (1, 2)
    assert await count(db, "waiting") == 0


async def test_it_can_be_made_due_at_once_and_only_once(
    db: AsyncConnection[Any], waiting: tuple[Registered, UUID, Claimed]
) -> None:
    registered, worker_id, lease = waiting
    key = (lease.trigger_id, lease.event_id)
    assert await end_waits(db, {key}) == {key}
    assert await end_waits(db, {key}) == set()
    assert len(await claim(db, worker_id, list(registered.trigger_ids.values()))) == 1
    assert (await promote_scheduled(db, now=datetime.now(UTC) + timedelta(days=1)))[0] == 0
    assert await count(db, "waiting") == 0


async def test_a_retry_that_was_put_off_is_no_wait(db: AsyncConnection[Any]) -> None:
    """Fails if end_waits looks into `scheduled` alone: whoever wakes must not cut a back-off short."""
    registered = await shop(db)
    await publish(db)
    worker_id = await enlisted(db, registered)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    await settle(db, worker_id, settled(lease)._replace(outcome=Outcome.RETRY, retry_in=timedelta(hours=1)))
    assert await end_waits(db, {(lease.trigger_id, lease.event_id)}) == set()
    assert await count(db, "scheduled") == 1


async def test_a_worker_that_lost_its_lease_makes_nothing_wait(db: AsyncConnection[Any]) -> None:
    """Fails if carry_out keeps the waits of stale settlements: the delivery runs elsewhere, and would seem to wait."""
    registered = await shop(db)
    await publish(db)
    worker_id = await enlisted(db, registered)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    late = waits(lease)._replace(lease_epoch=7)
    assert await settle(db, worker_id, late) == {(lease.trigger_id, lease.event_id)}
    assert await count(db, "waiting") == 0


async def test_an_ordered_delivery_that_waits_holds_its_key_and_no_other(db: AsyncConnection[Any]) -> None:
    """Fails if settle_lanes does not put it back at its place, or end_waits forgets lanes."""
    registered = await ordered_shop(db)
    first, second, other = (new_event(key=key) for key in ("A", "A", "B"))
    await append(db, [first, second, other])
    worker_id = await enlisted(db, registered)
    leases = {lease.event_id: lease for lease in await claim_ordered(db, worker_id, registered, limit=1, rows=1)}
    (lease,) = leases.values()
    assert lease.event_id == first.event_id
    await settle(db, worker_id, waits(lease))
    (delivery,) = await read_deliveries(db, first.event_id)
    assert (delivery.state, delivery.reason) == ("waiting", "approval")
    assert {c.event_id for c in await claim_ordered(db, worker_id, registered)} == {other.event_id}
    assert await end_waits(db, {(lease.trigger_id, first.event_id)}) == {(lease.trigger_id, first.event_id)}
    again = await claim_ordered(db, worker_id, registered)
    assert [(c.event_id, c.attempt) for c in again] == [(first.event_id, 1), (second.event_id, 1)]
    assert await count(db, "waiting") == 0


async def test_a_lane_whose_wait_is_over_waits_no_more(db: AsyncConnection[Any]) -> None:
    """Fails without the deletion in promote_lanes."""
    registered = await ordered_shop(db)
    await append(db, [new_event(key="A")])
    worker_id = await enlisted(db, registered)
    (lease,) = await claim_ordered(db, worker_id, registered, limit=1, rows=1)
    await settle(db, worker_id, waits(lease))
    assert (await promote_lanes(db, now=datetime.now(UTC) + timedelta(hours=2)))[0] == 1
    assert await count(db, "waiting") == 0
    (delivery,) = await read_deliveries(db, lease.event_id)
    assert delivery.state == "pending"
