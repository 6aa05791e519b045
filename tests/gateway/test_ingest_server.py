"""What only a real server shows: slow, oversized and broken off bodies, long connections, a clean stop."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import orjson
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.errors import ConfigurationError
from reflex.gateway import server
from reflex.gateway.server import listen
from tests.gateway.gateways import served, settings_for
from tests.processes import eventually, free_port, gateway, reflex_process

EVENT = b'{"type":"a"}'


def head(length: int | None, *, method: str = "POST", path: str = "/events") -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n".encode()


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status = int((await reader.readline()).split()[1])
    headers: dict[str, str] = {}
    while (line := (await reader.readline()).strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def stored(conn: AsyncConnection[DictRow]) -> int:
    row = await (await conn.execute("SELECT count(*) AS events FROM reflex.event")).fetchone()
    assert row is not None
    return row["events"]


async def append_waits(conn: AsyncConnection[DictRow]) -> bool:
    """Whether an append waits for the lock that the test holds."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'reflex.event'::regclass"
    return await (await conn.execute(waiting)).fetchone() is not None


@pytest.fixture
async def address(database_url: str) -> AsyncIterator[tuple[str, int]]:
    settings = settings_for(database_url, max_body_bytes=100_000, body_timeout_s=0.5)
    async with served(settings) as address:
        yield address


async def test_a_body_that_does_not_arrive_is_answered_with_408_and_the_connection_closed(
    address: tuple[str, int], conn: AsyncConnection[DictRow]
) -> None:
    """A byte now and then does not help. Seen to fail without the time limit."""
    async with connected(address) as (reader, writer):
        writer.write(head(1000) + EVENT)
        began = time.monotonic()
        answered = asyncio.create_task(answer(reader))
        while not answered.done():
            writer.write(b" ")
            await asyncio.wait([answered], timeout=0.1)
        status, headers, body = await answered
        assert 0.4 < time.monotonic() - began < 10
        assert (status, orjson.loads(body)["code"]) == (408, "body_timeout")
        assert headers["connection"] == "close"
        await asyncio.wait_for(reader.read(), 10)
    assert await stored(conn) == 0


async def test_a_declared_body_that_is_too_large_is_refused_before_it_is_sent(address: tuple[str, int]) -> None:
    """Seen to fail when the Content-Length is not looked at: the answer is then a 408."""
    async with connected(address) as (reader, writer):
        writer.write(head(100_001))
        status, headers, body = await answer(reader)
        assert (status, orjson.loads(body)["code"]) == (413, "body_too_large")
        assert headers["connection"] == "close"


@pytest.mark.parametrize("length", [50_000_000, None], ids=["declared", "chunked"])
async def test_a_client_that_goes_on_sending_too_much_still_gets_its_answer_and_its_connection_ends(
    address: tuple[str, int], length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without `DrainUnread`: hypercorn's reader blocks on its full queue, and the connection stays."""
    monkeypatch.setattr(server, "LINGER_S", 0.3)
    async with connected(address) as (reader, writer):

        async def send_for_ever() -> None:
            writer.write(head(length))
            while True:
                chunk = b"x" * 50_000
                writer.write(chunk if length else b"c350\r\n%b\r\n" % chunk)
                await writer.drain()

        sending = asyncio.create_task(send_for_ever())
        status, _, body = await asyncio.wait_for(answer(reader), 10)
        assert (status, orjson.loads(body)["code"]) == (413, "body_too_large")
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, 10)


async def test_an_answer_before_the_end_of_a_small_body_keeps_the_connection(address: tuple[str, int]) -> None:
    async with connected(address) as (reader, writer):
        writer.write(head(20_000).replace(b"application/json", b"text/plain") + b"x" * 10_000)
        status, headers, _ = await answer(reader)
        assert (status, "connection" in headers) == (415, False)
        writer.write(b"x" * 10_000 + head(len(EVENT)) + EVENT)
        status, _, _ = await answer(reader)
        assert status == 202


