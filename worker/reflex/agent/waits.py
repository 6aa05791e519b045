"""The waits of one run: those that it is looking at, and those for which it has to end. Several may be under way."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

from reflex.agent.suspension import suspend
from reflex.core.waiting import Wait, WaitKind

__all__ = ["Waits", "together"]

SHOWN_REASONS: Final = 5


class Waits:
    """What a run waits for. `open` are the waits for which it has to end, so far."""

    def __init__(self) -> None:
        self.open: list[Wait] = []
        self._looking = 0
        self._looked: asyncio.Event | None = None

    @contextmanager
    def looking(self) -> Generator[None]:
        """Inside, a wait finds out whether what it waits for is there."""
        self._looking += 1
        try:
            yield
        finally:
            self._looking -= 1
            if not self._looking and self._looked is not None:
                self._looked.set()

    async def suspend(self, wait: Wait) -> NoReturn:
        """End the run for this wait, once all others that began to look have looked: the delivery is woken for any."""
        self.open.append(wait)
        while self._looking:
            self._looked = self._looked or asyncio.Event()
            self._looked.clear()
            await self._looked.wait()
        suspend(wait)


def together(wait: Wait, others: Sequence[Wait]) -> Wait:
    """All waits of a run as one, which is over when the first of them is."""
    waits = [wait, *(other for other in others if other is not wait)]
    if len(waits) == 1:
        return wait
    reasons = dict.fromkeys(each.reason for each in waits)
    awaited = tuple(one for each in waits for one in each.awaited)
    shortest = min(waits, key=lambda each: each.at_most)
    return Wait(
        WaitKind.EVENT if awaited else shortest.kind,
        "; or ".join(list(reasons)[:SHOWN_REASONS]) + ("; or more" if len(reasons) > SHOWN_REASONS else ""),
        shortest.at_most,
        awaited,
        asks=tuple(dict.fromkeys(ask for each in waits for ask in each.asks)),
        awaits=tuple(dict.fromkeys(approval_id for each in waits for approval_id in each.awaits)),
    )
