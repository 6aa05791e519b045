"""Behind PgBouncer in transaction mode, with the file that `deploy/pgbouncer` has: no session is ever ours for longer
than a transaction. `make deploy-test` loads it for longer."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.errors import ConfigurationError
from reflex.core.listening import listen_to
from reflex.core.migrate import HEAD, current_revision, upgrade
from reflex.core.pooler import through_pooler
from tests.customers import Customers
from tests.deploy.kept import APP, KEEPING, kept, order
from tests.poolers import KEEPS_STATEMENTS, PgBouncer, pgbouncer, version
from tests.processes import ReflexProcess, eventually, gateway, worker

LOAD_S = float(os.environ.get("DEPLOY_SECONDS", "0"))
ORDERS = 40
SESSIONS = 6
# What PgBouncer itself sets on a session, to what each client has.
ITS_SETTINGS = {
    "application_name", "client_encoding", "DateStyle", "IntervalStyle", "search_path", "standard_conforming_strings",
    "TimeZone",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(KEEPING, tmp_path)
    return tmp_path


@pytest.fixture
def pooler(database_url: str) -> Iterator[PgBouncer]:
    """So few sessions that whoever asks next has another one's."""
    with pgbouncer(database_url, default_pool_size=str(SESSIONS), reserve_pool_size="0") as pooler:
        yield pooler


@pytest.fixture
async def pooled(pooler: PgBouncer) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(pooler.url, name="test") as conn:
        yield conn


async def placed(customers: Customers, count: int) -> None:
    before = len(customers.accepted)
    await eventually(lambda: len(customers.accepted) >= before + count, timeout_s=60, what=f"{count} accepted orders")


