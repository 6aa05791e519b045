"""Clients of GET /events/stream: one as a program writes it, and one that sees the bytes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx2
import orjson
from httpx2 import EventSource, ServerSentEvent

from tests.gateway.key_fixtures import bearer

__all__ = ["Stream", "Streamed", "base_url", "raw_stream", "stream"]


def base_url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"


class Streamed(NamedTuple):
    """An event, and the id from which its reader goes on."""

    id: str
    event: dict[str, Any]


class Stream:
    """An open stream. `id` is how far it has come, as a browser would remember it."""

    def __init__(self, source: EventSource, frames: AsyncIterator[ServerSentEvent]) -> None:
        self.source = source
        self.id = ""
        self.closing: dict[str, Any] | None = None
        self._frames = frames

    async def frame(self, *, within_s: float = 10) -> ServerSentEvent:
        """The next frame, be it one that only moves the id. Raises StopAsyncIteration at the end."""
        async with asyncio.timeout(within_s):
            frame = await anext(self._frames)
        self.id = frame.id or self.id
        return frame

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The next events."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            if (event := await self.next()) is not None:
                found.append(event)
        return found

    async def next(self, *, within_s: float = 10) -> dict[str, Any] | None:
        """The event of the next frame; None if it has none."""
        frame = await self.frame(within_s=within_s)
        if frame.event == "closing":
            self.closing = orjson.loads(frame.data)
            return None
        return orjson.loads(frame.data) if frame.data else None

    async def ends(self) -> dict[str, Any] | None:
        """Read to the end; what the closing frame said."""
        try:
            while True:
                await self.next()
        except StopAsyncIteration:
            return self.closing


@asynccontextmanager
async def stream(
    url: str, *, last_event_id: str | None = None, secret: str | None = None, **query: str
) -> AsyncGenerator[Stream]:
    """A stream of a gateway, with its first frame read."""
    headers = bearer(secret) | ({"last-event-id": last_event_id} if last_event_id else {})
    async with (
        httpx2.AsyncClient(base_url=url, timeout=60) as client,
        client.sse("/events/stream", params=query, headers=headers, max_event_size=None) as source,
    ):
        assert source.response.status_code == 200, (await source.response.aread()).decode()
        opened = Stream(source, aiter(source))
        await opened.frame()
        yield opened


@asynccontextmanager
async def raw_stream(
    address: tuple[str, int], *, method: str = "GET", buffer: int = 2**16, **query: str
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The connection, with the request sent and nothing read."""
    reader, writer = await asyncio.open_connection(*address, limit=buffer)
    path = f"/events/stream?{urlencode(query)}"
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
