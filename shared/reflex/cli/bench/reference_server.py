"""What the gateway is compared with: the same app with a store that keeps nothing, and hypercorn answering by itself.

Run as processes of their own, on the gateway's own server loop: `python -m reflex.cli.bench.reference_server KIND PORT`
with KIND `validate`, `no-op` or `broadcast`. DATABASE_URL is where `validate` finds the schemas.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from starlette.types import ASGIApp, Receive, Scope, Send

from reflex.core.events import NewEvent
from reflex.core.settings import load_settings
from reflex.gateway.app import create_app
from reflex.gateway.server import listen, serve_until

__all__ = ["main"]

ANSWER: Final = b'{"id":"00000000-0000-0000-0000-000000000000"}'
START: Final = {
    "type": "http.response.start",
    "status": 202,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))],
}


class Nowhere:
    """An `EventStore` that keeps nothing."""

    async def append(self, events: Sequence[NewEvent]) -> Mapping[UUID, UUID]:
        return {event.event_id: event.event_id for event in events}


async def no_op(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body and answer: what hypercorn itself costs."""
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{phase}.complete"})
            if phase == "shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send({"type": "http.response.body", "body": ANSWER})


class Broadcast:
    """Sends the body of a request to every WebSocket, as often as its header `times` says: what hypercorn can do."""

    def __init__(self) -> None:
        self.sends: set[Send] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            if scope["type"] == "http" and scope["method"] == "POST":
                text = (await receive())["body"].decode()
                for _ in range(int(dict(scope["headers"])[b"times"])):
                    for each in self.sends:
                        await each({"type": "websocket.send", "text": text})
                await send(START)
                await send({"type": "http.response.body", "body": ANSWER})
            else:
                await no_op(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        self.sends.add(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self.sends.discard(send)


async def serve(app: ASGIApp, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    await serve_until(stop, app, listen("127.0.0.1", port), load_settings(), grace_s=1)


def main() -> None:
    kind, port = sys.argv[1:]
    apps: dict[str, Callable[[], ASGIApp]] = {
        "validate": lambda: create_app(load_settings(), store=Nowhere()),
        "no-op": lambda: no_op,
        "broadcast": Broadcast,
    }
    asyncio.run(serve(apps[kind](), int(port)))


if __name__ == "__main__":
    main()