async def test_a_body_that_a_get_does_not_read_leaves_no_connection_behind(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.3)
    async with connected(address) as (reader, writer):
        writer.write(head(5_000_000, method="GET", path="/health") + b"x" * 2_000_000)
        status, _, _ = await answer(reader)
        assert status == 200
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_request_broken_off_stores_nothing_and_one_that_was_complete_is_stored(
    address: tuple[str, int], conn: AsyncConnection[DictRow], capfd: pytest.CaptureFixture[str]
) -> None:
    for sent in (head(100) + EVENT, head(100), b"POST /ev", head(None) + b"c\r\n" + EVENT + b"\r\n"):
        async with connected(address) as (_, writer):
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
            await asyncio.sleep(0.05)
    assert await stored(conn) == 0
    async with conn.transaction():
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        async with connected(address) as (_, writer):
            writer.write(head(len(EVENT)) + EVENT)
            await writer.drain()
            await eventually(lambda: append_waits(conn))

    async def arrived() -> bool:
        return await stored(conn) == 1

    await eventually(arrived)
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_a_connection_serves_more_than_a_thousand_requests(address: tuple[str, int]) -> None:
    """hypercorn's default closes it after the thousandth. Seen to fail with that default."""
    async with connected(address) as (reader, writer):
        for _ in range(11):
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
            for _ in range(100):
                status, headers, _ = await answer(reader)
                assert (status, "connection" in headers) == (200, False)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /events HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_with_a_4xx_and_the_gateway_goes_on(
    address: tuple[str, int], sent: bytes, conn: AsyncConnection[DictRow]
) -> None:
    async with connected(address) as (reader, writer):
        writer.write(sent)
        status, _, _ = await answer(reader)
        assert 400 <= status < 500
    async with connected(address) as (reader, writer):
        writer.write(head(len(EVENT)) + EVENT)
        assert (await answer(reader))[0] == 202
    assert await stored(conn) == 1


async def test_stopping_finishes_what_is_under_way_and_takes_nothing_new(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    async with conn.transaction():
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        stopped = asyncio.Event()

        async def run() -> None:
            async with served(settings_for(database_url), grace_s=20) as address:
                addresses.append(address)
                await stopped.wait()

        addresses: list[tuple[str, int]] = []
        running = asyncio.create_task(run())
        await eventually(lambda: addresses)
        async with connected(addresses[0]) as (reader, writer), connected(addresses[0]) as (idle, _):
            writer.write(head(len(EVENT)) + EVENT)
            answered = asyncio.create_task(answer(reader))
            await asyncio.sleep(0.2)
            stopped.set()
            assert await asyncio.wait_for(idle.read(), 10) == b"", "idle connections are closed at once"
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*addresses[0])
            await asyncio.wait([answered], timeout=0.3)
            assert not answered.done()
            await conn.execute("ROLLBACK; BEGIN")
            assert (await answered)[0] == 202
            await running
    assert await stored(conn) == 1


async def test_a_request_that_outlasts_the_grace_is_answered_with_503(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    """Seen to fail (with a 500) when the cancellation is left to hypercorn."""
    # A connection that is cut off makes asyncio report a cancellation, which the process ignores.
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(server.on_loop_error)
    async with conn.transaction():
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        async with served(settings_for(database_url), grace_s=0.2) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(head(len(EVENT)) + EVENT)
            await eventually(lambda: append_waits(conn))
            answered = asyncio.create_task(answer(reader))

            async def release() -> None:
                await answered
                await conn.execute("ROLLBACK; BEGIN")

            releasing = asyncio.create_task(release())
        await releasing
        writer.transport.abort()
    loop.set_exception_handler(before)
    status, headers, body = answered.result()
    assert (status, orjson.loads(body)["code"], headers["retry-after"]) == (503, "stopping", "1")


def test_an_address_that_cannot_be_used_is_one_sentence_that_says_what_to_do() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for host, named, said in [
            ("127.0.0.1", port, "in use by another program; stop it, or choose a port with REFLEX_PORT or --port"),
            ("203.0.113.7", 0, "no address of this machine"),
            ("no such host", 0, "REFLEX_HOST is 'no such host'"),
        ]:
            with pytest.raises(ConfigurationError, match=said):
                listen(host, named)


def test_ipv6_is_listened_on_where_there_is_any() -> None:
    if not socket.has_ipv6:
        return
    try:
        sock = listen("::1", 0)
    except ConfigurationError:
        return
    with sock:
        assert sock.family is socket.AF_INET6


async def test_sigterm_ends_the_process_after_the_answer_to_what_was_under_way(
    database_url: str, tmp_path: Path, conn: AsyncConnection[DictRow]
) -> None:
    async with gateway(database_url, tmp_path) as process, httpx2.AsyncClient(base_url=process.url) as client:
        async with conn.transaction():
            await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
            asked = asyncio.create_task(client.post("/events", json={"type": "a"}, timeout=30))
            await eventually(lambda: append_waits(conn))
            process.send(signal.SIGTERM)
            await process.says("stopping")
        assert (await asked).status_code == 202
        assert await process.exited() == 0
        assert "Traceback" not in process.log
    assert await stored(conn) == 1


async def test_a_port_in_use_is_one_sentence_and_exit_code_2(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with listen("127.0.0.1", port):
        async with reflex_process(
            "gateway", "--port", str(port), folder=tmp_path, database_url=database_url
        ) as process:
            assert await process.exited(timeout_s=30) == 2
            assert f"127.0.0.1:{port} is in use by another program" in process.log
            assert "Traceback" not in process.log
