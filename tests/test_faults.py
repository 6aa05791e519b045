"""The proxy that other tests rely on: each fault looks to both ends as it would on a network."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow, TupleRow

from tests.faults import FaultProxy
from tests.processes import eventually


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(database_url) as proxy:
        yield proxy


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
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("SELECT 1")
    async with await connect(proxy.url) as conn:
        await conn.execute("SELECT 1")


async def test_a_cut_is_a_reset_and_not_a_polite_end(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await eventually(lambda: proxy.open_links == 1)
    await proxy.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


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
    proxy: FaultProxy, conn: AsyncConnection[DictRow]
) -> None:
    lost = await connect(proxy.url)
    await proxy.blackhole()
    asked = asyncio.create_task(lost.execute("CREATE TABLE never_made ()"))
    try:
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            await connect(proxy.url)
        assert not asked.done()
        assert await backends(conn) == 1
    finally:
        await proxy.pass_through()
        with pytest.raises(psycopg.OperationalError):
            await asked
        await lost.close()
    assert await one(conn, "SELECT to_regclass('never_made') AS found") == {"found": None}


async def test_a_black_hole_hides_that_an_end_is_gone(proxy: FaultProxy, conn: AsyncConnection[DictRow]) -> None:
    lost = await connect(proxy.url)
    await proxy.blackhole()
    await lost.close()
    await asyncio.sleep(0.2)
    assert await backends(conn) == 1
    await proxy.pass_through()

    async def gone() -> bool:
        return await backends(conn) == 0

    await eventually(gone)


async def test_what_was_frozen_arrives_late(proxy: FaultProxy, conn: AsyncConnection[DictRow]) -> None:
    async with await connect(proxy.url) as late:
        await proxy.freeze()
        asked = asyncio.create_task(late.execute("CREATE TABLE made_late ()"))
        done, _ = await asyncio.wait([asked], timeout=0.2)
        before = await one(conn, "SELECT to_regclass('made_late')::text AS found")
        await proxy.pass_through()
        await asked
    assert not done
    assert before == {"found": None}
    assert await one(conn, "SELECT to_regclass('made_late')::text AS found") == {"found": "made_late"}


async def one(conn: AsyncConnection[DictRow], query: LiteralString) -> DictRow | None:
    return await (await conn.execute(query)).fetchone()


async def connect(url: str) -> AsyncConnection[TupleRow]:
    return await AsyncConnection.connect(url, autocommit=True, connect_timeout=2)


async def backends(conn: AsyncConnection[DictRow]) -> int:
    """How many other connections PostgreSQL believes it has to this database."""
    row = await one(
        conn,
        "SELECT count(*)::int AS found FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    assert row
    return int(row["found"])
