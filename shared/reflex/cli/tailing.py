"""`reflex tail`: the log as it grows, over a gateway's event stream; a line an event, and a cursor to go on from."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any, Final

import httpx2
import orjson
import typer
from httpx2 import ServerSentEvent
from pydantic import SecretStr

from reflex.cli.sending import authorization, explain
from reflex.core.errors import ReflexError

__all__ = ["Tail"]

# The gateway gives a sign of life every 15 s.
SILENCE_S: Final = 60.0
CONNECT_S: Final = 5.0
AGAIN_S: Final = 1.0


class Tail:
    """Follows one gateway, and connects again when the stream breaks.

    Args:
        filters: The parameters of GET /events/stream.
        after: Where to begin; None means now.
    """

    def __init__(
        self,
        gateway: str,
        filters: dict[str, str],
        *,
        api_key: SecretStr | None = None,
        after: str | None,
        as_json: bool,
    ) -> None:
        self._url = f"{gateway.rstrip('/')}/events/stream"
        self._gateway = gateway
        self._filters = filters
        self._cursor = after
        self._as_json = as_json
        self._connected = False
        self._authorization = authorization(api_key)

    def follow(self, *, count: int | None = None) -> None:
        """Print events until Ctrl-C, or until there were `count` of them.

        Raises:
            ReflexError: There is no gateway, or it refuses the question.
        """
        try:
            asyncio.run(self._follow(count))
        except KeyboardInterrupt:
            drop_output()
        if self._cursor is not None and not self._as_json:
            say(f"to go on from here: --after {self._cursor}")

    async def _follow(self, count: int | None) -> None:
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        with woken_by_signals():
            async with httpx2.AsyncClient(timeout=timeout, headers=self._authorization) as client:
                while count is None or count > 0:
                    try:
                        async with aclosing(self._events(client)) as events:
                            async for event in events:
                                self._print(event)
                                count = None if count is None else count - 1
                                if count == 0:
                                    break
                    except httpx2.TransportError as error:
                        if not self._connected:
                            reason = str(error) or type(error).__name__
                            raise ReflexError(f"no gateway answers at {self._gateway}: {reason}") from None
                        say("the stream broke; connecting again")
                        await asyncio.sleep(AGAIN_S)

    async def _events(self, client: httpx2.AsyncClient) -> AsyncGenerator[ServerSentEvent]:
        """The events of one connection. What only moves the cursor, and how it ends, is dealt with here."""
        headers = {"last-event-id": self._cursor} if self._cursor else {}
        async with client.sse(self._url, params=self._filters, headers=headers) as source:
            response = source.response
            if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE and self._connected:
                raise httpx2.ReadError("the gateway is not ready")
            if response.status_code != HTTPStatus.OK:
                raise ReflexError(f"the gateway refuses ({response.status_code}): {explain(await response.aread())}")
            self._connected = True
            async for sent in source:
                if sent.event == "closing":
                    self._say_closed(sent)
                    break
                if sent.data:
                    yield sent
                self._cursor = sent.id or self._cursor
        raise httpx2.ReadError("the stream ended")

    def _say_closed(self, sent: ServerSentEvent) -> None:
        reason = orjson.loads(sent.data)["reason"]
        if reason == "lost":
            self._cursor = None
            say("events are missing here: the log was dropped or restored under this reader; going on from now")
        elif reason == "slow":
            say("the gateway closed the stream because this reader was too slow; going on from where it was")

    def _print(self, sent: ServerSentEvent) -> None:
        as_json = f'{{"cursor":"{sent.id}","event":{sent.data}}}'
        typer.echo(as_json if self._as_json else line_of(orjson.loads(sent.data)))
        # Only what was printed counts as read.
        self._cursor = sent.id


@contextmanager
def woken_by_signals() -> Generator[None]:
    """Whoever waits for the gateway hears of a signal at once, also of one that came just before the wait began: Python
    would look at it when the wait is over, and asyncio.run changes nothing about that."""
    # asyncio's own would wait until the loop has its turn, and who prints into a pipe that nobody reads has none.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        loop.add_reader(near, near.recv, 1)
        before = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(near)


def drop_output() -> None:
    """Python writes at its end what it still holds, and would wait for a reader that reads no more."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def line_of(event: dict[str, Any]) -> str:
    """An event in one line: when, what, about what, from where, and the payload."""
    when = typer.style(event["created_at"][11:23], dim=True)
    type = typer.style(event["type"], bold=True, fg="red" if event["type"] == "reflex.dead_letter" else None)
    about = f" {event['key']}" if event["key"] is not None else ""
    source = typer.style(event["source"], dim=True)
    return f"{when} {type}{about} {source} {orjson.dumps(event['payload']).decode()}"


def say(text: str) -> None:
    """To the person, not into a pipe."""
    typer.echo(text, err=True)
