"""One run's view of what its trigger remembers of a key: read before it begins, written with its success.

load ──► ctx.state, ctx.memory ──run──► change (None if there is none) ──► the settlement
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from reflex.agent.memory import Memory, RunMemory
from reflex.agent.state import KeylessEvent, State, StateError, look_at_remembered
from reflex.core.states import StateChange, StoredState

if TYPE_CHECKING:
    from reflex.agent.publishing import RunLimits
    from reflex.agent.triggers import Trigger
    from reflex.core.ids import DeliveryId
    from reflex.core.journal import StepStore

__all__ = ["Before", "Remembered", "StateRecord", "recall"]


@dataclass(frozen=True)
class StateRecord:
    """What a tool call had to do with what is remembered: part of its record in the journal.

    It is of use only to a run that begins with the same `version`: what the tool has seen is gone otherwise. `number`
    counts the changes of a run: of two tools that changed a field at once, the later one has the last word again.
    """

    version: int
    number: int
    fields: Mapping[str, Any]
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Before:
    """What was there when a tool began."""

    fields: Mapping[str, Any]
    cleared: int


class Remembered:
    """What the run remembers, and what it has changed.

    Args:
        trigger: The name, for errors.
        stored: As it was loaded.

    Raises:
        StateUnreadable: The stored state is not for this code.
    """

    def __init__(
        self, trigger: str, stored: StoredState, *, state: State[Any] | None = None, memory: Memory | None = None
    ) -> None:
        self._trigger = trigger
        self._stored = stored
        self._declared = state
        self._memory = RunMemory(trigger, memory, stored) if memory is not None else None
        self._state: BaseModel | None = None
        self._begun: str | None = None
        if state is not None and stored.key is not None:
            began = state.model() if stored.data is None else state.read(stored.data, stored.schema_version or 1)
            # An author who changes nothing writes nothing, not even the same in the form of a newer version.
            self._state, self._begun = began, state.write(began)
        self._number = 0
        self._numbers: dict[str, int] = {}

    @property
    def state(self) -> Any:
        """Raises StateError if the trigger declares none, or the event has no key."""
        look_at_remembered()
        return self._checked()[1]

    @state.setter
    def state(self, new: Any) -> None:
        look_at_remembered()
        declared, _ = self._checked()
        if not isinstance(new, declared.model):
            raise TypeError(f"trigger {self._trigger!r}: ctx.state is set to {new!r}, which is no {declared.name}")
        self._state = new

    @property
    def memory(self) -> RunMemory:
        """Raises StateError if the trigger declares none."""
        look_at_remembered()
        if self._memory is None:
            raise StateError(f"trigger {self._trigger!r} has no memory; declare it: Trigger(…, memory=Memory())")
        return self._memory

    def change(self, limits: "RunLimits") -> StateChange | None:
        """What the run has changed; None if nothing.

        Raises:
            StateError: It cannot be kept: it is no JSON, too large, or the next run could not read it.
        """
        stored, data, schema_version = self._stored, None, None
        if self._declared is not None and self._state is not None and self._declared.write(self._state) != self._begun:
            data, schema_version = self._declared.checked(self._state), self._declared.version
            check_size("state", data, limits.max_state_bytes, "REFLEX_MAX_STATE_BYTES", "keep less of it")
        messages, usage = None, None
        if self._memory is not None and self._memory.changed:
            messages, usage = self._memory.write()
            check_size(
                "memory", messages, limits.max_memory_bytes, "REFLEX_MAX_MEMORY_BYTES", "give its Memory a lower limit"
            )
        if stored.key is None or (data is None and messages is None):
            return None
        return StateChange(self._trigger, stored.key, stored.version, schema_version, data, messages, usage)

    def before_tool(self) -> Before:
        fields = self._declared.fields(self._state) if self._declared is not None and self._state is not None else {}
        return Before(fields, self._memory.cleared if self._memory is not None else 0)

    def after_tool(self, before: Before, *, asked: bool) -> StateRecord | None:
        """For the record of a tool call that has ended; None if it has nothing to do with what is remembered.

        Args:
            asked: Whether the tool has looked at the state or the memory.
        """
        now = self.before_tool()
        fields = {name: value for name, value in now.fields.items() if before.fields.get(name, ...) != value}
        cleared = now.cleared > before.cleared
        if not (asked or fields or cleared):
            return None
        self._number += 1
        self._numbers.update(dict.fromkeys(fields, self._number))
        return StateRecord(self._stored.version, self._number, fields, cleared)

    def repeat(self, record: StateRecord) -> bool:
        """Change again what a recorded tool call has changed. False: it began with something that somebody else has
        changed since, and must be made anew."""
        if record.version != self._stored.version:
            return False
        fields = {name: each for name, each in record.fields.items() if self._numbers.get(name, 0) < record.number}
        if fields:
            self._set(fields)
            self._numbers.update(dict.fromkeys(fields, record.number))
        if record.cleared:
            self.memory.clear()
        self._number = max(self._number, record.number)
        return True

    def _set(self, fields: Mapping[str, Any]) -> None:
        """In the object that the author's code may hold already."""
        declared, state = self._checked()
        new = declared.read(json.dumps({**declared.fields(state), **fields}), declared.version)
        try:
            for name in fields:
                setattr(state, name, getattr(new, name))
        except (ValidationError, AttributeError, TypeError):
            self._state = new  # a frozen one

    def _checked(self) -> tuple[State[Any], BaseModel]:
        if self._declared is None:
            raise StateError(f"trigger {self._trigger!r} has no state; declare it: Trigger(…, state=YourModel)")
        if self._state is None:
            raise KeylessEvent(f"trigger {self._trigger!r} keeps its state by key, and this event has none")
        return self._declared, self._state


async def recall(trigger: "Trigger", delivery_id: "DeliveryId", store: "StepStore") -> Remembered:
    """What the trigger remembers of the key of the delivery's event.

    Raises:
        StateUnreadable: The stored state is not for this code.
        JournalUnavailable: The database was away for too long.
    """
    stored = await store.remembered(delivery_id, trigger.remembers_by)
    return Remembered(trigger.name, stored, state=trigger.state, memory=trigger.memory)


def check_size(what: str, text: str, limit: int, variable: str, advice: str) -> None:
    if (size := len(text.encode())) > limit:
        raise StateError(f"the {what} has {size} bytes of JSON; the limit is {limit} ({variable}): {advice}")
