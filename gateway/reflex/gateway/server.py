"""The gateway as a process: its listening socket, hypercorn with its traps taken care of, and a clean stop."""

import asyncio
import errno
import logging
import resource
import signal
import socket
from typing import Any, Final, cast

import structlog
from hypercorn.asyncio import serve as serve_hypercorn  # pyright: ignore[reportUnknownVariableType]
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reflex.core.database import describe
from reflex.core.errors import ConfigurationError
from reflex.core.exposure import check_exposure
from reflex.core.settings import Settings
from reflex.gateway.app import create_app
from reflex.gateway.bodies import discard
from reflex.gateway.live import stream

__all__ = ["DrainUnread", "listen", "serve", "serve_until"]

BACKLOG: Final = 2048
# Longer than the idle time-outs of common load balancers (60 s): who closes first must not be us.
KEEP_ALIVE_S: Final = 75.0
LINGER_S: Final = 2.0
# Beside the connections of clients: those to the database, logs, modules that are being imported.
OTHER_FILES: Final = 200

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Take requests until SIGTERM or SIGINT; what is under way then is finished. A second signal ends at once.

    Raises:
        ConfigurationError: The address cannot be listened on, or would let in everybody without being told to.
    """
    check_exposure(settings)
    sock = listen(settings.host, settings.port)
    asyncio.run(_serve(settings, sock))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigurationError: With what to change.
    """
    where = f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(cast("tuple[str, int]", address[:2]), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        reason = f"REFLEX_HOST is {host!r}, which is no address of this machine: {error.strerror}"
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                reason = f"{where} is in use by another program; stop it, or choose a port with REFLEX_PORT or --port"
            case errno.EACCES:
                reason = f"{where} may not be used by this account; choose a port above 1023 with REFLEX_PORT or --port"
            case errno.EADDRNOTAVAIL:
                reason = f"REFLEX_HOST is {host!r}, which is no address of this machine"
            case _:
                reason = f"cannot listen on {where}: {error.strerror or error}"
    raise ConfigurationError(reason)


def allow_connections(wanted: int) -> None:
    """Let the process open as many files as connections may need; each is one. Systems begin with some thousand."""
    wanted += OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < wanted:
        log.info(
            "fewer connections are possible than REFLEX_WS_MAX_CONNECTIONS says; raise the limit of open files "
            "(ulimit -n), or lower the setting",
            connections=max(allowed - OTHER_FILES, 0),
        )


async def serve_until(
    stop: asyncio.Event, app: ASGIApp, sock: socket.socket, settings: Settings, *, grace_s: float
) -> None:
    """Serve `app` on a listening socket, which is closed in the end.

    Args:
        stop: Set it to take no more requests, finish those under way, and return.
        settings: For the limits of WebSocket frames and the interval of pings.
        grace_s: After that time those still under way are cut off.
    """
    stream.install()
    config = Config()
    # The only way to hand hypercorn a socket that is bound already: bound by itself, a port in use is a traceback.
    config.bind = [f"fd://{sock.detach()}"]
    config.backlog = BACKLOG
    config.keep_alive_max_requests = 2**31  # its default closes every connection after 1000 requests
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.graceful_timeout = grace_s
    config.websocket_max_message_size = settings.max_body_bytes
    config.websocket_ping_interval = settings.ws_ping_s
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")  # "-" would attach a format of its own
    config.include_server_header = False
    await serve_hypercorn(cast("ASGIFramework", DrainUnread(app)), config, shutdown_trigger=stop.wait, mode="asgi")


class DrainUnread:
    """Reads what an app left unread, after it has answered.

    hypercorn hands a request's body, and the frames of a WebSocket, over in a queue of ten pieces. More than that, left
    unread, blocks the connection's reader, which then never closes the connection. And closing with bytes unread sends
    a reset, which can reach the client before the answer does (a 413, say, or a closing code). So the rest is thrown
    away for a while, then the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.discarding: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self.answer(scope, receive, send)
            case "websocket":
                await self.converse(scope, receive, send)
            case _:
                await self.app(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def watched_receive() -> Message:
            nonlocal ended
            message = await receive()
            ended = message["type"] != "http.request" or not message.get("more_body")
            return message

        async def careful_send(message: Message) -> None:
            if ended or message["type"] != "http.response.body" or message.get("more_body"):
                await send(message)
                return
            await send({**message, "more_body": True})
            rest = asyncio.create_task(discard(receive))
            await asyncio.wait([rest], timeout=LINGER_S)
            # Still reading, if the client still sends: the end of the answer must not find the queue full.
            await send({"type": "http.response.body", "body": b""})
            rest.cancel()

        await self.app(scope, watched_receive, careful_send)

    async def converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def watched_receive() -> Message:
            nonlocal ended
            message = await receive()
            ended = message["type"] == "websocket.disconnect"
            return message

        try:
            await self.app(scope, watched_receive, send)
        finally:
            if not ended:
                # It goes on beyond the wait, until the connection is closed: then the queue must not be full.
                rest = asyncio.create_task(discard(receive))
                self.discarding.add(rest)
                rest.add_done_callback(self.discarding.discard)
                await asyncio.wait([rest], timeout=LINGER_S)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # A connection that is cut off when the grace is over would leave a traceback that says nothing.
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


async def _serve(settings: Settings, sock: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(received: signal.Signals) -> None:
        log.info("stopping", signal=received.name, open_requests="are finished first")
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    loop.set_exception_handler(on_loop_error)
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_signal, each)
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    database = describe(settings.require_database_url())
    log.info("gateway listening", url=url, database=database, access=settings.access)
    allow_connections(settings.ws_max_connections)
    app = create_app(settings, stopping=stop)
    await serve_until(stop, app, sock, settings, grace_s=settings.drain_grace_s)
    log.info("gateway stopped")
