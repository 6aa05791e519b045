"""Claiming, settling, giving back, reaping: the state machine of a delivery, on a real database."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from reflex.core.database import connect
from reflex.core.queue import dead_settlement, exchange, own_leases, promote_scheduled, route_unrouted
from reflex.core.reaping import reap
from reflex.core.settlement import Outcome
from reflex.core.workers import beat, retire_triggers
from tests.queue_fixtures import claim, count, enlisted, new_event, publish, settled, shop

NOW = timedelta(0)


async def test_two_open_claims_share_the_queue_without_waiting(database_url: str) -> None:
    """Fails without SKIP LOCKED (the second waits, lock_timeout) and without FOR UPDATE (both take the same rows)."""
    async with await connect(database_url, name="a") as one, await connect(database_url, name="b") as two:
        registered = await shop(one)
        ids = list(registered.trigger_ids.values())
        await publish(one, 3)
        a, b = await enlisted(one, registered), await enlisted(one, registered)
        async with one.transaction(), two.transaction():
            await two.execute("SET LOCAL lock_timeout = '500ms'")
            first = await claim(one, a, ids, limit=2)
            second = await claim(two, b, ids, limit=2)
        assert (len(first), len(second)) == (2, 1)
        assert not {c.event_id for c in first} & {c.event_id for c in second}


async def test_a_claim_locks_no_more_than_it_takes(database_url: str) -> None:
    """Fails without the outer LIMIT: each trigger would give as many as the worker has slots."""
    async with await connect(database_url, name="a") as one, await connect(database_url, name="b") as two:
        registered = await shop(one, {"x": "order.created", "y": "order.*"})
        ids = list(registered.trigger_ids.values())
        await publish(one, 10)
        a, b = await enlisted(one, registered), await enlisted(one, registered)
        async with one.transaction():
            assert len(await claim(one, a, ids, limit=5)) == 5
            assert len(await claim(two, b, ids, limit=100)) == 15


async def test_deliveries_of_triggers_the_worker_does_not_know_are_left_alone(database_url: str) -> None:
    """Promise 11. Fails if the claim does not ask for the trigger ids."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn, {"old": "order.created", "new": "order.created"})
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        claimed = await claim(conn, worker_id, [registered.trigger_ids["old"]])
        assert [c.trigger_id for c in claimed] == [registered.trigger_ids["old"]]
        assert await count(conn, "delivery") == 1


async def test_a_worker_that_was_declared_dead_claims_nothing(database_url: str) -> None:
    """Fails if the claim does not look for the worker's row."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        worker_id = await enlisted(conn, registered)
        await conn.execute("DELETE FROM reflex.worker")
        await publish(conn)
        assert await claim(conn, worker_id, list(registered.trigger_ids.values())) == []
        assert await count(conn, "delivery") == 1


async def test_a_late_settlement_changes_nothing_not_even_by_publishing(database_url: str) -> None:
    """Promise 4. Fails if the fence (lease_epoch) is taken out of settle_and_claim, or if events are appended
    without asking which settlements held."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        await publish(conn)
        slow, quick = await enlisted(conn, registered), await enlisted(conn, registered)
        (late,) = await claim(conn, slow, ids)
        await conn.execute(
            "UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour' WHERE worker_id = %s", [slow]
        )
        assert len(await reap(conn, lease_timeout=timedelta(minutes=1))) == 1
        (mine,) = await claim(conn, quick, ids)
        assert mine.event_id == late.event_id
        assert mine.lease_epoch == late.lease_epoch + 1

        settlement = settled(late, output='"late"', published=(new_event("order.late"),))
        done = await exchange(conn, worker_id=slow, settlements=[settlement], trigger_ids=[], limit=0)
        assert done.stale == {(late.trigger_id, late.event_id)}
        assert (await count(conn, "event"), await count(conn, "lease")) == (1, 1)

        settlement = settled(mine, published=(new_event("order.done"),))
        assert not (await exchange(conn, worker_id=quick, settlements=[settlement], trigger_ids=[], limit=0)).stale
        rows = await (await conn.execute("SELECT type FROM reflex.event ORDER BY 1")).fetchall()
        assert [row[0] for row in rows] == ["order.created", "order.done"]
        outcomes = await (await conn.execute("SELECT outcome FROM reflex.run ORDER BY lease_epoch")).fetchall()
        assert [row[0] for row in outcomes] == ["lost", "succeeded"]


