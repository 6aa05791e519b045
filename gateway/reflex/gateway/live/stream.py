"""hypercorn's WebSockets with their traps taken care of; what hypercorn does by itself is said where it is changed.

hypercorn has no setting for any of this and makes its streams by name, so `install` puts these classes in their place.
Tests with raw sockets show each trap.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, cast

from hypercorn import protocol
from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed, RawData
from hypercorn.events import Event as ConnectionEvent
from hypercorn.protocol import h2, h11
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.typing import ConnectionState as StateOfServer
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError

from reflex.gateway.live.closing import CloseCode
from reflex.gateway.live.http_2 import REFUSAL, Buffer, Multiplexed
from reflex.gateway.problems import MEDIA_TYPE

__all__ = ["FRAMES", "RECEIPTS", "Receipts", "install"]

# Under which name the state in a connection's scope has its receipts.
RECEIPTS: Final = "reflex.receipts"
# A message of the app's: `texts`, each a frame, in one write. A write is most of what a frame costs.
FRAMES: Final = "reflex.frames"
LINGER_S: Final = 2.0
# How long what was sent before may take to reach the client, once its connection is to be closed.
CLOSE_WITHIN_S: Final = 5.0
MISSED_PINGS: Final = 2


class Receipts:
    """What a client has certainly received. TCP keeps order: a pong proves all that was sent before its ping.

    Args:
        ask: Sends a ping with the content that `ping` gives.
    """

    __slots__ = ("_ask", "_asked", "_number", "_sent", "confirmed")

    def __init__(self, ask: Callable[[], None]) -> None:
        self.confirmed: Any = None
        self._ask = ask
        self._sent: Any = None
        self._asked: Any = None
        self._number = 0

    def sent(self, mark: Any) -> None:
        """`mark` stands for all that is written by now. One question is on its way at a time."""
        idle = self._asked is self.confirmed
        self._sent = mark
        if idle:
            self._ask()

    def ping(self) -> bytes:
        """The content of the next ping."""
        self._number += 1
        self._asked = self._sent
        return b"%d" % self._number

    def pong(self, content: bytes) -> None:
        """Only the latest ping counts: a client need not answer the others."""
        if content != b"%d" % self._number:
            return
        self.confirmed = self._asked
        if self._sent is not self._asked:
            self._ask()


class Stream(WSStream):
    """One WebSocket."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.spawn: Callable[..., None] = self.task_group.spawn  # pyright: ignore[reportUnknownMemberType]
        self.receipts = Receipts(lambda: self.spawn(self._ping))
        self.parts: list[Any] = []
        self.size = 0
        self.unanswered = 0
        self.app_is_behind = False
        self.pinging = False
        self.refused = False
        self.broken = False
        self.gone = asyncio.Event()

    async def handle(self, event: Event) -> None:
        match event:
            case Request(http_version="2"):
                self.closed = True
                self.spawn(self._refuse_http_2)
                return
            case Request():
                # hypercorn compresses for every client that offers it: four times the memory of a connection for the
                # two windows, and a frame of 64 KB may unpack to 64 MB.
                headers = [header for header in event.headers if header[0].lower() != b"sec-websocket-extensions"]
                state = StateOfServer({**event.state, RECEIPTS: self.receipts})
                event = replace(event, headers=headers, state=state)
            case Body() | Data():
                self.unanswered = 0
                if self.broken:
                    return
            case StreamClosed():
                self.gone.set()
                # The app itself may find out, by sending. It reads on after that, and the queue may be full.
                self.spawn(super().handle, event)
                return
            case _:
                pass
        await super().handle(event)

    async def app_send(self, message: Any) -> None:
        if message is None or message["type"] != FRAMES or self.closed:
            await super().app_send(message)
        elif self.state == ASGIWebsocketState.CONNECTED:
            try:
                data = b"".join([self.connection.send(TextMessage(data=text)) for text in message["texts"]])
            except LocalProtocolError:
                return  # it was closed meanwhile
            await self.send(Data(stream_id=self.stream_id, data=data))

    async def _refuse_http_2(self) -> None:
        id = self.stream_id
        headers = [(b"content-type", MEDIA_TYPE.encode())]
        await self.send(Response(stream_id=id, status_code=HTTPStatus.NOT_IMPLEMENTED, headers=headers))
        await self.send(Body(stream_id=id, data=REFUSAL))
        await self.send(EndBody(stream_id=id))
        await self.send(StreamClosed(stream_id=id))

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            match event:
                case TextMessage() | BytesMessage():
                    if not self.refused:
                        await self._take(event)
                case Ping():
                    await self._send_wsproto_event(event.response())
                case Pong():
                    self.receipts.pong(bytes(event.payload))
                case CloseConnection():
                    await self._on_close(event)
                case _:
                    pass

    async def _take(self, event: TextMessage | BytesMessage) -> None:
        """A frame, or a piece of one."""
        data = event.data
        # hypercorn counts characters, of which one has up to four bytes.
        self.size += len(data) if not isinstance(data, str) or data.isascii() else len(data.encode())
        if self.size > self.config.websocket_max_message_size:
            # hypercorn goes on adding to the frame that is too large already, as long as the client sends.
            self.parts.clear()
            limit = self.config.websocket_max_message_size
            await self._refuse(CloseCode.TOO_LARGE, f"a frame is larger than {limit} bytes")
            return
        self.parts.append(data)
        if not event.message_finished:
            return
        text = "".join(self.parts) if isinstance(data, str) else None
        bytes = b"".join(self.parts) if text is None else None
        self.parts.clear()
        self.size = 0
        if self.gone.is_set():
            return  # the app was told, and reads no more: a queue that is full would stay so
        self.app_is_behind = True
        await cast("Any", self).app_put({"type": "websocket.receive", "text": text, "bytes": bytes})
        self.app_is_behind = False

    async def _on_close(self, event: CloseConnection) -> None:
        match self.connection.state:
            case ConnectionState.REMOTE_CLOSING:
                await self._send_wsproto_event(event.response())
            case ConnectionState.OPEN:
                # No close frame came: this is how wsproto says that it cannot read on. hypercorn hangs up without
                # a word, and the client reads 1006.
                self.broken = True
                await self._refuse(event.code, event.reason or "")
                return
            case _:
                pass
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _refuse(self, code: int, reason: str) -> None:
        """Close, and give the client time to read why: with bytes of it unread, the kernel would send a reset."""
        self.refused = True
        await self._send_wsproto_event(CloseConnection(code=code, reason=reason))
        self.spawn(self._hang_up, LINGER_S)

    async def _hang_up(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self.gone.wait()
        except TimeoutError:
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_pings(self) -> None:
        """hypercorn looks at no answer, and when the connection is closed it sleeps on for one interval."""
        interval = self.config.websocket_ping_interval
        while True:
            try:
                async with asyncio.timeout(interval):
                    await self.gone.wait()
                return
            except TimeoutError:
                pass
            # What is not read because the app is behind may well be an answer.
            if self.unanswered >= MISSED_PINGS and not self.app_is_behind:
                self.spawn(self._send_wsproto_event, CloseConnection(CloseCode.FAILED, "no answer to pings"))
                await self._hang_up(LINGER_S)
                return
            self.unanswered += 1
            self.spawn(self._ping)

    async def _ping(self) -> None:
        """Never waited for: a client that reads nothing holds up everything that is sent."""
        if not self.pinging:
            self.pinging = True
            try:
                await self._send_wsproto_event(Ping(self.receipts.ping()))
            finally:
                self.pinging = False


class Connection(TCPServer):
    """One TCP connection. hypercorn waits for ever for a client that does not read to read what was sent to it."""

    async def protocol_send(self, event: ConnectionEvent) -> None:
        """hypercorn writes when whoever sent before has waited: what is cancelled before that was never sent."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        try:
            self.writer.write(event.data)
            await self.writer.drain()
        except (ConnectionError, RuntimeError):
            await self.protocol.handle(Closed())

    async def _close(self) -> None:
        late = self.loop.call_later(CLOSE_WITHIN_S, self.writer.transport.abort)
        try:
            await super()._close()
        finally:
            late.cancel()


OURS: Final = (
    (h11, "WSStream", Stream),
    (h2, "WSStream", Stream),
    (h2, "StreamBuffer", Buffer),
    (protocol, "H2Protocol", Multiplexed),
    (run, "TCPServer", Connection),
)


def install() -> None:
    """Make hypercorn use these classes."""
    for module, name, ours in OURS:
        assert name in vars(module)
        setattr(module, name, ours)
