"""Circuits: a model whose provider fails is not asked for a while, by no worker. Known to all through the database.

closed ──failures in a row──► open ──its time is over──► one run tries ──it answers──► closed
                                ▲──────────it fails, twice as long──────────┘
"""

import time
from datetime import timedelta
from typing import Any, Final, NamedTuple

import structlog
from psycopg import AsyncConnection

from reflex.core.journal import StepStore
from reflex.core.statements import statement

__all__ = ["Blocked", "Circuits"]

THRESHOLD: Final = 5
# Failures further apart than this are not in a row.
MEMORY: Final = timedelta(minutes=2)
OPEN_FOR: Final = timedelta(seconds=15)
LONGEST: Final = timedelta(minutes=2)
# A run that tries and is killed must not keep the others away for ever; one that answers late only lets another try.
PROBE_FOR: Final = timedelta(seconds=60)
# How old what this process knows of a model may be: a statement for each request would be one too many.
FRESH_S: Final = 1.0


class Blocked(NamedTuple):
    """A model that must not be asked now."""

    duration: timedelta
    reason: str


class Circuits:
    """The circuits of the models that this process asks.

    Args:
        store: Whose connections are used.
        threshold: How many failures in a row open a circuit; 0 is never.
    """

    def __init__(self, store: StepStore, *, threshold: int = THRESHOLD) -> None:
        self._store = store
        self._threshold = threshold
        self._looked_at: dict[str, float] = {}
        self._troubled: set[str] = set()

    async def ask(self, model: str) -> Blocked | None:
        """None if the model may be asked.

        Raises:
            JournalUnavailable: The database was away for too long.
        """
        if not self._threshold or (
            model not in self._troubled and time.monotonic() - self._looked_at.get(model, -FRESH_S) < FRESH_S
        ):
            return None
        # At once, and not with the answer: of many requests at the same moment one looks.
        self._looked_at[model] = time.monotonic()
        parameters = {"model": model, "probe_for": PROBE_FOR}
        row = await self._store.patiently(lambda conn: row_of(conn, "ask_circuit", parameters))
        if row is None:
            self._troubled.discard(model)
            return None
        self._troubled.add(model)
        reason, blocked_for = row
        return None if blocked_for is None else Blocked(blocked_for, reason)

    async def failed(self, model: str, reason: str, *, retry_after: timedelta | None = None) -> Blocked | None:
        """Its provider failed. Returns for how long it is not asked from now on, if it is not.

        Args:
            reason: A sentence for people.
            retry_after: What the provider asked for.
        """
        if not self._threshold:
            return None
        self._troubled.add(model)
        row = await self._store.patiently(
            lambda conn: row_of(
                conn,
                "note_model_failure",
                {
                    "model": model, "reason": reason[:500], "threshold": self._threshold, "memory": MEMORY,
                    "open_for": OPEN_FOR, "longest": LONGEST, "retry_after": retry_after,
                },
            )
        )  # fmt: skip
        if row is None or row[0] is None:
            return None
        structlog.get_logger("reflex.agent").warning(
            "a model fails and is not asked for a while: its deliveries wait", model=model, reason=reason[:500],
            seconds=round(row[0].total_seconds(), 1),
        )  # fmt: skip
        return Blocked(row[0], reason)

    async def succeeded(self, model: str) -> None:
        """It answered. A statement only if it had failed before."""
        if model not in self._troubled:
            return
        self._troubled.discard(model)
        row = await self._store.patiently(lambda conn: row_of(conn, "note_model_success", {"model": model}))
        if row is not None:
            structlog.get_logger("reflex.agent").info("a model that had failed answers again", model=model)


async def row_of(conn: AsyncConnection[Any], name: str, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
    return await (await conn.execute(statement(name), parameters)).fetchone()
