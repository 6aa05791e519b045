"""The ledger of a delivery's effects: which calls of tools that must not be repeated were begun, and how they ended.

Such a call has an address of its own, tool, arguments and number: a conversation that is begun anew, because the model
misbehaved or its prompt changed, comes to an equal call by another way, and must find what was done.

Knows nothing of pydantic-ai: `once` puts it around a tool call.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from reflex.agent.arguments import SORTED, jsonable, lasting
from reflex.agent.journal import StepKey, tool_calls
from reflex.core.journal import LeaseLost, Step, StepKind

if TYPE_CHECKING:
    from reflex.agent.journal import Journal

__all__ = ["Call", "Entry", "address_of", "begin", "enter", "give_back", "key_of", "note_end", "number_for", "park",
           "release", "withdraw"]  # fmt: skip

# How what `step_of` writes begins, and no other step.
WRITTEN: Final = '{"tool": '


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. `fingerprint` is that of the call in its conversation; the address holds in any other, too."""

    tool: str
    arguments: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A call in the ledger: `intent` was written by an earlier attempt, or `record` or `verdict` says how it ended.

    `record` is JSON text of the worker's, `verdict` what a person says the tool would have returned. `since` is when
    the call was first found to be unknown, in ISO 8601.
    """

    call: Call
    address: bytes
    occurrence: int
    position: int
    key: str
    intent: bool = False
    since: str | None = None
    record: str | None = None
    verdict: tuple[Any] | None = None

    @property
    def step_key(self) -> StepKey:
        return self.address.hex(), self.occurrence


def address_of(tool: str, arguments: dict[str, Any]) -> bytes:
    return hashlib.sha256(SORTED(["effect", tool, lasting(arguments)]).encode()).digest()


def numbered(journal: "Journal", address: bytes, occurrence: int) -> int:
    """Take a number for one of several equal calls of this attempt."""
    key = address.hex(), occurrence
    journal.taken.add(key)
    for call in tool_calls.get():
        call.steps.append(key)
    return occurrence


def next_number(journal: "Journal", address: bytes, besides: Collection[int] = ()) -> int:
    occurrence = 0
    while occurrence in besides or (address.hex(), occurrence) in journal.taken:
        occurrence += 1
    return occurrence


def key_of(journal: "Journal", address: bytes, occurrence: int) -> str:
    """The idempotency key of a call: the same in every attempt at the delivery, and another one for any other call."""
    return hashlib.sha256(f"{journal.delivery_id} {address.hex()} {occurrence}".encode()).hexdigest()[:40]


def number_for(journal: "Journal", address: bytes) -> int:
    """The number of the next call at the address. To be asked for every call, those that are replayed, too: they
    count."""
    return numbered(journal, address, next_number(journal, address))


def give_back(journal: "Journal", address: bytes, occurrence: int) -> None:
    """The call failed: an equal one in this attempt is the same one again, as it would be in the next attempt."""
    journal.taken.discard((address.hex(), occurrence))


async def enter(journal: "Journal", call: Call) -> Entry:
    """The entry of a call that is due: the one that was made for this very call, else the first of an equal one that
    was begun or done in another conversation and not asked for in this attempt, else a new one.

    Raises:
        LeaseLost, JournalUnavailable: As for `Journal.look_up`.
    """
    recorded = await journal.recorded()
    address = address_of(call.tool, call.arguments)
    # No await from here on: of two equal calls at once each gets its own entry.
    free = sorted(
        (step for key, step in recorded.items() if key not in journal.taken and step.result.startswith(WRITTEN)),
        key=lambda step: step.occurrence,
    )
    # This very call at whatever address: its arguments may hold what was made up when they were validated.
    entries = [entry_of(journal, call, step) for step in free if call.fingerprint in step.result]
    mine = [entry for entry in entries if entry.call.fingerprint == call.fingerprint]
    # That a call was not carried out is told to the conversation which it was told to, and to no other.
    others = [step for step in free if step.fingerprint == address and step.kind is not StepKind.TOOL_CALL]
    found = next(iter([*mine, *(entry_of(journal, call, step) for step in others)]), None)
    if found is None:
        occurrences = {step.occurrence for (at, _), step in recorded.items() if at == address.hex()}
        occurrence = next_number(journal, address, besides=occurrences)
        found = Entry(call, address, occurrence, journal.next_position(), key_of(journal, address, occurrence))
    numbered(journal, found.address, found.occurrence)
    journal.covers([found.step_key])
    return replace(found, call=call)


def entry_of(journal: "Journal", call: Call, step: Step) -> Entry:
    document: dict[str, Any] = json.loads(step.result)
    verdict: Any = document.get("verdict")
    return Entry(
        replace(call, fingerprint=document["call"]),
        step.fingerprint,
        step.occurrence,
        step.position,
        document["key"],
        intent=step.kind is StepKind.INTENT,
        since=document.get("since"),
        record=document.get("record"),
        verdict=None if verdict is None else (verdict["value"],),
    )


async def begin(journal: "Journal", entry: Entry) -> None:
    """Write that the call is about to be made.

    Raises:
        LeaseLost, JournalUnavailable: It must not be made.
    """
    await journal.write(step_of(entry, StepKind.INTENT))


async def note_end(journal: "Journal", entry: Entry, record: str, *, done: bool) -> None:
    """Write how the call ended. One that was not carried out is a step like others, and as easily forgotten."""
    kind = StepKind.EFFECT if done else StepKind.TOOL_CALL
    await journal.write(step_of(replace(entry, record=record), kind))


async def withdraw(journal: "Journal", entry: Entry) -> None:
    """The call was not carried out: another one may be, in its place."""
    with journal.broken_by(LeaseLost):
        await journal.store.withdraw(journal.delivery_id, journal.lease_epoch, step_of(entry, StepKind.INTENT))
    journal.taken.discard(entry.step_key)


async def park(journal: "Journal", entry: Entry, why: str) -> Entry:
    """Write down why it is not known how the call ended. The entry as it is then: somebody may have said it."""
    since = entry.since or (await journal.now()).isoformat()
    parked = replace(entry, since=since, intent=True)
    step = step_of(parked, StepKind.INTENT, why=why)
    with journal.broken_by(LeaseLost):
        if await journal.store.park(journal.delivery_id, journal.lease_epoch, step):
            return parked
    found = (await journal.read_again()).get(entry.step_key)
    if found is None:
        return replace(entry, intent=False)
    return entry_of(journal, entry.call, found)


def release(journal: "Journal", entry: Entry) -> None:
    """The call was cut off in this attempt. Should an equal one come in it, it finds this entry as an earlier one."""
    journal.remember(step_of(entry, StepKind.INTENT))
    journal.taken.discard(entry.step_key)


def step_of(entry: Entry, kind: StepKind, *, why: str | None = None) -> Step:
    document: dict[str, Any] = {
        "tool": entry.call.tool,
        "arguments": jsonable(entry.call.arguments),
        "key": entry.key,
        "call": entry.call.fingerprint,
    }
    said = {"since": entry.since, "why": why, "record": entry.record}
    document |= {name: value for name, value in said.items() if value is not None}
    return Step(kind, entry.address, entry.occurrence, entry.position, json.dumps(document))
