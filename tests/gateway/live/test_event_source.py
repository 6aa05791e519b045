"""GET /events/stream behind a real server."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from psycopg import AsyncConnection
from sse_starlette.sse import EventSourceResponse

from reflex.core.cursors import Cursor
from reflex.core.log import append
from reflex.core.log_reading import drop_log, log_bounds, read_log
from reflex.gateway.app import create_app
from reflex.gateway.group_commit import GroupCommit
from reflex.gateway.live import event_source
from reflex.gateway.live import follower as follower_module
from reflex.gateway.live import hub as hub_module
from reflex.gateway.live import stream as stream_module
from reflex.gateway.live.outbox import SENT_AT_ONCE_CHARS, Outbox
from tests.faults import FaultProxy
from tests.gateway.gateways import in_process, problem_of, served, settings_for
from tests.gateway.live.readers import log_ids
from tests.gateway.live.streams import base_url, raw_stream, stream
from tests.processes import eventually, gateway
from tests.queue_fixtures import new_event, publish

BEGINNING = str(Cursor(0, 0))
HEARTBEAT_S = 0.2
FIELDS = ("source", "key", "correlation_id")


@pytest.fixture
async def address(database_url: str) -> AsyncIterator[tuple[str, int]]:
    async with served(settings_for(database_url, live_heartbeat_s=HEARTBEAT_S, ws_max_per_address=20)) as address:
        yield address


async def test_frames_are_written_as_the_standard_wants_them(
    address: tuple[str, int], writer: AsyncConnection[Any]
) -> None:
    """An id with each event, the JSON in one line, whatever characters it has. Fails with: a carriage return or a line
    break within a frame; an event without an id; a frame that is kept until there is another."""
    await append(writer, [new_event(payload=orjson.dumps({"text": "a\r\nb\n\u2028\u0085ü\U0001f980"}).decode())])
    (event_id,) = await log_ids(writer)
    async with raw_stream(address, after=BEGINNING) as (reader, _):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200")
        assert "content-type: text/event-stream" in head
        assert "cache-control: no-store" in head
        assert "x-accel-buffering: no" in head
        size = int(await reader.readline(), 16)
        assert await reader.readexactly(size + 2) == f"retry: 2000\nid: {BEGINNING}\n\n\r\n".encode()
        size = int(await reader.readline(), 16)
        frame = (await reader.readexactly(size)).decode()
        id, data, end, nothing = frame.split("\n")
        assert (id.startswith("id: "), data.startswith("data: "), end, nothing) == (True, True, "", "")
        assert Cursor.parse(id[4:]) > Cursor(0, 0)
        event = orjson.loads(data[6:])
    async with httpx2.AsyncClient(base_url=base_url(address)) as client:
        stored = (await client.get(f"/events/{event_id}")).json()
    shown = ("id", "type", "source", "key", "payload", "correlation_id", "causation_id", "depth", "available_at")
    assert {name: event[name] for name in shown} == {name: stored.get(name) for name in shown}


async def test_filters_hold_all_at_once_and_types_may_be_several(
    address: tuple[str, int], writer: AsyncConnection[Any]
) -> None:
    """Fails with: a parameter that is not passed on, types that are not split at the comma."""
    url = base_url(address)
    asked: list[dict[str, str]] = [
        {}, {"type": "a,b.*"}, {"type": "*"}, {"type": "reflex.*,a"}, {"source": "shop"}, {"key": "k"},
        {"correlation_id": "c"}, {"type": "a,b.*", "source": "shop", "key": "k", "correlation_id": "c"},
    ]  # fmt: skip
    events = [
        new_event(type, source=source, key=key, correlation_id=correlation)
        for type in ("a", "a.x", "b.x", "c", "reflex.reply")
        for source in ("shop", "test")
        for key, correlation in ((None, None), ("k", "c"), ("k", None), (None, "c"))
    ]
    await append(writer, events)
    log = (await read_log(writer, Cursor(0, 0))).events if await log_ids(writer) else []

    def wanted(query: dict[str, str]) -> list[str]:
        prefixes = {"a": ("a",), "b.*": ("b.x",), "*": ("a", "a.x", "b.x", "c", "d"), "reflex.*": ("reflex.reply",)}
        types = {each for pattern in query.get("type", "").split(",") if pattern for each in prefixes[pattern]}
        return [
            str(event.event_id)
            for event in log
            if (not types or event.type in types)
            and all(getattr(event, name) == query[name] for name in FIELDS if name in query)
        ]

    for query in asked:
        async with stream(url, after=BEGINNING, **query) as old, stream(url, **query) as live:
            assert [event["id"] for event in await old.events(len(wanted(query)))] == wanted(query)
            (marker,) = await publish_one(writer, query)
            for reader in (old, live):
                assert (await reader.events(1))[0]["id"] == marker
        log = (await read_log(writer, Cursor(0, 0))).events


async def publish_one(writer: AsyncConnection[Any], query: dict[str, str]) -> list[str]:
    """An event that the query wants, after one of each kind that it does not."""
    fields = {"source": "shop", "key": "k", "correlation_id": "c"}
    own = new_event("a", **fields)
    others = [new_event("a", **{**fields, name: "other"}) for name in FIELDS if name in query]
    if "type" in query:
        others.append(new_event("reflex.reply" if query["type"] == "*" else "d", **fields))
    for event in (*others, own):
        await append(writer, [event])
    return [str(own.event_id)]


async def test_a_heartbeat_moves_the_id_while_only_unwanted_events_come(
    address: tuple[str, int], writer: AsyncConnection[Any]
) -> None:
    """So that who resumes reads nothing twice that it does not want. Fails with: a heartbeat without an id, or with
    that of the last event that was sent."""
    async with stream(base_url(address), type="wanted") as reader:
        began = Cursor.parse(reader.id)
        await publish(writer, 5, type="unwanted")
        await log_ids(writer)
        end = (await log_bounds(writer)).end
        async with asyncio.timeout(10):
            while Cursor.parse(reader.id) < end:
                assert (await reader.frame()).data == ""
        assert began < end
        ids = await publish(writer, 1, type="wanted")
        assert [event["id"] for event in await reader.events(1)] == [str(ids[0])]
        assert Cursor.parse(reader.id) > end


async def test_the_first_id_is_not_ahead_of_what_was_sent(
    address: tuple[str, int], writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old events may have been read before the first frame is written; who is cut off right after it resumes there.

    Fails with: a first frame with the cursor up to which old events were read.
    """
    monkeypatch.setattr(follower_module, "APPENDS_READ_BACK", (0,))
    outboxes: list[Outbox] = []

    class WatchedOutbox(Outbox):
        def __init__(self, **bounds: Any) -> None:
            super().__init__(**bounds)
            outboxes.append(self)

    class Late(EventSourceResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await eventually(lambda: not outboxes[-1].is_empty)
            await super().__call__(scope, receive, send)

    monkeypatch.setattr(event_source, "Outbox", WatchedOutbox)
    monkeypatch.setattr(event_source, "EventSourceResponse", Late)
    await publish(writer, 10)
    ids = [str(event_id) for event_id in await log_ids(writer)]
    async with stream(base_url(address), after=BEGINNING) as reader:
        assert reader.id == BEGINNING
        assert [event["id"] for event in await reader.events(10)] == ids


async def test_a_client_that_was_cut_off_goes_on_by_its_last_event_id_or_by_after(
    address: tuple[str, int], writer: AsyncConnection[Any]
) -> None:
    """The header wins: a browser repeats the address with which it began. Fails with: `after` that is looked at first,
    a header that is not read."""
    url = base_url(address)
    async with stream(url) as reader:
        began = reader.id
        await publish(writer, 6)
        ids = [str(event_id) for event_id in await log_ids(writer)]
        first = await reader.events(1)
        assert [event["id"] for event in first] == ids[:1]
        cut_off_at = reader.id
    for query, header, rest in (
        ({"after": began}, cut_off_at, ids[1:]),
        ({"after": cut_off_at}, None, ids[1:]),
        ({}, cut_off_at, ids[1:]),
        ({"after": began}, None, ids),
    ):
        async with stream(url, last_event_id=header, **query) as resumed:
            assert [event["id"] for event in await resumed.events(len(rest))] == rest


async def test_what_cannot_be_served_is_a_problem_that_names_the_parameter(
    address: tuple[str, int], writer: AsyncConnection[Any]
) -> None:
    """Fails with: an error that is raised after the answer began; a cursor of the header that is called `after`."""
    await publish(writer, 3)
    await log_ids(writer)
    old, end = Cursor(1, 1), (await log_bounds(writer)).end
    await drop_log(writer, until=end)
    ahead = str(end._replace(position=end.position + 5))
    async with httpx2.AsyncClient(base_url=base_url(address), timeout=20) as client:
        for query, header, status, code, field in (
            ({"type": "a,*.b"}, None, 400, "query_rejected", "type"),
            ({"type": ""}, None, 400, "query_rejected", "type"),
            ({"type": "a,,b"}, None, 400, "query_rejected", "type"),
            ({"type": ",".join("a" * 101)}, None, 400, "query_rejected", "type"),
            ({"kind": "a"}, None, 400, "query_rejected", "kind"),
            ({"after": "nonsense"}, None, 400, "cursor_rejected", "after"),
            ({"after": ahead}, None, 400, "cursor_rejected", "after"),
            ({"after": str(old)}, None, 410, "cursor_expired", "after"),
            ({}, "nonsense", 400, "cursor_rejected", "Last-Event-ID"),
            ({}, ahead, 400, "cursor_rejected", "Last-Event-ID"),
            ({}, str(old), 410, "cursor_expired", "Last-Event-ID"),
        ):
            headers = {"last-event-id": header} if header else {}
            answer = await client.get("/events/stream", params=query, headers=headers)
            document = problem_of(answer)
            assert (answer.status_code, document["code"]) == (status, code), query
            assert [error["field"] for error in document["errors"]] == [field]
        assert "read on from" in document["detail"]
        assert problem_of(await client.post("/events/stream"))["status"] == 405


async def test_head_answers_without_a_stream(address: tuple[str, int]) -> None:
    """Fails with: a stream that is opened for it, which its client never reads."""
    async with httpx2.AsyncClient(base_url=base_url(address), timeout=5) as client:
        answer = await client.head("/events/stream")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (await client.head("/events/stream", params={"after": "nonsense"})).status_code == 400


async def test_more_connections_than_an_address_may_have_are_refused_and_their_places_come_back(
    database_url: str,
) -> None:
    """Fails with: a stream that is not counted, or counted for good."""
    async with served(settings_for(database_url, ws_max_per_address=2)) as address:
        url = base_url(address)
        async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
            async with stream(url), stream(url):
                answer = await client.get("/events/stream")
                document = problem_of(answer)
                assert (answer.status_code, document["code"]) == (503, "saturated")
                assert int(answer.headers["retry-after"]) > 0
                assert "2 connections" in document["detail"]
            for _ in range(3):

                async def opens() -> bool:
                    return (await client.head("/events/stream")).status_code == 200

                await eventually(opens)


async def test_payloads_of_a_megabyte_come_whole(address: tuple[str, int], writer: AsyncConnection[Any]) -> None:
    """More than an outbox holds, old and live. Fails with: a frame that never has room."""
    text = "ü" * 500_000
    sent = [new_event(payload=orjson.dumps({"text": text, "n": n}).decode()) for n in range(8)]
    async with stream(base_url(address)) as live:
        for event in sent:
            await append(writer, [event])
            assert (await live.events(1))[0]["payload"]["text"] == text
        async with stream(base_url(address), after=BEGINNING) as old:
            assert [event["payload"]["n"] for event in await old.events(8)] == list(range(8))


async def test_a_client_that_never_reads_is_ended_and_holds_no_more_than_its_outbox(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is sent old events and waited for, one live events and closed; both are given up when they take nothing.

    Fails with: more than a portion that is handed to the connection at once; a stream without a time limit.
    """
    monkeypatch.setattr(event_source, "SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(stream_module, "CLOSE_WITHIN_S", 0.2)
    outboxes: list[Outbox] = []
    written: list[int] = []

    class WatchedOutbox(Outbox):
        def __init__(self, **bounds: Any) -> None:
            super().__init__(**bounds)
            outboxes.append(self)

    ended = 0

    class Watched(EventSourceResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            nonlocal ended
            try:
                await super().__call__(scope, receive, send)
            finally:
                ended += 1

        async def _send_with_timeout(self, send: Any, message: Any) -> None:
            written.append(len(message["body"]))
            await super()._send_with_timeout(send, message)

    monkeypatch.setattr(event_source, "Outbox", WatchedOutbox)
    monkeypatch.setattr(event_source, "EventSourceResponse", Watched)
    payload = orjson.dumps({"text": "x" * 20_000}).decode()
    for _ in range(4):
        await append(writer, [new_event(payload=payload) for _ in range(100)])
    await log_ids(writer)
    settings = settings_for(database_url, live_buffer_bytes=200_000)
    async with served(settings) as address, stream(base_url(address), type="none") as _:
        with socket.socket() as old, socket.socket() as live:
            for sock, query in ((old, f"?after={BEGINNING}"), (live, "")):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await asyncio.to_thread(sock.connect, address)
                sock.sendall(f"GET /events/stream{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await eventually(lambda: len(outboxes) == 3)
            _, first, second = outboxes
            for _ in range(40):
                await append(writer, [new_event(payload=payload) for _ in range(10)])
                assert max(first._chars, second._chars) <= 200_000 + 21_000
                await asyncio.sleep(0)
            await eventually(lambda: "slow" in (first.closed, second.closed))
            assert max(written) <= SENT_AT_ONCE_CHARS

            # One connection is closed, the other could be used for a next request.
            await eventually(lambda: open_sockets(address[1]) == 2)
            assert ended == 2


def open_sockets(port: int) -> int:
    """How many connections this process, as a server, has on a port."""
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(1 for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01" and row[9] != "0")


async def test_a_slow_reader_is_told_so_and_resumes_where_it_was(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: a closing event without the cursor, or with one behind events that were dropped."""
    hold = asyncio.Event()
    take = Outbox.take

    async def take_when_let(self: Outbox, *, within_s: float | None = None) -> Any:
        await hold.wait()
        return await take(self, within_s=within_s)

    async with served(settings_for(database_url, live_buffer_events=10)) as address:
        url = base_url(address)
        async with stream(url) as reader:
            ids = await publish(writer, 3)
            assert [event["id"] for event in await reader.events(3)] == list(map(str, await log_ids(writer)))
            monkeypatch.setattr(Outbox, "take", take_when_let)
            await publish(writer)
            await reader.events(1)  # the last that was asked for before
            for _ in range(20):
                ids += await publish(writer)
            async with stream(url, after=BEGINNING):
                await asyncio.sleep(0.1)
            hold.set()
            closing = await reader.ends()
            assert closing == {"reason": "slow", "cursor": reader.id}
        async with stream(url, last_event_id=reader.id) as resumed:
            rest = [str(event_id) for event_id in (await log_ids(writer))[4:]]
            assert [event["id"] for event in await resumed.events(20)] == rest


async def test_a_stopping_gateway_ends_its_streams_at_once_with_a_closing_event(
    database_url: str, tmp_path: Path, writer: AsyncConnection[Any]
) -> None:
    """A real process. Fails with: streams that are open until the grace is over."""
    async with gateway(database_url, tmp_path, env={"REFLEX_DRAIN_GRACE_S": "30"}) as process:
        async with stream(process.url) as one, stream(process.url, type="other") as two:
            await publish(writer, 2)
            await one.events(2)
            process.send(signal.SIGTERM)
            async with asyncio.timeout(3):
                for reader in (one, two):
                    assert await reader.ends() == {"reason": "stopping", "cursor": reader.id}
        assert await process.exited(timeout_s=5) == 0
        assert "Traceback" not in process.log


async def test_without_the_database_a_stream_is_refused_and_an_open_one_survives(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: a stream that hangs instead of an answer; one that ends with the database."""
    monkeypatch.setattr(hub_module, "READY_S", 0.5)
    async with FaultProxy(database_url) as proxy, served(settings_for(proxy.url)) as address:
        url = base_url(address)
        await proxy.refuse()
        async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
            answer = await client.get("/events/stream")
            assert (answer.status_code, problem_of(answer)["code"]) == (503, "database_unavailable")
        await proxy.pass_through()
        monkeypatch.setattr(hub_module, "READY_S", 5)
        async with stream(url) as reader:
            await proxy.cut()
            ids = await publish(writer, 2)
            assert [event["id"] for event in await reader.events(2)] == sorted(map(str, ids))


async def test_a_gateway_without_a_database_says_so(database_url: str) -> None:
    """Fails with: a 500."""
    settings = settings_for(database_url).model_copy(update={"database_url": None})
    store = GroupCommit(database_url, max_buffered_events=10)
    async with in_process(create_app(settings, store=store)) as client:
        assert problem_of(await client.get("/events/stream"))["status"] == 503
