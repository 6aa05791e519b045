"""Order per key: the life of ordered deliveries on a real database, one step at a time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.dead_letters import DeadLetterFilter, purge_dead_letters, retry_dead_letters
from reflex.core.lanes import WhenDead, leave_lanes, promote_lanes, sweep_lanes
from reflex.core.log import append
from reflex.core.queue import dead_settlement, exchange, own_leases, promote_scheduled, route_unrouted
from reflex.core.reads import get_event
from reflex.core.reaping import reap
from reflex.core.registration import Registered
from reflex.core.settlement import NOT_BEGUN, Claimed, Outcome, Settlement
from tests.queue_fixtures import (
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

EVERYTHING = DeadLetterFilter()


async def publish_keys(db: AsyncConnection[Any], keys: str, **fields: Any) -> list[UUID]:
    """One event for each letter, appended together."""
    events = [new_event(key=key, **fields) for key in keys]
    await append(db, events)
    return [event.event_id for event in events]


async def settle(db: AsyncConnection[Any], worker_id: UUID, *settlements: Settlement) -> frozenset[tuple[int, UUID]]:
    done = await exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
    return done.stale


async def lane(db: AsyncConnection[Any], key: str = "a") -> tuple[int, int, int] | None:
    """Its pending, running and held; None if there is no such lane."""
    found = await db.execute("SELECT pending, running, held FROM reflex.lane WHERE key = %s", [key])
    return await found.fetchone()


async def database_now(db: AsyncConnection[Any]) -> datetime:
    row = await (await db.execute("SELECT now()")).fetchone()
    assert row
    return row[0]


async def the_worker_dies(db: AsyncConnection[Any], worker_id: UUID) -> None:
    await db.execute(
        "UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour' WHERE worker_id = %s", [worker_id]
    )


def ids(leases: Sequence[Claimed]) -> list[UUID]:
    return [lease.event_id for lease in leases]


async def test_a_key_is_claimed_by_one_worker_in_order_and_others_beside_it(db: AsyncConnection[Any]) -> None:
    """Fails if a claimed lane stays ready, and if the rows of a lane are taken without an order."""
    registered = await ordered_shop(db)
    one, two = await enlisted(db, registered), await enlisted(db, registered)
    a = await publish_keys(db, "aaaa")
    first = await claim_ordered(db, one, registered, rows=3)
    assert ids(first) == a[:3]
    assert [lease.attempt for lease in first] == [1, 1, 1]
    b = await publish_keys(db, "ba")
    assert ids(await claim_ordered(db, two, registered)) == b[:1]
    assert not await settle(db, one, *map(settled, first))
    assert ids(await claim_ordered(db, two, registered)) == [a[3], b[1]]


async def test_a_claim_divides_its_rows_among_the_lanes_that_have_more(db: AsyncConnection[Any]) -> None:
    """Fails if each lane gives as many as there are rows: a worker would hold in memory what it cannot run."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    await publish_keys(db, "abc" + 30 * "h")
    claimed = await claim_ordered(db, worker_id, registered, rows=10)
    assert len(claimed) == 10
    assert len({lease.lane_key for lease in claimed}) == 4


async def test_a_key_is_found_below_the_payload_and_without_one_there_is_no_order(db: AsyncConnection[Any]) -> None:
    """Fails if an event without a value at the path is dropped, or gets a lane of its own."""
    registered = await ordered_shop(db, "payload.chat.id")
    worker_id = await enlisted(db, registered)
    payloads = ['{"chat": {"id": 7}}', '{"chat": {"id": "7"}}', '{"chat": {"id": null}}', '{"chat": 7}', "{}"]
    events = [new_event(payload=payload) for payload in payloads]
    await append(db, events)
    assert (await count(db, "ordered"), await count(db, "delivery")) == (2, 3)
    claimed = await claim_ordered(db, worker_id, registered)
    assert {lease.event_id: lease.lane_key for lease in claimed} == dict(
        zip([event.event_id for event in events], ["7", "7", None, None, None], strict=True)
    )


async def test_a_key_too_long_for_an_index_has_a_lane_all_the_same(db: AsyncConnection[Any]) -> None:
    """Fails if the value itself is the key: the append fails, and with it everything in the same batch."""
    registered = await ordered_shop(db, "payload.text")
    worker_id = await enlisted(db, registered)
    long = "".join(chr(0x4E00 + n) for n in range(10_000))
    await append(db, [new_event(payload=f'{{"text": "{long}"}}') for _ in range(2)])
    claimed = await claim_ordered(db, worker_id, registered)
    assert len(claimed) == 2
    assert len({lease.lane_key for lease in claimed}) == 1


