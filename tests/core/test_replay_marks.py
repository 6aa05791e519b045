"""What a replay leaves behind: a mark that tells its runs from those of before, and no doubt about how far it got."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.log_reading import log_bounds
from reflex.core.reads import get_event
from reflex.core.replaying import Replay, find_trigger, is_replay, replay_span
from reflex.core.retention import Pruning, take_turn
from reflex.core.settlement import Claimed, Outcome
from tests.core.log_fixtures import BEGINNING, place_all, somebody_waits
from tests.queue_fixtures import claim_ordered, count, enlisted, ordered_shop, publish, settled, shop

# A commit that waits until a lock is free, after everything else of its transaction is done.
SLOW_COMMIT = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON reflex.replayed DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slow();
"""


async def begun(db: AsyncConnection[Any], **rest: Any) -> Replay:
    return Replay(db, await find_trigger(db, "pack"), await replay_span(db, after=BEGINNING), **rest)


async def run_out(
    db: AsyncConnection[Any], worker_id: UUID, registered: Any, outcomes: Sequence[Outcome]
) -> list[tuple[bool, bool]]:
    """Of each run, whether a worker would look for a mark, and whether there is one."""
    found: list[tuple[bool, bool]] = []
    for outcome in outcomes:
        (lease,) = await claim_ordered(db, worker_id, registered)
        found.append((lease.lease_epoch > lease.attempt, await is_replay(db, lease)))
        await queue.exchange(db, worker_id=worker_id, settlements=[end(lease, outcome)], trigger_ids=[], limit=0)
    return found


def end(lease: Claimed, outcome: Outcome) -> Any:
    return settled(lease, outcome, forget_steps=outcome is Outcome.SUCCEEDED)


@pytest.mark.parametrize("ordered", [False, True])
async def test_the_mark_holds_for_all_that_comes_after_it(db: AsyncConnection[Any], ordered: bool) -> None:
    """Given back twice, and replayed once more. Fails if a mark counts for the runs before it, or if one is lost."""
    registered = await (ordered_shop(db) if ordered else shop(db))
    worker_id = await enlisted(db, registered)
    (event_id,) = await publish(db)
    await place_all(db)
    first = await run_out(db, worker_id, registered, [Outcome.RELEASED, Outcome.SUCCEEDED])
    assert first == [(False, False), (True, False)]
    for ends in ([Outcome.RELEASED, Outcome.RELEASED, Outcome.SUCCEEDED], [Outcome.SUCCEEDED]):
        await anext(await begun(db))
        (delivery,) = (await get_event(db, event_id)).deliveries
        assert (delivery.state, delivery.replayed_at is not None) == ("pending", True)
        assert await run_out(db, worker_id, registered, ends) == [(True, True)] * len(ends)
    (delivery,) = (await get_event(db, event_id)).deliveries
    assert [run.is_replay for run in delivery.runs] == [False] * 2 + [True] * 4
    assert await count(db, "replayed") == 1


async def test_a_mark_is_of_one_trigger_and_one_event_and_of_no_run_before(db: AsyncConnection[Any]) -> None:
    registered = await shop(db, {"pack": "order.created", "weigh": "order.created"})
    worker_id = await enlisted(db, registered)
    await publish(db, 2)
    await place_all(db)
    leases = await claim_ordered(db, worker_id, registered)
    ends = [settled(lease) for lease in leases]
    await queue.exchange(db, worker_id=worker_id, settlements=ends, trigger_ids=[], limit=0)
    await (await begun(db)).portion(most=1)
    assert [await is_replay(db, lease) for lease in leases] == [False] * 4
    assert [await is_replay(db, lease._replace(lease_epoch=2)) for lease in leases].count(True) == 1


async def test_the_mark_goes_with_its_event(db: AsyncConnection[Any]) -> None:
    """Fails if marks are left when events are pruned, or go in a dry run."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db)
    await place_all(db)
    await run_out(db, worker_id, registered, [Outcome.SUCCEEDED])
    await anext(await begun(db))
    await run_out(db, worker_id, registered, [Outcome.SUCCEEDED])
    for dry_run in (True, False):
        pruning = Pruning((await log_bounds(db)).end, dry_run=dry_run)
        while await pruning.portion(db):
            pass
        assert (await count(db, "replayed"), await count(db, "event")) == (dry_run, dry_run)


async def test_who_is_interrupted_while_it_commits_knows_that_it_has(
    db: AsyncConnection[Any], other: AsyncConnection[Any], database_url: str
) -> None:
    """Cancelled when the commit is under way. Fails if it ends before the answer is there: who goes on from the last
    cursor would do the portion again, as soon as its deliveries have run."""
    await shop(db)
    await publish(db, 3)
    await place_all(db)
    await db.execute("DELETE FROM reflex.delivery")
    await db.execute(SLOW_COMMIT)
    going = await begun(db, portion=1)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(1)")
        portion = asyncio.ensure_future(anext(going))
        await somebody_waits(other)
        portion.cancel()
        await asyncio.sleep(0)
        async with await psycopg.AsyncConnection.connect(database_url) as looking:
            await somebody_waits(looking)
    with pytest.raises(asyncio.CancelledError):
        await portion
    assert (going.done.replayed, await count(db, "delivery")) == (3, 3)


async def test_who_is_interrupted_before_that_has_done_nothing(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """While it waits for its turn. Fails if Ctrl-C has to wait for whoever has it."""
    await shop(db)
    await publish(db, 3)
    await place_all(db)
    await db.execute("DELETE FROM reflex.delivery")
    going = await begun(db)
    async with other.transaction():
        await take_turn(other)
        portion = asyncio.ensure_future(anext(going))
        await somebody_waits(other)
        portion.cancel()
        with pytest.raises(asyncio.CancelledError):
            await portion
    assert (going.done.replayed, await count(db, "delivery"), await count(db, "replayed")) == (0, 0, 0)
    assert (await anext(going)).replayed == 3
