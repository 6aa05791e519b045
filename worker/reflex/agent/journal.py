"""One run's view of the journal: which of its steps an earlier attempt has completed, and the writing of new ones.

Knows nothing of pydantic-ai: `journaling` puts it around an agent's model and tools.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.agent.step_limit import MAX_STEP_BYTES, StepTooLarge, check_size
from reflex.agent.step_texts import blobs_in, cut, whole
from reflex.agent.waits import Waits
from reflex.core.errors import ReflexError
from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.journal import LeaseLost, Step, StepKind, StepStore

__all__ = ["Journal", "Lookup", "Spent", "StepKey", "ToolCall", "current_call", "inside_tool", "note_published",
           "note_remembered", "tool_call"]  # fmt: skip

T = TypeVar("T")
# Fingerprint in hexadecimal, occurrence.
StepKey = tuple[str, int]
# Of those that a run has left unused, these tell that it took another way.
REPLAYED: Final = frozenset({StepKind.MODEL_REQUEST, StepKind.TOOL_CALL, StepKind.WAIT})
# Those that are recorded when they are completed; others are looked at and written again.
PAID: Final = frozenset({StepKind.MODEL_REQUEST, StepKind.TOOL_CALL})

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.agent")


@dataclass(frozen=True, slots=True)
class Lookup:
    """A step that is due: `recorded` is its result as JSON text, or None if nobody has completed it yet. `of` says for
    people whose it is."""

    kind: StepKind
    fingerprint: bytes
    occurrence: int
    recorded: str | None
    of: str = "a step"


@dataclass(frozen=True, slots=True)
class Spent:
    """What an agent that a tool runs has used up. `is_shared`: it counts where the run does that made the call."""

    usage: Any
    is_shared: bool


@dataclass(slots=True)
class ToolCall:
    """A tool at work: what it publishes, the steps of agents that it runs, and whether it has looked at what its
    trigger remembers. Its replay must bring back the first, and will not come to the second. `key` is its idempotency
    key, `connection` that of a transactional one. One that is not `repeatable` must not look at what is remembered.
    `enqueued` is what it adds to the conversation, `spent` what agents that it runs have used up, `run_usage` where the
    run that made the call counts its own, `reservation` what was set aside for it before it began."""

    published: list[NewEvent] = field(default_factory=list[NewEvent])
    steps: list[StepKey] = field(default_factory=list[StepKey])
    key: str | None = None
    connection: AsyncConnection[Any] | None = None
    repeatable: bool = True
    remembered: bool = False
    enqueued: list[Any] = field(default_factory=list[Any])
    spent: list[Spent] = field(default_factory=list[Spent])
    run_usage: Any = None
    reservation: Any = None


# Those around the code that runs now, outermost first: a tool may run an agent, whose tools publish.
tool_calls: ContextVar[tuple[ToolCall, ...]] = ContextVar("reflex_tool_calls", default=())

# What the agent's run around the code that runs now is writing.
run_writes: ContextVar[set[asyncio.Task[None]] | None] = ContextVar("reflex_run_writes", default=None)


@contextmanager
def tool_call(
    key: str | None = None, connection: AsyncConnection[Any] | None = None, *, repeatable: bool = True
) -> Generator[ToolCall]:
    """What happens inside belongs to a tool call. Tools that run at once each have an asyncio task of their own."""
    call = ToolCall(key=key, connection=connection, repeatable=repeatable)
    token = tool_calls.set((*tool_calls.get(), call))
    try:
        yield call
    finally:
        tool_calls.reset(token)


def current_call() -> ToolCall | None:
    """The innermost tool call around the code that runs now."""
    calls = tool_calls.get()
    return calls[-1] if calls else None


def note_published(event: NewEvent) -> None:
    """The run has published an event."""
    for call in tool_calls.get():
        call.published.append(event)


def note_remembered() -> bool:
    """The run is about to look at the state or the memory of its key. False if it must not: around it is a tool that is
    not carried out again when what is remembered has changed meanwhile."""
    calls = tool_calls.get()
    for call in calls:
        call.remembered = True
    return all(call.repeatable for call in calls)


def inside_tool() -> bool:
    """Whether a tool is at work around the caller."""
    return bool(tool_calls.get())


class Journal:
    """The journal of one delivery, for one run.

    Attributes:
        used: Whether the run has looked at it at all.
        replayed: Counts of what was not paid for again, by the names that the run's usage shows.
        replayed_usages: Usages of what was not paid for again. pydantic-ai puts a price on them later.
        taken: Which numbers equal tool calls of this attempt have got, by the address of the ledger, and which steps
            belong to tool calls that were replayed as a whole: an equal step that is due is another one.
        inside: What stands between the journal and what costs, by `around_model` and `around_toolset`. A test counts
            there what is really done.
        waits: What the run waits for.
        max_step_bytes: Of the JSON of a step.
    """

    inside: Sequence[Any] = ()
    max_step_bytes: int = MAX_STEP_BYTES

    def __init__(self, store: StepStore, delivery_id: DeliveryId, lease_epoch: int) -> None:
        self.used = False
        self.replayed: dict[str, int] = {}
        self.replayed_usages: list[Any] = []
        self.waits = Waits()
        self.store = store
        self.delivery_id = delivery_id
        self.lease_epoch = lease_epoch
        self._recorded: dict[StepKey, Step] | None = None
        self._blobs: set[bytes] = set()
        self._loading: asyncio.Lock | None = None  # most runs take no step
        self._left: set[StepKey] = set()
        self._asked: dict[bytes, int] = {}
        self._ahead: dict[str, set[int]] = {}  # the numbers of what was paid for and not come to so far
        self._writing: list[asyncio.Task[None]] = []
        self.taken: set[StepKey] = set()
        self._position = -1
        self._paid_requests = 0
        self._broken: ReflexError | None = None

    async def look_up(self, kind: StepKind, fingerprint: bytes, of: str = "a step") -> Lookup:
        """The step that is due now, with its result if it was completed before. Those before it are written by then.

        Raises:
            LeaseLost: An earlier step could not be written. The run must pay for nothing more.
            JournalUnavailable: The database was away for too long.
        """
        recorded = await self.recorded()
        # No await from here on: of two equal steps at once each gets its own number.
        name = fingerprint.hex()
        if ahead := self._ahead.get(name):
            # The next one that was paid for, even if the attempt that did had come to others before, which failed.
            occurrence = min(ahead)
            ahead.remove(occurrence)
        else:
            occurrence = self._asked.get(fingerprint, 0)
            # Those of a tool call that was replayed as a whole are its own.
            while (name, occurrence) in self.taken or (kind in PAID and (name, occurrence) in recorded):
                occurrence += 1
            self._asked[fingerprint] = occurrence + 1
        key = name, occurrence
        for call in tool_calls.get():
            call.steps.append(key)
        found = recorded.get(key)
        self._left.discard(key)
        if found is None and kind is StepKind.MODEL_REQUEST:
            self._paid_requests += 1
        return Lookup(kind, fingerprint, occurrence, found.result if found is not None else None, of)

    async def record(self, step: Lookup, result: str) -> None:
        """Write the result of a step that was completed just now.

        One that PostgreSQL refuses is not worth the run: it will be paid for again should the run be.

        Raises:
            StepTooLarge: It is larger than the journal keeps.
            LeaseLost: Another worker has the delivery. The run must stop.
            JournalUnavailable: The database was away for too long.
        """
        self.begin_to_record(step, result)
        await self.written()

    def begin_to_record(self, step: Lookup, result: str) -> None:
        """As `record`, without waiting: the next step waits, before it begins what costs or acts. Until then the agent
        may do what costs nothing, such as to put its next request together.

        Raises:
            StepTooLarge: It is larger than the journal keeps.
        """
        if len(result) * 4 > self.max_step_bytes:  # most are so short that they need not be encoded to know
            with self.broken_by(StepTooLarge):
                check_size(result, self.max_step_bytes, what=step.of)
        writing = asyncio.create_task(self._record(step, result, self.next_position()))
        # Whoever waits for it gets its error as well; nobody does after a run that was cancelled.
        writing.add_done_callback(lambda over: over.cancelled() or over.exception())
        self._writing.append(writing)
        if (mine := run_writes.get()) is not None:
            mine.add(writing)
            writing.add_done_callback(mine.discard)

    async def written(self) -> None:
        """Wait until what was begun is written; raises as `record` does."""
        if writing := [*self._writing]:  # parallel calls add to it meanwhile
            for each in writing:
                if not each.done():
                    await ended(each)
            self._writing = [each for each in self._writing if each not in writing]
            for each in writing:
                if not each.cancelled():  # with the run that it was of
                    each.result()

    @asynccontextmanager
    async def around_run(self) -> AsyncGenerator[None]:
        """Around the run of an agent: its steps are written when it is over, also when it has failed, since they were
        paid for. What a run that is cancelled is just writing is cancelled with it; what others write is not."""
        mine, outside = set[asyncio.Task[None]](), run_writes.get()
        run_writes.set(mine)
        try:
            yield
        except asyncio.CancelledError:
            for each in [*mine]:
                each.cancel()
            raise
        except BaseException:
            if self._writing:
                await asyncio.wait(self._writing)
            raise
        finally:
            run_writes.set(outside)
        await self.written()

    async def _record(self, step: Lookup, result: str, position: int) -> None:
        result, texts = cut(result)
        new = sorted(texts.keys() - self._blobs)
        blobs = [Step(StepKind.BLOB, digest, 0, position, f'"{texts[digest]}"') for digest in new]
        try:
            await self.write(*blobs, Step(step.kind, step.fingerprint, step.occurrence, position, result))
        except psycopg.Error as error:
            log.warning("PostgreSQL refuses a step: a retry would pay for it again",
                              step=step.kind, error=str(error).splitlines()[0])  # fmt: skip
        else:
            self._blobs.update(new)

    async def write(self, *steps: Step) -> None:
        """Write steps, as they are, all or none.

        Raises:
            LeaseLost: Another worker has the delivery. The run must stop.
            JournalUnavailable: The database was away for too long.
            psycopg.Error: PostgreSQL refuses it.
        """
        try:
            await self.store.journal(self.delivery_id, self.lease_epoch, *steps)
        except LeaseLost as error:
            self._broken = error
            raise

    def next_position(self) -> int:
        """The number of the next step that is written. Some of before may be gone: no number is given twice."""
        self._position += 1
        return self._position

    @contextmanager
    def broken_by(self, *errors: type[ReflexError]) -> Generator[None]:
        """Such an error is raised again where the next step is due: it must not be begun, whoever swallows this."""
        try:
            yield
        except errors as error:
            self._broken = error
            raise

    async def recorded(self) -> Mapping[StepKey, Step]:
        """What earlier attempts have recorded. This one's steps so far are written by then.

        Raises:
            LeaseLost: As for `look_up`.
            JournalUnavailable: The database was away for too long.
        """
        if self._writing:
            await self.written()
        if self._broken is not None:
            raise self._broken
        return await self._load() if self._recorded is None else self._recorded

    async def read_again(self) -> Mapping[StepKey, Step]:
        """As `recorded`, with what somebody else has changed since."""
        return keyed(await self.store.recorded(self.delivery_id))

    def remember(self, step: Step) -> None:
        """From now on the step counts as one of an earlier attempt."""
        assert self._recorded is not None
        self._recorded[(step.fingerprint.hex(), step.occurrence)] = step

    def count(self, **replayed: int) -> None:
        """So much more was not paid for again."""
        for name, number in replayed.items():
            self.replayed[name] = self.replayed.get(name, 0) + number

    async def now(self) -> datetime:
        """The time in the database."""
        return await self.store.now()

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """As `StepStore.patiently`."""
        return await self.store.patiently(question)

    def covers(self, keys: Sequence[StepKey]) -> None:
        """These steps belong to a tool call that was replayed as a whole, and so to those around it."""
        self._left.difference_update(keys)
        self.taken.update(keys)
        for name, occurrence in keys:
            self._ahead.get(name, set()).discard(occurrence)
        for call in tool_calls.get():
            call.steps.extend(keys)

    @property
    def unused(self) -> list[Step]:
        """What earlier attempts have recorded and this one has not come to so far."""
        return [step for key, step in (self._recorded or {}).items() if key in self._left]

    def report(self) -> None:
        """At the end of the run: say so if it took another way than the steps recorded before it, and paid for it."""
        left = self.unused
        if left and self._paid_requests:
            log.warning(
                "the run diverged from its journal and asked the model anew: its code, prompt, tools, settings or "
                "state changed, or its prompt holds what differs each time, such as the time of day",
                position=min(step.position for step in left), recorded=len(self._recorded or ()), unused=len(left),
            )  # fmt: skip

    async def _load(self) -> dict[StepKey, Step]:
        self.used = True
        self._loading = self._loading or asyncio.Lock()
        async with self._loading:
            if self._recorded is None:
                # The first lease of a delivery has nothing before it: most runs never read.
                steps = await self.store.recorded(self.delivery_id) if self.lease_epoch > 1 else []
                self._blobs = {step.fingerprint for step in steps if step.kind is StepKind.BLOB}
                self._recorded = keyed(put_together(steps) if self._blobs else steps)
                for (name, occurrence), step in self._recorded.items():
                    if step.kind in PAID:
                        self._ahead.setdefault(name, set()).add(occurrence)
                self._left = {key for key, step in self._recorded.items() if step.kind in REPLAYED}
                self._position = max((step.position for step in steps), default=-1)
        return self._recorded


async def ended(writing: asyncio.Task[None]) -> None:
    """Wait for the end of it, whatever that is. Who is cancelled meanwhile does not cancel it."""
    await asyncio.wait({writing})


def put_together(steps: Sequence[Step]) -> list[Step]:
    """The steps with the large texts in their places."""
    texts = blobs_in(steps)
    return [step._replace(result=whole(step.result, texts)) for step in steps if step.kind is not StepKind.BLOB]


def keyed(steps: Sequence[Step]) -> dict[StepKey, Step]:
    return {(step.fingerprint.hex(), step.occurrence): step for step in steps}
