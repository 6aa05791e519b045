"""Many readers that come back at once, as after a restart: nobody else notices."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.log_reading import log_bounds, tail_log
from reflex.gateway.live import conversation as conversation_module
from reflex.gateway.live import follower as follower_module
from reflex.gateway.live import hub as hub_module
from tests.gateway.gateways import post, served, settings_for
from tests.gateway.live.clients import connected
from tests.gateway.live.readers import Gate, log_ids
from tests.gateway.live.streams import base_url
from tests.processes import eventually
from tests.queue_fixtures import publish


@pytest.mark.parametrize("begins", [{"after": str(Cursor(0, 0))}, {"tail": 10}])
async def test_while_fifty_readers_catch_up_others_publish_and_read_and_the_gateway_is_healthy(
    database_url: str, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch, begins: dict[str, Any]
) -> None:
    """Fails when the first questions of readers of old events, and not only their pages, may take every connection of
    the pool: a session that publishes for the first time then waits, as do requests and the look at the health."""
    bounds, tail = Gate(log_bounds), Gate(tail_log)
    monkeypatch.setattr(follower_module, "APPENDS_READ_BACK", (0,))
    monkeypatch.setattr(hub_module, "log_bounds", bounds)
    monkeypatch.setattr(conversation_module, "tail_log", tail)
    await publish(writer, 20)
    await log_ids(writer)
    async with served(settings_for(database_url)) as address, AsyncExitStack() as stack:
        opening = [stack.enter_async_context(connected(address, max_queue=None)) for _ in range(51)]
        publisher, *readers = await asyncio.gather(*opening)
        bounds.close()
        tail.close()
        for reader in readers:
            await reader.say("subscribe", id="all", types=["*"], **begins)
        await eventually(lambda: bounds.held + tail.held >= 2)
        async with httpx2.AsyncClient(base_url=base_url(address), timeout=20) as client:
            await publisher.say("publish", id="p", event={"type": "a"})
            await publisher.hear("published")
            assert (await post(client, {"type": "a"})).status_code == 202
            assert (await client.get("/events")).status_code == 200
            assert (await client.get("/health/detailed")).json()["database"]["latency_ms"] is not None
        bounds.open()
        tail.open()
        for reader in readers:
            await reader.hear("subscribed")
            assert len(await reader.hear_all(10)) == 10
