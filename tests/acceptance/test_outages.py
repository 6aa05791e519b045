"""A database that restarts, crashes, is cut off or answers nothing: promise 9."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from psycopg.sql import SQL, Identifier

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.database import connect
from reflex.core.migrate import upgrade
from tests.acceptance.shop import ACTING, APP, Shop
from tests.customers import Customers
from tests.faults import FaultProxy
from tests.processes import eventually, gateway, reflex_process


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(database_url) as proxy:
        yield proxy


def order(number: int) -> Mapping[str, Any]:
    return {"type": "order.created", "payload": {"n": number}}


async def all_settled(shop: Shop, customers: Customers) -> None:
    """Every accepted event is there once and has run to its end."""
    await shop.is_quiet()
    accepted = list(customers.accepted.values())
    assert not customers.wrong
    assert len(set(accepted)) == len(accepted)
    assert await shop.count("FROM reflex.event WHERE type = 'order.created'") == len(accepted)
    done = await shop.count("FROM reflex.run WHERE event_id = ANY(%s) AND outcome = 'succeeded'", accepted)
    assert done == len(accepted)


async def test_gateway_and_worker_outlive_a_restart_and_a_crash_of_postgresql(tmp_path: Path) -> None:
    """While it is away clients hear 503 with a time to come back, and never 500.

    Fails with: a worker or gateway that ends at a lost connection, or does not open another one.
    """
    shutil.copy(ACTING, tmp_path)
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as server:
        upgrade(server.url)
        async with await connect(server.url, name="test") as conn:
            shop = Shop(server.url, tmp_path, conn)
            async with gateway(server.url, tmp_path) as front, shop.worker(lease_timeout_s=2) as worker:
                async with Customers([front.url], order) as customers:
                    await eventually(lambda: len(customers.accepted) > 20)
                    server.stop()
                    await is_unavailable(front.url)
                    server.start()
                    before = len(customers.accepted)
                    await eventually(lambda: len(customers.accepted) > before + 20, what="events after the restart")
                    os.kill(server.pid, signal.SIGQUIT)
                    server.stop()
                    server.start()
                    before = len(customers.accepted)
                    await eventually(lambda: len(customers.accepted) > before + 20, what="events after the crash")
                assert front.is_running
                assert worker.is_running
                assert customers.answers[503] > 0
                await conn.close()
                async with await connect(server.url, name="test") as fresh:
                    await all_settled(Shop(server.url, tmp_path, fresh), customers)


async def is_unavailable(url: str) -> None:
    """What a gateway says without its database."""
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        for answer in (
            await client.post("/events", json=order(0)),
            await client.post("/events", json=[order(0), order(1)]),
            await client.get("/events"),
            await client.get("/dead-letters"),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health/detailed")).status_code == 503


async def test_cut_terminated_and_black_holed_connections_lose_nothing(shop: Shop, proxy: FaultProxy) -> None:
    """Fails with: a worker or gateway that ends at a lost connection; events stored anew when a client asks again."""
    async with gateway(proxy.url, shop.folder) as front, shop.worker(url=proxy.url, lease_timeout_s=2) as worker:
        async with Customers([front.url], order, repeat_every=5) as customers:
            for fault in (proxy.cut, lambda: terminate_all(shop), lambda: black_hole(proxy)):
                before = len(customers.accepted)
                await eventually(lambda before=before: len(customers.accepted) > before + 20)
                await fault()
        await all_settled(shop, customers)
        assert front.is_running
        assert worker.is_running


async def terminate_all(shop: Shop) -> None:
    # In one statement the planner may end backends before it looks whose they are.
    cursor = await shop.conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'reflex %'"
    )
    pids = [pid for (pid,) in await cursor.fetchall()]
    assert pids
    await shop.conn.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])


async def black_hole(proxy: FaultProxy) -> None:
    await proxy.blackhole()
    await asyncio.sleep(3)
    await proxy.pass_through()


async def test_a_claim_whose_answer_was_lost_is_taken_up_again(shop: Shop, proxy: FaultProxy) -> None:
    """Its worker lives and beats, so no reaper frees the lease. Fails without the look for leases of one's own."""
    async with shop.worker(url=proxy.url) as worker:
        async with unheard(shop, proxy, "lease"):
            (event_id,) = await shop.publish({})
        await eventually(lambda: shop.count("FROM reflex.lease"), what="the lease")
        await asyncio.sleep(0.3)
        assert shop.started() == []  # nobody told the worker
        await proxy.pass_through()
        await shop.becomes("succeeded", event_id)
        assert [run.pid for run in shop.started(event_id)] == [worker.pid]
        assert await shop.outcomes(event_id) == [(1, "succeeded")]


async def test_a_worker_whose_enlisting_was_not_heard_of_begins_all_the_same(shop: Shop, proxy: FaultProxy) -> None:
    """Fails with: an enlisting that cannot be repeated (a plain INSERT ends the process)."""
    async with reflex_process("worker", "--app", APP, folder=shop.folder, database_url=proxy.url) as worker:
        async with unheard(shop, proxy, "worker"):
            pass
        await eventually(lambda: shop.count("FROM reflex.worker"), what="the entry")
        await proxy.pass_through()
        (event_id,) = await shop.publish({})
        await shop.becomes("succeeded", event_id)
        assert worker.is_running
        assert await shop.count("FROM reflex.worker") == 1


@asynccontextmanager
async def unheard(shop: Shop, proxy: FaultProxy, table: str) -> AsyncGenerator[None]:
    """Let the worker's next change of a table commit without its hearing of it; the black hole stays."""
    async with await connect(shop.database_url, name="test") as holding, holding.transaction():
        await holding.execute(SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(Identifier("reflex", table)))
        yield
        waits = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'reflex worker'"
        await eventually(lambda: shop.count(waits), what=f"a change of {table} that waits for the lock")
        await proxy.blackhole()


async def test_a_connection_that_is_never_answered_again_is_given_up(shop: Shop, proxy: FaultProxy) -> None:
    """Something on the way takes what is sent and answers nothing, for good: no time limit of TCP ever ends that.

    Fails with: an exchange, a heartbeat or a chore that waits for its answer without end.
    """
    async with shop.worker(url=proxy.url, lease_timeout_s=1, poll_interval_s=0.2) as worker:
        (before,) = await shop.publish({})
        await shop.becomes("succeeded", before)
        proxy.strand()
        (event_id,) = await shop.publish({"fail": "the retry is promoted by a chore", "only_first": True})
        await shop.becomes("succeeded", event_id, timeout_s=60)
        assert {run.pid for run in shop.started()} == {worker.pid}
        beats = "FROM reflex.worker WHERE heartbeat_at > (SELECT max(finished_at) FROM reflex.run)"
        await eventually(lambda: shop.count(beats), what="a heartbeat")
