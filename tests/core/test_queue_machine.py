"""The queue as a state machine: whatever happens in whatever order, each delivery is in exactly one place."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.events import NewEvent
from reflex.core.queue import dead_settlement, exchange, promote_scheduled
from reflex.core.reaping import reap
from reflex.core.settlement import Claimed, Outcome, Settlement
from tests.queue_fixtures import claim, enlisted, new_event, settled, shop

T = TypeVar("T")
MAX_ATTEMPTS = 3
TABLES = "event, delivery, scheduled, lease, run, dead_letter, unrouted, worker, idempotency"
# Every place a delivery can be in, for each pair of trigger and event that there should be.
PLACES = """
SELECT trigger_id, event_id,
       (SELECT count(*) FROM reflex.delivery d WHERE (d.trigger_id, d.event_id) = (t.trigger_id, e.event_id))
     + (SELECT count(*) FROM reflex.scheduled d WHERE (d.trigger_id, d.event_id) = (t.trigger_id, e.event_id))
     + (SELECT count(*) FROM reflex.lease d WHERE (d.trigger_id, d.event_id) = (t.trigger_id, e.event_id))
     + (SELECT count(*) FROM reflex.dead_letter d WHERE (d.trigger_id, d.event_id) = (t.trigger_id, e.event_id))
     + (SELECT count(*) FROM reflex.run d WHERE (d.trigger_id, d.event_id) = (t.trigger_id, e.event_id)
          AND d.outcome = 'succeeded') AS places
FROM reflex.event e CROSS JOIN reflex.trigger t
WHERE e.type = 'order.created'
"""


def test_no_delivery_is_lost_or_in_two_places(database_url: str) -> None:
    """Seen to fail with: no fence in settle_and_claim, a reap that does not delete the lease, a retry that is not
    inserted, events appended for stale settlements."""

    class Queue(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.conn: AsyncConnection[Any] = self.do(connect(database_url, name="machine"))
            self.do(self.conn.execute(f"TRUNCATE {', '.join('reflex.' + t for t in TABLES.split(', '))}"))
            self.registered = self.do(
                shop(self.conn, {"a": "order.created", "b": "order.*"}, max_attempts=MAX_ATTEMPTS)
            )
            self.ids = list(self.registered.trigger_ids.values())
            self.alive: list[UUID] = []
            self.frozen: list[UUID] = []
            # What each worker believes to hold, rightly or not.
            self.held: list[tuple[UUID, Claimed]] = []
            self.succeeded: dict[tuple[int, UUID], int] = {}
            self.published: set[UUID] = set()

        def do(self, what: Coroutine[Any, Any, T]) -> T:
            return self.runner.run(what)

        @rule(count=st.integers(1, 3))
        def publish(self, count: int) -> None:
            self.do(self.append([new_event() for _ in range(count)]))

        async def append(self, events: list[NewEvent]) -> None:
            from reflex.core.log import append

            await append(self.conn, events)

        @rule()
        def a_worker_enlists(self) -> None:
            self.alive.append(self.do(enlisted(self.conn, self.registered)))

        @precondition(lambda self: self.alive)
        @rule(data=st.data(), limit=st.integers(1, 4))
        def a_worker_claims(self, data: st.DataObject, limit: int) -> None:
            worker_id = data.draw(st.sampled_from(self.alive))
            for lease in self.do(claim(self.conn, worker_id, self.ids, limit)):
                assert 1 <= lease.attempt <= MAX_ATTEMPTS
                self.held.append((worker_id, lease))

        @precondition(lambda self: self.held)
        @rule(data=st.data(), how=st.sampled_from(["succeed", "publish", "fail", "reject", "release"]))
        def a_run_ends(self, data: st.DataObject, how: str) -> None:
            worker_id, lease = held = data.draw(st.sampled_from(self.held))
            self.held.remove(held)
            child = new_event("child")
            settlement = self.settlement(lease, how, child)
            done = self.do(exchange(self.conn, worker_id=worker_id, settlements=[settlement], trigger_ids=[], limit=0))
            if done.stale:
                return
            if settlement.outcome is Outcome.SUCCEEDED:
                key = (lease.trigger_id, lease.event_id)
                self.succeeded[key] = self.succeeded.get(key, 0) + 1
            if child in settlement.published:
                self.published.add(child.event_id)

        def settlement(self, lease: Claimed, how: str, child: NewEvent) -> Settlement:
            match how:
                case "succeed":
                    return settled(lease)
                case "publish":
                    return settled(lease, published=(child,))
                case "fail" if lease.attempt < MAX_ATTEMPTS:
                    return settled(lease, Outcome.RETRY, error="x", retry_in=timedelta(seconds=5))
                case "release":
                    return settled(lease, Outcome.RELEASED)
                case _:
                    return dead_settlement(lease, trigger="a", reason="x", error="x")

        @precondition(lambda self: self.alive)
        @rule(data=st.data())
        def a_worker_freezes(self, data: st.DataObject) -> None:
            """It is reaped, but does not know: what it holds it will still try to settle."""
            worker_id = data.draw(st.sampled_from(self.alive))
            self.alive.remove(worker_id)
            self.frozen.append(worker_id)
            self.do(
                self.conn.execute(
                    "UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour' WHERE worker_id = %s",
                    [worker_id],
                )
            )

        @rule()
        def the_reaper_comes(self) -> None:
            self.do(reap(self.conn, lease_timeout=timedelta(minutes=1)))

        @precondition(lambda self: self.frozen)
        @rule(data=st.data())
        def a_frozen_worker_claims(self, data: st.DataObject) -> None:
            worker_id = data.draw(st.sampled_from(self.frozen))
            for lease in self.do(claim(self.conn, worker_id, self.ids, 2)):
                self.held.append((worker_id, lease))

        @rule()
        def the_clock_moves(self) -> None:
            self.do(self.conn.execute("UPDATE reflex.scheduled SET available_at = available_at - interval '10 s'"))
            self.do(promote_scheduled(self.conn))

        @invariant()
        def each_delivery_is_in_one_place(self) -> None:
            rows = self.do(self.rows(PLACES))
            assert [row for row in rows if row[2] != 1] == []

        @invariant()
        def nothing_succeeds_twice(self) -> None:
            assert all(times == 1 for times in self.succeeded.values())

        @invariant()
        def what_was_published_is_there_and_nothing_else(self) -> None:
            rows = self.do(self.rows("SELECT event_id FROM reflex.event WHERE type = 'child'"))
            assert {row[0] for row in rows} == self.published

        @invariant()
        def a_dead_letter_has_its_event(self) -> None:
            query = (
                "SELECT (SELECT count(*) FROM reflex.dead_letter), (SELECT count(*) FROM reflex.event WHERE type = %s)"
            )
            ((letters, events),) = self.do(self.rows(query, ["reflex.dead_letter"]))
            assert letters == events

        async def rows(self, query: str, parameters: list[Any] | None = None) -> list[Any]:
            cursor = await self.conn.execute(query, parameters)  # pyright: ignore[reportArgumentType]
            return await cursor.fetchall()

        def teardown(self) -> None:
            self.do(self.conn.close())
            self.runner.close()

    run_state_machine_as_test(
        Queue,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