async def readers_are_served(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        for path in ("/events", "/triggers", "/schedules", "/health/ready", "/health/detailed"):
            assert (await client.get(path)).status_code == 200, path
        async with client.stream("GET", "/events/stream", params={"type": "order.shipped"}) as stream:
            await anext(line async for line in stream.aiter_lines() if line.startswith("data:"))


async def everything_on(url: str, sessions: int, query: str) -> list[Any]:
    """What a query finds on all sessions of the pool: as many transactions are open at the same time."""
    found: list[Any] = []
    async with AsyncExitStack() as stack:
        for _ in range(sessions):
            conn = await stack.enter_async_context(await connect(url, name="test"))
            await stack.enter_async_context(conn.transaction())
            found += await (await conn.execute(query.encode())).fetchall()
    return found


def complaints(*processes: ReflexProcess) -> list[str]:
    """What processes have to say above `info`. Each has to say, once, that it hears nothing, and what to set."""
    found: list[str] = []
    for process in processes:
        above = [line for line in process.log.splitlines() if re.search(r'"level":"(warning|error|critical)"', line)]
        (deaf,) = [line for line in above if "polling only" in line]
        assert "REFLEX_DIRECT_URL" in deaf
        found += [line for line in above if line != deaf and "told to fail" not in line]
    return found


async def test_gateway_and_worker_leave_nothing_on_the_sessions_that_they_share(
    database_url: str, pooler: PgBouncer, db: AsyncConnection[Any], folder: Path
) -> None:
    """Nothing is heard either: all that is done is found by looking. Ends with PgBouncer killed under load.

    Fails with: statements prepared on sessions that others get; a LISTEN, a lock or a setting that outlives its
    transaction; a run that only a notification starts; a process that does not connect anew.
    """
    env = {"REFLEX_POLL_INTERVAL_S": "0.2", "REFLEX_LEASE_TIMEOUT_S": "2", "REFLEX_KEEP": "30d"}
    async with (
        gateway(pooler.url, folder) as front,
        worker(pooler.url, folder, app=APP, env=env, registry_url=database_url) as serving,
    ):
        async with Customers([front.url], order, repeat_every=5) as customers:
            await placed(customers, ORDERS)
            await asyncio.sleep(LOAD_S)
            await readers_are_served(front.url)
            assert await everything_on(pooler.url, SESSIONS, "SELECT pg_listening_channels()") == []
            locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert await everything_on(pooler.url, SESSIONS, locks) == []
            settings = "SELECT name FROM pg_settings WHERE source = 'session'"
            assert {name for (name,) in await everything_on(pooler.url, SESSIONS, settings)} <= ITS_SETTINGS
            temporary = "SELECT 1 FROM pg_class WHERE relnamespace = pg_my_temp_schema()"
            assert await everything_on(pooler.url, SESSIONS, temporary) == []
            statements = "SELECT name FROM pg_prepared_statements"
            names = {name for (name,) in await everything_on(pooler.url, SESSIONS, statements)}
            assert not {name for name in names if not name.startswith("PGBOUNCER_")}
            assert bool(names) == (version() >= KEEPS_STATEMENTS)
            assert not complaints(front, serving)
            for _ in range(5 if LOAD_S else 1):
                before = customers.answers[503]
                pooler.kill()
                await eventually(lambda before=before: customers.answers[503] > before, what="a customer who is told")
                pooler.start()
                await placed(customers, ORDERS)
        await kept(db, customers)
        assert front.is_running
        assert serving.is_running
        assert "prepared statement" not in front.log + serving.log


async def test_with_a_direct_address_work_is_heard_of_at_once(
    database_url: str, pooler: PgBouncer, db: AsyncConnection[Any], folder: Path
) -> None:
    """Fails if what listens does so through the pooler: nobody looks for work for a minute."""
    env = {"REFLEX_DIRECT_URL": database_url, "REFLEX_POLL_INTERVAL_S": "60"}
    async with (
        gateway(pooler.url, folder, env=env) as front,
        worker(pooler.url, folder, app=APP, env=env, registry_url=database_url),
    ):
        await eventually(lambda: listeners(db), what="a worker that listens")
        async with Customers([front.url], order) as customers:
            await placed(customers, 20)
        await kept(db, customers)
        assert "polling only" not in front.log


async def listeners(db: AsyncConnection[Any]) -> bool:
    cursor = await db.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'reflex listener'")
    return await cursor.fetchone() is not None


async def test_a_connection_notices_the_pooler_and_whether_it_keeps_statements(
    pooled: AsyncConnection[Any], db: AsyncConnection[Any]
) -> None:
    assert await through_pooler(pooled)
    assert not await through_pooler(db)
    assert (pooled.prepare_threshold is not None) == (version() >= KEEPS_STATEMENTS)
    assert db.prepare_threshold is not None
    with pytest.raises(psycopg.NotSupportedError, match="REFLEX_DIRECT_URL"):
        await listen_to(pooled, ["reflex"])
    await listen_to(db, ["reflex"])


async def test_a_pooler_that_loses_statements_is_noticed_and_left_clean(database_url: str) -> None:
    """Fails with a probe that stays on the session: the next client's would be refused, and any other's as well."""
    off = {"max_prepared_statements": "0"} if version() >= KEEPS_STATEMENTS else {}
    with pgbouncer(database_url, default_pool_size="1", reserve_pool_size="0", **off) as pooler:
        for _ in range(3):
            async with await connect(pooler.url, name="test") as conn:
                assert conn.prepare_threshold is None
                cursor = await conn.execute("SELECT name FROM pg_prepared_statements")
                assert await cursor.fetchall() == []
        # Another program of the same account prepares all the same: by the name that ours would take next.
        async with await AsyncConnection.connect(pooler.url, autocommit=True, prepare_threshold=0) as careless:
            await careless.execute("SELECT 1")
            async with await connect(pooler.url, name="test") as conn:
                assert conn.prepare_threshold is None


def test_a_database_is_not_migrated_through_a_pooler(postgres: psycopg.Connection, empty_database_url: str) -> None:
    """The lock that lets several migrations take turns would stay on a session of the pool, and block the next one."""
    with pgbouncer(empty_database_url) as pooler:
        with pytest.raises(ConfigurationError, match="REFLEX_DIRECT_URL"):
            upgrade(pooler.url)
        assert current_revision(empty_database_url) is None
        upgrade(empty_database_url)
        upgrade(pooler.url)  # it is there: nothing to do
        assert current_revision(pooler.url) == HEAD
    locks = postgres.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
    assert locks == (0,)
