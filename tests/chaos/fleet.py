"""What the chaos run torments: a PostgreSQL, gateways and workers as processes, each behind a faulty network."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.migrate import upgrade
from tests.faults import FaultProxy
from tests.processes import ReflexProcess, eventually, free_port

__all__ = ["LEASE_TIMEOUT_S", "Fleet", "Member", "running_fleet"]

LEASE_TIMEOUT_S = 2.0
CHURNING = Path(__file__).with_name("churning.py")
READY_S = 60.0
ENV = {
    "REFLEX_LEASE_TIMEOUT_S": str(LEASE_TIMEOUT_S),
    "REFLEX_POLL_INTERVAL_S": "0.5",
    "REFLEX_CONCURRENCY": "20",
    "REFLEX_DRAIN_GRACE_S": "1",
    "REFLEX_LOG_LEVEL": "warning",
}


@dataclass(slots=True, eq=False)
class Member:
    """A gateway or a worker: its way to the database, and one process after the other."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    proxy: FaultProxy
    url: str = ""
    process: ReflexProcess | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one torment at a time
    expected: bool = False  # whether its end is our doing
    starts: int = 0

    def start(self) -> None:
        self.expected = False
        self.starts += 1
        self.process = ReflexProcess(
            *self.arguments, folder=self.folder, env=ENV, name=self.name, database_url=self.proxy.url
        )

    @property
    def running(self) -> ReflexProcess:
        assert self.process
        return self.process

    async def kill(self) -> None:
        self.expected = True
        await self.running.kill()

    async def drain(self) -> int:
        """End it cleanly; its exit code."""
        self.expected = True
        self.running.terminate()
        return await self.running.exited(timeout_s=30)


@dataclass(slots=True)
class Fleet:
    """Everything that runs. `complaints` are the ends of processes that nobody asked for."""

    server: EmbeddedPostgres
    gateways: list[Member]
    workers: list[Member]
    complaints: list[str] = field(default_factory=list[str])
    server_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def members(self) -> list[Member]:
        return [*self.gateways, *self.workers]

    def crash_server(self, with_signal: signal.Signals) -> None:
        """End PostgreSQL without a shutdown; it recovers when it is started again."""
        os.kill(self.server.pid, with_signal)
        self.server.stop()

    async def watch(self) -> None:
        """Note, and start again, what ends by itself. Until cancelled."""
        while True:
            for member in self.members:
                if not member.running.is_running and not member.expected:
                    tail = "\n    ".join(member.running.log.splitlines()[-5:])
                    code = member.running.process.returncode
                    self.complaints.append(f"{member.name} ended by itself with {code}:\n    {tail}")
                    member.start()
            await asyncio.sleep(0.2)

    async def heal(self) -> None:
        """No more faults: everything thawed, reachable and running."""
        for member in self.members:
            await member.proxy.delay(0)
            await member.proxy.pass_through()
            async with member.turn:
                if member.running.is_running:
                    member.running.thaw()
                elif member.expected:
                    member.start()


@asynccontextmanager
async def running_fleet(folder: Path, *, gateways: int, workers: int) -> AsyncGenerator[Fleet]:
    """Start it all, and end it all by pid. The gateways listen; the app is registered."""
    shutil.copy(CHURNING, folder)
    async with AsyncExitStack() as stack:
        # Started here and not in a thread: it would die with the thread. The event loop waits meanwhile.
        server = EmbeddedPostgres(folder / "postgres", settings={"max_connections": "200"})
        stack.callback(server.stop)
        server.start()
        upgrade(server.url)
        fleet = Fleet(server, [], [])

        async def member(name: str, *arguments: str) -> Member:
            proxy = await stack.enter_async_context(FaultProxy(server.url))
            made = Member(name, arguments, folder, proxy)
            made.start()
            return made

        stack.push_async_callback(end, fleet)
        for number in range(workers):
            fleet.workers.append(await member(f"worker-{number}", "worker", "--app", CHURNING.stem))
        for number in range(gateways):
            port = free_port()
            fleet.gateways.append(await member(f"gateway-{number}", "gateway", "--port", str(port)))
            fleet.gateways[-1].url = f"http://127.0.0.1:{port}"
        await eventually(lambda: is_up(fleet), timeout_s=READY_S, what="the start of the fleet")
        yield fleet


async def is_up(fleet: Fleet) -> bool:
    from reflex.core.database import connect

    for member in fleet.gateways:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(member.url.rpartition(":")[2]))
        except OSError:
            return False
        writer.close()
    async with await connect(fleet.server.url, name="chaos") as conn:
        row = await (await conn.execute("SELECT count(*) FROM reflex.worker")).fetchone()
    return bool(row) and row[0] >= len(fleet.workers)


async def end(fleet: Fleet) -> None:
    for member in fleet.members:
        member.expected = True
        if member.running.is_running:
            member.running.thaw()
            await member.running.kill()
