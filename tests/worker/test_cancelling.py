"""Cancelling runs of real workers: soon, whatever their code makes of it, and once."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.cancelling import cancel_delivery
from reflex.core.ids import DeliveryId, new_id
from reflex.core.log import append
from reflex.core.reads import read_deliveries
from reflex.core.rows import DeliveryRow
from reflex.core.settlement import NOT_BEGUN, Claimed, Outcome, Settlement
from reflex.worker.slots import Slots
from tests.processes import SELDOM_LOOKS, ReflexProcess, eventually, worker
from tests.queue_fixtures import count, is_quiet, new_event, settled

APP = """
import asyncio, os, time
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger

def says(*words):
    with open(os.environ["DONE"], "a") as file:
        print(*words, file=file, flush=True)

async def does(ctx):
    says("began", ctx.key)
    how = ctx.event.payload.get("how", "sleeps")
    await ctx.publish("order.packed")
    try:
        if how == "blocks":
            time.sleep(6)
        await asyncio.sleep(0 if how in ("blocks", "quick") else 3600)
    except asyncio.CancelledError as error:
        says("cancelled", ctx.key, *error.args)
        if how == "swallows":
            await asyncio.sleep(0.5)
        elif how == "stubborn":
            await asyncio.sleep(3600)
        elif how == "fails":
            raise ValueError("in the way out")
        else:
            raise
    says("ended", ctx.key)
    return "done"

Trigger("do", type_filter("order.created"), does{options})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doing.py").write_text(APP.replace("{options}", ""))
    return tmp_path


def env(folder: Path, **more: str) -> dict[str, str]:
    return {"DONE": str(folder / "done"), "REFLEX_LEASE_TIMEOUT_S": "2", **more}


def done(folder: Path) -> list[str]:
    file = folder / "done"
    return file.read_text().splitlines() if file.exists() else []


async def began(db: AsyncConnection[Any], folder: Path, how: str = "sleeps", key: str = "A") -> DeliveryId:
    """A delivery whose run has begun."""
    event = new_event(payload=f'{{"how": "{how}"}}', key=key)
    times = done(folder).count(f"began {key}")
    await append(db, [event])
    await eventually(lambda: done(folder).count(f"began {key}") > times, what=f"that {key} began")
    return DeliveryId(1, event.event_id)


async def ended(db: AsyncConnection[Any], delivery_id: DeliveryId, *, timeout_s: float = 20) -> DeliveryRow:
    async def it() -> DeliveryRow | None:
        (delivery,) = await read_deliveries(db, delivery_id.event_id)
        return delivery if delivery.state == "cancelled" else None

    found = await eventually(it, timeout_s=timeout_s, what="that it is cancelled")
    assert found is not None
    return found


