"""The journal: the completed steps of deliveries that are not settled for good, so that no attempt pays for them again.

A step is addressed by what was asked (its fingerprint) and by how many times the same had been asked before in the
attempt (its occurrence), not by its place in a sequence: parallel tool calls and parallel agents finish in any order.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, LiteralString, NamedTuple, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from reflex.core.database import describe, is_connection_error, open_pool
from reflex.core.errors import ReflexError
from reflex.core.ids import DeliveryId
from reflex.core.statements import only_row, statement
from reflex.core.states import StoredState, load_state

__all__ = ["JournalUnavailable", "LeaseLost", "Step", "StepKind", "StepStore", "forget_steps", "journal_step",
           "park_intent", "recorded_steps", "withdraw_intent"]  # fmt: skip

T = TypeVar("T")

POOL_SIZE: Final = 4
# A step that was paid for is worth waiting for a restarting database; the run's slot is held meanwhile.
PATIENCE_S: Final = 30.0
# A frozen worker must not hold the locks of its tool's transaction for ever.
STANDSTILL: Final = "SET LOCAL idle_in_transaction_session_timeout = '60s'"


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
    INTENT = "intent"  # a tool call that must not be repeated was about to begin
    EFFECT = "effect"  # how it ended
    INBOX = "inbox"  # which events the run took of its lane
    BLOB = "blob"  # a large text that steps hold, by its digest
    FILTER = "filter"  # what a stateful filter has decided


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
    await fenced(conn, "journal_step", delivery_id, lease_epoch, step)


async def recorded_steps(conn: AsyncConnection[Any], delivery_id: DeliveryId) -> list[Step]:
    """The steps that earlier attempts at the delivery have completed, in their order."""
    cursor = await conn.execute(
        statement("recorded_steps"), {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id}
    )
    return [Step(StepKind(kind), *rest) for kind, *rest in await cursor.fetchall()]


async def forget_steps(conn: AsyncConnection[Any], deliveries: Iterable[tuple[int, UUID, bool]]) -> None:
    """Delete the journals of deliveries (trigger id, event id, whether it has ended), in the caller's transaction. What
    must not be done twice stays until its delivery has ended, and what nobody knows the end of even then."""
    trigger_ids, event_ids, over = zip(*deliveries, strict=True)
    await conn.execute(
        statement("forget_steps"), {"trigger_id": list(trigger_ids), "event_id": list(event_ids), "over": list(over)}
    )


async def withdraw_intent(conn: AsyncConnection[Any], delivery_id: DeliveryId, lease_epoch: int, step: Step) -> None:
    """Remove an intent: it was not carried out.

    Raises:
        LeaseLost: The lease is gone; nothing was changed.
    """
    await fenced(conn, "withdraw_intent", delivery_id, lease_epoch, step)


async def park_intent(conn: AsyncConnection[Any], delivery_id: DeliveryId, lease_epoch: int, step: Step) -> bool:
    """Write down why it is not known what came of an intent. False: somebody has said so just now; read again.

    Raises:
        LeaseLost: The lease is gone; nothing was changed.
    """
    return (await fenced(conn, "park_intent", delivery_id, lease_epoch, step))[0]


async def fenced(
    conn: AsyncConnection[Any], name: LiteralString, delivery_id: DeliveryId, lease_epoch: int, step: Step
) -> tuple[Any, ...]:
    cursor = await conn.execute(
        statement(name),
        {
            "trigger_id": delivery_id.trigger_id,
            "event_id": delivery_id.event_id,
            "lease_epoch": lease_epoch,
            **step._asdict(),
        },
    )
    row = await cursor.fetchone()
    if row is None:
        raise LeaseLost(f"delivery {delivery_id} was given to another worker while this one ran it")
    return row


class StepStore:
    """The journal over a few connections of its own: a step is kept at once, not when the claim loop next turns.

    Nothing is connected before the first step; a worker of plain functions never is.
    """

    def __init__(self, url: str, *, size: int = POOL_SIZE, patience_s: float = PATIENCE_S) -> None:
        self._url = url
        self._size = size
        self._patience_s = patience_s
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._transactions: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._opening = asyncio.Lock()
        self._log = structlog.get_logger()

    async def recorded(self, delivery_id: DeliveryId) -> list[Step]:
        """As `recorded_steps`.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        return await self.patiently(lambda conn: recorded_steps(conn, delivery_id))

    async def journal(self, delivery_id: DeliveryId, lease_epoch: int, *steps: Step) -> None:
        """As `journal_step`; several are written together or not at all.

        Raises:
            LeaseLost: The lease is gone; nothing was written.
            JournalUnavailable: The database was away for longer than our patience.
            psycopg.Error: PostgreSQL refuses the step itself.
        """

        async def write(conn: AsyncConnection[Any]) -> None:
            async with conn.transaction():
                for step in steps:
                    await journal_step(conn, delivery_id, lease_epoch, step)

        async def write_one(conn: AsyncConnection[Any]) -> None:
            await journal_step(conn, delivery_id, lease_epoch, *steps)

        # One is a transaction without saying so.
        await self.patiently(write_one if len(steps) == 1 else write)

    async def withdraw(self, delivery_id: DeliveryId, lease_epoch: int, step: Step) -> None:
        """As `withdraw_intent`; raises as `journal` does."""
        await self.patiently(lambda conn: withdraw_intent(conn, delivery_id, lease_epoch, step))

    async def park(self, delivery_id: DeliveryId, lease_epoch: int, step: Step) -> bool:
        """As `park_intent`; raises as `journal` does."""
        return await self.patiently(lambda conn: park_intent(conn, delivery_id, lease_epoch, step))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection[Any]]:
        """A transaction that the caller fills, over connections of its own: whoever holds one may journal meanwhile.

        Raises:
            JournalUnavailable: No connection could be had.
        """
        async with self._opening:
            if self._transactions is None:
                pool = open_pool(self._url, name="reflex transactions", size=self._size)
                await pool.open()
                self._transactions = pool
        pool = self._transactions
        lent = await self._lent(pool)
        try:
            async with lent.transaction():
                await lent.execute(STANDSTILL)
                yield lent
        finally:
            await pool.putconn(lent)

    async def remembered(self, delivery_id: DeliveryId, key_path: str) -> StoredState:
        """As `load_state`.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        return await self.patiently(lambda conn: load_state(conn, delivery_id, key_path))

    async def now(self) -> datetime:
        """The time in the database.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        return (await self.patiently(lambda conn: only_row(conn, "clock")))[0]

    async def aclose(self) -> None:
        """Close the connections. The store must not be used afterwards."""
        for pool in (self._pool, self._transactions):
            if pool is not None:
                await pool.close()

    async def _lent(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> AsyncConnection[Any]:
        """A connection that works. After a restart of PostgreSQL the pool's old ones do not, and are thrown away."""
        while True:
            try:
                lent = await pool.getconn(timeout=self._patience_s)
            except PoolTimeout as error:
                raise JournalUnavailable(
                    f"no connection to {describe(self._url)} for a transaction within {self._patience_s:g} s"
                ) from error
            try:
                await pool.check_connection(lent)
            except psycopg.OperationalError:
                await pool.putconn(lent)
            else:
                return lent

    async def patiently(self, action: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Do something on one of the connections, again while the database is away: it must bear being done twice.

        Raises:
            JournalUnavailable: The database was away for longer than our patience.
        """
        pool = await self._opened()
        deadline = time.monotonic() + self._patience_s
        wait_s = 0.05
        while True:
            try:
                conn = await pool.getconn()
                try:
                    return await action(conn)
                finally:
                    await pool.putconn(conn)  # which rolls back what is left open
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
                    # One until more are asked for at once: in turn, each would be cold.
                    pool = open_pool(self._url, name="reflex journal", size=self._size, least=1)
                    await pool.open()
                    self._pool = pool
        return self._pool