async def test_a_retry_makes_its_key_wait_and_comes_first_again(db: AsyncConnection[Any]) -> None:
    """Fails if the lane does not wait (the next delivery overtakes), or if what was given back lost an attempt."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    events = await publish_keys(db, "aaa")
    first, *rest = await claim_ordered(db, worker_id, registered)
    failed = settled(first, Outcome.RETRY, error="boom", retry_in=timedelta(seconds=30))
    await settle(db, worker_id, failed, *(settled(c, Outcome.RELEASED, reason=NOT_BEGUN) for c in rest))
    assert await lane(db) == (3, 0, 0)
    assert await claim_ordered(db, worker_id, registered) == []
    promoted, next_in = await promote_lanes(db)
    assert promoted == 0
    assert next_in is not None
    assert 28 < next_in.total_seconds() <= 30
    delivery = (await get_event(db, events[0])).deliveries[0]
    assert (delivery.state, delivery.attempt) == ("pending", 1)
    assert delivery.available_at is not None
    later = await database_now(db) + timedelta(seconds=31)
    assert (await promote_lanes(db, now=later))[0] == 1
    again = await claim_ordered(db, worker_id, registered)
    assert ids(again) == events
    assert [(lease.attempt, lease.lease_epoch) for lease in again] == [(2, 2), (1, 2), (1, 2)]
    runs = await (await db.execute("SELECT event_id, outcome FROM reflex.run")).fetchall()
    assert runs == [(events[0], "retry")], "what had not begun leaves no run"


async def test_a_lane_is_free_only_when_its_last_lease_is_gone(db: AsyncConnection[Any]) -> None:
    """Fails if settling any delivery frees the lane: another worker would run the next one at the same time."""
    registered = await ordered_shop(db)
    one, two = await enlisted(db, registered), await enlisted(db, registered)
    await publish_keys(db, "aaa")
    first, second = await claim_ordered(db, one, registered, rows=2)
    await settle(db, one, settled(first))
    assert await claim_ordered(db, two, registered) == []
    await settle(db, one, settled(second))
    assert len(await claim_ordered(db, two, registered)) == 1


async def test_a_late_settlement_changes_nothing_in_its_lane(db: AsyncConnection[Any]) -> None:
    """Promise 4. Fails without the lease_epoch in settle_lanes: the lane would be freed under its new owner."""
    registered = await ordered_shop(db)
    slow, quick = await enlisted(db, registered), await enlisted(db, registered)
    await publish_keys(db, "aa")
    late = await claim_ordered(db, slow, registered)
    await the_worker_dies(db, slow)
    await reap(db, lease_timeout=timedelta(minutes=1))
    mine = await claim_ordered(db, quick, registered)
    assert ids(mine) == ids(late)
    done = settled(late[0], published=(new_event("late"),))
    assert await settle(db, slow, done, settled(late[1])) == {late[0][:2], late[1][:2]}
    assert (await lane(db), await count(db, "event")) == ((0, 2, 0), 2)
    assert await own_leases(db, worker_id=quick) == mine


async def test_a_lost_worker_costs_an_attempt_of_what_had_begun_only(db: AsyncConnection[Any]) -> None:
    """Fails if reap_lanes counts an attempt for every lease: three restarts would kill deliveries that never ran."""
    registered = await ordered_shop(db, max_attempts=2)
    events = await publish_keys(db, "aaa")
    for attempt in (1, 2):
        worker_id = await enlisted(db, registered)
        leases = await claim_ordered(db, worker_id, registered)
        assert ids(leases) == events
        assert [lease.attempt for lease in leases] == [attempt, 1, 1]
        await the_worker_dies(db, worker_id)
        (reaped,) = await reap(db, lease_timeout=timedelta(minutes=1))
        assert (reaped.delivery_id, reaped.attempt, reaped.dead) == (leases[0].delivery_id, attempt, attempt == 2)
    assert (await lane(db), await count(db, "dead_letter")) == ((2, 0, 0), 1)
    worker_id = await enlisted(db, registered)
    assert ids(await claim_ordered(db, worker_id, registered)) == events[1:]
    types = await (await db.execute("SELECT type FROM reflex.event ORDER BY event_id")).fetchall()
    assert types[3:] == [("reflex.dead_letter",)]


async def test_the_next_delivery_goes_on_after_a_death_or_waits_as_the_trigger_says(db: AsyncConnection[Any]) -> None:
    """Fails if settle_lanes does not ask when_dead, or a retry or purge does not lift what its letter holds."""
    registered = await ordered_shop(db, when_dead=WhenDead.HOLD)
    worker_id = await enlisted(db, registered)
    events = await publish_keys(db, "aab")
    claimed = await claim_ordered(db, worker_id, registered)
    dead = dead_settlement(claimed[0], trigger="pack", reason="x", error="x")
    await settle(db, worker_id, dead, settled(claimed[1], Outcome.RELEASED), settled(claimed[2]))
    assert await lane(db) == (1, 0, 1)
    more = await publish_keys(db, "ab")
    assert ids(await claim_ordered(db, worker_id, registered)) == more[1:], "only the other key goes on"
    await sweep_lanes(db)
    assert await retry_dead_letters(db, EVERYTHING, all=True) == 1
    assert await lane(db) == (3, 0, 0)
    again = await claim_ordered(db, worker_id, registered)
    assert ids(again) == [*events[:2], *more[:1]], "the retried one first, at its own place"
    assert again[0].attempt == 1

    dead = dead_settlement(again[0], trigger="pack", reason="x", error="x")
    await settle(db, worker_id, dead, *(settled(lease, Outcome.RELEASED) for lease in again[1:]))
    assert await claim_ordered(db, worker_id, registered) == []
    assert await purge_dead_letters(db, EVERYTHING, all=True) == 1
    assert ids(await claim_ordered(db, worker_id, registered)) == [events[1], more[0]]


async def test_a_lane_that_is_held_stays_held_when_nothing_is_pending(db: AsyncConnection[Any]) -> None:
    """Fails if the sweep removes a held lane: the next event of the key would get a lane that nobody holds."""
    registered = await ordered_shop(db, when_dead=WhenDead.HOLD)
    worker_id = await enlisted(db, registered)
    await publish_keys(db, "a")
    (lease,) = await claim_ordered(db, worker_id, registered)
    await settle(db, worker_id, settled(lease, Outcome.DEAD))
    assert await sweep_lanes(db) == 0
    await publish_keys(db, "a")
    assert await claim_ordered(db, worker_id, registered) == []


async def test_a_key_is_let_go_when_the_code_says_that_it_goes_on(db: AsyncConnection[Any]) -> None:
    """Fails without lift_holds: a held key would stay held by a rule that is gone. A later purge must not count."""
    registered = await ordered_shop(db, when_dead=WhenDead.HOLD)
    worker_id = await enlisted(db, registered)
    await publish_keys(db, "aa")
    lease, *_ = await claim_ordered(db, worker_id, registered, rows=1)
    await settle(db, worker_id, settled(lease, Outcome.DEAD))
    await ordered_shop(db)
    assert await lane(db) == (1, 0, 0)
    assert len(await claim_ordered(db, worker_id, registered)) == 1
    assert await purge_dead_letters(db, EVERYTHING, all=True) == 1
    assert await lane(db) == (0, 1, 0)


async def test_a_dead_letter_is_retried_at_its_place_when_its_lane_is_long_gone(db: AsyncConnection[Any]) -> None:
    """Fails if retrying only updates lanes: the delivery would be in a lane that does not exist."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    events = await publish_keys(db, "a")
    (lease,) = await claim_ordered(db, worker_id, registered)
    await settle(db, worker_id, settled(lease, Outcome.DEAD))
    assert await sweep_lanes(db) == 1
    assert await lane(db) is None
    assert await retry_dead_letters(db, EVERYTHING, all=True) == 1
    events += await publish_keys(db, "a")
    assert ids(await claim_ordered(db, worker_id, registered)) == events


