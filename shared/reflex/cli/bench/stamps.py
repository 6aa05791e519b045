"""When each run started: a file mapped into memory, which costs a run about a microsecond. Standard library only.

The file is an array of eight-byte floats, seconds of the monotonic clock, which all processes of a machine share.
Element 0 counts the rest. A peer's script writes the same file.
"""

import mmap
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["Stamps", "count_stamps", "read_stamps"]

# The file is sparse: what is never stamped takes no space.
CAPACITY: Final = 2**20
SIZE: Final = (CAPACITY + 1) * 8
FLOAT: Final = struct.Struct("<d")


class Stamps:
    """The stamps of one process."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(SIZE)
            # Not struct.pack_into(), which writes zeros first: whoever reads meanwhile would find that there is none.
            self._floats = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("d")
        self._count = 0

    def mark(self, place: int | None = None) -> None:
        """Now, at the next place or at a given one (from 0)."""
        at = self._count + 1 if place is None else place + 1
        if at <= CAPACITY:
            self._floats[at] = time.monotonic()
            self._count = max(self._count, at)
            self._floats[0] = self._count


def count_stamps(paths: Iterable[Path]) -> int:
    """How many stamps there are. Cheap: it is polled while a measurement runs."""
    total = 0
    for path in paths:
        with path.open("rb") as file:
            header = file.read(8)
        total += int(FLOAT.unpack(header)[0]) if len(header) == 8 else 0
    return total


def read_stamps(path: Path) -> list[float]:
    """The stamps of one process by their places; 0.0 where there is none."""
    with path.open("rb") as file:
        data = file.read(8)
        count = int(FLOAT.unpack(data)[0]) if len(data) == 8 else 0
        data = file.read(count * 8)
    return list(struct.unpack(f"<{len(data) // 8}d", data[: len(data) // 8 * 8]))
