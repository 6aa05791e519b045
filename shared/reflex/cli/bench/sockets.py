"""A crowd of WebSocket clients in a process of its own: `python -m reflex.cli.bench.sockets PORT PATH …`.

As little as a client can be, so that what is measured is the server: frames are found by their headers, and only what
is asked for is looked at. Says `ready` when all are connected and have got the frames before the first round; then, for
each round, when the last frame had arrived.
"""

import asyncio
import base64
import os
import re
import resource
import sys
from typing import Final

import orjson
import typer

__all__ = ["main"]

NUMBER: Final = re.compile(rb'"number": ?(\d+)')
HANDSHAKE: Final = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)
TEXT: Final = 1
CONNECTED_AT_ONCE: Final = 50


class Crowd:
    """Counts the frames of all clients. `stamps` keeps the number of each event, and when it came."""

    def __init__(self, *, stamped: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.frames = 0
        self.lost = 0
        self.stamps: list[tuple[int, float]] = []
        self.stamped = stamped
        self._goal = 0
        self._reached = asyncio.Event()

    def add(self, frame: bytes) -> None:
        self.frames += 1
        if self.stamped and (found := NUMBER.search(frame)):
            self.stamps.append((int(found[1]), self.loop.time()))
        if self.frames >= self._goal:
            self._reached.set()

    async def reach(self, frames: int) -> None:
        self._goal = frames
        if self.frames < frames:
            self._reached.clear()
            await self._reached.wait()


class Client(asyncio.Protocol):
    """One connection. The server's frames are neither masked nor, here, in pieces."""

    def __init__(self, crowd: Crowd, hello: bytes) -> None:
        self.crowd = crowd
        self.hello = hello
        self.buffer = bytearray()
        self.open = False
        self.opened = crowd.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.lost += 1
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("refused"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self.buffer.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(ConnectionError(bytes(self.buffer[:200])))
                self.transport.close()
                return
            del self.buffer[: end + 4]
            self.open = True
            if self.hello:
                self.transport.write(masked(self.hello))
            self.opened.set_result(None)
        at = 0
        size = len(self.buffer)
        while size - at >= 2:
            length, start = self.buffer[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(self.buffer[start : start + 2]), start + 2
            elif length == 127:
                length, start = int.from_bytes(self.buffer[start : start + 8]), start + 8
            if size < start + length:
                break
            if self.buffer[at] & 0x0F == TEXT:
                self.crowd.add(bytes(self.buffer[start : start + length]) if self.crowd.stamped else b"")
            at = start + length
        del self.buffer[:at]


def masked(text: bytes) -> bytes:
    """A frame of a client. A mask of zeros leaves it as it is."""
    assert len(text) < 65536
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
    return b"\x81" + length + bytes(4) + text


async def run(
    port: int, path: str, connections: int, hello: str, before: int, rounds: int, frames: int, *, stamped: bool
) -> None:
    crowd = Crowd(stamped=stamped)
    turns = asyncio.Semaphore(CONNECTED_AT_ONCE)

    async def connect() -> None:
        async with turns:
            _, client = await crowd.loop.create_connection(lambda: Client(crowd, hello.encode()), "127.0.0.1", port)
            key = base64.b64encode(os.urandom(16)).decode()
            client.transport.write(HANDSHAKE.format(path=path, port=port, key=key).encode())
            await client.opened

    await asyncio.gather(*(connect() for _ in range(connections)))
    await crowd.reach(connections * before)
    say({"ready": True})
    for round in range(1, rounds + 1):
        await crowd.reach(connections * (before + round * frames))
        say({"done_at": crowd.loop.time(), "lost": crowd.lost, "stamps": crowd.stamps})
        crowd.stamps = []
    await asyncio.sleep(3600)  # idle, until it is told to end


def say(what: dict[str, object]) -> None:
    sys.stdout.write(orjson.dumps(what).decode() + "\n")
    sys.stdout.flush()


def main(
    port: int,
    path: str,
    connections: int = 1,
    hello: str = "",
    before: int = 0,
    rounds: int = 0,
    frames: int = 0,
    stamped: bool = False,
) -> None:
    """Clients that connect to PATH, send `hello`, get `before` frames each, and then `frames` in each round."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(run(port, path, connections, hello, before, rounds, frames, stamped=stamped))


if __name__ == "__main__":
    typer.run(main)