async def test_a_run_is_stopped_at_once_and_its_worker_goes_on(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Fails without the notification (the worker would look once an hour), if the run is released or tried again, or if
    the cancellation reaches what the slot does next."""
    (folder / "doing.py").write_text(SELDOM_LOOKS + APP.replace("{options}", ""))
    async with worker(database_url, folder, app="doing", env=env(folder, REFLEX_CONCURRENCY="1")):
        for _ in range(3):
            delivery_id = await began(db, folder)
            assert await cancel_delivery(db, delivery_id, reason="too dear") == "cancelling"
            delivery = await ended(db, delivery_id)
            assert [(run.outcome, run.error) for run in delivery.runs] == [
                ("cancelled", "cancelled by a person: too dear")
            ]
            assert delivery.runs[0].worker_id is not None
        await began(db, folder, "quick", "B")
        await eventually(lambda: "ended B" in done(folder))
        assert done(folder).count("cancelled A cancelled by a person: too dear") == 3
        assert await count(db, "cancellation") == 0
        await eventually(lambda: is_quiet(db))
        packed = await db.execute("SELECT FROM reflex.event WHERE type = 'order.packed'")
        assert packed.rowcount == 1


@pytest.mark.parametrize("how", ["swallows", "fails"])
async def test_code_that_makes_something_else_of_it_is_cancelled_all_the_same(
    database_url: str, folder: Path, db: AsyncConnection[Any], how: str
) -> None:
    """Fails if what the run returned or raised decides: it would have succeeded, or be tried again."""
    async with worker(database_url, folder, app="doing", env=env(folder)):
        delivery_id = await began(db, folder, how)
        await cancel_delivery(db, delivery_id)
        delivery = await ended(db, delivery_id)
        assert [(run.outcome, run.output) for run in delivery.runs] == [("cancelled", None)]
        assert await count(db, "event") == 1


@pytest.mark.parametrize("how", ["stubborn", "blocks"])
async def test_code_that_does_not_stop_loses_its_lease(
    database_url: str, folder: Path, db: AsyncConnection[Any], how: str
) -> None:
    """One worker, so nobody else takes the lease away. Fails without the thread's share of the work: a worker whose
    event loop is blocked would settle the run as succeeded in the end."""
    async with worker(database_url, folder, app="doing", env=env(folder)) as one:
        delivery_id = await began(db, folder, how)
        await cancel_delivery(db, delivery_id)
        delivery = await ended(db, delivery_id, timeout_s=5.5)
        assert [run.outcome for run in delivery.runs] == ["cancelled"]
        await one.says("does not end, and loses its lease")
        if how == "blocks":
            await eventually(lambda: "ended A" in done(folder) or "cancelled A" in " ".join(done(folder)))
            await began(db, folder, "quick", "B")
            await eventually(lambda: "ended B" in done(folder))
            assert [run.outcome for run in (await ended(db, delivery_id)).runs] == ["cancelled"]
            packed = await db.execute("SELECT FROM reflex.event WHERE causation_id = %s", [delivery_id.event_id])
            assert packed.rowcount == 0


async def ends(slots: Slots) -> None:
    async with asyncio.timeout(5):
        while slots.running:
            await asyncio.wait(list(slots.running.values()))
            await asyncio.sleep(0)


async def test_one_that_was_claimed_and_has_not_begun_never_does() -> None:
    """Fails if only what runs is looked at: a delivery that waits for its slot would run, and be settled as usual.
    Fails if the request outlives the run that it was for: a later lease of the delivery would be cancelled unasked."""
    ran: list[Any] = []

    async def attempt(claimed: Claimed) -> Settlement:
        ran.append(claimed.event_id)
        await asyncio.sleep(0)
        return settled(claimed)

    leases = claimed(3)
    finished = asyncio.Event()
    slots = Slots(1, attempt, finished.set)
    slots.take(leases)
    slots.cancel({leases[1][:2]: "why not"})
    slots.cancel({leases[1][:2]: "again"})
    await ends(slots)
    assert [(each.event_id, each.outcome) for each in slots.finished] == [
        (leases[0].event_id, Outcome.SUCCEEDED),
        (leases[1].event_id, Outcome.CANCELLED),
        (leases[2].event_id, Outcome.SUCCEEDED),
    ]
    assert ran == [leases[0].event_id, leases[2].event_id]
    slots.take([leases[1]._replace(lease_epoch=2)])
    await ends(slots)
    assert ran[-1] == leases[1].event_id


def claimed(number: int) -> list[Claimed]:
    return [
        Claimed(1, new_id(), 1, 1, "a", "s", None, datetime.now(UTC), {}, None, None, 0, None) for _ in range(number)
    ]


def ends_by_cancelling(slots: Slots, first: Claimed) -> None:
    slots.cancel({first[:2]: "why not"})


def ends_by_losing(slots: Slots, first: Claimed) -> None:
    slots.abandon([batch for batch in slots.running if batch.left[0] is first])


@pytest.mark.parametrize(
    ("end", "outcomes"),
    [(ends_by_cancelling, [Outcome.CANCELLED, Outcome.SUCCEEDED]), (ends_by_losing, [Outcome.SUCCEEDED])],
)
async def test_a_slot_that_has_just_got_its_delivery_gets_free_again(
    end: Callable[[Slots, Claimed], None], outcomes: list[Outcome]
) -> None:
    """A task that is cancelled before its first step has no first step. Fails if it is: the slot would be taken, and
    the delivery leased, for as long as the worker lives."""
    ran: list[Any] = []

    async def attempt(lease: Claimed) -> Settlement:
        ran.append(lease)
        return settled(lease)

    slots = Slots(1, attempt, lambda: None)
    first, second = claimed(2)
    slots.take([first, second])
    end(slots, first)
    await ends(slots)
    assert [each.outcome for each in slots.finished] == outcomes
    assert (ran, slots.busy) == ([second], 0)


async def test_who_stops_gives_back_what_a_slot_has_just_got_as_not_begun() -> None:
    """Fails if its task is cancelled: its attempt would count, and be said not to stop; or if the slots that get free
    are filled: what waited for one would run in a worker that has stopped, perhaps since its leases are somebody
    else's."""
    ran: list[Any] = []

    async def attempt(lease: Claimed) -> Settlement:
        ran.append(lease)
        return await asyncio.sleep(3600, settled(lease))

    slots = Slots(2, attempt, lambda: None)
    first, second, third = claimed(3)
    slots.take([first])
    await asyncio.sleep(0)
    slots.take([second, third])
    await slots.stop()
    await asyncio.sleep(0)
    assert sorted((each.event_id, each.reason) for each in slots.finished) == [
        (first.event_id, None), (second.event_id, NOT_BEGUN), (third.event_id, NOT_BEGUN)
    ]  # fmt: skip
    assert (ran, slots.running, slots.busy) == ([first], {}, 0)


async def test_what_is_given_back_although_it_was_cancelled_ends() -> None:
    """Two of a lane were cancelled, and the third goes to whoever claims it next. Fails if the second one goes with it:
    somebody else would have to end it, and be told of it by nobody."""
    slots = Slots(1, lambda lease: asyncio.sleep(3600, settled(lease)), lambda: None)
    lane = [each._replace(lane_key="a") for each in claimed(3)]
    slots.take(lane)
    await asyncio.sleep(0)
    slots.cancel({each[:2]: "why not" for each in lane[:2]})
    await ends(slots)
    slots.take(prefetched := claimed(2))
    slots.cancel({prefetched[1][:2]: "why not"})
    slots.give_back(0)
    assert [(each.event_id, each.outcome) for each in slots.finished] == [
        (lane[0].event_id, Outcome.CANCELLED),
        (lane[1].event_id, Outcome.CANCELLED),
        (lane[2].event_id, Outcome.RELEASED),
        (prefetched[1].event_id, Outcome.CANCELLED),
    ]
    await slots.stop()


async def test_in_a_lane_the_next_one_runs(database_url: str, folder: Path, db: AsyncConnection[Any]) -> None:
    """Fails if what was claimed behind a cancelled run is cancelled with it, or stands still."""
    (folder / "doing.py").write_text(APP.replace("{options}", ", ordered=True"))
    async with worker(database_url, folder, app="doing", env=env(folder)):
        first = await began(db, folder)
        await append(db, [new_event(payload='{"how": "quick"}', key="A")])
        await cancel_delivery(db, first)
        await ended(db, first)

        async def both() -> list[str] | None:
            cursor = await db.execute("SELECT outcome FROM reflex.run ORDER BY finished_at")
            outcomes = [row[0] for row in await cursor.fetchall()]
            return outcomes if len(outcomes) > 1 else None

        assert await eventually(both) == ["cancelled", "succeeded"]
        assert "ended A" in done(folder)


async def test_a_drain_at_the_same_moment_settles_once(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Fails if the drain releases what is being cancelled and nobody remembers the request: it would run again."""
    for round in range(2):
        async with worker(database_url, folder, app="doing", env=env(folder, REFLEX_DRAIN_GRACE_S="0")) as one:
            delivery_id = await began(db, folder, key=f"K{round}")
            if round:
                await asyncio.gather(stops(one), cancel_delivery(db, delivery_id))
            else:
                await cancel_delivery(db, delivery_id)
                one.terminate()
            await one.exited(timeout_s=20)
        async with worker(database_url, folder, app="doing", env=env(folder)):
            delivery = await ended(db, delivery_id)
        assert [run.outcome for run in delivery.runs].count("cancelled") == 1
        assert delivery.runs[-1].outcome == "cancelled"
        assert await count(db, "cancellation") == 0


async def stops(process: ReflexProcess) -> None:
    process.terminate()


async def test_a_killed_workers_run_is_cancelled_by_whoever_is_left(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Fails if a request is only for the worker that had the run: after it was reaped it would run again."""
    async with worker(database_url, folder, app="doing", env=env(folder)) as one:
        delivery_id = await began(db, folder, "stubborn")
        await one.kill()
        await cancel_delivery(db, delivery_id)
        async with worker(database_url, folder, app="doing", env=env(folder)):
            await ended(db, delivery_id)
        assert done(folder).count("began A") == 1
