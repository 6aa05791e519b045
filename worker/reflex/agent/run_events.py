"""The events that a run is about: `ctx.events`."""

from collections.abc import Iterable, Sequence
from typing import overload

from pydantic import ValidationError

from reflex.agent.event_summary import summarised
from reflex.core.events import BaseEvent, Event, EventRegistry, UntypedEvent

__all__ = ["RunEvents", "read_events"]


class RunEvents(Sequence[BaseEvent]):
    """The events of a batch in the order in which they were accepted; without `when=`, the one event."""

    def __init__(self, events: Iterable[BaseEvent]) -> None:
        self._events = tuple(events)

    @overload
    def __getitem__(self, index: int) -> BaseEvent: ...
    @overload
    def __getitem__(self, index: slice) -> "RunEvents": ...
    def __getitem__(self, index: int | slice) -> "BaseEvent | RunEvents":
        return RunEvents(self._events[index]) if isinstance(index, slice) else self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def of(self, type: str) -> "RunEvents":
        """Those of one type."""
        return RunEvents(event for event in self._events if event.type == type)

    def summary(self, *, max_chars: int = 4000) -> str:
        """What these events have in common, as text for a prompt: types and how many, from when to when, what is most
        frequent in their fields, and a few of them as they are. The same events give the same text.

        Args:
            max_chars: At most so many characters, at least 100.

        Raises:
            ValueError: It is less than that.
        """
        return summarised([event.meta for event in self._events if event.meta is not None], max_chars)

    def __repr__(self) -> str:
        return f"RunEvents({list(self._events)!r})"


def read_events(records: Sequence[Event]) -> RunEvents:
    """The records as their registered classes. One that its class refuses by now was gathered by other code, and is an
    `UntypedEvent`: the others do not fail of it."""
    return RunEvents(map(read, records))


def read(record: Event) -> BaseEvent:
    try:
        return EventRegistry.read(record)
    except ValidationError:
        return UntypedEvent.from_record(record)