async def test_an_event_that_was_put_off_takes_its_place_when_it_is_due(db: AsyncConnection[Any]) -> None:
    """Fails if the key is not kept in `scheduled`, or the lane is not told."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    delayed = await publish_keys(db, "ab", delay=timedelta(seconds=30))
    at_once = await publish_keys(db, "a")
    assert (await count(db, "scheduled"), await count(db, "delivery")) == (2, 0)
    later = await database_now(db) + timedelta(seconds=31)
    assert (await promote_scheduled(db, now=later))[0] == 2
    assert await count(db, "delivery") == 0
    claimed = await claim_ordered(db, worker_id, registered)
    assert {(lease.lane_key, lease.event_id) for lease in claimed if lease.lane_key == "b"} == {("b", delayed[1])}
    assert ids([lease for lease in claimed if lease.lane_key == "a"]) == [at_once[0], delayed[0]]


async def test_events_that_waited_for_their_trigger_come_before_later_ones_in_their_order(
    db: AsyncConnection[Any],
) -> None:
    """Fails if route_unrouted draws positions of its own: what came meanwhile, or another type, would be first."""
    early = [new_event("order.paid", key="a"), new_event("order.created", key="a"), new_event("order.b", key="a")]
    await append(db, early)
    registered = await shop(db, {"pack": "order.*"})
    await db.execute("UPDATE reflex.trigger SET key_path = '{key}'")
    await db.execute("UPDATE reflex.route SET key_path = '{key}'")
    later = await publish_keys(db, "a")
    for _ in range(4):
        await route_unrouted(db, limit=1)
    worker_id = await enlisted(db, registered)
    assert ids(await claim_ordered(db, worker_id, registered)) == [*[event.event_id for event in early], *later]


async def test_a_trigger_that_is_ordered_no_more_leaves_nothing_behind(db: AsyncConnection[Any]) -> None:
    """Fails without leave_lanes: nobody claims lanes of a trigger that is not ordered."""
    registered = await ordered_shop(db)
    worker_id = await enlisted(db, registered)
    events = await publish_keys(db, "aab")
    (running, _) = await claim_ordered(db, worker_id, registered, limit=1, rows=2)
    await shop(db)
    events += await publish_keys(db, "a")
    assert (await count(db, "ordered"), await count(db, "delivery")) == (1, 1)
    assert await leave_lanes(db) == 1
    # The old code goes on with what it has; a retry finds its way out of the lane, too.
    retry = settled(running, Outcome.RETRY, error="x", retry_in=timedelta(0))
    await settle(db, worker_id, retry, *(settled(c, Outcome.RELEASED) for c in await held(db, worker_id, running)))
    assert await leave_lanes(db) == 2
    unordered = await exchange(
        db, worker_id=worker_id, settlements=[], trigger_ids=list(registered.trigger_ids.values()), limit=10
    )
    assert sorted(ids(unordered.claimed)) == sorted(events)
    await settle(db, worker_id, *map(settled, unordered.claimed))
    assert await sweep_lanes(db) == 2
    assert await is_quiet(db)


async def held(db: AsyncConnection[Any], worker_id: UUID, *but: Claimed) -> list[Claimed]:
    return [lease for lease in await own_leases(db, worker_id=worker_id) if lease not in but]


async def test_deliveries_pending_under_another_key_or_none_are_served(db: AsyncConnection[Any]) -> None:
    """A trigger gets an order, and then another key. Fails if a claim looks at lanes only, or at one key path only."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    events = await publish_keys(db, "a")
    await ordered_shop(db)
    events += await publish_keys(db, "a")
    await ordered_shop(db, "source")
    events += await publish_keys(db, "a")
    assert sorted(ids(await claim_ordered(db, worker_id, registered))) == sorted(events)


