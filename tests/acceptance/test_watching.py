"""Watching an agent while it works, over the WebSocket: real gateway, real worker, the offline model."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect

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
    """How many workers hear that somebody watches. One that has just begun hears it ten seconds later."""
    return await sessions(database_url, "reflex listener", "LISTEN%reflex_watch%")


async def frames(connection: ClientConnection, *, until: str, kind: str | None = None) -> list[dict[str, Any]]:
    """What comes up to a frame of that operation, and of progress of that kind."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while True:
            found.append(orjson.loads(await connection.recv()))
            if found[-1]["op"] == until and (kind is None or found[-1]["progress"]["kind"] == kind):
                return found
