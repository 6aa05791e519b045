"""Peers that do not behave, and many of them: what a WebSocket client can send, leave out, or not read."""

import asyncio
import gc
import json
import os
import re
import resource
import signal
import socket
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.log import append
from reflex.gateway.live import conversation, stream
from reflex.gateway.live.conversation import Conversation
from reflex.gateway.live.hub import Hub
from reflex.gateway.live.subscription import Subscription
from reflex.gateway.server import OTHER_FILES, allow_connections
from tests.gateway.gateways import served, settings_for
from tests.gateway.live.clients import Address, RawClient, connected, raw, small_socket
from tests.gateway.live.readers import log_ids
from tests.processes import eventually, gateway
from tests.queue_fixtures import new_event

LIMIT = 100_000
PING = b'{"op":"ping"}'


@pytest.fixture
async def address(database_url: str) -> AsyncIterator[Address]:
    async with served(settings_for(database_url, max_body_bytes=LIMIT, max_payload_bytes=LIMIT)) as address:
        yield address


async def op_of(client: RawClient) -> str:
    opcode, content = await client.hear()
    while opcode == 9:
        opcode, content = await client.hear()
    assert opcode == 1, content
    return json.loads(content)["op"]


async def test_a_frame_may_come_in_pieces_with_pings_in_between(address: Address) -> None:
    """Fails when a piece is taken for a whole frame, or a ping between pieces is not answered."""
    async with raw(address) as client:
        assert await op_of(client) == "welcome"
        client.frame(PING[:4], final=False)
        client.frame(b"are you there", opcode=9)
        assert await client.hear() == (10, b"are you there")
        client.frame(PING[4:8], opcode=0, final=False)
        client.frame(PING[8:], opcode=0)
        assert await op_of(client) == "pong"
        whole = '{"op":"ping","id":"é€😀"}'.encode()
        for at in range(len(whole)):
            client.frame(whole[at : at + 1], opcode=0 if at else 1, final=at == len(whole) - 1)
        assert await op_of(client) == "pong"
        client.writer.write(b"")
        for byte in b"\x81\x8d\0\0\0\0" + PING:
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert await op_of(client) == "pong"


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        ({"content": b"\x00\x01", "opcode": 2}, 1003, "send text frames"),
        ({"content": b"\xff\xfe"}, 1007, "utf-8"),
        ({"content": b'{"op":"ping","id":"\xed\xa0\x80"}'}, 1007, "utf-8"),
        ({"content": b"\xe2\x82"}, 1007, "utf-8"),
        ({"content": PING, "masked": False}, 1002, "unmasked"),
        ({"content": PING, "opcode": 3}, 1002, "opcode"),
        ({"content": b"x", "opcode": 0}, 1002, "CONTINUATION"),
        ({"content": b"x" * 126, "opcode": 9}, 1002, "Control frame"),
        ({"content": b"x" * (LIMIT + 1)}, 1009, f"a frame is larger than {LIMIT} bytes"),
        ({"content": "€".encode() * (LIMIT // 3 + 1)}, 1009, f"a frame is larger than {LIMIT} bytes"),
    ],
)
async def test_what_is_no_text_frame_ends_the_connection_with_its_code(
    address: Address, sent: dict[str, Any], code: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with hypercorn's own stream, which hangs up without a code on what it cannot read, and counts characters
    where the limit is bytes."""
    monkeypatch.setattr(stream, "LINGER_S", 0.1)
    async with raw(address) as client:
        assert await op_of(client) == "welcome"
        client.frame(**sent)
        closed, said = await client.closing()
        assert closed == code
        assert reason.lower() in said.lower()
        client.frame(b"", opcode=8)
        await client.hung_up()


async def test_a_frame_of_the_size_of_the_limit_is_taken(address: Address) -> None:
    async with raw(address) as client:
        assert await op_of(client) == "welcome"
        client.frame(b"x" * (LIMIT - 100))
        assert await op_of(client) == "published"


async def test_a_client_that_goes_on_after_a_frame_that_is_too_large_costs_no_memory_and_is_hung_up_on(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with hypercorn's own stream, which keeps the connection, and all that comes, for as long as it comes."""
    monkeypatch.setattr(stream, "LINGER_S", 0.5)
    async with raw(address) as client:
        assert await op_of(client) == "welcome"
        client.frame(b"x" * 70_000, final=False)

        async def send_for_ever() -> None:
            while True:
                client.frame(b"x" * 70_000, opcode=0, final=False)
                await client.writer.drain()

        sending = asyncio.create_task(send_for_ever())
        assert (await client.closing())[0] == 1009
        before = memory()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, 10)
        assert memory() - before < 40_000_000


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_frames_are_not_compressed(address: Address) -> None:
    """Fails when permessage-deflate is agreed on: memory for its windows, and a small frame may unpack to 64 MB."""
    offer = "permessage-deflate; client_max_window_bits"
    async with raw(address, sec_websocket_extensions=offer) as client:
        assert b"permessage-deflate" not in cast("Any", client).head
        assert await op_of(client) == "welcome"
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(b" " * 50_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
        client.frame(packed, opcode=1 | 0x40)
        assert (await client.closing())[0] == 1002


async def test_a_client_that_answers_no_ping_is_gone(database_url: str) -> None:
    """A half-open connection, a frozen client. Fails when pings are sent and nobody looks at the answers."""
    async with served(settings_for(database_url, ws_ping_s=0.1, ws_max_connections=1)) as address:
        async with raw(address) as client:
            assert await op_of(client) == "welcome"
            assert await client.closing() == (1011, "no answer to pings")
        await eventually(lambda: has_room(address))
        async with connected(address) as alive:
            await asyncio.sleep(0.6)
            await alive.say("ping")
            await alive.hear("pong")


async def has_room(address: Address) -> bool:
    async with raw(address) as client:
        return (await client.hear())[0] == 1


async def test_a_client_that_does_not_read_is_closed_as_slow_and_holds_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the writer waits for a client that does not read: the gateway would then not stop, either."""
    monkeypatch.setattr(stream, "CLOSE_WITHIN_S", 0.3)
    monkeypatch.setattr(conversation, "ENDING_S", 0.2)
    settings = settings_for(database_url, live_buffer_events=50, ws_max_connections=1)
    async with (
        served(settings) as address,
        await connect(database_url, name="tests") as conn,
        raw(address, sock=small_socket(address)) as client,
    ):
        assert await op_of(client) == "welcome"
        client.frame(b'{"op":"subscribe","id":"all","types":["*"]}')
        assert await op_of(client) == "subscribed"
        # The gateway's kernel takes 4 MB, and the outbox 5.
        for _ in range(20):
            await append(conn, [new_event(payload=json.dumps({"text": "x" * 100_000})) for _ in range(10)])
        await eventually(lambda: has_room(address))


async def test_a_slow_client_is_told_where_to_resume_and_misses_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a cursor in `closing` is ahead of what the client got, or behind: the frame that was in hand when the
    time was over came, too."""
    settings = settings_for(database_url, live_buffer_events=50)
    async with served(settings) as address, await connect(database_url, name="tests") as conn:
        sent: list[str] = []
        heard: list[str] = []
        async with connected(address, max_queue=1, sock=small_socket(address)) as client:
            await client.say("subscribe", id="all", types=["*"])
            await client.hear("subscribed")
            talk = the_one(Conversation)
            for _ in range(20):
                events = [new_event(payload=json.dumps({"text": "x" * 100_000})) for _ in range(10)]
                await append(conn, events)
                sent += [str(event.event_id) for event in events]
            await time_is_over(talk, monkeypatch)
            while (frame := await client.hear())["op"] == "event":
                heard.append(frame["event"]["id"])
            assert (frame["op"], frame["code"]) == ("closing", 4008)
            assert (await client.is_closed())[0] == 4008
        assert heard == sent[: len(heard)]
        async with connected(address) as again:
            await again.say("subscribe", id="all", types=["*"], after=frame["cursors"]["all"])
            await again.hear("subscribed")
            rest = [(await again.hear("event"))["event"]["id"] for _ in sent[len(heard) :]]
            assert heard + rest == sent


async def test_an_event_that_waits_behind_an_answer_to_a_ping_comes_before_the_goodbye(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a frame waits for its turn to be written: it is dropped when the time is over, and yet counts as
    sent."""
    async with (
        served(settings_for(database_url, live_buffer_events=10)) as address,
        await connect(database_url, name="tests") as conn,
        raw(address, sock=small_socket(address)) as client,
    ):
        client.frame(b'{"op":"subscribe","id":"all","types":["*"]}')
        assert [await op_of(client), await op_of(client)] == ["welcome", "subscribed"]
        connection, talk = the_one(stream.Connection), the_one(Conversation)
        connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        protocol = connection.writer.transport.get_protocol()
        await eventually(lambda: [client.frame(b"x" * 125, opcode=9) for _ in range(200)] and protocol._drain_waiters)
        await append(conn, [new_event()])
        await eventually(lambda: talk._is_writing)
        await append(conn, [new_event() for _ in range(15)])
        await time_is_over(talk, monkeypatch)
        frames = [json.loads(content) for content in [await client.text(), await client.text()]]
        assert [frame["op"] for frame in frames] == ["event", "closing"]
        assert frames[1]["cursors"] == {"all": frames[0]["cursor"]}


async def time_is_over(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until a conversation that is too slow gives up what it sends, and give its goodbye the time it needs."""
    monkeypatch.setattr(conversation, "ENDING_S", 0.1)
    await eventually(lambda: talk._outbox.closed)
    monkeypatch.setattr(conversation, "ENDING_S", 20)
    await eventually(lambda: talk._writing_limit is None)


def the_one(kind: type) -> Any:
    """The only one there is of its kind."""
    gc.collect()
    (found,) = [found for found in gc.get_objects() if type(found) is kind]
    return found


async def test_old_events_of_one_subscription_do_not_make_a_client_slow_for_another(database_url: str) -> None:
    """Fails when old events may fill the outbox: a live event then finds no room, and the connection is closed."""
    settings = settings_for(database_url, live_buffer_events=20)
    async with (
        served(settings) as address,
        await connect(database_url, name="tests") as conn,
        connected(address, max_queue=1, sock=small_socket(address)) as client,
        connected(address) as witness,
    ):
        for each in (client, witness):
            await each.say("subscribe", id="live", types=["live"])
            begun = await each.hear("subscribed")
        for _ in range(40):
            await append(conn, [new_event("old", payload=json.dumps({"text": "x" * 100_000})) for _ in range(5)])
        # What is in the log before this one is old.
        await append(conn, [new_event("live")])
        for each in (client, witness):
            await each.hear("event")
            await each.say("subscribe", id="old", types=["old"], after=begun["cursor"])
            await each.hear("subscribed")
        # By the time that another one has read all that is old, this one's outbox is as full as it gets.
        await witness.hear_all(200)
        await append(conn, [new_event("live")])
        await witness.hear("event")
        frames = await client.hear_all(201)
        assert sum(frame["subscription"] == "live" for frame in frames) == 1


async def test_a_client_that_is_gone_in_the_middle_of_everything_leaves_nothing_behind(database_url: str) -> None:
    """Fails when a subscription, a task or a place stays after its connection was cut."""
    settings = settings_for(database_url, ws_max_connections=20)
    async with served(settings) as address:
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                for cut in range(20):
                    group.create_task(cut_off(address, cut))
            await eventually(lambda: not tasks_of_connections(), what="the end of every task")
        await eventually(lambda: not subscriptions(), what="the end of every subscription")
        async with connected(address) as client:
            await client.type("still here")
            await client.hear("published")


async def test_a_client_that_goes_on_after_it_was_closed_holds_nothing(address: Address) -> None:
    """Fails when nobody reads what still comes: hypercorn's reader then waits for room in its queue for ever."""
    async with raw(address) as client:
        assert await op_of(client) == "welcome"
        for _ in range(2000):
            client.frame(b"{")
        assert (await client.closing())[0] == 4009
        client.writer.transport.abort()
        await eventually(lambda: not tasks_of_connections(), what="the end of every task")


async def test_a_client_that_breaks_off_while_neither_side_reads_is_let_go_of(database_url: str) -> None:
    """Fails when who finds out by sending waits until the app has read of it: the app does not read before that very
    sending is over. The connection would keep its place for ever."""
    async with served(settings_for(database_url, live_buffer_events=20)) as address:
        async with await connect(database_url, name="tests") as conn:
            for _ in range(40):
                await append(conn, [new_event(payload=json.dumps({"text": "x" * 100_000})) for _ in range(5)])
            await log_ids(conn)
        async with raw(address, sock=small_socket(address)) as client:
            client.frame(b'{"op":"subscribe","id":"old","tail":200}')
            assert [await op_of(client), await op_of(client)] == ["welcome", "subscribed"]
            # Answers find no room among the old events that the client does not read; then it is not read, either.
            await eventually(lambda: app_is_behind(client))
        await eventually(lambda: not tasks_of_connections(), what="the end of every task")


def app_is_behind(client: RawClient) -> bool:
    """Whether what a client says waits for an app that does not take it."""
    behind = [found for found in gc.get_objects() if type(found) is stream.Stream and found.app_is_behind]
    for _ in range(20):
        client.frame(PING)
    return any(cast("Any", found).app_put.__self__.full() for found in behind)


async def test_a_subscription_that_was_being_entered_is_left_before_its_conversation_is_over(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a conversation does not wait for its reader: what that still does would go on without it."""
    enter, run = Hub.subscription, Conversation.run
    left: list[tuple[object, object]] = []

    @asynccontextmanager
    async def enter_slowly(self: Hub, subscription: Subscription, *, field: str = "after") -> AsyncGenerator[None]:
        async with enter(self, subscription, field=field):
            if field == "/after":
                try:
                    await asyncio.Event().wait()
                finally:
                    for _ in range(1000):
                        await asyncio.sleep(0)
            yield

    async def run_and_look(self: Conversation) -> None:
        await run(self)
        left.append((list(self._services.hub._subscriptions), list(self._services.progress._watchers)))

    monkeypatch.setattr(Hub, "subscription", enter_slowly)
    monkeypatch.setattr(Conversation, "run", run_and_look)
    async with served(settings_for(database_url, ws_idle_s=0.2)) as address, connected(address) as client:
        await client.say("subscribe", id="all", include=["progress"])
        assert (await client.is_closed())[0] == 4001
        await eventually(lambda: left)
    assert left == [([], [])]


async def test_what_is_being_stored_when_its_client_goes_is_stored_without_a_complaint(database_url: str) -> None:
    """Fails when an answer that nobody waits for any more is an error that nobody looks at, or ends the storing."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with served(settings_for(database_url)) as address, await connect(database_url, name="tests") as conn:
        async with conn.transaction():
            await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
            async with connected(address) as client:
                for number in range(3):
                    await client.say("publish", id=f"{number}", event={"type": "a"})
                await eventually(lambda: waits_for_a_lock(conn))
            await eventually(lambda: tasks_of_connections() == ["Conversation._store"] * 3)
        await eventually(lambda: not tasks_of_connections(), what="the end of every task")
        assert (await conn.execute("SELECT FROM reflex.event")).rowcount == 3
        gc.collect()
    assert not complaints


def subscriptions() -> list[Subscription]:
    """Those that something still holds on to."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Subscription)]


def tasks_of_connections() -> list[str]:
    names = [cast("Any", task.get_coro()).__qualname__ for task in asyncio.all_tasks()]
    return [name for name in names if re.match(r"Conversation|Stream|worker_serve.*callback|_handle|Hub._serve", name)]


async def cut_off(address: Address, cut: int) -> None:
    async with raw(address) as client:
        client.frame(b'{"op":"subscribe","id":"all","tail":100}')
        client.frame(b"hello")
        for _ in range(30):
            client.frame(b'{"op":"publish","event":{"type":"a"}}')
        client.writer.write(b"\x81\xfe")
        await client.writer.drain()
        for _ in range(cut % 4):
            await client.hear()


async def test_stopping_closes_every_connection_with_1001_and_answers_what_was_under_way(
    database_url: str, tmp_path: Path
) -> None:
    """Fails when open WebSockets hold up the end of the process until its grace is over, or an event that is stored
    is not answered."""
    async with gateway(database_url, tmp_path) as process, await connect(database_url, name="tests") as conn:
        address = ("127.0.0.1", int(process.url.rpartition(":")[2]))
        async with (
            connected(address) as idle,
            connected(address) as reader,
            connected(address) as writer,
            raw(address) as deaf,
        ):
            assert await op_of(deaf) == "welcome"
            await reader.say("subscribe", id="all", types=["*"])
            begun = await reader.hear("subscribed")
            await writer.say("publish", id="0", event={"type": "reflex-test"})
            await writer.hear("published")
            heard = await reader.hear("event")
            async with conn.transaction():
                await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
                await writer.say("publish", id="1", event={"type": "a"})
                await eventually(lambda: waits_for_a_lock(conn))
                process.send(signal.SIGTERM)
                assert (await idle.is_closed())[0] == 1001
                closing = await reader.hear("closing")
                assert closing["cursors"] == {"all": heard["cursor"]}
                assert begun["cursor"] < heard["cursor"]
                assert (await reader.is_closed())[0] == 1001
            assert (await writer.hear("published"))["id"] == "1"
            assert (await writer.is_closed())[0] == 1001
            assert await process.exited() == 0
        assert "Traceback" not in process.log


async def waits_for_a_lock(conn: AsyncConnection[Any]) -> bool:
    return bool((await conn.execute("SELECT FROM pg_locks WHERE NOT granted")).rowcount)


@pytest.mark.timeout(600)
async def test_thousands_of_idle_connections(database_url: str, tmp_path: Path) -> None:
    """Each hears what it subscribed to, and the gateway stops within its grace. Fails when a connection costs 100 KB:
    compression alone would. `make consistency` has ten thousand of them."""
    count = int(os.environ.get("IDLE_CONNECTIONS", "2000"))
    allow_connections(count)
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert allowed >= count + OTHER_FILES, f"this machine lets a process open {allowed} files: raise `ulimit -Hn`"
    env = {"REFLEX_WS_MAX_PER_ADDRESS": str(count), "REFLEX_WS_MAX_CONNECTIONS": str(count)}
    async with gateway(database_url, tmp_path, env=env) as process, await connect(database_url, name="tests") as conn:
        address = ("127.0.0.1", int(process.url.rpartition(":")[2]))
        before = resident(process.pid)
        async with AsyncExitStack() as stack:
            clients: list[RawClient] = []
            for first in range(0, count, 50):
                opening = [stack.enter_async_context(raw(address)) for _ in range(50)]
                for number, client in enumerate(await asyncio.gather(*opening), first):
                    client.frame(b'{"op":"subscribe","id":"s","key":"%d"}' % (number % 100))
                    clients.append(client)
            for client in clients:
                assert [await op_of(client), await op_of(client)] == ["welcome", "subscribed"]
            each = (resident(process.pid) - before) / len(clients)
            assert each < 100_000, f"{each:.0f} bytes a connection"
            await append(conn, [new_event(key="7")])
            assert [await op_of(client) for client in clients[7::100]] == ["event"] * (count // 100)
            process.send(signal.SIGTERM)
            for client in clients:
                assert (await client.closing())[0] == 1001
                client.frame(b"", opcode=8)
            assert await process.exited() == 0


def test_a_gateway_may_open_as_many_files_as_it_takes_connections() -> None:
    """Fails when a higher limit is lowered, or one beyond the hard limit is asked for, which is refused altogether."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    try:
        for wanted, allowed in ((100, 500), (2000, 2000 + OTHER_FILES), (10**9, hard)):
            allow_connections(wanted)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