async def test_what_a_run_publishes_is_committed_with_its_settling_or_not_at_all(database_url: str) -> None:
    """Promise 4. Fails if exchange() opens no transaction around settling and appending."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        (lease,) = await claim(conn, worker_id, ids)
        bad = settled(lease, published=(new_event(), new_event(payload='{"a": "\\u0000"}')))
        with pytest.raises(psycopg.DataError):
            await exchange(conn, worker_id=worker_id, settlements=[bad], trigger_ids=ids, limit=5)
        assert (await count(conn, "lease"), await count(conn, "run"), await count(conn, "event")) == (1, 0, 1)


async def test_a_retry_waits_keeps_its_attempts_and_comes_back(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        (lease,) = await claim(conn, worker_id, ids)
        retry = settled(lease, Outcome.RETRY, error="boom", retry_in=timedelta(seconds=30))
        done = await exchange(conn, worker_id=worker_id, settlements=[retry], trigger_ids=ids, limit=5)
        assert done.claimed == []
        promoted, next_in = await promote_scheduled(conn)
        assert promoted == 0
        assert next_in is not None
        assert timedelta(seconds=25) < next_in <= timedelta(seconds=30)
        later = await (await conn.execute("SELECT now() + interval '31 seconds'")).fetchone()
        assert later is not None
        assert (await promote_scheduled(conn, now=later[0]))[0] == 1
        (again,) = await claim(conn, worker_id, ids)
        assert (again.attempt, again.lease_epoch) == (2, 2)


async def test_a_release_uses_up_no_attempt(database_url: str) -> None:
    """Promise 10. Fails if `attempt - 1` in settle_and_claim becomes `attempt`."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        for epoch in range(1, 6):
            (lease,) = await claim(conn, worker_id, ids)
            assert (lease.attempt, lease.lease_epoch) == (1, epoch)
            release = settled(lease, Outcome.RELEASED)
            await exchange(conn, worker_id=worker_id, settlements=[release], trigger_ids=[], limit=0)


async def test_a_dead_letter_keeps_its_history_and_says_so_in_the_log(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn, {"pack": "order.created", "triage": "reflex.dead_letter"})
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        (lease,) = await claim(conn, worker_id, [registered.trigger_ids["pack"]])
        dead = dead_settlement(lease, trigger="pack", reason="rejected", error="no such order")
        await exchange(conn, worker_id=worker_id, settlements=[dead], trigger_ids=[], limit=0)
        assert (await count(conn, "dead_letter"), await count(conn, "run")) == (1, 1)
        (triage,) = await claim(conn, worker_id, [registered.trigger_ids["triage"]])
        assert triage.payload["dead_letter_id"] == str(lease.delivery_id)
        assert (triage.causation_id, triage.depth) == (lease.event_id, 1)
        again = dead_settlement(triage, trigger="triage", reason="rejected", error="no chain of these")
        await exchange(conn, worker_id=worker_id, settlements=[again], trigger_ids=[], limit=0)
        assert (await count(conn, "dead_letter"), await count(conn, "event")) == (2, 2)


async def test_one_triggers_failure_touches_no_other(database_url: str) -> None:
    """Promise 3. Fails if the settlement's join leaves out trigger_id."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn, {"good": "order.created", "bad": "order.created"})
        ids = registered.trigger_ids
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        (bad,) = await claim(conn, worker_id, [ids["bad"]])
        (good,) = await claim(conn, worker_id, [ids["good"]])
        dead = dead_settlement(bad, trigger="bad", reason="x", error="x")
        await exchange(conn, worker_id=worker_id, settlements=[dead], trigger_ids=[], limit=0)
        assert await own_leases(conn, worker_id=worker_id) == [good]


async def test_reaping_frees_the_dead_and_spares_the_living(database_url: str) -> None:
    """Promise 6. Fails if reap_workers ignores heartbeat_at, or frees leases by their age."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        await publish(conn, 2)
        alive, dead = await enlisted(conn, registered), await enlisted(conn, registered)
        (kept,) = await claim(conn, alive, ids, limit=1)
        (lost,) = await claim(conn, dead, ids, limit=1)
        # However old a lease is: only its worker's silence matters.
        await conn.execute("UPDATE reflex.lease SET started_at = now() - interval '1 day'")
        await conn.execute(
            "UPDATE reflex.worker SET heartbeat_at = now() - interval '11 s' WHERE worker_id = %s", [dead]
        )
        with psycopg.connect(database_url, autocommit=True) as beating:
            assert beat(beating, alive)
        (reaped,) = await reap(conn, lease_timeout=timedelta(seconds=10))
        assert (reaped.delivery_id, reaped.worker_id) == (lost.delivery_id, dead)
        assert await own_leases(conn, worker_id=alive) == [kept]
        with psycopg.connect(database_url, autocommit=True) as beating:
            assert not beat(beating, dead)


async def test_a_lease_without_any_worker_row_is_freed_too(database_url: str) -> None:
    """A claim can commit just after its worker was removed. Fails without the NOT EXISTS in reap_workers."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn)
        await publish(conn)
        worker_id = await enlisted(conn, registered)
        await claim(conn, worker_id, list(registered.trigger_ids.values()))
        await conn.execute("DELETE FROM reflex.worker")
        assert len(await reap(conn, lease_timeout=timedelta(hours=1))) == 1
        assert await count(conn, "delivery") == 1


async def test_a_lease_that_somebody_has_locked_stops_no_reaping(database_url: str) -> None:
    """Its worker settles it in a transaction and does not go on. Fails without SKIP LOCKED in reap_workers: one frozen
    process, or one path that is dead, would keep everyone's dead from being reaped."""
    async with await connect(database_url, name="a") as one, await connect(database_url, name="b") as two:
        registered = await shop(one)
        ids = list(registered.trigger_ids.values())
        await publish(one, 2)
        frozen = await enlisted(one, registered)
        settling, other = await claim(one, frozen, ids)
        await one.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
        async with one.transaction():
            await exchange(one, worker_id=frozen, settlements=[settled(settling)], trigger_ids=[], limit=0)
            async with asyncio.timeout(5):
                reaped = await reap(two, lease_timeout=timedelta(minutes=1))
            assert [each.delivery_id for each in reaped] == [other.delivery_id]
        assert await reap(two, lease_timeout=timedelta(minutes=1)) == []


