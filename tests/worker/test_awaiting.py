"""Runs that wait for events, with real workers: woken in well under a second, whoever is killed, by whoever is left."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core.log import append
from reflex.core.reads import read_deliveries
from tests.processes import SELDOM_LOOKS, eventually, worker
from tests.queue_fixtures import count, new_event

FOLLOWERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reflex awaiting' AND datname = current_database()"
)
APP = """
import asyncio, os
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger

async def ships(ctx):
    payment = await ctx.wait_for(type_filter("payment.received") & keyword_filter("paid", True), timeout=3600)
    with open(os.environ["SHIPPED"], "a") as file:
        print(payment.payload["n"], ctx.key, file=file, flush=True)
    if os.path.exists(os.environ["SHIPPED"] + ".hang"):
        await asyncio.sleep(3600)
    return payment.payload["n"]

Trigger("ship", type_filter("order.created"), ships{options})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shipping.py").write_text(APP.replace("{options}", ""))
    return tmp_path


def env(folder: Path) -> dict[str, str]:
    return {"SHIPPED": str(folder / "shipped"), "REFLEX_LEASE_TIMEOUT_S": "2"}


def shipped(folder: Path) -> list[str]:
    file = folder / "shipped"
    return file.read_text().splitlines() if file.exists() else []


async def ordered(conn: AsyncConnection[Any], key: str) -> UUID:
    event = new_event(key=key)
    await append(conn, [event])
    return event.event_id


async def paid(conn: AsyncConnection[Any], key: str, n: int, *, is_paid: bool = True) -> None:
    await append(conn, [new_event("payment.received", f'{{"paid": {str(is_paid).lower()}, "n": {n}}}', key=key)])


async def state(conn: AsyncConnection[Any], event_id: UUID) -> str:
    deliveries = await read_deliveries(conn, event_id)
    return deliveries[0].state if deliveries else "none"


async def becomes(conn: AsyncConnection[Any], event_id: UUID, expected: str, *, timeout_s: float = 20) -> None:
    async def reached() -> bool:
        return await state(conn, event_id) == expected

    await eventually(reached, timeout_s=timeout_s, what=f"that it is {expected}")


async def followers(conn: AsyncConnection[Any]) -> int:
    row = await (await conn.execute(FOLLOWERS)).fetchone()
    assert row
    return row[0]


async def are_followed(conn: AsyncConnection[Any]) -> bool:
    waiting = await (await conn.execute("SELECT count(*) FROM reflex.awaited WHERE look_at IS NULL")).fetchone()
    return bool(waiting and waiting[0])


async def test_a_waiting_run_is_woken_by_the_news_and_only_the_one_with_the_key(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Nothing but workers runs here, so they give the log its order, too. Fails without placing, without the
    notification of a wait, or of an append (the worker would look once an hour), and if every wait is woken by any
    event.

    Fails if the connection that follows the log stays when nothing is awaited."""
    seldom = f"{SELDOM_LOOKS}\nimport reflex.worker.awaiting\nreflex.worker.awaiting.LONGEST_S = 3600\n"
    (folder / "shipping.py").write_text(seldom + APP.replace("{options}", ""))
    async with worker(database_url, folder, app="shipping", env=env(folder)):
        assert await followers(db) == 0
        first, second = await ordered(db, "A"), await ordered(db, "B")
        await becomes(db, first, "waiting")
        await becomes(db, second, "waiting")
        for event_id, key in ((second, "B"), (first, "A")):
            await paid(db, key, 1)
            await becomes(db, event_id, "succeeded")
        assert shipped(folder) == ["1 B", "1 A"]
        runs = [run.outcome for run in (await read_deliveries(db, first))[0].runs]
        assert runs == ["waiting", "succeeded"]

        async def idle() -> bool:
            return await followers(db) == 0

        await eventually(idle, timeout_s=15)
        assert await count(db, "awaited") == 0


async def test_a_run_is_woken_whoever_of_the_workers_is_killed(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """The worker that found the event dies with the run in hand. Fails if the match is not kept, or if only the worker
    that settled the wait looks."""
    (folder / "shipped.hang").touch()
    async with (
        worker(database_url, folder, app="shipping", env=env(folder)) as one,
        worker(database_url, folder, app="shipping", env=env(folder)) as two,
    ):
        event_id = await ordered(db, "A")
        await becomes(db, event_id, "waiting")
        await paid(db, "A", 1)
        await eventually(lambda: shipped(folder), what="the run behind the wait")
        row = await (await db.execute("SELECT pid FROM reflex.lease JOIN reflex.worker USING (worker_id)")).fetchone()
        assert row
        killed = one if one.pid == row[0] else two
        await killed.kill()
        await db.execute("DELETE FROM reflex.event WHERE type = 'payment.received'")
        await paid(db, "A", 2)
        (folder / "shipped.hang").unlink()
        await becomes(db, event_id, "succeeded", timeout_s=30)
        assert shipped(folder) == ["1 A", "1 A"]


async def test_a_hot_type_that_the_filter_refuses_does_not_make_the_run_run_for_each(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Fails if fruitless wake-ups are not spaced out: there would be about as many runs as looks at the log."""
    async with worker(database_url, folder, app="shipping", env=env(folder)):
        event_id = await ordered(db, "A")
        await becomes(db, event_id, "waiting")
        until = time.monotonic() + 4
        while time.monotonic() < until:
            await paid(db, "A", 0, is_paid=False)
            await asyncio.sleep(0.02)
        await becomes(db, event_id, "waiting")
        assert await count(db, "run") <= 9
        await paid(db, "A", 7)
        await becomes(db, event_id, "succeeded")
        assert shipped(folder) == ["7 A"]


async def test_an_ordered_trigger_waits_with_its_key_and_lets_others_pass(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    """Fails if a wait in a lane is not woken, or if it lets the next delivery of its key pass."""
    (folder / "shipping.py").write_text(APP.replace("{options}", ", ordered=True"))
    async with worker(database_url, folder, app="shipping", env=env(folder)):
        first = await ordered(db, "A")
        await becomes(db, first, "waiting")
        second, other = await ordered(db, "A"), await ordered(db, "B")
        await becomes(db, other, "waiting")
        assert await state(db, second) == "pending"
        await paid(db, "A", 1)
        await becomes(db, first, "succeeded")
        await becomes(db, second, "waiting")
        await paid(db, "A", 2)
        await becomes(db, second, "succeeded")
        assert shipped(folder) == ["1 A", "2 A"]
        assert await state(db, other) == "waiting"


async def test_an_event_that_is_put_off_counts_when_it_is_in_the_log(
    database_url: str, folder: Path, db: AsyncConnection[Any]
) -> None:
    async with worker(database_url, folder, app="shipping", env=env(folder)):
        event_id = await ordered(db, "A")
        await becomes(db, event_id, "waiting")
        await append(db, [new_event("payment.received", '{"paid": true, "n": 3}', key="A", delay=timedelta(hours=1))])
        await becomes(db, event_id, "succeeded")
