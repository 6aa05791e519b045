"""One running system under test: publish to it, and read what became of it in the database and on the disk."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from reflex.core.log import append
from reflex.core.reads import get_event
from reflex.core.rows import DeliveryRow, EventDetail
from tests.agent.stub_provider import Answer, StubProvider, stub_provider
from tests.processes import ReflexProcess, eventually, worker
from tests.queue_fixtures import is_quiet, new_event

__all__ = ["ACTING", "APP", "Pair", "Shop", "Started"]

ACTING = Path(__file__).with_name("acting.py")
APP = ACTING.stem


class Started(NamedTuple):
    """One run, as the agent itself noted it when it began."""

    event_id: UUID
    pid: int
    attempt: int


class Pair(NamedTuple):
    """Two workers of which one has the delivery."""

    first: ReflexProcess
    second: ReflexProcess

    def who(self, run: Started) -> tuple[ReflexProcess, ReflexProcess]:
        """The one that runs it, and the other."""
        assert run.pid in (self.first.pid, self.second.pid)
        return (self.first, self.second) if run.pid == self.first.pid else (self.second, self.first)


@dataclass(slots=True)
class Shop:
    """A database and a folder with the app `acting`; the processes come and go."""

    database_url: str
    folder: Path
    conn: AsyncConnection[Any]

    def worker(
        self, *, processes: int = 1, url: str | None = None, **env: object
    ) -> AbstractAsyncContextManager[ReflexProcess]:
        """A worker of the app. `env` without the prefix REFLEX_; `url` if it goes through a proxy."""
        return worker(
            url or self.database_url, self.folder, app=APP, processes=processes, env=settings(env),
            registry_url=self.database_url,
        )  # fmt: skip

    @asynccontextmanager
    async def asking(self, app: Path, *script: Answer, **env: str) -> AsyncGenerator[tuple[StubProvider, Any]]:
        """A provider that answers with the script, and what starts a worker of the app that asks it."""
        shutil.copy(app, self.folder)
        async with stub_provider(*script) as provider:
            asks = {
                "DEFAULT_MODEL": "openai-chat:stub",
                "OPENAI_BASE_URL": provider.base_url,
                "OPENAI_API_KEY": "sk-stub-1234567890",
                "REFLEX_LEASE_TIMEOUT_S": "1",
                **env,
            }

            def start() -> AbstractAsyncContextManager[ReflexProcess]:
                return worker(self.database_url, self.folder, app=app.stem, env=asks)

            yield provider, start

    def lines(self, name: str) -> list[str]:
        """What agents or tools have noted in a file of the folder."""
        try:
            return (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    @asynccontextmanager
    async def two_workers(self, **env: object) -> AsyncGenerator["Pair"]:
        """Two workers of the app, started and ended at the same time."""
        async with AsyncExitStack() as running:
            contexts = [self.worker(**env), self.worker(**env)]  # pyright: ignore[reportArgumentType]
            found = await asyncio.gather(*map(running.enter_async_context, contexts))
            try:
                yield Pair(*found)
            finally:
                await asyncio.gather(*(process.close() for process in found))

    async def publish(self, *payloads: Mapping[str, Any], type: str = "order.created") -> list[UUID]:
        """Append events as a gateway would."""
        events = [new_event(type, orjson.dumps(payload).decode()) for payload in payloads]
        await append(self.conn, events)
        return [event.event_id for event in events]

    def started(self, event_id: UUID | None = None) -> list[Started]:
        """The runs so far, in the order in which they began."""
        lines = map(str.split, self.lines("runs.txt"))
        runs = [Started(UUID(id), int(pid), int(attempt)) for id, pid, attempt in lines]
        return [run for run in runs if event_id in (None, run.event_id)]

    async def has_started(self, event_id: UUID, *, times: int = 1, timeout_s: float = 20) -> Started:
        """Wait until its agent runs; the latest run."""
        what = f"run {times} of {event_id}"
        await eventually(lambda: len(self.started(event_id)) >= times, timeout_s=timeout_s, what=what)
        return self.started(event_id)[-1]

    async def event(self, event_id: UUID) -> EventDetail:
        return await get_event(self.conn, event_id)

    async def delivery(self, event_id: UUID) -> DeliveryRow:
        """The one delivery of the event."""
        (delivery,) = (await self.event(event_id)).deliveries
        return delivery

    async def becomes(self, state: str, event_id: UUID, *, timeout_s: float = 20) -> DeliveryRow:
        """Wait until the event's one delivery is in that state."""

        async def look() -> DeliveryRow | None:
            delivery = await self.delivery(event_id)
            return delivery if delivery.state == state else None

        found = await eventually(look, timeout_s=timeout_s, what=f"{state!r} of the delivery of {event_id}")
        assert found
        return found

    async def outcomes(self, event_id: UUID) -> list[tuple[int, str]]:
        """Attempt and outcome of each recorded run of the event's one delivery."""
        return [(run.attempt, run.outcome) for run in (await self.delivery(event_id)).runs]

    async def count(self, query: str, *values: object) -> int:
        """The one number that a query gives; `FROM` and what follows is enough."""
        cursor = await self.conn.execute(f"SELECT count(*) {query}", values)  # pyright: ignore[reportArgumentType]
        row = await cursor.fetchone()
        assert row
        return int(row[0])

    async def is_quiet(self, *, timeout_s: float = 30) -> None:
        """Wait until nothing is pending, scheduled or running."""
        await eventually(lambda: is_quiet(self.conn), timeout_s=timeout_s, what="a quiet queue")


def settings(env: Mapping[str, object]) -> dict[str, str]:
    return {f"REFLEX_{name.upper()}": str(value) for name, value in env.items()}
