"""Sessions of WebSocket clients: the secret that names one, and how far each has its replies, written down together."""

import asyncio
import binascii
import hashlib
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

import structlog
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.errors import DatabaseUnavailable, ReflexError
from reflex.core.sessions import keep_sessions, session_positions
from reflex.gateway.futures import fail, fulfil

__all__ = ["Session", "Sessions"]

TOKEN_BYTES: Final = 32
ID_BYTES: Final = 16
EVERY_S: Final = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Session(NamedTuple):
    """`token` is the client's secret and is neither stored nor logged. `id` is made of it, and everybody may see it."""

    token: str
    id: str

    @classmethod
    def new(cls) -> Self:
        return cls.of(secrets.token_bytes(TOKEN_BYTES))

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """None if it is no token."""
        try:
            secret = urlsafe_b64decode(token.encode("ascii") + b"=")
        except (ValueError, binascii.Error):
            return None
        session = cls.of(secret)
        # Characters that are not of base64 are skipped when it is decoded, hence the comparison.
        return session if len(secret) == TOKEN_BYTES and session.token == token else None

    @classmethod
    def of(cls, secret: bytes) -> Self:
        token = urlsafe_b64encode(secret).rstrip(b"=").decode()
        return cls(token, hashlib.sha256(secret).digest()[:ID_BYTES].hex())


class Read(Protocol):
    """Runs a query in a transaction with a time limit."""

    def __call__(self, query: Callable[[AsyncConnection[Any]], Awaitable[Any]], /) -> Awaitable[Any]: ...


@dataclass(slots=True, eq=False)
class Watched:
    """A connection's session. `position` says how far it has come; None as long as it has not published."""

    id: str
    position: Callable[[], Cursor | None]
    written: Cursor | None = None


class Sessions:
    """The positions of the sessions of one gateway. What many connections ask for or write at once, and what changed
    in five seconds, is one statement. Use as `async with`; leaving it writes the last changes."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._watched: set[Watched] = set()
        self._changed: dict[str, Cursor] = {}
        self._asked: dict[str, list[asyncio.Future[Cursor | None]]] = {}
        self._kept: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._turn()

    async def find(self, session_id: str) -> Cursor | None:
        """Up to where a session has its replies; None if it never published.

        Raises:
            DatabaseUnavailable, Saturated: It cannot be looked up.
        """
        future: asyncio.Future[Cursor | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(session_id, []).append(future)
        self._wake.set()
        return await future

    async def keep(self, session_id: str, cursor: Cursor) -> None:
        """Write a position, durably: before the first event of a session is stored, as replies may follow at once.

        Raises:
            DatabaseUnavailable, Saturated: It is not known whether it was written.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._change(session_id, cursor)
        self._kept.append(future)
        self._wake.set()
        await future

    @contextmanager
    def watched(self, session_id: str, position: Callable[[], Cursor | None]) -> Generator[None]:
        """Write how far the session has come, now and then and at the end."""
        watched = Watched(session_id, position)
        self._watched.add(watched)
        try:
            yield
        finally:
            self._watched.discard(watched)
            self._look(watched)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(looked_at + EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= looked_at + EVERY_S:
                looked_at = loop.time()
                self._look_at_all()
                await self._turn()
            elif self._asked or self._kept:
                await self._turn()

    def _look_at_all(self) -> None:
        # Not in the task: its variable would hold on to the last one, gone or not, for as long as there is no other.
        for watched in self._watched:
            self._look(watched)

    def _look(self, watched: Watched) -> None:
        position = watched.position()
        if position is not None and position != watched.written:
            watched.written = position
            self._change(watched.id, position)

    def _change(self, session_id: str, cursor: Cursor) -> None:
        self._changed[session_id] = max(cursor, self._changed.get(session_id, cursor))

    async def _turn(self) -> None:
        changed, self._changed = self._changed, {}
        asked, self._asked = self._asked, {}
        kept, self._kept = self._kept, []
        if not changed and not asked:
            return

        async def exchange(conn: AsyncConnection[Any]) -> dict[str, Cursor]:
            if changed:
                await keep_sessions(conn, changed)
            return await session_positions(conn, list(asked)) if asked else {}

        waiting = [*kept, *(future for futures in asked.values() for future in futures)]
        try:
            found: dict[str, Cursor] = await self._read(exchange)
        except ReflexError as error:
            self._give_back(changed)
            fail(waiting, error)
            return
        except Exception:
            log.exception("the positions of sessions could not be written")
            fail(waiting, DatabaseUnavailable("the positions of sessions cannot be read or written"))
            return
        except asyncio.CancelledError:
            self._give_back(changed)
            fail(waiting, DatabaseUnavailable("the gateway is stopping; connect again"))
            raise
        for session_id, futures in asked.items():
            fulfil(futures, found.get(session_id))
        fulfil(kept, None)

    def _give_back(self, changed: Mapping[str, Cursor]) -> None:
        """The next turn writes it."""
        for session_id, cursor in changed.items():
            self._change(session_id, cursor)
