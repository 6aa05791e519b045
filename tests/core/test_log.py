"""Appending to the log."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.registration import Manifest, register
from tests.queue_fixtures import count, new_event, publish, shop


async def test_an_event_and_its_deliveries_are_one_commit(database_url: str) -> None:
    """Promise 1. Fails if deliveries are inserted by a second statement after the commit of the event."""
    async with await connect(database_url, name="test") as writer, await connect(database_url, name="test") as reader:
        await shop(writer, {"pack": "order.created", "thank": "order.*"})
        async with writer.transaction():
            await append(writer, [new_event()])
            assert (await count(reader, "event"), await count(reader, "delivery")) == (0, 0)
        assert (await count(reader, "event"), await count(reader, "delivery")) == (1, 2)


async def test_each_matching_trigger_gets_its_own_delivery_and_no_other_does(database_url: str) -> None:
    """Promises 2 and 3. Fails if the route's pattern is not compared."""
    async with await connect(database_url, name="test") as conn:
        registered = await shop(conn, {"a": "order.created", "b": "order.*", "c": "*", "d": "invoice.*"})
        await publish(conn)
        rows = await (await conn.execute("SELECT trigger_id FROM reflex.delivery")).fetchall()
        assert {row[0] for row in rows} == {registered.trigger_ids[name] for name in "abc"}
        assert await count(conn, "unrouted") == 0


async def test_a_star_does_not_mean_what_reflex_writes_itself(database_url: str) -> None:
    """Fails if candidate_patterns() adds '*' for system types: a failing trigger on '*' would feed itself."""
    async with await connect(database_url, name="test") as conn:
        await shop(conn, {"all": "*"})
        await publish(conn, type="reflex.dead_letter")
        assert (await count(conn, "delivery"), await count(conn, "unrouted")) == (0, 1)


async def test_the_same_idempotency_key_gives_the_first_id(database_url: str) -> None:
    """Fails if ON CONFLICT DO NOTHING or the look-up of the first id is removed."""
    async with await connect(database_url, name="test") as conn:
        await shop(conn)
        first, again, other_source = (
            new_event(idempotency_key="k"),
            new_event(idempotency_key="k"),
            new_event(idempotency_key="k", source="other"),
        )
        assert await append(conn, [first]) == {first.event_id: first.event_id}
        assert await append(conn, [again, other_source]) == {
            again.event_id: first.event_id,
            other_source.event_id: other_source.event_id,
        }
        assert (await count(conn, "event"), await count(conn, "delivery")) == (2, 2)


async def test_a_key_twice_in_one_batch_is_stored_once(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        await shop(conn)
        twins = [new_event(idempotency_key="k"), new_event(idempotency_key="k")]
        ids = await append(conn, twins)
        assert len(set(ids.values())) == 1
        assert await count(conn, "event") == 1


async def test_a_key_that_another_gateway_is_just_storing_waits_for_its_commit(database_url: str) -> None:
    """Two open transactions: the second append must wait and then find the first's id.

    Fails if keys are looked up first and inserted after.
    """
    async with await connect(database_url, name="a") as one, await connect(database_url, name="b") as two:
        first, second = new_event(idempotency_key="k"), new_event(idempotency_key="k")
        async with one.transaction():
            await append(one, [first])
            waiting = asyncio.create_task(append(two, [second]))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        assert await waiting == {second.event_id: first.event_id}


async def test_delayed_events_are_scheduled_and_not_pending(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        await shop(conn)
        await append(conn, [new_event(delay=timedelta(hours=1)), new_event(delay=timedelta(0))])
        assert (await count(conn, "scheduled"), await count(conn, "delivery")) == (1, 1)


async def test_one_refused_row_stores_nothing_of_its_batch(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        await shop(conn)
        with pytest.raises(psycopg.DataError):
            await append(conn, [new_event(), new_event(payload='{"a": "\\u0000"}')])
        assert await count(conn, "event") == 0


async def test_a_batch_notifies_once_and_an_event_nobody_wants_does_not(database_url: str) -> None:
    """Fails if pg_notify is called for each row or without any delivery."""
    async with await connect(database_url, name="l") as listener, await connect(database_url, name="w") as writer:
        await shop(writer)
        await listener.execute("LISTEN reflex")
        await publish(writer, type="nobody.wants")
        await append(writer, [new_event() for _ in range(50)])
        heard = [note async for note in listener.notifies(timeout=0.5)]
        assert len(heard) == 1


async def test_registering_again_brings_new_routes_and_drops_old_ones(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        before = await shop(conn, {"pack": "order.created"})
        after = await shop(conn, {"pack": "order.paid"})
        assert before == after
        await publish(conn, type="order.created")
        await publish(conn, type="order.paid")
        assert (await count(conn, "delivery"), await count(conn, "unrouted")) == (1, 1)


async def test_registering_less_removes_no_trigger(database_url: str) -> None:
    """Promise 11: old and new code side by side. Fails if registration deletes what the manifest does not name."""
    async with await connect(database_url, name="test") as conn:
        await shop(conn, {"old": "order.created", "both": "order.created"})
        await register(conn, Manifest("shop", (), ()))
        await publish(conn)
        assert await count(conn, "delivery") == 2
