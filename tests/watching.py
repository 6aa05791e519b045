"""Somebody who watches: listens on the channel of progress as a gateway does, and keeps what comes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.progress import PROGRESS_CHANNEL, Progress, ask_for_progress, decode
from tests.processes import eventually

__all__ = ["Watcher", "kinds", "said", "watcher"]


class Watcher:
    """What was heard so far, in order."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self.conn = conn
        self.heard: list[Progress] = []
        self.payloads: list[str] = []

    async def listen(self) -> None:
        async for notification in self.conn.notifies():
            self.payloads.append(notification.payload)
            self.heard.extend(decode(notification.payload))

    def of_attempt(self, attempt: int) -> list[Progress]:
        return [each for each in self.heard if each.attempt == attempt]

    async def hears(self, condition: Callable[[], object], *, timeout_s: float = 20) -> None:
        try:
            await eventually(condition, timeout_s=timeout_s)
        except AssertionError:
            raise AssertionError(f"not heard; {self.heard}") from None

    async def hears_the_end(self, *, times: int = 1) -> None:
        await self.hears(lambda: kinds(self.heard).count("run_ended") >= times)


def kinds(heard: list[Progress]) -> list[str]:
    return [each.kind for each in heard]


def said(heard: list[Progress], kind: str = "text") -> str:
    return "".join(each.text for each in heard if each.kind == kind)


@asynccontextmanager
async def watcher(url: str, *, announced: bool = False) -> AsyncGenerator[Watcher]:
    """Listens. `announced`: the workers of the database are told so, and go on until they hear nothing for long."""
    async with await connect(url, name="watcher") as conn, await connect(url, name="announcer") as announcer:
        await conn.execute(f"LISTEN {PROGRESS_CHANNEL}".encode())
        if announced:
            await ask_for_progress(announcer)
        watcher = Watcher(conn)
        listening = asyncio.create_task(watcher.listen())
        try:
            yield watcher
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
