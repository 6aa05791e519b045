"""A proxy between a process and PostgreSQL that does to their connections what networks do.

It runs in the test's event loop: while the test blocks the loop, every connection is frozen.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["FaultProxy"]

CHUNK = 64 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger on, for zero seconds: close() sends RST instead of FIN


class Mode(StrEnum):
    PASS = "pass"
    FREEZE = "freeze"
    BLACKHOLE = "blackhole"
    REFUSE = "refuse"


@dataclass(slots=True, eq=False)
class Link:
    """One connection of the process and the one to PostgreSQL that belongs to it."""

    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])
    lossy: bool = False  # bytes were swallowed: the two ends can never agree again
    stranded: bool = False  # they are swallowed for good

    def reset(self) -> None:
        for writer in self.writers:
            if not writer.is_closing():
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                writer.transport.abort()


class FaultProxy:
    """Listens on the loopback address. Use as `async with FaultProxy(database_url) as proxy`, then `proxy.url`."""

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        assert self._target.hostname, "the proxy needs an address with a host"
        self._mode = Mode.PASS
        self._delay_s = 0.0
        self._moved = asyncio.Condition()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self.port = 0
        self.accepted = 0

    @property
    def url(self) -> str:
        """The database's address through the proxy."""
        account, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{account}{at}127.0.0.1:{self.port}"))

    @property
    def open_links(self) -> int:
        return len(self._links)

    async def pass_through(self) -> None:
        """Heal: what was frozen goes on; connections that lost bytes are reset, as a router would answer them."""
        await self._move(Mode.PASS)
        for link in [link for link in self._links if link.lossy and not link.stranded]:
            link.reset()

    async def delay(self, seconds: float) -> None:
        """Hold each chunk for a while, both ways. Goes on until the next `delay`."""
        self._delay_s = seconds
        await self._move(Mode.PASS)

    async def freeze(self) -> None:
        """Hold everything back and deliver it once healed, new connections too: a network that stalls."""
        await self._move(Mode.FREEZE)

    async def blackhole(self) -> None:
        """Take bytes and forward nothing, not even that an end has gone; new connections hang: half-open."""
        await self._move(Mode.BLACKHOLE)

    def strand(self) -> None:
        """A black hole for the connections there are, which healing does not end; new ones pass: something on the way
        has forgotten them, and still takes what they send."""
        for link in self._links:
            link.stranded = True

    async def cut(self) -> None:
        """Reset all connections there are. New ones pass."""
        for link in list(self._links):
            link.reset()

    async def refuse(self) -> None:
        """Reset all connections and refuse new ones, as a host does on which no server runs."""
        await self._move(Mode.REFUSE)
        await self.cut()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_listening()
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _move(self, mode: Mode) -> None:
        async with self._moved:
            self._mode = mode
            self._moved.notify_all()
        if mode is Mode.REFUSE and self._server:
            self._stop_listening()
            self._reserved = self._bind()  # bound but not listening: refuses, and nobody else takes the port
        elif mode is not Mode.REFUSE and not self._server:
            await self._listen()

    async def _in_mode(self, *modes: Mode) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._mode in modes)

    def _bind(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        return sock

    async def _listen(self) -> None:
        sock, self._reserved = self._reserved or self._bind(), None
        self._server = await asyncio.start_server(self._accept, sock=sock)

    def _stop_listening(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        if self._reserved:
            self._reserved.close()
            self._reserved = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link([writer])
        self._links.add(link)
        try:
            await self._in_mode(Mode.PASS, Mode.REFUSE)
            host, port = self._target.hostname, self._target.port or 5432
            from_server, to_server = await asyncio.open_connection(host, port)
            link.writers.append(to_server)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, to_server))
                pumps.create_task(self._pump(link, from_server, writer))
        except* OSError:
            link.reset()
        finally:
            self._links.discard(link)
            for end in link.writers:
                end.close()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._in_mode(Mode.PASS, Mode.BLACKHOLE)
            if self._mode is Mode.BLACKHOLE or link.stranded:
                link.lossy = True
            else:
                writer.write(chunk)
                await writer.drain()
        await self._in_mode(Mode.PASS)  # in a black hole the other end does not learn of it
        if link.stranded:
            return
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()
