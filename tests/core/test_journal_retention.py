"""How long journals are kept: until their delivery has ended, while its runs stay. What nobody knows the end of stays
until somebody says so. Real SQL; runs that are settled by hand."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.cancelling import cancel_delivery, finish_cancellations
from reflex.core.dead_letters import purge_dead_letter
from reflex.core.ids import DeliveryId
from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.replaying import Replay, find_trigger, replay_span
from reflex.core.settlement import Claimed, Outcome
from tests.core.log_fixtures import BEGINNING, place_all
from tests.core.test_cancelling import HOUR, NO_GRACE, WAITS, Desk
from tests.core.test_retention import grow_old, prune
from tests.queue_fixtures import count

ALL = {str(kind) for kind in StepKind}
UNKNOWN = {"intent"}
# What must not be done twice, and what was decided once.
STANDS = {"intent", "effect", "filter"}

End = Callable[[Desk, Claimed], Awaitable[Any]]


def settles(outcome: Outcome, **fields: Any) -> End:
    async def end(desk: Desk, lease: Claimed) -> None:
        assert not await desk.settle(lease, outcome=outcome, **fields)

    return end


async def dies(desk: Desk, lease: Claimed) -> None:
    await desk.settle(lease, outcome=Outcome.DEAD, error="e")


async def is_purged(desk: Desk, lease: Claimed) -> None:
    await dies(desk, lease)
    await purge_dead_letter(desk.db, lease.delivery_id)


async def is_cancelled_while_it_waits(desk: Desk, lease: Claimed) -> None:
    await desk.settle(lease, **WAITS)
    await cancel_delivery(desk.db, lease.delivery_id)


async def is_cancelled_when_its_trigger_is_gone(desk: Desk, lease: Claimed) -> None:
    await desk.settle(lease, outcome=Outcome.RETRY, retry_in=HOUR)
    await desk.db.execute("UPDATE reflex.trigger SET retired_at = now()")
    await cancel_delivery(desk.db, lease.delivery_id)


async def loses_its_lease(desk: Desk, lease: Claimed) -> None:
    await cancel_delivery(desk.db, lease.delivery_id)
    await finish_cancellations(desk.db, grace=NO_GRACE)


async def succeeds_and_is_pruned(desk: Desk, lease: Claimed) -> None:
    await desk.settle(lease, outcome=Outcome.SUCCEEDED, forget_steps=True)
    await grow_old(desk.db)
    await prune(desk.db)
    assert await count(desk.db, "run") == 0


async def succeeds_and_is_replayed(desk: Desk, lease: Claimed) -> None:
    await desk.settle(lease, outcome=Outcome.SUCCEEDED, forget_steps=True)
    await place_all(desk.db)
    async for _ in Replay(desk.db, await find_trigger(desk.db, "pack"), await replay_span(desk.db, after=BEGINNING)):
        pass
    assert await count(desk.db, "delivery") == 1


@pytest.mark.parametrize(
    ("end", "stays"),
    [
        (settles(Outcome.RETRY, retry_in=HOUR, error="e"), ALL),
        (settles(Outcome.RETRY, retry_in=HOUR, error="poison", forget_steps=True), STANDS),
        (settles(Outcome.RELEASED), ALL),
        (settles(**WAITS), ALL),
        (dies, ALL),
        (settles(Outcome.DEAD, error="poison", forget_steps=True), STANDS),
        (settles(Outcome.SUCCEEDED, forget_steps=True), UNKNOWN),
        (settles(Outcome.SKIPPED, forget_steps=True), UNKNOWN),
        (settles(Outcome.CANCELLED, forget_steps=True), UNKNOWN),
        (is_cancelled_while_it_waits, UNKNOWN),
        (is_cancelled_when_its_trigger_is_gone, UNKNOWN),
        (loses_its_lease, UNKNOWN),
        (is_purged, UNKNOWN),
        (succeeds_and_is_pruned, set[str]()),
        (succeeds_and_is_replayed, set[str]()),
    ],
)
async def test_a_journal_is_kept_until_its_delivery_has_ended(
    db: AsyncConnection[Any], end: End, stays: set[str]
) -> None:
    """Fails if an end leaves the journal behind (effects, after a cancellation), or takes what nobody knows the end of
    (a purge), or if anything else takes what another attempt needs."""
    desk = await Desk.opened(db)
    (delivery_id,) = await desk.publish()
    (lease,) = await desk.claim()
    for position, kind in enumerate(StepKind):
        await journal_step(db, delivery_id, 1, Step(kind, kind.encode(), 0, position, "{}"))
    other = DeliveryId(delivery_id.trigger_id + 1, delivery_id.event_id)
    await db.execute("INSERT INTO reflex.step SELECT %s, event_id, fingerprint, occurrence, kind, position, result, "
                     "lease_epoch FROM reflex.step LIMIT 1", [other.trigger_id])  # fmt: skip
    await end(desk, lease)
    query = "SELECT kind FROM reflex.step WHERE trigger_id = %s"
    rows = await (await db.execute(query, [delivery_id.trigger_id])).fetchall()
    assert {kind for (kind,) in rows} == stays
    assert len(rows) == len(stays)
    assert await count(db, "step") == len(stays) + 1, "the journals of others are left alone"
