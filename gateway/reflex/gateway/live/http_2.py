"""hypercorn's HTTP/2 with its traps taken care of: bounded buffers, and no WebSockets. Put in place by `stream`."""

from http import HTTPStatus
from typing import Any, Final

import orjson
from h2.settings import SettingCodes
from hypercorn.protocol import h2

from reflex.gateway.problems import problem_document

__all__ = ["REFUSAL", "Buffer", "Multiplexed"]

# What a client is told that asks for a WebSocket all the same.
REFUSAL: Final = orjson.dumps(
    problem_document(
        HTTPStatus.NOT_IMPLEMENTED,
        "websocket_over_http_2",
        "WebSockets are spoken over HTTP/1.1 only; let the client, or the proxy in between, open a connection for each "
        "of them. Other requests may go on over HTTP/2",
    )
)


class Multiplexed(h2.H2Protocol):
    """One HTTP/2 connection. hypercorn offers WebSockets over it (RFC 8441). But while one of them is not read, nothing
    of the whole connection is, also not that there is room again for what the one waits to send: both wait for ever."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        del self.connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]


class Buffer(h2.StreamBuffer):
    """What waits to be sent over HTTP/2. hypercorn takes more as soon as nothing could be sent: a client that does not
    read then fills the memory."""

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < h2.BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data
