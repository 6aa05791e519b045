"""The journal: the completed steps of deliveries that are not settled for good, so that no attempt pays for them again.

A step is addressed by what was asked (its fingerprint) and by how many times the same had been asked before in the
attempt (its occurrence), not by its place in a sequence: parallel tool calls and parallel agents finish in any order.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from reflex.core.database import describe, is_connection_error, open_pool
from reflex.core.errors import ReflexError
from reflex.core.ids import DeliveryId
from reflex.core.statements import only_row, statement

__all__ = ["JournalUnavailable", "LeaseLost", "Step", "StepKind", "StepStore", "forget_steps", "journal_step",
           "recorded_steps"]  # fmt: skip

T = TypeVar("T")

POOL_SIZE: Final = 4
# A step that was paid for is worth waiting for a restarting database; the run's slot is held meanwhile.
PATIENCE_S: Final = 30.0


class LeaseLost(ReflexError):
    """The delivery is no longer this run's: its worker was declared dead. Whatever the run does changes nothing."""

    code = "lease_lost"


class JournalUnavailable(ReflexError):
    """A step could not be read or written: the database is away. The delivery is tried again."""

    code = "journal_unavailable"


class StepKind(StrEnum):
    """What was paid for, or decided. Stored; never renamed."""

    MODEL_REQUEST = "model_request"
    TOOL_CALL = "tool_call"
    WAIT = "wait"  # since when a run waits, or that it has waited


class Step(NamedTuple):
    """One completed step. `position` counts the delivery's steps and is for people; `result` is JSON text."""

    kind: StepKind
    fingerprint: bytes
    occurrence: int
    position: int
    result: str


async def journal_step(conn: AsyncConnection[Any], delivery_id: DeliveryId, lease_epoch: int, step: Step) -> None:
    """Write a step, fenced by the lease.

    Raises:
        LeaseLost: The lease is gone; nothing was written.
    """
    cursor = await conn.execute(
        statement("journal_step"),
        {
            "trigger_id": delivery_id.trigger_id,
            "event_id": delivery_id.event_id,
            "lease_epoch": lease_epoch,
            **step._asdict(),
        },
    )
    if await cursor.fetchone() is None:
        raise LeaseLost(f"delivery {delivery_id} was given to another worker while this one ran it")


async def recorded_steps(conn: AsyncConnection[Any], delivery_id: DeliveryId) -> list[Step]:
    """The steps that earlier attempts at the delivery have completed, in their order."""
    cursor = await conn.execute(
        statement("recorded_steps"), {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id}
    )
    return [Step(StepKind(kind), *rest) for kind, *rest in await cursor.fetchall()]


async def forget_steps(conn: AsyncConnection[Any], deliveries: Iterable[tuple[int, UUID]]) -> None:
    """Delete the journals of deliveries (trigger id, event id), in the caller's transaction."""
    trigger_ids, event_ids = zip(*deliveries, strict=True)
    await conn.execute(statement("forget_steps"), {"trigger_id": list(trigger_ids), "event_id": list(event_ids)})


class StepStore:
    """The journal over a few connections of its own: a step is kept at once, not when the claim loop next turns.

    Nothing is connected before the first step; a worker of plain functions never is.
    """

    def __init__(self, url: str, *, size: int = POOL_SIZE, patience_s: float = PATIENCE_S) -> None:
        self._url = url
        self._size = size
        self._patience_s = patience_s
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._opening = asyncio.Lock()
        self._log = structlog.get_logger()

    async def recorded(self, delivery_id: DeliveryId) -> list[Step]:
        """As `recorded_steps`.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        return await self._patiently(lambda conn: recorded_steps(conn, delivery_id))

    async def journal(self, delivery_id: DeliveryId, lease_epoch: int, step: Step) -> None:
        """As `journal_step`.

        Raises:
            LeaseLost: The lease is gone; nothing was written.
            JournalUnavailable: The database was away for longer than our patience.
            psycopg.Error: PostgreSQL refuses the step itself.
        """
        await self._patiently(lambda conn: journal_step(conn, delivery_id, lease_epoch, step))

    async def now(self) -> datetime:
        """The time in the database.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        return (await self._patiently(lambda conn: only_row(conn, "clock")))[0]

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Ask the database something else over these connections. It may be asked again after a broken connection.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        return await self._patiently(question)

    async def aclose(self) -> None:
        """Close the connections. The store must not be used afterwards."""
        if self._pool is not None:
            await self._pool.close()

    async def _patiently(self, action: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        pool = await self._opened()
        deadline = time.monotonic() + self._patience_s
        wait_s = 0.05
        while True:
            try:
                async with pool.connection() as conn:
                    return await action(conn)
            except (psycopg.Error, OSError) as error:
                if not is_connection_error(error):
                    raise
                if time.monotonic() >= deadline:
                    raise JournalUnavailable(
                        f"the journal at {describe(self._url)} could not be reached for {self._patience_s:g} s: "
                        f"{str(error).strip()}"
                    ) from error
                self._log.warning("the journal lost the database, trying again", error=str(error).strip())
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
            wait_s = min(wait_s * 2, 2)

    async def _opened(self) -> AsyncConnectionPool[AsyncConnection[Any]]:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    pool = open_pool(self._url, name="reflex journal", size=self._size)
                    await pool.open()
                    self._pool = pool
        return self._pool
