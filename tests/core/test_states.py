"""What triggers remember: written with the settlement, by one of those who began with the same version."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.errors import NotFound
from reflex.core.events import NewEvent
from reflex.core.log import append
from reflex.core.queue import Exchanged, exchange
from reflex.core.reads import read_deliveries
from reflex.core.reaping import reap
from reflex.core.registration import Registered
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.states import StateChange, forget_state, get_state, load_state
from tests.processes import eventually
from tests.queue_fixtures import claim, claim_ordered, count, enlisted, new_event, ordered_shop, settled, shop


async def settle(db: AsyncConnection[Any], worker_id: UUID, *settlements: Settlement) -> Exchanged:
    return await exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)


def changes(lease: Claimed, data: str, *, version: int = 0, key: str | None = None, **rest: Any) -> Settlement:
    change = StateChange("pack", key or lease.key or "A", version, 1, data)
    return settled(lease, state=change, **rest)


async def stored(db: AsyncConnection[Any], key: str = "A") -> tuple[int, Any]:
    """Version and state."""
    row = await get_state(db, 1, key, trigger="pack", app="shop")
    return row.version, None if row.state is None else row.state.value


async def leases(
    db: AsyncConnection[Any], *keys: str, registered: Registered | None = None
) -> tuple[Registered, UUID, list[Claimed]]:
    """A worker that has claimed an event of each key."""
    registered = registered or await shop(db)
    await append(db, [new_event(key=key) for key in keys])
    worker_id = await enlisted(db, registered)
    return registered, worker_id, await claim(db, worker_id, list(registered.trigger_ids.values()))


async def test_a_state_is_written_with_its_settlement_and_found_by_the_next_run(db: AsyncConnection[Any]) -> None:
    """Fails without write_states in carry_out."""
    _, worker_id, (lease,) = await leases(db, "A")
    assert await load_state(db, lease.delivery_id, "key") == ("A", 0, None, None, None, None)
    done = await settle(db, worker_id, changes(lease, '{"n": 1}'))
    assert (done.stale, done.conflicts) == (frozenset(), ())
    loaded = await load_state(db, lease.delivery_id, "key")
    assert (loaded.key, loaded.schema_version, loaded.data) == ("A", 1, '{"n": 1}')
    assert loaded.version > 0


@pytest.mark.parametrize(
    ("path", "event", "key"),
    [
        ("key", new_event(key="A"), "A"),
        ("key", new_event(), None),
        ("source", new_event(source="till"), "till"),
        ("payload.chat.id", new_event(payload='{"chat": {"id": 7}}'), "7"),
        ("payload.chat.id", new_event(payload='{"chat": null}'), None),
    ],
)
async def test_the_key_is_that_of_lanes(db: AsyncConnection[Any], path: str, event: NewEvent, key: str | None) -> None:
    registered = await shop(db)
    await append(db, [event])
    worker_id = await enlisted(db, registered)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    assert (await load_state(db, lease.delivery_id, path)).key == key


async def test_of_two_runs_of_one_key_in_an_exchange_one_holds_and_its_neighbours_too(db: AsyncConnection[Any]) -> None:
    """Both began with nothing. Fails if give_way does not tell them apart (the second one is written over the first
    one); if a conflict undoes the exchange (the neighbour is not settled)."""
    registered, worker_id, claimed = await leases(db, "A", "A", "B")
    first, second, neighbour = claimed
    published = (new_event("order.packed"),)
    done = await settle(
        db, worker_id, changes(first, '"first"'), changes(second, '"second"', published=published),
        settled(neighbour, published=(new_event("order.packed"),)),
    )  # fmt: skip
    assert [conflict[:2] for conflict in done.conflicts] == [second[:2]]
    assert (await stored(db))[1] == "first"
    assert await count(db, "lease") == 0
    assert await count(db, "event WHERE type = 'order.packed'") == 1
    (given_back,) = await read_deliveries(db, second.event_id)
    assert given_back.state == "pending"
    assert given_back.attempt == 0, "a conflict is nobody's failure"
    assert [(run.outcome, run.error) for run in given_back.runs] == [
        ("released", "another run changed what is remembered of 'A' first")
    ]
    (again,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    version, _ = await stored(db)
    assert (await settle(db, worker_id, changes(again, '"second"', version=version))).conflicts == ()
    assert (await stored(db))[1] == "second"


async def test_a_run_that_began_with_an_older_version_changes_nothing(db: AsyncConnection[Any]) -> None:
    """Fails without the version in hold_states: an update is lost. Fails if its events are appended all the same."""
    _, worker_id, (first, second) = await leases(db, "A", "A")
    await settle(db, worker_id, changes(first, "1"))
    version, _ = await stored(db)
    late = changes(second, "2", version=version + 7, published=(new_event("order.packed"),), output="2")
    assert len((await settle(db, worker_id, late)).conflicts) == 1
    assert await stored(db) == (version, 1)
    assert await count(db, "event WHERE type = 'order.packed'") == 0
    assert await count(db, "run WHERE output IS NOT NULL") == 0


async def test_a_late_worker_writes_no_state(db: AsyncConnection[Any]) -> None:
    """Promise 4. Fails if carry_out writes for stale settlements; without the deletion in write_states an empty row
    stays behind."""
    _, worker_id, (lease,) = await leases(db, "A")
    await reap(db, lease_timeout=timedelta(0), now=datetime.now(UTC) + timedelta(hours=1))
    done = await settle(db, worker_id, changes(lease, "1"))
    assert done.stale == {lease[:2]}
    assert await count(db, "state") == 0


async def test_the_same_settlement_again_is_late_and_no_conflict(db: AsyncConnection[Any]) -> None:
    """As after a lost answer. Fails if conflicts of stale settlements are reported."""
    _, worker_id, (lease,) = await leases(db, "A")
    await settle(db, worker_id, changes(lease, "1"))
    again = await settle(db, worker_id, changes(lease, "1"))
    assert (again.stale, again.conflicts) == ({lease[:2]}, ())
    assert (await stored(db))[1] == 1


async def test_a_state_that_somebody_is_changing_holds_nobody_up(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """Its neighbours do not wait for a transaction elsewhere. Fails without SKIP LOCKED in hold_states."""
    _, worker_id, (first, second, neighbour) = await leases(db, "A", "A", "B")
    await settle(db, worker_id, changes(first, "1"))
    version, _ = await stored(db)
    async with other.transaction():
        await other.execute("SELECT FROM reflex.state FOR UPDATE")
        async with asyncio.timeout(5):
            done = await settle(db, worker_id, changes(second, "2", version=version), settled(neighbour))
    assert [conflict[:2] for conflict in done.conflicts] == [second[:2]]
    assert await count(db, "run WHERE outcome = 'succeeded'") == 2


async def test_of_two_workers_that_make_a_state_at_once_one_gives_way(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    """The second one waits for the first one's commit, and then finds the row. Fails with a plain INSERT (a unique
    violation undoes the exchange), and with an upsert (the first one's state is lost)."""
    _, worker_id, (first, second) = await leases(db, "A", "A")
    async with db.transaction():
        await settle(db, worker_id, changes(first, "1"))
        racing = asyncio.create_task(settle(other, worker_id, changes(second, "2")))
        await eventually(lambda: waits_for_a_lock(db))
    assert len((await racing).conflicts) == 1
    assert (await stored(db))[1] == 1


async def waits_for_a_lock(db: AsyncConnection[Any]) -> bool:
    return await count(db, "worker, pg_stat_activity WHERE wait_event_type = 'Lock'") > 0


async def test_a_state_that_was_forgotten_and_made_anew_is_another_one(db: AsyncConnection[Any]) -> None:
    """Fails if versions are counted by row: a run from before would find its number again, and write over what it has
    not seen."""
    _, worker_id, (first, second, third) = await leases(db, "A", "A", "A")
    await settle(db, worker_id, changes(first, "1"))
    version, _ = await stored(db)
    assert await forget_state(db, 1, "A")
    assert not await forget_state(db, 1, "A")
    with pytest.raises(NotFound, match="remembers nothing of the key 'A'"):
        await stored(db)
    assert (await settle(db, worker_id, changes(second, "2"))).conflicts == ()
    assert len((await settle(db, worker_id, changes(third, "3", version=version))).conflicts) == 1
    assert (await stored(db))[1] == 2


async def test_state_and_messages_are_changed_one_without_the_other(db: AsyncConnection[Any]) -> None:
    """Fails without coalesce in write_states. A NUL that a model said is kept: fails with jsonb."""
    _, worker_id, (first, second) = await leases(db, "A", "A")
    await settle(db, worker_id, changes(first, "1"))
    version, _ = await stored(db)
    said = '[{"said": "a\\u0000b"}]'
    change = StateChange("pack", "A", version, messages=said, usage='{"requests": 1}')
    await settle(db, worker_id, settled(second, state=change))
    loaded = await load_state(db, first.delivery_id, "key")
    assert loaded[2:] == (1, "1", said, '{"requests": 1}')


async def test_an_ordered_delivery_that_gives_way_keeps_its_place(db: AsyncConnection[Any]) -> None:
    """Fails without give_way in settle_lanes."""
    registered = await ordered_shop(db)
    await append(db, [new_event(key="A"), new_event(key="A")])
    worker_id = await enlisted(db, registered)
    first, second = await claim_ordered(db, worker_id, registered)
    done = await settle(
        db, worker_id, changes(first, "1", version=7), settled(second, Outcome.RELEASED, reason="not_begun")
    )
    assert [conflict[:2] for conflict in done.conflicts] == [first[:2]]
    again = await claim_ordered(db, worker_id, registered)
    assert [(c.event_id, c.attempt) for c in again] == [(first.event_id, 1), (second.event_id, 1)]
    assert (await settle(db, worker_id, changes(again[0], "1"))).conflicts == ()
    assert (await stored(db))[1] == 1


async def test_a_frozen_worker_holds_states_for_a_moment_only(db: AsyncConnection[Any]) -> None:
    """Fails without the set_config of hold_states: until its connection breaks, all runs of the key would give way."""
    _, worker_id, (lease,) = await leases(db, "A")
    async with db.transaction():
        await settle(db, worker_id, changes(lease, "1"))
        cursor = await db.execute("SHOW idle_in_transaction_session_timeout")
        assert await cursor.fetchone() == ("5s",)