async def test_a_transaction_that_holds_leases_may_not_stand_still(database_url: str) -> None:
    """Fails without the set_config of settle_and_claim and reap_workers: what such a transaction holds, the worker
    cannot settle on its next connection, and nobody can reap."""
    async with await connect(database_url, name="test") as conn:

        async def timeout() -> str:
            row = await (await conn.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
            assert row
            return row[0]

        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        await publish(conn, 2)
        worker_id = await enlisted(conn, registered)
        (lease,) = await claim(conn, worker_id, ids, limit=1)
        before = await timeout()
        assert before != "5s"
        async with conn.transaction():
            settlements = [settled(lease, published=(new_event(),))]
            await exchange(conn, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)
            assert await timeout() == "5s"
        assert await timeout() == before
        await claim(conn, worker_id, ids, limit=1)
        async with conn.transaction():
            assert len(await reap(conn, lease_timeout=timedelta(0))) == 1
            assert await timeout() == "5s"


async def test_a_delivery_that_kills_its_workers_dies_in_the_end(database_url: str) -> None:
    """Fails if a lost attempt is not counted: it would kill workers for ever."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn, max_attempts=2)
        await publish(conn)
        for _ in range(2):
            worker_id = await enlisted(conn, registered)
            assert len(await claim(conn, worker_id, list(registered.trigger_ids.values()))) == 1
            await conn.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
            await reap(conn, lease_timeout=timedelta(seconds=10))
        assert (await count(conn, "delivery"), await count(conn, "dead_letter")) == (0, 1)
        rows = await (await conn.execute("SELECT type FROM reflex.event ORDER BY event_id")).fetchall()
        assert [row[0] for row in rows] == ["order.created", "reflex.dead_letter"]


async def test_a_new_trigger_picks_up_unrouted_events_once(database_url: str) -> None:
    """Promise 2. Fails if route_unrouted does not delete what it routed."""
    async with await connect(database_url, name="test") as conn:
        await publish(conn, 5)
        await publish(conn, 2, type="invoice.sent")
        assert await count(conn, "unrouted") == 7
        await shop(conn, {"a": "order.*", "b": "order.created"})
        assert await route_unrouted(conn) == 5
        assert await route_unrouted(conn) == 0
        assert (await count(conn, "delivery"), await count(conn, "unrouted")) == (10, 2)


async def test_two_maintenance_loops_route_each_event_once(database_url: str) -> None:
    async with await connect(database_url, name="a") as one, await connect(database_url, name="b") as two:
        await publish(one, 50)
        await shop(one, {"a": "order.*"})
        routed = await asyncio.gather(route_unrouted(one), route_unrouted(two))
        assert sum(routed) == 50
        assert await count(one, "delivery") == 50


async def test_a_trigger_is_retired_when_only_workers_without_it_live(database_url: str) -> None:
    """Fails without each of the two conditions: an app that is down keeps its triggers, a fresh deploy does too."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn, {"old": "order.created", "new": "order.*"})
        old = await enlisted(conn, registered)
        assert await retire_triggers(conn, after=NOW) == []
        await conn.execute("DELETE FROM reflex.worker WHERE worker_id = %s", [old])
        assert await retire_triggers(conn, after=NOW) == []
        worker_id = await enlisted(conn, registered)
        await conn.execute(
            "UPDATE reflex.worker SET trigger_ids = %s WHERE worker_id = %s",
            [[registered.trigger_ids["new"]], worker_id],
        )
        assert await retire_triggers(conn, after=timedelta(minutes=1)) == []
        assert await retire_triggers(conn, after=NOW) == ["old"]
        await publish(conn)
        assert await count(conn, "delivery") == 1
        await shop(conn, {"old": "order.created"})
        await publish(conn)
        assert await count(conn, "delivery") == 3


async def test_a_long_transaction_elsewhere_does_not_stop_the_queue(database_url: str) -> None:
    """Someone's forgotten BEGIN holds back vacuum; claiming and settling go on."""
    async with await connect(database_url, name="a") as conn, await connect(database_url, name="b") as forgotten:
        registered = await shop(conn)
        ids = list(registered.trigger_ids.values())
        worker_id = await enlisted(conn, registered)
        async with forgotten.transaction():
            await forgotten.execute("SELECT count(*) FROM reflex.event")
            for _ in range(20):
                await publish(conn, 50)
                leases = await claim(conn, worker_id, ids, limit=50)
                assert len(leases) == 50
                done = [settled(lease) for lease in leases]
                await exchange(conn, worker_id=worker_id, settlements=done, trigger_ids=ids, limit=0)
        assert (await count(conn, "run"), await count(conn, "lease")) == (1000, 0)