async def test_counts_and_reads_know_ordered_deliveries(db: AsyncConnection[Any]) -> None:
    """Fails with `ordered` left out of any one of the reads."""
    from reflex.core.overview import describe_problems, read_overview
    from reflex.core.reads import list_triggers

    minute = timedelta(minutes=1)
    registered = await ordered_shop(db, when_dead=WhenDead.HOLD)
    (first, second, _) = await publish_keys(db, "aab")
    overview = await read_overview(db, lease_timeout=minute)
    assert overview.queue.pending == 3
    assert overview.queue.oldest_pending_s is not None
    assert [row.trigger for row in overview.unserved] == ["pack"]
    worker_id = await enlisted(db, registered)
    (lease,) = await claim_ordered(db, worker_id, registered, limit=1, rows=1)
    assert lease.event_id == first
    await settle(db, worker_id, settled(lease, Outcome.DEAD))
    (trigger,) = await list_triggers(db, lease_timeout=minute)
    assert (trigger.pending, trigger.running, trigger.dead) == (2, 0, 1)
    assert (await get_event(db, second)).deliveries[0].state == "pending"
    overview = await read_overview(db, lease_timeout=minute)
    assert overview.queue.held_keys == 1
    assert "retry or purge it" in describe_problems(overview)[0]


async def test_a_registered_order_is_kept_with_the_trigger(db: AsyncConnection[Any]) -> None:
    """Fails if registering again does not replace the path of a route that stays."""

    async def paths() -> list[Any]:
        found = await db.execute(
            "SELECT t.key_path, r.key_path, when_dead FROM reflex.trigger t JOIN reflex.route r USING (trigger_id)"
        )
        return await found.fetchall()

    registered: Registered = await shop(db)
    assert await paths() == [(None, None, "continue")]
    again = await ordered_shop(db, "payload.a.b", when_dead=WhenDead.HOLD)
    assert again == registered
    assert await paths() == [(["payload", "a", "b"], ["payload", "a", "b"], "hold")]


async def test_an_app_without_order_makes_no_lanes(db: AsyncConnection[Any]) -> None:
    await shop(db)
    await publish(db, 3)
    assert (await count(db, "lane"), await count(db, "ordered"), await count(db, "delivery")) == (0, 0, 3)
