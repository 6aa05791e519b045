"""The proxy that other tests rely on: each fault looks to both ends as it would on a network."""

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import AsyncConnection

from tests.faults import FaultProxy
from tests.processes import eventually

FAST = {"connect_timeout": 2, "autocommit": True}


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(database_url) as proxy:
        yield proxy


async def connect(url: str) -> AsyncConnection:
    return await AsyncConnection.connect(url, autocommit=True, connect_timeout=2)


async def backends(conn: AsyncConnection) -> int:
    """How many other connections PostgreSQL believes it has to this database."""
    found = await conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    row = await found.fetchone()
    assert row
    return int(row[0])


async def test_what_passes_is_the_database(proxy: FaultProxy) -> None:
    async with await connect(proxy.url) as conn:
        found = await conn.execute("SELECT repeat('x', 300000)")
        row = await found.fetchone()
        assert row
        assert len(row[0]) == 300_000
    await eventually(lambda: proxy.open_links == 0)


async def test_a_delay_is_felt_both_ways_and_ends(proxy: FaultProxy) -> None:
    async with await connect(proxy.url) as conn:
        await proxy.delay(0.1)
        began = time.monotonic()
        await conn.execute("SELECT 1")
        assert time.monotonic() - began >= 0.2
        await proxy.delay(0)
        await conn.execute("SELECT 1")


async def test_a_cut_resets_what_is_open_and_lets_new_connections_pass(proxy: FaultProxy) -> None:
    async with await connect(proxy.url) as conn:
        await proxy.cut()
        with pytest.raises(psycopg.OperationalError, match="reset by peer"):
            await conn.execute("SELECT 1")
    async with await connect(proxy.url) as conn:
        await conn.execute("SELECT 1")


async def test_refused_connections_are_refused_until_healed_on_the_same_port(proxy: FaultProxy) -> None:
    address = proxy.url
    async with await connect(address) as conn:
        await proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        await connect(address)
    await proxy.pass_through()
    async with await connect(address) as conn:
        await conn.execute("SELECT 1")


async def test_a_black_hole_takes_bytes_and_answers_nothing_then_resets(
    proxy: FaultProxy, conn: AsyncConnection
) -> None:
    async with await connect(proxy.url) as lost:
        await proxy.blackhole()
        asked = asyncio.create_task(lost.execute("CREATE TABLE never_made ()"))
        done, _ = await asyncio.wait([asked], timeout=0.3)
        assert not done
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            await connect(proxy.url)
        assert await backends(conn) == 1
        await proxy.pass_through()
        with pytest.raises(psycopg.OperationalError):
            await asked
    found = await conn.execute("SELECT to_regclass('never_made')")
    assert (await found.fetchone()) == {"to_regclass": None}
