"""The WebSocket with a real server and a real database: what each operation does, and what a session is good for."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.dead_letter_event import DEAD_LETTER_TYPE
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.log import append
from reflex.core.log_reading import drop_log, log_bounds
from reflex.core.placing import place
from reflex.core.progress import WATCH_CHANNEL, Progress, encode, send_progress
from reflex.core.replies import REPLY_TYPE
from reflex.core.sessions import forget_sessions
from reflex.gateway.app import create_app
from reflex.gateway.live import sessions
from reflex.gateway.server import listen, serve_until
from tests.gateway.gateways import register_app, served, settings_for
from tests.gateway.live.clients import Address, Client, connected
from tests.processes import eventually, free_port
from tests.queue_fixtures import new_event


@pytest.fixture
async def address(database_url: str) -> AsyncGenerator[Address]:
    async with served(settings_for(database_url)) as address:
        yield address


@pytest.fixture
async def conn(database_url: str) -> AsyncGenerator[AsyncConnection[Any]]:
    """Rows are tuples, as the log's functions read them."""
    async with await connect(database_url, name="tests") as conn:
        yield conn


async def stored(conn: AsyncConnection[Any], event_id: str) -> DictRow:
    rows = conn.cursor(row_factory=dict_row)
    row = await (await rows.execute("SELECT * FROM reflex.event WHERE event_id = %s", (event_id,))).fetchone()
    assert row is not None
    return row


async def answer(
    conn: AsyncConnection[Any], published: dict[str, Any], client: Client, output: str = '"hi"', dead: bool = False
) -> UUID:
    """What a worker appends when a run has an output, or when its delivery dies."""
    event_id = published["event_id"]
    payload = f'{{"trigger": "greeter", "event_id": "{event_id}", "event_type": "ws.message", '
    payload += (
        f'"dead_letter_id": "1-{event_id}", "attempt": 5, "reason": "failed", "error": "boom"}}'
        if dead
        else f'"delivery_id": "1-{event_id}", "outcome": "succeeded", "output": {output}}}'
    )
    event = NewEvent(
        new_id(), DEAD_LETTER_TYPE if dead else REPLY_TYPE, "agent:greeter", None, None, payload,
        causation_id=UUID(event_id), reply_to=client.welcome["connection"],
    )  # fmt: skip
    await append(conn, [event])
    return event.event_id


