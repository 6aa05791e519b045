"""Watching an agent while it works, over the WebSocket: real gateway, real worker, the offline model."""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from psycopg import AsyncConnection
from websockets.asyncio.client import ClientConnection, connect

from reflex.core.log_filter import LogFilter
from reflex.core.progress import WATCH_CHANNEL, WATCH_EVERY_S, ask_who_watches
from reflex.gateway.live.outbox import Outbox
from reflex.gateway.live.progress_feed import TOLD_EVERY_S, ProgressFeed
from reflex.worker.wakeup import listen
from tests.processes import eventually, gateway, sessions, worker

APP = """
from pydantic_ai import Agent
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger

agent = Agent(instructions="Answer.")

@agent.tool_plain
def look_up(order_id: str) -> str:
    return f"order {order_id} is on its way"

Trigger("answer", type_filter("ws.message"), agent)
"""


async def test_text_and_tool_calls_are_watched_live_and_the_reply_comes_as_well(
    database_url: str, tmp_path: Path
) -> None:
    """Fails with: no announcement to the workers before the subscription is confirmed; a feed that is not filtered."""
    (tmp_path / "answering.py").write_text(APP)
    env = {"DEFAULT_MODEL": "offline"}
    async with (
        gateway(database_url, tmp_path) as front,
        worker(database_url, tmp_path, app="answering", env=env),
        connect(f"{front.url.replace('http', 'ws')}/ws") as watcher,
        connect(f"{front.url.replace('http', 'ws')}/ws") as other,
        connect(f"{front.url.replace('http', 'ws')}/ws") as client,
    ):
        await eventually(lambda: listeners(database_url), what="a worker that listens")
        for each, about in ((watcher, {"types": ["ws.*"]}), (other, {"types": ["order.*"]})):
            await each.send(orjson.dumps({"op": "subscribe", "id": "w", "include": ["progress"], **about}).decode())
            assert (await frames(each, until="subscribed"))[-1]["id"] == "w"
        await client.send("where is order A1?")
        (*_, reply) = await frames(client, until="reply")
        said = await frames(watcher, until="progress", kind="run_ended")
        progress = [each["progress"] for each in said if each["op"] == "progress"]
        assert [each["seq"] for each in progress] == list(range(1, len(progress) + 1))
        kinds = [each["kind"] for each in progress]
        assert (kinds[0], kinds[-1]) == ("run_started", "run_ended")
        assert {"tool_call", "tool_result", "text"} <= set(kinds)
        last = max(each["request"] for each in progress if each["kind"] == "text")
        text = "".join(each["text"] for each in progress if each["kind"] == "text" and each["request"] == last)
        assert text == reply["output"]
        assert {each["event_id"] for each in progress} == {reply["event_id"]}
        await other.send('{"op": "ping"}')
        assert [each["op"] for each in await frames(other, until="pong")] == ["pong"]


async def listeners(database_url: str) -> int:
    """How many workers hear that somebody watches. One that has just begun may have a run before it hears it."""
    return await sessions(database_url, "reflex listener", "%reflex_who_watches%")


@pytest.mark.parametrize("first", ["watcher", "worker"])
async def test_a_worker_knows_at_once_that_somebody_watches_whoever_came_first(
    database_url: str, conn: AsyncConnection[Any], first: str
) -> None:
    """Long before it is said again. Fails when a worker does not ask after it connected (again), or a gateway does not
    answer."""
    heard: list[int] = []
    workers = 5
    async with ProgressFeed(database_url) as feed, AsyncExitStack() as stack:
        watching = feed.watching("w", LogFilter(), Outbox(max_frames=10, max_chars=1000))
        if first == "watcher":
            await stack.enter_async_context(watching)
        listening = [
            asyncio.create_task(listen(database_url, {}, watch=partial(heard.append, n))) for n in range(workers)
        ]
        try:
            await eventually(lambda: listeners(database_url))
            if first == "worker":
                await stack.enter_async_context(watching)
            for _ in range(2):
                await eventually(lambda: set(heard) == set(range(workers)), timeout_s=WATCH_EVERY_S / 2)
                heard.clear()
                await conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'reflex listener' "
                    "AND datname = current_database()"
                )
        finally:
            for each in listening:
                each.cancel()
            await asyncio.gather(*listening, return_exceptions=True)


async def test_workers_that_ask_together_are_answered_together(database_url: str, conn: AsyncConnection[Any]) -> None:
    """Fails when each is answered alone: what is said to one is heard by all of them."""
    async with (
        await AsyncConnection.connect(database_url, autocommit=True) as asker,
        ProgressFeed(database_url) as feed,
        feed.watching("w", LogFilter(), Outbox(max_frames=10, max_chars=1000)),
    ):
        await conn.execute(f"LISTEN {WATCH_CHANNEL}".encode())
        began = time.monotonic()
        for _ in range(300):
            await ask_who_watches(asker)
        answers = [answer async for answer in conn.notifies(timeout=3 * TOLD_EVERY_S)]
        assert 1 <= len(answers) <= (time.monotonic() - began) / TOLD_EVERY_S + 1


async def frames(connection: ClientConnection, *, until: str, kind: str | None = None) -> list[dict[str, Any]]:
    """What comes up to a frame of that operation, and of progress of that kind."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while True:
            found.append(orjson.loads(await connection.recv()))
            if found[-1]["op"] == until and (kind is None or found[-1]["progress"]["kind"] == kind):
                return found
