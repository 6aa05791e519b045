"""One run's view of the journal: which of its steps an earlier attempt has completed, and the writing of new ones.

Knows nothing of pydantic-ai: `journaling` puts it around an agent's model and tools.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.agent.waits import Waits
from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.journal import LeaseLost, Step, StepKind, StepStore

__all__ = ["Journal", "Lookup", "StepKey", "ToolCall", "note_published", "tool_call"]

# Fingerprint in hexadecimal, occurrence.
StepKey = tuple[str, int]
T = TypeVar("T")
MAX_STEP_BYTES: Final = 16 * 1024 * 1024

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.agent")


@dataclass(frozen=True, slots=True)
class Lookup:
    """A step that is due: `recorded` is its result as JSON text, or None if nobody has completed it yet."""

    kind: StepKind
    fingerprint: bytes
    occurrence: int
    recorded: str | None


@dataclass(slots=True)
class ToolCall:
    """A tool at work: what it publishes, and the steps of agents that it runs. Its replay must bring back the first,
    and will not come to the second."""

    published: list[NewEvent] = field(default_factory=list[NewEvent])
    steps: list[StepKey] = field(default_factory=list[StepKey])


# Those around the code that runs now, outermost first: a tool may run an agent, whose tools publish.
tool_calls: ContextVar[tuple[ToolCall, ...]] = ContextVar("reflex_tool_calls", default=())


@contextmanager
def tool_call() -> Generator[ToolCall]:
    """What happens inside belongs to a tool call. Tools that run at once each have an asyncio task of their own."""
    call = ToolCall()
    token = tool_calls.set((*tool_calls.get(), call))
    try:
        yield call
    finally:
        tool_calls.reset(token)


def note_published(event: NewEvent) -> None:
    """The run has published an event."""
    for call in tool_calls.get():
        call.published.append(event)


class Journal:
    """The journal of one delivery, for one run.

    Attributes:
        used: Whether the run has looked at it at all.
        replayed: Counts of what was not paid for again, by the names that the run's usage shows.
        waits: What the run waits for.
    """

    def __init__(self, store: StepStore, delivery_id: DeliveryId, lease_epoch: int) -> None:
        self.used = False
        self.replayed: dict[str, int] = {}
        self.waits = Waits()
        self._store = store
        self._delivery_id = delivery_id
        self._lease_epoch = lease_epoch
        self._recorded: dict[StepKey, Step] | None = None
        self._loading: asyncio.Lock | None = None  # most runs take no step
        self._left: set[StepKey] = set()
        self._asked: dict[bytes, int] = {}
        self._written = 0
        self._paid_requests = 0
        self._lost: LeaseLost | None = None

    async def look_up(self, kind: StepKind, fingerprint: bytes) -> Lookup:
        """The step that is due now, with its result if it was completed before.

        Raises:
            LeaseLost: An earlier step could not be written. The run must pay for nothing more.
            JournalUnavailable: The database was away for too long.
        """
        if self._lost is not None:
            raise self._lost
        recorded = await self._load()
        # No await from here on: of two equal steps at once each gets its own number.
        occurrence = self._asked.get(fingerprint, 0)
        self._asked[fingerprint] = occurrence + 1
        key = fingerprint.hex(), occurrence
        for call in tool_calls.get():
            call.steps.append(key)
        found = recorded.get(key)
        self._left.discard(key)
        if found is None and kind is StepKind.MODEL_REQUEST:
            self._paid_requests += 1
        return Lookup(kind, fingerprint, occurrence, found.result if found is not None else None)

    async def record(self, step: Lookup, result: str) -> None:
        """Write the result of a step that was completed just now.

        A result that cannot be kept is not worth the run: it will be paid for again should the run be.

        Raises:
            LeaseLost: Another worker has the delivery. The run must stop.
            JournalUnavailable: The database was away for too long.
        """
        if len(result) > MAX_STEP_BYTES:
            log.warning("a step is too large for the journal: a retry would pay for it again",
                              step=step.kind, bytes=len(result), limit=MAX_STEP_BYTES)  # fmt: skip
            return
        position = len(self._recorded or ()) + self._written
        self._written += 1
        try:
            await self._store.journal(
                self._delivery_id,
                self._lease_epoch,
                Step(step.kind, step.fingerprint, step.occurrence, position, result),
            )
        except LeaseLost as error:
            self._lost = error
            raise
        except psycopg.Error as error:
            log.warning("PostgreSQL refuses a step: a retry would pay for it again",
                              step=step.kind, error=str(error).splitlines()[0])  # fmt: skip

    def count(self, **replayed: int) -> None:
        """So much more was not paid for again."""
        for name, number in replayed.items():
            self.replayed[name] = self.replayed.get(name, 0) + number

    async def now(self) -> datetime:
        """The time in the database."""
        return await self._store.now()

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Ask the database, as `StepStore.ask`."""
        return await self._store.ask(question)

    def covers(self, keys: Sequence[StepKey]) -> None:
        """These steps belong to a tool call that was replayed as a whole."""
        self._left.difference_update(keys)

    def report(self) -> None:
        """At the end of the run: say so if it took another way than the steps recorded before it, and paid for it."""
        left = [step for key, step in (self._recorded or {}).items() if key in self._left]
        if left and self._paid_requests:
            log.warning(
                "the run diverged from its journal and asked the model anew: its code, prompt, tools or settings "
                "changed, or its prompt holds what differs each time, such as the time of day",
                position=min(step.position for step in left), recorded=len(self._recorded or ()), unused=len(left),
            )  # fmt: skip

    async def _load(self) -> dict[StepKey, Step]:
        self.used = True
        if self._recorded is None:
            self._loading = self._loading or asyncio.Lock()
            async with self._loading:
                if self._recorded is None:
                    # The first lease of a delivery has nothing before it: most runs never read.
                    steps = await self._store.recorded(self._delivery_id) if self._lease_epoch > 1 else []
                    self._recorded = {(step.fingerprint.hex(), step.occurrence): step for step in steps}
                    self._left = set(self._recorded)
        return self._recorded
