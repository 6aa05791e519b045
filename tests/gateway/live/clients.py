"""WebSocket clients for tests: one that speaks the protocol, and one that speaks nothing but bytes."""

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
from jsonschema import Draft202012Validator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from reflex.gateway.asyncapi import asyncapi_document

__all__ = ["Client", "RawClient", "connected", "raw", "small_socket"]

Address = tuple[str, int]
HEAR_S = 20.0


class Client:
    """A client; every frame that it hears is checked against /asyncapi.json."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.welcome: dict[str, Any] = {}

    async def say(self, op: str, /, **fields: Any) -> None:
        await self.connection.send(json.dumps({"op": op, **fields}))

    async def type(self, line: str) -> None:
        await self.connection.send(line)

    async def hear(self, op: str | None = None) -> dict[str, Any]:
        """The next frame, which has to be of the kind `op`."""
        async with asyncio.timeout(HEAR_S):
            frame = orjson.loads(await self.connection.recv())
        validators()[frame["op"]].validate(frame)
        assert op in (None, frame["op"]), frame
        return frame

    async def hear_all(self, count: int) -> list[dict[str, Any]]:
        return [await self.hear() for _ in range(count)]

    async def is_closed(self) -> tuple[int, str]:
        """Wait for the end; the code and the reason. Frames before it are thrown away."""
        async with asyncio.timeout(HEAR_S):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed as closed:
                received = closed.rcvd
        return (received.code, received.reason) if received else (1006, "")


def small_socket(address: Address) -> socket.socket:
    """A connection for which the kernel takes little: by itself it takes up to tens of megabytes for a client that does
    not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock.connect(address)
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def connected(
    address: Address, query: str = "", *, welcomed: bool = True, **options: Any
) -> AsyncGenerator[Client]:
    """A client that has heard its welcome."""
    async with connect(f"ws://{address[0]}:{address[1]}/ws{query}", proxy=None, **options) as connection:
        client = Client(connection)
        if welcomed:
            client.welcome = await client.hear("welcome")
        yield client


def validators() -> dict[str, Draft202012Validator]:
    if not VALIDATORS:
        document = asyncapi_document()
        for op, message in document["channels"]["ws"]["messages"].items():
            VALIDATORS[op] = Draft202012Validator({**message["payload"], "components": document["components"]})
    return VALIDATORS


VALIDATORS: dict[str, Draft202012Validator] = {}


class RawClient:
    """Sends bytes as a client's frames, or as no frame at all, and reads the frames that come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def frame(self, content: bytes, *, opcode: int = 1, final: bool = True, masked: bool = True) -> None:
        length = len(content)
        head = bytes([opcode | (0x80 if final else 0)])
        mask = 0x80 if masked else 0
        if length < 126:
            head += bytes([mask | length])
        elif length < 65536:
            head += bytes([mask | 126]) + struct.pack(">H", length)
        else:
            head += bytes([mask | 127]) + struct.pack(">Q", length)
        # A mask of zeros changes nothing.
        self.writer.write(head + (bytes(4) if masked else b"") + content)

    async def hear(self) -> tuple[int, bytes]:
        """The opcode and the content of the next frame. Pings are not answered."""
        async with asyncio.timeout(HEAR_S):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(length)

    async def text(self) -> str:
        """The next text frame, whatever comes before it."""
        while True:
            opcode, content = await self.hear()
            if opcode == 1:
                return content.decode()

    async def closing(self) -> tuple[int, str]:
        """The code and the reason of the close frame, whatever comes before it."""
        while True:
            opcode, content = await self.hear()
            if opcode == 8:
                return struct.unpack(">H", content[:2])[0], content[2:].decode()

    async def hung_up(self) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(HEAR_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass


@asynccontextmanager
async def raw(
    address: Address, query: str = "", *, sock: socket.socket | None = None, **headers: str
) -> AsyncGenerator[RawClient]:
    """A connection after the handshake. Ended without a word."""
    reader, writer = await (asyncio.open_connection(sock=sock) if sock else asyncio.open_connection(*address))
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET /ws{query} HTTP/1.1",
        f"host: {address[0]}:{address[1]}",
        "upgrade: websocket",
        "connection: upgrade",
    ]
    lines += [f"sec-websocket-key: {key}", "sec-websocket-version: 13"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head.splitlines()[0], head
        client = RawClient(reader, writer)
        cast("Any", client).head = head
        yield client
    finally:
        writer.transport.abort()
