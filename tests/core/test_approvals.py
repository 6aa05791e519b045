"""Approvals when transactions overlap: each test holds one open, and sees what another one does beside it."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.approval_answers import read_answers
from reflex.core.approval_waits import call_digest
from reflex.core.approvals import (
    AlreadyDecided,
    ApprovalOver,
    ApprovalRow,
    Decision,
    decide_approval,
    get_approval,
    list_approvals,
)
from reflex.core.ids import DeliveryId
from reflex.core.queue import exchange
from reflex.core.waiting import Wait, WaitKind
from tests.approval_fixtures import REFUND, Asked, ask, leased, settle, waiting
from tests.core.test_lane_races import waits_for_a_lock
from tests.core.test_retention import grow_old, prune
from tests.queue_fixtures import claim_ordered, count, ordered_shop, settled


async def decide(conn: AsyncConnection[Any], asked: Asked, *, approve: bool = True, by: str = "ann") -> ApprovalRow:
    return await decide_approval(conn, asked.row.id, approve=approve, digest=asked.row.digest, by=by)


async def decisions(conn: AsyncConnection[Any]) -> list[str]:
    found = await conn.execute(
        "SELECT payload ->> 'decision' FROM reflex.event WHERE type = 'approval.decided' ORDER BY event_id"
    )
    return [row[0] for row in await found.fetchall()]


def waits_on(asked: Asked) -> Wait:
    """What the run waits for that has found its question unanswered."""
    return Wait(WaitKind.APPROVAL, "somebody has to approve refund", timedelta(days=6), awaits=(asked.row.id,))


async def woken(conn: AsyncConnection[Any], asked: Asked) -> Any:
    """Made due although nothing has happened, and claimed."""
    await conn.execute("DELETE FROM reflex.waiting")
    await conn.execute("DELETE FROM reflex.scheduled")
    await conn.execute("INSERT INTO reflex.delivery VALUES (%s, %s, 0, 1)", asked.key)
    return await leased(conn, asked.registered, asked.worker_id)


def test_the_digest_is_that_of_the_call_whatever_the_order_of_its_arguments() -> None:
    """Fails if the tool, the arguments or the delivery are not part of it, or their order or types do not count
    as they should."""
    delivery, other = DeliveryId(3, UUID(int=7)), DeliveryId(4, UUID(int=7))
    digest = call_digest("refund", {"a": 1, "b": {"d": None, "c": "é"}}, delivery)
    assert digest == call_digest("refund", {"b": {"c": "é", "d": None}, "a": 1}, delivery)
    others = [
        call_digest("refund", {"a": 1, "b": {"d": None, "c": "é"}}, other),
        call_digest("pay", {"a": 1, "b": {"d": None, "c": "é"}}, delivery),
        call_digest("refund", {"a": "1", "b": {"d": None, "c": "é"}}, delivery),
        call_digest("refund", {"a": 1, "b": {"c": "é"}}, delivery),
    ]
    assert len({digest, *others}) == 5


async def test_two_people_decide_at_once_and_the_first_one_counts(
    one: AsyncConnection[Any], two: AsyncConnection[Any], db: AsyncConnection[Any]
) -> None:
    """Fails without `decided_at IS NULL` in decide_approval.sql: the second decision would replace the first."""
    asked = await ask(db)
    async with one.transaction():
        await decide(one, asked, approve=False, by="ann")
        second = asyncio.create_task(decide(two, asked, by="bob"))
        await waits_for_a_lock(db, "two")
    with pytest.raises(AlreadyDecided) as told:
        await second
    assert (told.value.approval.state, told.value.approval.decided_by) == ("denied", "ann")
    assert await decisions(db) == ["denied"]
    assert await count(db, "delivery") == 1


async def test_a_decision_waits_for_a_run_that_is_about_to_wait(
    one: AsyncConnection[Any], two: AsyncConnection[Any], db: AsyncConnection[Any]
) -> None:
    """Fails without lock_approvals: the decision would commit before the run's wait, find nobody who waits, and the
    delivery would sleep beside its approval until it expires."""
    asked = await ask(db)
    lease = await woken(db, asked)
    async with one.transaction():
        await settle(one, asked.worker_id, waiting(lease, waits_on(asked)))
        deciding = asyncio.create_task(decide(two, asked))
        await waits_for_a_lock(db, "two")
    assert (await deciding).state == "approved"
    assert (await count(db, "waiting"), await count(db, "delivery")) == (0, 1)


async def test_a_run_that_is_about_to_wait_sees_the_decision_of_the_moment_before(
    one: AsyncConnection[Any], two: AsyncConnection[Any], db: AsyncConnection[Any]
) -> None:
    """Fails without lock_approvals, or if it locks only what is decided already."""
    asked = await ask(db)
    lease = await woken(db, asked)
    async with one.transaction():
        await decide(one, asked)
        waits = asyncio.create_task(settle(two, asked.worker_id, waiting(lease, waits_on(asked))))
        await waits_for_a_lock(db, "two")
    await waits
    assert (await count(db, "waiting"), await count(db, "delivery")) == (0, 1)


async def test_of_an_ordered_trigger_who_decides_and_who_begins_to_wait_take_turns(
    one: AsyncConnection[Any], two: AsyncConnection[Any], db: AsyncConnection[Any]
) -> None:
    """Both have to lock the lane and the approval. Fails without lock_lane in decide_approval: the run holds the lane
    and wants the approval, who decides holds the approval and wants the lane."""
    asked = await ask(db, await ordered_shop(db, "source"))
    assert asked.lease.lane_key is not None
    await db.execute("UPDATE reflex.lane SET available_at = NULL")
    await db.execute("DELETE FROM reflex.waiting")
    (lease,) = await claim_ordered(db, asked.worker_id, asked.registered)
    async with one.transaction():
        await decide(one, asked)
        waits = asyncio.create_task(settle(two, asked.worker_id, waiting(lease, waits_on(asked))))
        await waits_for_a_lock(db, "two")
        # It waits for the lane, and has nothing that we need.
        await one.execute("SELECT FROM reflex.approval WHERE approval_id = %s FOR UPDATE", [asked.row.id])
    await waits
    assert await count(db, "waiting") == 0
    (again,) = await claim_ordered(db, asked.worker_id, asked.registered)
    async with one.transaction():
        await settle(one, asked.worker_id, waiting(again, waits_on(asked)._replace(awaits=())))
        await db.execute("UPDATE reflex.approval SET decision = NULL, decided_at = NULL, decided_by = NULL")
        deciding = asyncio.create_task(decide(two, asked))
        await waits_for_a_lock(db, "two")
        # Who decides waits for the lane, and has not locked the approval.
        await one.execute("SELECT FROM reflex.approval WHERE approval_id = %s FOR UPDATE", [asked.row.id])
    await deciding
    assert await count(db, "waiting") == 0


async def test_it_expires_once_whoever_comes_at_that_moment(
    one: AsyncConnection[Any], two: AsyncConnection[Any], db: AsyncConnection[Any]
) -> None:
    """The run says that it is too late while somebody approves. Fails if only the clock is asked: one would hear that
    the call was approved, and the model that nobody did."""
    asked = await ask(db, lasts=timedelta(seconds=1))
    async with two.transaction():  # its clock stands still: for it there is still time
        await two.execute("SELECT now()")
        await asyncio.sleep(1.1)
        answers = await read_answers(one, [asked.row.id])
        assert answers[asked.row.id].decision is Decision.EXPIRED
        with pytest.raises(ApprovalOver, match="expired at"):
            await decide(two, asked)
    assert await decisions(db) == ["expired"]
    assert (await read_answers(one, [asked.row.id]))[asked.row.id].decision is Decision.EXPIRED
    assert await decisions(db) == ["expired"], "it is told once"


async def test_who_is_faster_than_the_end_is_heard(one: AsyncConnection[Any], db: AsyncConnection[Any]) -> None:
    """The decision is not committed yet when the run finds that its time is over. Fails if expire_approvals does not
    look again whether there is a decision."""
    asked = await ask(db, lasts=timedelta(seconds=2))
    async with one.transaction():
        await decide(one, asked)
        await asyncio.sleep(2.1)
        reading = asyncio.create_task(read_answers(db, [asked.row.id]))
        await asyncio.sleep(0.3)
        assert not reading.done(), "it waits for who decides"
    assert (await reading)[asked.row.id].decision is Decision.APPROVED
    assert await decisions(one) == ["approved"]


async def test_a_settlement_that_comes_too_late_asks_nobody(db: AsyncConnection[Any]) -> None:
    """Fails if carry_out asks for what stale settlements want: the delivery runs elsewhere."""
    asked = await ask(db)
    lease = await woken(db, asked)
    question = asked.row
    await db.execute("DELETE FROM reflex.approval")
    late = waiting(lease._replace(lease_epoch=99), waits_on(asked))
    done = await exchange(db, worker_id=asked.worker_id, settlements=[late], trigger_ids=[], limit=0)
    assert done.stale
    assert (await list_approvals(db)).rows == []
    assert question.state == "pending"


async def test_an_approval_goes_with_its_event(db: AsyncConnection[Any]) -> None:
    """Fails without forget_approvals. One whose delivery still waits stays."""
    asked, kept = await ask(db), await ask(db)
    await decide(db, asked)
    lease = await leased(db, asked.registered, asked.worker_id)
    await settle(db, asked.worker_id, settled(lease, forget_steps=True))
    await grow_old(db)
    await prune(db)
    assert [row.id for row in (await list_approvals(db)).rows] == [kept.row.id]
    assert await count(db, "approval") == 1
    assert (await get_approval(db, kept.row.id)).arguments.value == REFUND
