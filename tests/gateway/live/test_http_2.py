"""HTTP/2 without TLS, as proxies speak it to what is behind them: what works there, and what is refused."""

import asyncio
import gc
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded
from h2.settings import SettingCodes
from psycopg import AsyncConnection

from reflex.core.log import append
from reflex.gateway.live.outbox import SLOW, Outbox
from tests.gateway.gateways import served, settings_for
from tests.gateway.live.clients import HEAR_S, Address
from tests.gateway.live.streams import base_url, stream
from tests.queue_fixtures import new_event


class Http2Client:
    """One connection. `reads`: whether the server may go on sending what it was asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address) -> None:
        self.connection = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.settings: set[Any] = set()
        self.reads = True
        self._reader = reader
        self._writer = writer
        self._authority = f"{address[0]}:{address[1]}"
        self.connection.initiate_connection()

    def ask(self, method: str, path: str, **pseudo: str) -> int:
        """Begin a request without a body; its stream."""
        stream = self.connection.get_next_available_stream_id()
        named = {"method": method, "scheme": "http", "path": path, "authority": self._authority, **pseudo}
        headers = [(f":{name}", value) for name, value in named.items()]
        self.connection.send_headers(stream, [*headers, ("sec-websocket-version", "13")], end_stream=method == "GET")
        self._writer.write(self.connection.data_to_send())
        return stream

    async def answer(self, stream: int) -> tuple[int, bytes]:
        """The status and the whole body."""
        status, body = 0, b""
        async for event in self.events():
            match event:
                case ResponseReceived(stream_id=about, headers=headers) if about == stream:
                    status = int(dict(cast("Any", headers))[":status"])
                case DataReceived(stream_id=about, data=data) if about == stream:
                    body += data
                case StreamEnded(stream_id=about) if about == stream:
                    break
                case _:
                    pass
        return status, body

    async def events(self) -> AsyncGenerator[Any]:
        while True:
            async with asyncio.timeout(HEAR_S):
                received = await self._reader.read(65536)
            assert received, "the connection was closed"
            for event in self.connection.receive_data(received):
                if isinstance(event, RemoteSettingsChanged):
                    self.settings |= event.changed_settings.keys()
                if isinstance(event, DataReceived) and self.reads:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._writer.write(self.connection.data_to_send())
                yield event


@asynccontextmanager
async def http_2(address: Address) -> AsyncGenerator[Http2Client]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Http2Client(reader, writer, address)
    finally:
        writer.transport.abort()


async def test_a_websocket_over_http_2_is_neither_offered_nor_given_and_other_requests_go_on(database_url: str) -> None:
    """Fails when it is offered, or a client that tries all the same is left without an answer that says why."""
    async with served(settings_for(database_url)) as address, http_2(address) as client:
        status, body = await client.answer(client.ask("CONNECT", "/ws", protocol="websocket"))
        assert SettingCodes.ENABLE_CONNECT_PROTOCOL not in client.settings
        assert SettingCodes.MAX_CONCURRENT_STREAMS in client.settings
        assert (status, json.loads(body)["code"]) == (501, "websocket_over_http_2")
        status, body = await client.answer(client.ask("GET", "/health"))
        assert (status, json.loads(body)["status"]) == (200, "ok")


async def test_a_stream_over_http_2_that_is_not_read_is_closed_as_slow_and_goes_on_when_it_is(
    database_url: str, writer: AsyncConnection[Any]
) -> None:
    """Fails when what a client does not read is kept for it without a bound."""
    settings = settings_for(database_url, live_buffer_events=10)
    async with served(settings) as address, http_2(address) as client, stream(base_url(address)) as witness:
        client.reads = False
        asked = client.ask("GET", "/events/stream")
        async for event in client.events():
            if isinstance(event, DataReceived):
                break
        for _ in range(40):
            await append(writer, [new_event(payload=json.dumps({"text": "x" * 50_000}))])
            await witness.events(1)
        gc.collect()  # those of connections that are long gone
        assert sorted([found.closed or "" for found in gc.get_objects() if type(found) is Outbox]) == ["", SLOW]
        client.reads = True
        client.connection.acknowledge_received_data(65535, asked)
        client.connection.increment_flow_control_window(2**20)
        client.connection.increment_flow_control_window(2**20, asked)
        _, body = await client.answer(asked)
        assert b"event: closing" in body
