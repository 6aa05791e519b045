"""Order per key as a state machine, beside a model in memory that says what each key's queue must look like."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.dead_letters import purge_dead_letter, retry_dead_letter
from reflex.core.ids import DeliveryId
from reflex.core.lanes import WhenDead, promote_lanes, sweep_lanes
from reflex.core.log import append
from reflex.core.queue import dead_settlement, exchange, promote_scheduled
from reflex.core.reaping import reap
from reflex.core.settlement import Claimed, Outcome, Settlement
from tests.queue_fixtures import claim_ordered, enlisted, new_event, ordered_shop, settled

T = TypeVar("T")
MAX_ATTEMPTS = 2
KEYS = "abc"
TABLES = "event, appended, delivery, ordered, lane, scheduled, lease, run, dead_letter, unrouted, worker"
LANES = "SELECT key, pending, running, held, available_at IS NOT NULL FROM reflex.lane"
ORDERED = "SELECT key, event_id, attempt FROM reflex.ordered ORDER BY key, position, event_id"


@dataclass(slots=True)
class Waiting:
    """A delivery in the model. `place` is where it stands in its key's order for good."""

    place: int
    event_id: UUID
    attempt: int = 0
    lost: bool = False


@dataclass(slots=True)
class Lane:
    """What the model knows of one key."""

    queue: list[Waiting] = field(default_factory=list[Waiting])
    running: list[Waiting] = field(default_factory=list[Waiting])
    owner: UUID | None = None
    waits: bool = False
    held_by: set[UUID] = field(default_factory=set[UUID])

    @property
    def ready(self) -> bool:
        return bool(self.queue) and not self.running and not self.waits and not self.held_by

    def put_back(self, deliveries: list[Waiting]) -> None:
        self.queue = sorted([*self.queue, *deliveries], key=lambda each: each.place)


