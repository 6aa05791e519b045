"""The API keys that this gateway has seen lately: so that a request costs no query, and yet a revoked key ends soon.

    request ──► what is known, for 5 s ──► answer
                     │ not known
                     └──► asked together with others ──► PostgreSQL

Connections that stay open are watched: their keys are asked for again whenever what is known of them gets old.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

import structlog

from reflex.core.api_keys import StoredKey, find_api_keys, mark_api_keys_used
from reflex.core.errors import DatabaseUnavailable, ReflexError, Saturated
from reflex.gateway.allowances import Allowances
from reflex.gateway.connections import Connection, Pool, finish_within, limited
from reflex.gateway.futures import fail, fulfil

__all__ = ["Keyring", "Known"]

# How long what the database said of a key is believed: so long may a revoked one go on.
KNOWN_S: Final = 5.0
# And that there is no such key.
UNKNOWN_S: Final = 1.0
MOST_KNOWN: Final = 10_000
MOST_UNKNOWN: Final = 1000
# Ids that wait for one query. Whoever sends made-up keys costs others no more than that.
MOST_ASKED: Final = 1000
ANSWER_S: Final = 4.0
WAIT_S: Final = 2.0
# After a query that failed, for keys of open connections.
AGAIN_S: Final = 1.0
MARK_EVERY_S: Final = 10.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()
Result = TypeVar("Result")


class Known(NamedTuple):
    """What the database said of an id. The moments are those of the event loop's clock.

    `key` is None if there is none. `fresh_until`: then it is asked for again. `ends_at`: then the key is not valid any
    more, or it never was.
    """

    key: StoredKey | None
    fresh_until: float
    ends_at: float


@dataclass(slots=True, eq=False)
class Watched:
    """The open connections of one key: what ends each, when the key is to be looked at, and when it is over."""

    look_at: float
    ends_at: float
    ends: set[Callable[[], None]] = field(default_factory=set[Callable[[], None]])


class Keyring:
    """Use as `async with`; leaving it notes the last uses, and gives back what is left of the allowances."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.allowances = Allowances(self._query)
        self._known: dict[str, Known] = {}
        self._unknown: dict[str, Known] = {}
        self._asked: dict[str, list[asyncio.Future[Known]]] = {}
        self._watched: dict[str, Watched] = {}
        self._used: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._mark())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        fail(chain(*self._asked.values()), DatabaseUnavailable("the gateway is stopping; try again"))
        await self._mark_used()
        await self.allowances.give_back()

    async def find(self, key_id: str) -> Known:
        """What is known of an id, not longer than KNOWN_S ago.

        Raises:
            DatabaseUnavailable: It has to be looked up, and cannot be.
            Saturated: Too many others are being looked up.
        """
        loop = asyncio.get_running_loop()
        known = self._known.get(key_id) or self._unknown.get(key_id)
        if known is not None and loop.time() < known.fresh_until:
            return known
        # Those that are known to exist are let through: made-up ones must not keep them out.
        if len(self._asked) >= MOST_ASKED and key_id not in self._asked and key_id not in self._known:
            raise Saturated("the queue of API keys that are looked up")
        future: asyncio.Future[Known] = loop.create_future()
        self._asked.setdefault(key_id, []).append(future)
        self._wake.set()
        return await future

    def used(self, key_id: str) -> None:
        """A request came with the key. It is noted in the database some time."""
        self._used.add(key_id)

    @contextmanager
    def watched(self, key_id: str, known: Known, end: Callable[[], None]) -> Generator[None]:
        """Call `end` when the key, of which that much was known, is revoked, expires, or is deleted meanwhile."""
        watched = self._watched.setdefault(key_id, Watched(inf, known.ends_at))
        watched.look_at = min(watched.look_at, known.fresh_until, known.ends_at)
        watched.ends.add(end)
        self._wake.set()
        try:
            yield
        finally:
            watched.ends.discard(end)
            if not watched.ends:
                del self._watched[key_id]

    # Looking

    async def _look(self) -> None:
        while True:
            next_look = min((watched.look_at for watched in self._watched.values()), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_look):
                    await self._wake.wait()
            self._wake.clear()
            await self._turn()

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        asked, self._asked = self._asked, {}
        now = loop.time()
        due = [key_id for key_id, watched in self._watched.items() if watched.look_at <= now]
        if not asked and not due:
            return
        ids = list({*asked, *due})
        waiting = [*chain(*asked.values())]
        try:
            found = await self._query(lambda conn: find_api_keys(conn, ids))
        except ReflexError as error:
            fail(waiting, error)
            self._keep_watching(due)
        except Exception:
            log.exception("API keys could not be looked up")
            fail(waiting, DatabaseUnavailable("API keys cannot be looked up"))
            self._keep_watching(due)
        except asyncio.CancelledError:
            fail(waiting, DatabaseUnavailable("the gateway is stopping; try again"))
            raise
        else:
            for key_id in ids:
                # From before the query on: a key that is revoked while it runs is not known for longer than others.
                self._learn(key_id, found.get(key_id), now, asked.get(key_id, ()))

    def _learn(
        self, key_id: str, key: StoredKey | None, asked_at: float, futures: Iterable[asyncio.Future[Known]]
    ) -> None:
        for memory in (self._known, self._unknown):
            memory.pop(key_id, None)
        if key is None:
            known = Known(None, asked_at + UNKNOWN_S, 0)
            remember(self._unknown, key_id, known, most=MOST_UNKNOWN)
        else:
            ends_at = inf if key.valid_s is None else asked_at + key.valid_s
            known = Known(key, asked_at + KNOWN_S, ends_at)
            remember(self._known, key_id, known, most=MOST_KNOWN)
        fulfil(futures, known)
        if (watched := self._watched.get(key_id)) is not None:
            watched.ends_at = known.ends_at
            watched.look_at = min(known.fresh_until, known.ends_at)
            end_if_over(watched)

    def _keep_watching(self, key_ids: Sequence[str]) -> None:
        """The database is away: connections stay, but for those whose keys are known to be over by now."""
        again_at = asyncio.get_running_loop().time() + AGAIN_S
        for watched in [self._watched[key_id] for key_id in key_ids if key_id in self._watched]:
            watched.look_at = again_at
            end_if_over(watched)

    # Noting that they are used

    async def _mark(self) -> None:
        while True:
            await asyncio.sleep(MARK_EVERY_S)
            await self._mark_used()

    async def _mark_used(self) -> None:
        """It matters little: what cannot be noted is forgotten."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await self._query(lambda conn: mark_api_keys_used(conn, used))
        except ReflexError as error:
            log.info("it could not be noted that API keys were used", reason=str(error))
        except Exception:
            log.exception("it could not be noted that API keys were used")

    async def _query(self, query: Callable[[Connection], Awaitable[Result]]) -> Result:
        async def work() -> Result:
            async with limited(self._pool, wait_s=WAIT_S) as conn:
                return await query(conn)

        return await finish_within(ANSWER_S, work())


def remember(memory: dict[str, Known], key_id: str, known: Known, *, most: int) -> None:
    """Keep it; what was asked for longest ago makes room."""
    while len(memory) >= most:
        del memory[next(iter(memory))]
    memory[key_id] = known


def end_if_over(watched: Watched) -> None:
    if watched.ends_at <= asyncio.get_running_loop().time():
        watched.look_at = inf
        for end in list(watched.ends):
            end()
