"""Giving appends their position in the log, and remembering up to where there is nothing left to place.

What was placed stays in the index of `appended` until it is vacuumed, and while any transaction of the database is old,
a dump for instance, nothing is. A placer that began at the beginning each time would walk over all of it: 20 ms for
200,000 appends.
"""

import time
from typing import Any, Final

from psycopg import AsyncConnection

from reflex.core.statements import only_row

__all__ = ["APPENDS_A_TURN", "Placer", "place"]

APPENDS_A_TURN: Final = 1000
# A bound moves after so many appends, each time to where the log was at the time before: asking for locks is not free.
APPENDS_A_BOUND: Final = 1000
# How long a bound is believed: behind a pooler the server may be another one by now, which has lost the last numbers
# and gives them again.
BOUND_S: Final = 60.0


async def place(conn: AsyncConnection[Any], *, after: int = 0, limit: int = APPENDS_A_TURN) -> tuple[int, bool]:
    """Give appends that have none their position.

    Args:
        conn: Autocommit.
        after: The number of an append up to which nothing is left to place, nor will be.

    Returns:
        How many were placed (`limit`: call again), and whether it was our turn; nothing is placed while another one
        does it. What is appended meanwhile notifies: whoever places listens, and calls again.
    """
    placed, ours, _ = await only_row(conn, "place_appended", {"after": after, "limit": limit})
    return placed, ours


class Placer:
    """Places over one connection. Another connection needs another one: a bound must not outlive a fail-over.

    A bound is taken in three steps, whose order counts. The last number that was drawn is read; then who has an append
    open. Once all of those have ended, whatever drew a number up to that one has, and every later snapshot sees it. A
    turn that then finds less than it would have taken has left nothing up to it.
    """

    def __init__(self, *, appends_a_bound: int = APPENDS_A_BOUND) -> None:
        self.bound = 0
        self._appends_a_bound = appends_a_bound
        self._placed = 0
        self._next: tuple[int, frozenset[str]] | None = None
        self._since = time.monotonic()

    async def place(self, conn: AsyncConnection[Any], *, limit: int = APPENDS_A_TURN) -> int:
        """Give appends that have none their position. Returns how many; `limit`: call again.

        Args:
            conn: Autocommit; always the same one.
        """
        if time.monotonic() - self._since > BOUND_S:
            self.bound, self._next, self._since = 0, None, time.monotonic()
        bound = self.bound
        if self._placed >= self._appends_a_bound:
            self._placed = 0
            bound = await self._ended(conn)
        placed, ours = await place(conn, after=self.bound, limit=limit)
        self._placed += placed
        if ours and placed < limit:
            self.bound = bound
        return placed

    async def _ended(self, conn: AsyncConnection[Any]) -> int:
        """The last number of which is known that all up to it have been committed or given up."""
        (last,) = await only_row(conn, "last_append")
        (transactions,) = await only_row(conn, "open_appends")
        still_open = frozenset[str](transactions)
        ended = self.bound
        if self._next is not None:
            number, begun = self._next
            if begun & still_open:
                return ended
            ended = number
        self._next = last, still_open
        return ended