def test_every_key_keeps_its_order_whatever_happens(database_url: str) -> None:
    """Seen to fail with: no order in the claim, a retry at the end of the lane, a lane that is freed with its first
    lease, a reap that counts attempts of what had not begun, a hold that a purge does not lift, no fence."""

    class Lanes(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.conn: AsyncConnection[Any] = self.do(connect(database_url, name="machine"))
            self.do(self.conn.execute(f"TRUNCATE {', '.join('reflex.' + t for t in TABLES.split(', '))}"))
            self.lanes = {key: Lane() for key in KEYS}
            self.places = 0
            self.later: list[tuple[str, UUID]] = []
            self.alive: list[UUID] = []
            self.frozen: list[UUID] = []
            # What each worker believes to hold, rightly or not: batches of one lane.
            self.batches: list[tuple[UUID, list[Claimed]]] = []
            self.dead: dict[UUID, tuple[str, Waiting]] = {}

        @initialize(when_dead=st.sampled_from(WhenDead))
        def register(self, when_dead: WhenDead) -> None:
            self.when_dead = when_dead
            self.registered = self.do(ordered_shop(self.conn, when_dead=when_dead, max_attempts=MAX_ATTEMPTS))
            self.trigger_id = self.registered.trigger_ids["pack"]
            self.alive = [self.do(enlisted(self.conn, self.registered))]

        def do(self, what: Coroutine[Any, Any, T]) -> T:
            return self.runner.run(what)

        def appended(self, key: str, event_id: UUID) -> None:
            self.places += 1
            self.lanes[key].queue.append(Waiting(self.places, event_id))

        @precondition(lambda self: sum(len(lane.queue) for lane in self.lanes.values()) < 12)
        @rule(keys=st.text(KEYS, min_size=2, max_size=6))
        def events_arrive(self, keys: str) -> None:
            events = [new_event(key=key) for key in keys]
            self.do(append(self.conn, events))
            for event in events:
                self.appended(str(event.key), event.event_id)

        @precondition(lambda self: not self.later)
        @rule(key=st.sampled_from(KEYS))
        def an_event_is_put_off(self, key: str) -> None:
            event = new_event(key=key, delay=timedelta(seconds=5))
            self.do(append(self.conn, [event]))
            self.later.append((key, event.event_id))

        @precondition(lambda self: len(self.alive) < 2)
        @rule()
        def a_worker_enlists(self) -> None:
            self.alive.append(self.do(enlisted(self.conn, self.registered)))

        @precondition(lambda self: self.alive and any(lane.ready for lane in self.lanes.values()))
        @rule(data=st.data(), limit=st.integers(1, 3), rows=st.sampled_from([0, 2, 3, 6]))
        def a_worker_claims(self, data: st.DataObject, limit: int, rows: int) -> None:
            worker_id = data.draw(st.sampled_from(self.alive))
            ready = {key for key, lane in self.lanes.items() if lane.ready}
            claimed = self.do(claim_ordered(self.conn, worker_id, self.registered, limit=limit, rows=rows))
            keys = list(dict.fromkeys(lease.lane_key for lease in claimed))
            assert len(keys) == min(limit, len(ready)), "no lane that is ready is left while there are slots"
            assert ready.issuperset(keys)
            assert len(claimed) <= max(rows, len(keys)), "no more rows than asked for, but one for each lane"
            for key in keys:
                lane, batch = self.lanes[str(key)], [lease for lease in claimed if lease.lane_key == key]
                expected, lane.queue = lane.queue[: len(batch)], lane.queue[len(batch) :]
                assert [lease.event_id for lease in batch] == [each.event_id for each in expected]
                assert [lease.attempt for lease in batch] == [each.attempt + 1 for each in expected]
                lane.running, lane.owner = expected, worker_id
                self.batches.append((worker_id, batch))

        @precondition(lambda self: self.batches)
        @rule(data=st.data(), publishes=st.sampled_from([None, *KEYS]))
        def a_batch_succeeds(self, data: st.DataObject, publishes: str | None) -> None:
            self.settle(data, good=9, how="go on", publishes=publishes)

        @precondition(lambda self: self.batches)
        @rule(data=st.data(), good=st.integers(0, 2), how=st.sampled_from(["go on", "fail", "reject", "release"]))
        def a_batch_stops(self, data: st.DataObject, good: int, how: str) -> None:
            self.settle(data, good=good, how=how, publishes=None)

        @precondition(lambda self: self.batches)
        @rule(data=st.data(), how=st.sampled_from(["fail", "reject"]))
        def a_first_delivery_fails(self, data: st.DataObject, how: str) -> None:
            self.settle(data, good=0, how=how, publishes=None)

        def settle(self, data: st.DataObject, *, good: int, how: str, publishes: str | None) -> None:
            """The first so many succeed; then it goes on later, or one fails and the rest is given back with it."""
            worker_id, batch = held = data.draw(st.sampled_from(self.batches))
            self.batches.remove(held)
            child = new_event(key=publishes)
            done = [
                settled(lease, published=(child,) if publishes and lease is batch[0] else ()) for lease in batch[:good]
            ]
            left = batch[good:]
            if left and how == "go on":
                self.batches.append((worker_id, left))
            elif left:
                done.append(self.ending(left[0], how))
                done += [settled(lease, Outcome.RELEASED) for lease in left[1:]]
            if not done:
                return
            exchanged = self.do(exchange(self.conn, worker_id=worker_id, settlements=done, trigger_ids=[], limit=0))
            lane = self.lanes[str(batch[0].lane_key)]
            if exchanged.stale:
                assert len(exchanged.stale) == len(done), "a lane is lost as a whole"
                assert worker_id in self.frozen, "nobody else loses a lane"
                return
            for settlement in done:
                self.apply(lane, settlement)
            if publishes and good:
                self.appended(publishes, child.event_id)

        def ending(self, lease: Claimed, how: str) -> Settlement:
            if how == "release":
                return settled(lease, Outcome.RELEASED)
            if how == "fail" and lease.attempt < MAX_ATTEMPTS:
                return settled(lease, Outcome.RETRY, error="x", retry_in=timedelta(seconds=5))
            return dead_settlement(lease, trigger="pack", reason="x", error="x")

        def apply(self, lane: Lane, settlement: Settlement) -> None:
            delivery = lane.running.pop(0)
            assert delivery.event_id == settlement.event_id
            match settlement.outcome:
                case Outcome.RETRY:
                    delivery.attempt += 1
                    lane.put_back([delivery])
                    lane.waits = True
                case Outcome.RELEASED:
                    lane.put_back([delivery])
                case Outcome.DEAD:
                    self.dies(lane, delivery, str(settlement.lane_key))
                case _:
                    pass

        def dies(self, lane: Lane, delivery: Waiting, key: str) -> None:
            self.dead[delivery.event_id] = key, delivery
            if self.when_dead is WhenDead.HOLD:
                lane.held_by.add(delivery.event_id)

        @precondition(lambda self: self.alive and self.batches)
        @rule(data=st.data())
        def a_worker_freezes(self, data: st.DataObject) -> None:
            """It is reaped, but does not know: what it holds it will still try to settle."""
            worker_id = data.draw(st.sampled_from(self.alive))
            self.alive.remove(worker_id)
            self.frozen.append(worker_id)
            query = "UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour' WHERE worker_id = %s"
            self.do(self.conn.execute(query, [worker_id]))

        @precondition(lambda self: any(lane.running and lane.owner in self.frozen for lane in self.lanes.values()))
        @rule()
        def the_reaper_comes(self) -> None:
            self.do(reap(self.conn, lease_timeout=timedelta(minutes=1)))
            suspects: set[str] = set()
            for key, lane in self.lanes.items():
                if lane.running and lane.owner not in self.alive:
                    first = lane.running[0]
                    first.attempt += 1
                    if first.attempt >= MAX_ATTEMPTS:
                        self.dies(lane, lane.running.pop(0), key)
                    elif first.attempt == MAX_ATTEMPTS - 1 or (first.lost and first.attempt > 1):
                        suspects.add(key)
                    first.lost = True
                    lane.put_back(lane.running)
                    lane.running = []
            # In which order they go on is chance; one of them does at once.
            put_off = {row[0] for row in self.rows(LANES) if row[4] and not self.lanes[row[0]].waits}
            assert put_off <= suspects
            assert len(put_off) == max(0, len(suspects) - 1)
            for key in put_off:
                self.lanes[key].waits = True

        @precondition(lambda self: self.later or any(lane.waits for lane in self.lanes.values()))
        @rule()
        def the_clock_moves(self) -> None:
            ago = "available_at = available_at - interval '10 s'"
            self.do(self.conn.execute(f"UPDATE reflex.lane SET {ago} WHERE available_at IS NOT NULL"))
            self.do(self.conn.execute(f"UPDATE reflex.scheduled SET {ago}"))
            self.do(promote_lanes(self.conn))
            self.do(promote_scheduled(self.conn))
            for lane in self.lanes.values():
                lane.waits = False
            for key, event_id in self.later:
                self.appended(key, event_id)
            self.later = []
            self.empty_lanes_are_swept()

        @precondition(lambda self: self.dead)
        @rule(data=st.data(), purge=st.booleans())
        def a_person_looks_at_a_dead_letter(self, data: st.DataObject, purge: bool) -> None:
            event_id = data.draw(st.sampled_from(list(self.dead)))
            key, delivery = self.dead.pop(event_id)
            change = purge_dead_letter if purge else retry_dead_letter
            self.do(change(self.conn, DeliveryId(self.trigger_id, event_id)))
            self.lanes[key].held_by.discard(event_id)
            if not purge:
                delivery.attempt = 0
                self.lanes[key].put_back([delivery])

        def empty_lanes_are_swept(self) -> None:
            self.do(sweep_lanes(self.conn))
            left = {row[0] for row in self.rows(LANES)}
            assert left == {k for k, lane in self.lanes.items() if lane.queue or lane.running or lane.held_by}

        @invariant()
        def the_tables_say_what_the_model_says(self) -> None:
            lanes = {row[0]: tuple(row[1:]) for row in self.rows(LANES)}
            for key, lane in self.lanes.items():
                expected = len(lane.queue), len(lane.running), len(lane.held_by), lane.waits
                assert lanes.get(key, (0, 0, 0, False)) == expected, key
            assert [tuple(row) for row in self.rows(ORDERED)] == [
                (key, each.event_id, each.attempt) for key in KEYS for each in self.lanes[key].queue
            ]
            leased = {row[0] for row in self.rows("SELECT event_id FROM reflex.lease")}
            assert leased == {each.event_id for lane in self.lanes.values() for each in lane.running}
            assert self.rows("SELECT count(*) FROM reflex.delivery") == [(0,)]
            assert {row[0] for row in self.rows("SELECT event_id FROM reflex.dead_letter")} == self.dead.keys()

        def rows(self, query: str) -> list[Any]:
            async def fetch() -> list[Any]:
                return await (await self.conn.execute(query.encode())).fetchall()

            return self.do(fetch())

        def teardown(self) -> None:
            self.do(self.conn.close())
            self.runner.close()

    run_state_machine_as_test(
        Lanes,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            # A shorter way to the failure would take minutes to find.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
