"""What was shown and is not sent yet: bounded, the oldest texts first to go. Pure: no clock, no database."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from reflex.agent.progress import Entry, RunProgress

__all__ = ["ProgressBuffer"]

# In characters, with what an entry takes beside its texts.
MAX_SIZE: Final = 256 * 1024
ENTRY_SIZE: Final = 300


class ProgressBuffer:
    """Entries in the order in which they came. Each entry says how many of its run were dropped before it."""

    def __init__(self, max_size: int = MAX_SIZE) -> None:
        self.max_size = max_size
        self.size = 0
        self._entries: list[Entry] = []
        # The last one of each model request, which may grow: two agents of one run speak at once.
        self._last: dict[tuple[RunProgress, int | None], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Take an entry, or grow the last one of its model request by its text."""
        key = entry.run, entry.request
        last = self._last.get(key)
        if last is not None and last.takes(entry):
            last.text += entry.text
            self.size += len(entry.text)
            self._make_room()
            return
        entry.run.seq += 1
        entry.seq = entry.run.seq
        entry.dropped, entry.run.dropped = entry.run.dropped, 0
        self._entries.append(entry)
        self._last[key] = entry
        self.size += size_of(entry)
        self._make_room()

    def take(self) -> list[Entry]:
        """All of them, oldest first; the buffer is empty afterwards."""
        taken, self._entries, self._last, self.size = self._entries, [], {}, 0
        return taken

    def lost(self, entries: Iterable[Entry]) -> None:
        """Count entries that were taken and could not be sent, in the next one of their run."""
        missing: Counter[RunProgress] = Counter()
        for entry in entries:
            missing[entry.run] += 1 + entry.dropped
        for entry in self._entries:
            entry.dropped += missing.pop(entry.run, 0)
        carry_over(missing)

    def _make_room(self) -> None:
        if self.size <= self.max_size:
            return
        # A quarter at once: dropping one by one would walk through all of them for each.
        target = self.max_size * 3 // 4
        for texts_only in (True, False):
            if self.size > target:
                self._drop(target, texts_only=texts_only)

    def _drop(self, target: int, *, texts_only: bool) -> None:
        missing: Counter[RunProgress] = Counter()
        kept: list[Entry] = []
        for entry in self._entries:
            if self.size > target and (entry.is_text or not texts_only):
                self.size -= size_of(entry)
                missing[entry.run] += 1 + entry.dropped
                key = entry.run, entry.request
                if self._last.get(key) is entry:
                    del self._last[key]
            else:
                entry.dropped += missing.pop(entry.run, 0)
                kept.append(entry)
        self._entries = kept
        carry_over(missing)


def carry_over(missing: Counter[RunProgress]) -> None:
    """What no entry is left to tell waits in the run for its next one."""
    for run, count in missing.items():
        run.dropped += count


def size_of(entry: Entry) -> int:
    texts = (value for value in entry.fields.values() if isinstance(value, str))
    return ENTRY_SIZE + len(entry.text) + sum(map(len, texts))
