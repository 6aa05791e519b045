"""What waits to be sent to one client: bounded, so that a slow one costs its own connection and nobody else's."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from reflex.core.cursors import Cursor

__all__ = ["SENT_AT_ONCE_CHARS", "SLOW", "Outbox", "OutboxClosed", "Waiting", "portions"]

SLOW: Final = "slow"
# What is handed to the connection at once. It is kept there until the client has taken it, and counts as sent together.
SENT_AT_ONCE_CHARS: Final = 64 * 1024


class Reader(Protocol):
    """Whom a frame is for: it notes how far its client has come."""

    sent: Cursor | None


# A frame; and, if it is an event, whose, and the cursor that is its client's once it was handed to the connection.
Waiting = tuple[str, Reader | None, Cursor | None]


def portions(waiting: Sequence[Waiting]) -> Iterator[Sequence[Waiting]]:
    """The frames in the same order, in pieces that are not larger than one that is sent at once, or than one frame."""
    first = chars = 0
    for index, (frame, _, _) in enumerate(waiting):
        if chars + len(frame) > SENT_AT_ONCE_CHARS and index > first:
            yield waiting[first:index]
            first, chars = index, 0
        chars += len(frame)
    if waiting:
        yield waiting[first:]


class OutboxClosed(Exception):
    """Nothing more will come. `reason` says why: `slow`, or what the closer said."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Outbox:
    """Frames for one connection, in order.

    Live events are offered and never wait: if there is no room, the outbox closes as `slow` and drops what it holds,
    since a client that is that far behind resumes from its cursor instead. Whatever can wait (answers, old events that
    are read from the database) is put, and waits for room.

    Args:
        max_frames, max_chars: How much may wait. One frame always has room in an empty outbox. What can wait leaves
            half of it to what cannot: old events of one subscription do not make the client slow for the others.
        on_close: Called once, when it closes.
    """

    def __init__(self, *, max_frames: int, max_chars: int, on_close: Callable[[], None] | None = None) -> None:
        self._max_frames = max_frames
        self._max_chars = max_chars
        self._waiting: deque[Waiting] = deque()
        self._chars = 0
        self._changed: set[asyncio.Future[None]] = set()
        self._on_close = on_close
        self.closed: str | None = None

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def has_room(self, chars: int, *, frames: int = 1) -> bool:
        """Whether so much can be offered."""
        count = len(self._waiting) + frames
        return count <= 1 or (count <= self._max_frames and self._chars + chars <= self._max_chars)

    def _has_half(self, chars: int) -> bool:
        count = len(self._waiting) + 1
        return count <= 1 or (count <= self._max_frames // 2 and self._chars + chars <= self._max_chars // 2)

    def offer(self, frame: str, reader: Reader | None = None, cursor: Cursor | None = None) -> None:
        """Send it after what waits already, or close as slow."""
        if self.closed is not None:
            return
        if not self.has_room(len(frame)):
            self.close(SLOW)
            return
        self._waiting.append((frame, reader, cursor))
        self._chars += len(frame)
        if self._changed:
            self._wake()

    def offer_if_spare(self, frame: str) -> None:
        """Send it if there is plenty of room: what may be lost makes no client slow."""
        if self._has_half(len(frame)):
            self.offer(frame)

    async def put(self, frame: str, reader: Reader | None = None, cursor: Cursor | None = None) -> None:
        """Send it after what waits already; wait for room.

        Raises:
            OutboxClosed: The connection ends.
        """
        while self.closed is None and not self._has_half(len(frame)):
            await self._change()
        if self.closed is not None:
            raise OutboxClosed(self.closed)
        self.offer(frame, reader, cursor)

    async def take(self, *, within_s: float | None = None) -> Sequence[Waiting]:
        """All that waits, at least one; nothing only if nothing came for `within_s`.

        Raises:
            OutboxClosed: There is nothing, and nothing more will come.
        """
        try:
            async with asyncio.timeout(within_s):
                while not self._waiting:
                    if self.closed is not None:
                        raise OutboxClosed(self.closed)
                    await self._change()
        except TimeoutError:
            pass  # and yet something may have come at that very moment
        taken = list(self._waiting)
        self._waiting.clear()
        self._chars = 0
        self._wake()
        return taken

    def close(self, reason: str) -> None:
        """Take nothing more. What waits is still sent, unless the client is slow."""
        if self.closed is not None:
            return
        self.closed = reason
        if reason == SLOW:
            self._waiting.clear()
        self._wake()
        if self._on_close is not None:
            self._on_close()

    async def _change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._changed.add(future)
        try:
            await future
        finally:
            self._changed.discard(future)

    def _wake(self) -> None:
        for future in self._changed:
            if not future.done():
                future.set_result(None)
