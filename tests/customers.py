"""Clients of the gateways: they post without pause, each event under a key of its own, and again until it is taken."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx2

__all__ = ["Customers"]

PATIENCE_S = 15.0  # for one answer: the gateway gives up on a commit after ten
AGAIN_S = 0.1


class Customers:
    """Use as `async with`: inside they post, at the end each gets its last event accepted.

    Args:
        urls: The gateways; each attempt goes to the next one.
        order: The event of a number, without its `id`.
        persistent: Whether what was not accepted is sent again. If not, a customer goes on with the next event.
        patience_s: How long one waits for an answer.
        repeat_every: Each so many accepted events one is sent once more, and must get the id that it has.
    """

    def __init__(
        self,
        urls: Sequence[str],
        order: Callable[[int], Mapping[str, Any]],
        *,
        customers: int = 4,
        pause_s: float = 0.01,
        persistent: bool = True,
        repeat_every: int | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.accepted: dict[str, UUID] = {}
        self.answers: Counter[int] = Counter()  # by status
        self.unanswered = 0
        self.repeated = 0
        self.wrong: list[str] = []  # what no gateway may answer
        self._urls = urls
        self._order = order
        self._pause_s = pause_s
        self._persistent = persistent
        self._repeat_every = repeat_every
        self._patience_s = patience_s
        self._numbers = count()
        self._turns = count()
        self._open = True
        self._customers = customers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._client = httpx2.AsyncClient(timeout=self._patience_s)
        self._tasks = [asyncio.create_task(self._shop()) for _ in range(self._customers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def close(self, *, timeout_s: float = 60) -> None:
        """No new events; wait until those under way are accepted."""
        self._open = False
        done, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in done:
            task.result()
        assert not late, f"{len(late)} customers still wait for a gateway to take their event after {timeout_s} s"

    async def _shop(self) -> None:
        while self._open:
            number = next(self._numbers)
            event = {**self._order(number), "id": f"order-{number}"}
            while not await self._send(event) and self._persistent:  # noqa: ASYNC110 - it asks a server
                await asyncio.sleep(AGAIN_S)
            if self._repeat_every and number % self._repeat_every == 0:
                self.repeated += 1
                await self._send(event)
            await asyncio.sleep(self._pause_s)

    async def _send(self, event: Mapping[str, Any]) -> bool:
        """Whether it was accepted."""
        url = self._urls[next(self._turns) % len(self._urls)]
        try:
            answer = await self._client.post(f"{url}/events", json=event)
        except httpx2.TransportError:
            self.unanswered += 1
            return False
        self.answers[answer.status_code] += 1
        if answer.status_code == 202:
            id = UUID(answer.json()["id"])
            if self.accepted.setdefault(event["id"], id) != id:
                self.wrong.append(f"{event['id']} is {self.accepted[event['id']]} and, sent again, {id}")
            return True
        if answer.status_code != 503 or "retry-after" not in answer.headers:
            self.wrong.append(f"{event['id']} got {answer.status_code}: {answer.text[:300]}")
        return False