async def test_a_line_becomes_an_event_and_its_answer_comes_back(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when the event is not bound to the session (`reply_to`), or an empty line is taken for one."""
    async with connected(address) as client:
        await client.type("\n")
        await client.type("  Where is my order?\n")
        published = await client.hear("published")
        assert "id" not in published
        event = await stored(conn, published["event_id"])
        me = client.welcome["connection"]
        assert (event["type"], event["payload"]) == ("ws.message", {"content": "Where is my order?"})
        assert (event["source"], event["key"], event["correlation_id"], event["reply_to"]) == (f"ws:{me}", me, me, me)
        await answer(conn, published, client, '{"text": "On its way", "big": 123456789012345678901234567890}')
        reply = await client.hear("reply")
        assert (reply["event_id"], reply["trigger"]) == (published["event_id"], "greeter")
        assert reply["output"]["text"] == "On its way"
        await answer(conn, published, client, dead=True)
        failed = await client.hear("failed")
        assert (failed["event_id"], failed["error"], failed["attempt"]) == (published["event_id"], "boom", 5)


async def test_a_number_in_a_reply_stays_what_it_is(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when the payload is decoded and encoded again on its way."""
    async with connected(address) as client:
        await client.type("hello")
        published = await client.hear("published")
        await answer(conn, published, client, "123456789012345678901234567890")
        assert json.loads(await client.connection.recv())["output"] == 123456789012345678901234567890


async def test_lines_are_about_the_key_of_the_address(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when the query parameter is not looked at."""
    async with connected(address, "?key=caf%C3%A9+7") as client:
        await client.type("hello")
        event = await stored(conn, (await client.hear("published"))["event_id"])
        assert (event["key"], event["correlation_id"]) == ("café 7", "café 7")


async def test_an_event_is_published_once_and_refused_as_http_would(
    address: Address, conn: AsyncConnection[Any], database_url: str
) -> None:
    """Fails when the checks are others than those of POST /events, or the source is not the client's own."""
    async with connected(address) as client:
        event = {"type": "order.created", "payload": {"order_id": "A1"}, "key": "A1", "id": "once", "source": "shop"}
        await client.say("publish", id="1", event=event)
        first = await client.hear("published")
        assert (first["id"], first["duplicate"]) == ("1", False)
        assert (await stored(conn, first["event_id"]))["source"] == "shop"
        await client.say("publish", event=event)
        second = await client.hear("published")
        assert (second["event_id"], second["duplicate"]) == (first["event_id"], True)
        assert "id" not in second
        await client.say("publish", id="2", event={"type": "order.created"})
        me = client.welcome["connection"]
        assert (await stored(conn, (await client.hear("published"))["event_id"]))["source"] == f"ws:{me}"
        async with httpx2.AsyncClient(base_url=f"http://{address[0]}:{address[1]}") as http:
            for wrong in ({}, [], {"type": "a", "key": 7}, {"type": "reflex.reply"}, {"type": "a", "amount": 1}):
                await client.say("publish", id="3", event=wrong)
                refused = await client.hear("refused")
                told = (await http.post("/events", json=[wrong])).json()
                assert refused["id"] == "3"
                problem = refused["problem"]
                fields = [error["field"].replace("/event", "/0", 1) for error in problem["errors"]]
                assert fields == [error["field"] for error in told["errors"]]
                assert problem["detail"].replace("/event", "/0", 1) == told["detail"]
                assert (problem["code"], problem["status"]) == (told["code"], told["status"])


async def test_a_payload_has_to_fit_the_schema_of_its_type(database_url: str) -> None:
    schema = {"type": "object", "properties": {"content": {"type": "string", "maxLength": 3}}}
    await register_app(database_url, {"ws.message": schema})
    async with served(settings_for(database_url)) as address, connected(address) as client:
        await client.type("hello")
        refused = await client.hear("refused")
        assert refused["problem"]["code"] == "payload_rejected"
        assert refused["problem"]["errors"][0]["field"] == "/payload/content"
        await client.type("hi")
        await client.hear("published")


@asynccontextmanager
async def no_appends(conn: AsyncConnection[Any]) -> AsyncGenerator[None]:
    """Commits of events wait meanwhile."""
    async with conn.transaction():
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        yield


async def waiting(conn: AsyncConnection[Any]) -> bool:
    found = await conn.execute("SELECT FROM pg_locks WHERE NOT granted")
    return bool(found.rowcount)


async def test_publishes_are_under_way_together_and_the_reader_waits_when_they_are_many(
    database_url: str, conn: AsyncConnection[Any]
) -> None:
    """Fails when a publish is answered before its commit, when the next one waits for it, or when there is no limit:
    the ping behind the fifth would then be answered."""
    settings = settings_for(database_url, ws_max_in_flight=4)
    async with served(settings) as address, connected(address) as client:
        await client.say("publish", id="first", event={"type": "a"})
        await client.hear("published")
        async with no_appends(conn):
            for number in range(3):
                await client.say("publish", id=f"{number}", event={"type": "a"})
            await eventually(lambda: waiting(conn))
            await client.say("ping", id="during")
            assert (await client.hear("pong"))["id"] == "during"
            for number in range(3, 5):
                await client.say("publish", id=f"{number}", event={"type": "a"})
            await client.say("ping", id="after")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.connection.recv(), 0.3)
        frames = await client.hear_all(6)
        assert {frame["id"] for frame in frames} == {"0", "1", "2", "3", "4", "after"}


async def test_events_reach_the_subscriptions_that_want_them(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when a filter is dropped on its way to the hub, or a subscription begins before its answer."""
    async with connected(address) as client:
        await client.say("subscribe", id="orders", types=["order.*", "refund"], sources=["shop", "till"], key="A1")
        begun = await client.hear("subscribed")
        await client.say("subscribe", id="chain", correlation_id="c")
        await client.hear("subscribed")
        events = [
            new_event("order.created", source="shop", key="A1"),
            new_event("order.created", source="shop", key="A2"),
            new_event("order.created", source="web", key="A1"),
            new_event("invoice", source="shop", key="A1", correlation_id="c"),
            new_event("refund", source="till", key="A1"),
        ]
        for event in events:
            await append(conn, [event])
        heard = [await client.hear("event") for _ in range(3)]
        assert [(frame["subscription"], frame["event"]["id"]) for frame in heard] == [
            ("orders", str(events[0].event_id)), ("chain", str(events[3].event_id)), ("orders", str(events[4].event_id))
        ]  # fmt: skip
        await client.say("unsubscribe", id="orders")
        await client.hear("unsubscribed")
        await append(conn, [new_event("refund", source="till", key="A1")])
        await append(conn, [new_event("x", correlation_id="c")])
        assert (await client.hear("event"))["subscription"] == "chain"
        await client.say("subscribe", id="orders", key="A1", types=["order.*"], after=begun["cursor"])
        await client.hear("subscribed")
        again = [(await client.hear("event"))["event"]["id"] for _ in range(2)]
        assert again == [str(events[0].event_id), str(events[2].event_id)]


async def test_the_guides_program_follows_the_log_through_a_break(
    database_url: str, conn: AsyncConnection[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when the guide has a program that does not run, or that misses what happened while it was cut off."""
    guide = (Path(__file__).parents[3] / "docs/guides/websocket.md").read_text()
    program = guide.partition("```python\n")[2].partition("```")[0].partition("asyncio.run(")[0]
    names: dict[str, Any] = {}
    exec(program, names)
    names["connect"] = partial(names["connect"], reconnect_delays=lambda: itertools.repeat(0.05))
    printed: list[str] = []

    async def is_heard(key: str) -> bool:
        await append(conn, [new_event("order.created", key=key), new_event("invoice", key="no order")])
        await asyncio.sleep(0.05)
        printed.extend(re.findall(r"'key': '([^']+)'", capsys.readouterr().out))
        return key in printed

    port = free_port()
    following = asyncio.create_task(names["follow"](f"ws://127.0.0.1:{port}/ws"))
    for key in ("before", "after"):
        stop = asyncio.Event()
        settings = settings_for(database_url)
        app = create_app(settings, stopping=stop)
        server = asyncio.create_task(serve_until(stop, app, listen("127.0.0.1", port), settings, grace_s=5))
        await eventually(lambda key=key: is_heard(key))
        stop.set()
        await server
        await append(conn, [new_event("order.created", key="meanwhile")])
    following.cancel()
    assert [key for key, _ in itertools.groupby(printed)] == ["before", "meanwhile", "after"]
    assert printed.count("meanwhile") == 1


async def test_a_subscription_resumes_behind_a_cursor_and_begins_with_a_tail(
    address: Address, conn: AsyncConnection[Any]
) -> None:
    """Fails when the tail counts events that the filter leaves out, or a cursor is inclusive."""
    async with connected(address) as client:
        batch = [new_event(type) for type in ("a", "b", "a", "a", "b", "a")]
        await append(conn, batch)
        wanted = [str(event.event_id) for event in batch if event.type == "a"]
        await eventually(lambda: is_placed(conn, 1))
        for tail, expected in ((2, wanted[-2:]), (3, wanted[-3:]), (1000, wanted)):
            await client.say("subscribe", id="s", types=["a"], tail=tail)
            await client.hear("subscribed")
            frames = [await client.hear("event") for _ in expected]
            assert [frame["event"]["id"] for frame in frames] == expected
            await client.say("unsubscribe", id="s")
            await client.hear("unsubscribed")
        await client.say("subscribe", id="s", types=["a"], after=frames[1]["cursor"])
        await client.hear("subscribed")
        assert [(await client.hear("event"))["event"]["id"] for _ in range(2)] == wanted[-2:]
        await client.say("subscribe", id="none", types=["nothing"], tail=3)
        await client.hear("subscribed")
        await append(conn, [new_event("nothing")])
        assert (await client.hear("event"))["subscription"] == "none"


async def test_what_a_subscription_cannot_do_is_refused_by_its_id(
    database_url: str, conn: AsyncConnection[Any]
) -> None:
    """Fails when a refused subscription takes a place, or a cursor is not compared with the log."""
    for _ in range(3):
        await append(conn, [new_event()])
    while (await place(conn))[0]:
        pass
    old = Cursor(1, 1)
    await drop_log(conn, until=Cursor(2, 1))
    async with served(settings_for(database_url, ws_max_subscriptions=2)) as address, connected(address) as client:

        async def refused(op: str, **fields: Any) -> tuple[str, int, str]:
            await client.say(op, **fields)
            frame = await client.hear("refused")
            return frame["problem"]["code"], frame["problem"]["status"], frame["id"]

        assert await refused("subscribe", id="a", after="AQAAAAAAAABjAAE") == ("cursor_rejected", 400, "a")
        assert await refused("subscribe", id="b", after="nonsense") == ("cursor_rejected", 400, "b")
        assert await refused("subscribe", id="c", after=str(old)) == ("cursor_expired", 410, "c")
        for name in ("one", "two"):
            await client.say("subscribe", id=name)
            await client.hear("subscribed")
        assert await refused("subscribe", id="one") == ("subscription_exists", 409, "one")
        assert await refused("subscribe", id="three") == ("too_many_subscriptions", 429, "three")
        assert await refused("unsubscribe", id="three") == ("not_found", 404, "three")
        await client.say("unsubscribe", id="one")
        await client.hear("unsubscribed")
        await client.say("subscribe", id="three")
        await client.hear("subscribed")


async def is_placed(conn: AsyncConnection[Any], count: int) -> bool:
    return (await log_bounds(conn)).end.position >= count


async def test_progress_is_shown_to_subscriptions_that_ask_for_it(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when it is shown without having been asked for, a filter does not count, workers are not told that somebody
    watches, or the gateway goes on listening when nobody does."""
    await conn.execute(f"LISTEN {WATCH_CHANNEL}".encode())
    run: dict[str, Any] = {
        "event_id": str(uuid4()),
        "delivery_id": "1-x",
        "trigger": "greeter",
        "attempt": 1,
        "source": "s",
    }
    mine = Progress(**run, type="ws.message", key="k", correlation_id=None, seq=1, kind="text", text="Look\ning")
    other = replace(mine, key="another")
    async with connected(address) as client:
        await client.say("subscribe", id="quiet", types=["ws.*"])
        await client.hear("subscribed")
        await client.say("subscribe", id="shown", types=["ws.*"], key="k", include=["progress"])
        await client.hear("subscribed")
        async for _ in conn.notifies(timeout=10, stop_after=1):
            break
        await send_progress(conn, encode([other, mine]))
        shown = await client.hear("progress")
        assert (shown["subscription"], shown["progress"]["text"]) == ("shown", "Look\ning")
        assert shown["progress"].keys() == {*run, "type", "key", "correlation_id", "seq", "kind", "text"}
        await client.say("unsubscribe", id="shown")
        await client.hear("unsubscribed")
        await send_progress(conn, encode([mine]))
        await append(conn, [new_event("ws.x")])
        assert (await client.hear("event"))["subscription"] == "quiet"


async def test_nonsense_is_answered_and_ends_the_connection_when_it_does_not_end(address: Address) -> None:
    """Fails when an operation in between does not count anew, or the connection stays for ever."""
    async with connected(address) as client:
        for frame in ("{", '{"op":"fly"}', '{"op":"ping","id":7}') * 5:
            await client.type(frame)
            assert (await client.hear("error"))["problem"]["code"] == "frame_rejected"
        await client.say("ping")
        await client.hear("pong")
        for _ in range(20):
            await client.type("{")
        for _ in range(20):
            await client.hear("error")
        assert await client.is_closed() == (4009, "20 frames in a row made no sense")


async def test_replies_that_came_meanwhile_come_after_a_reconnect(address: Address, conn: AsyncConnection[Any]) -> None:
    """With `after`, exactly those that are missing; without, at least those. Fails when the first publish does not
    write the session's position before the event is stored, or when a client without replies has a row."""
    async with connected(address) as silent:
        await silent.say("ping")
        await silent.hear("pong")
    async with connected(address) as client:
        token = client.welcome["session"]
        await client.type("one")
        one = await client.hear("published")
        await answer(conn, one, client, '"first"')
        first = await client.hear("reply")
    rows = await (await conn.execute("SELECT session_id FROM reflex.session")).fetchall()
    assert [session_id for (session_id,) in rows] == [client.welcome["connection"]]
    await answer(conn, one, client, '"second"')
    await answer(conn, one, client, dead=True)
    async with connected(address, f"?session={token}&after={first['cursor']}") as again:
        assert again.welcome["connection"] == client.welcome["connection"]
        assert again.welcome["cursor"] == first["cursor"]
        second = await again.hear("reply")
        assert second["output"] == "second"
        await again.hear("failed")
        await again.say("ping")
        await again.hear("pong")
    async with connected(address, f"?session={token}&after={second['cursor']}") as exact:
        await exact.hear("failed")
    async with connected(address) as other, connected(address, f"?session={other.welcome['session']}") as same:
        await other.type("two")
        two = await other.hear("published")
        await answer(conn, two, other)
        assert (await other.hear("reply"))["event_id"] == (await same.hear("reply"))["event_id"]


async def test_without_a_cursor_a_session_goes_on_where_the_client_was_certainly_heard_of(
    address: Address, conn: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when what was sent counts as received: the second client answers no ping, and gets its reply again. And
    when what was received is not written: the first client would get its reply again."""
    monkeypatch.setattr(sessions, "EVERY_S", 0.05)
    async with connected(address) as client:
        await client.type("one")
        published = await client.hear("published")
        await answer(conn, published, client, '"first"')
        reply = await client.hear("reply")

        async def is_written() -> bool:
            found = await conn.execute("SELECT position, place FROM reflex.session WHERE place > 0")
            return bool(await found.fetchone())

        await eventually(is_written)
    await answer(conn, published, client, '"second"')
    async with connected(address, f"?session={client.welcome['session']}") as again:
        assert (again.welcome["cursor"], again.welcome["resumed"]) == (reply["cursor"], True)
        assert (await again.hear("reply"))["output"] == "second"


async def test_a_session_whose_position_was_dropped_from_the_log_goes_on_where_the_log_begins(
    address: Address, conn: AsyncConnection[Any]
) -> None:
    """Fails when the client is refused for a position that it does not know of, or not told that it may miss some."""
    async with connected(address) as client:
        await client.type("one")
        published = await client.hear("published")
    for _ in range(3):
        await append(conn, [new_event()])
    await eventually(lambda: is_placed(conn, 4))
    await drop_log(conn, until=(await log_bounds(conn)).end)
    await answer(conn, published, client, '"late"')
    async with connected(address, f"?session={client.welcome['session']}") as again:
        assert again.welcome["resumed"] is False
        assert (await again.hear("reply"))["output"] == "late"


async def test_a_session_that_was_forgotten_is_told_and_goes_on_from_now(
    address: Address, conn: AsyncConnection[Any]
) -> None:
    """Fails when the client cannot tell it from one whose replies all come."""
    async with connected(address) as client:
        assert client.welcome["resumed"] is False
        await client.type("one")
        published = await client.hear("published")
    query = f"?session={client.welcome['session']}"
    async with connected(address, query) as again:
        assert again.welcome["resumed"] is True
    await conn.execute("UPDATE reflex.session SET seen_at = now() - interval '2 hours'")
    assert await forget_sessions(conn, age=timedelta(hours=1)) == 1
    await answer(conn, published, client, '"missed"')

    async def is_read() -> bool:
        async with connected(address) as somebody:
            return Cursor.parse(somebody.welcome["cursor"]).position == 2

    await eventually(is_read)
    async with connected(address, query) as again:
        assert (again.welcome["connection"], again.welcome["resumed"]) == (client.welcome["connection"], False)
        await answer(conn, published, client, '"late"')
        assert (await again.hear("reply"))["output"] == "late"
    async with connected(address, f"{query}&after={client.welcome['cursor']}") as again:
        assert again.welcome["resumed"] is True
        assert [(await again.hear("reply"))["output"] for _ in range(2)] == ["missed", "late"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?sesion=x", "sesion: is unknown; there are key, session, after"),
        ("?session=short", "session: is not one that a welcome gave"),
        (f"?session={'A' * 44}", "session: is not one that a welcome gave"),
        ("?session=", "session: must not be empty"),
        ("?key=a&key=b", "key: is given twice"),
        ("?key=" + "k" * 201, "key: is longer than 200 characters"),
        ("?key=a%00b", "key: contains a NUL character"),
        ("?after=AQAAAAAAAAABAAA", "after: goes with session; a subscription has an `after` of its own"),
        (f"?session={'A' * 43}&after=x", "after: 'x' is no cursor; use one as Reflex gave it"),
        (f"?session={'A' * 43}&after=AQAAAAAAAABjAAE", "after: this cursor is ahead of the log"),
    ],
)
async def test_a_wrong_address_is_said_with_its_parameter(address: Address, query: str, reason: str) -> None:
    """Fails when a parameter is not checked, or the connection is refused where a browser shows nothing of it."""
    async with connected(address, query, welcomed=False) as client:
        code, said = await client.is_closed()
        assert code == 4400
        assert said.startswith(reason[:100])


async def test_a_page_of_another_site_gets_no_websocket(database_url: str) -> None:
    """Fails when the origin is not looked at before the handshake is answered."""
    from websockets.exceptions import InvalidStatus

    settings = settings_for(database_url, allowed_origins="https://shop.example")
    async with served(settings) as address:
        with pytest.raises(InvalidStatus) as refused:
            async with connected(address, origin="https://evil.example"):
                pass
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body or b"")["code"] == "origin_refused"
        for origin in ("https://shop.example", f"http://{address[0]}:{address[1]}"):
            async with connected(address, origin=origin) as client:
                assert client.welcome["protocol"] == 1


async def test_a_request_without_an_upgrade_is_told_so(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/ws")
    assert answer.status_code == 426
    assert answer.json()["code"] == "upgrade_required"


async def test_full_is_said_with_a_code(database_url: str) -> None:
    """Fails when a connection that ended keeps its place."""
    settings = settings_for(database_url, ws_max_connections=2, ws_max_per_address=2)
    async with served(settings) as address:
        async with connected(address), connected(address), connected(address, welcomed=False) as third:
            assert (await third.is_closed())[0] == 1013
        async with connected(address), connected(address):
            pass
    settings = settings_for(database_url, ws_max_per_address=1)
    async with served(settings) as address, connected(address), connected(address, welcomed=False) as second:
        assert (await second.is_closed())[0] == 4029


async def test_silence_ends_a_connection_and_one_direction_is_enough_to_keep_it(
    database_url: str, conn: AsyncConnection[Any]
) -> None:
    """Fails when what the client says does not count, or what it hears does not. Empty lines get no answer."""
    settings = settings_for(database_url, ws_idle_s=0.8)
    async with (
        served(settings) as address,
        connected(address) as silent,
        connected(address) as talker,
        connected(address) as listener,
    ):
        await listener.say("subscribe", id="all", types=["*"])
        await listener.hear("subscribed")
        for _ in range(5):
            await asyncio.sleep(0.3)
            await talker.type("")
            await append(conn, [new_event()])
            await listener.hear("event")
        assert (await silent.is_closed())[0] == 4001
        for each in (talker, listener):
            await each.say("ping")
            await each.hear("pong")


async def test_a_session_token_is_not_in_the_database(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when the secret, rather than what is made of it, names the session."""
    async with connected(address) as client:
        await client.type("hello")
        published = await client.hear("published")
        event = await stored(conn, published["event_id"])
        kept = await (await conn.execute("SELECT * FROM reflex.session")).fetchall()
        assert client.welcome["session"] not in f"{event} {kept}"
        assert kept[0][0] == client.welcome["connection"]


async def test_a_query_by_uuid_finds_nothing_of_another(address: Address, conn: AsyncConnection[Any]) -> None:
    """Fails when the answer to somebody else's event comes here, too."""
    async with connected(address) as mine, connected(address) as other:
        await mine.type("hello")
        published = await mine.hear("published")
        await answer(conn, {"event_id": str(uuid4())}, other, '"for the other"')
        await answer(conn, published, mine, '"for me"')
        assert (await mine.hear("reply"))["output"] == "for me"
        assert (await other.hear("reply"))["output"] == "for the other"
