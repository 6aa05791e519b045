"""Real `reflex` processes for tests: started with a clean environment, watched, and always ended."""

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import httpx2
import psycopg

from reflex.core.lifeline import die_with_parent

__all__ = ["SELDOM_LOOKS", "ReflexProcess", "eventually", "free_port", "gateway", "reflex_process", "sessions",
           "worker"]  # fmt: skip

READY_TIMEOUT_S = 30.0  # two cores, several suites at once
STOP_TIMEOUT_S = 10.0
# What a developer's shell may set and a test must not see.
OURS = ("PYTEST_", "REFLEX_", "DATABASE_URL", "DEFAULT_MODEL", "OTEL_", "LOGFIRE_", "PG")

# At the top of an app: its worker is told of what there is to do, or does not learn of it in time.
SELDOM_LOOKS = """
import reflex.worker.maintenance
reflex.worker.maintenance.LOOK_S = 3600
"""

T = TypeVar("T")


async def eventually(
    condition: Callable[[], T | Awaitable[T]], *, timeout_s: float = 20, what: str = "the condition"
) -> T:
    """Poll until `condition` gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        value = cast(T, await found if inspect.isawaitable(found) else found)
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s; last: {value!r}"
        await asyncio.sleep(0.02)


async def sessions(database_url: str, application_name: str, last_statement: str) -> int:
    """How many idle sessions of that name the database has whose last statement was like that."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        found = await conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' "
            "AND application_name = %s AND query LIKE %s",
            (application_name, last_statement),
        )
        row = await found.fetchone()
        assert row
        return row[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ReflexProcess:
    """One `reflex` command in a process group of its own. Its output goes to `log_file`."""

    program: tuple[str, ...] = (sys.executable, "-m", "reflex.cli.main")

    def __init__(
        self, *arguments: str, folder: Path, env: Mapping[str, str], name: str, database_url: str | None = None
    ) -> None:
        self.arguments = arguments
        self.log_file = folder / f"{name}.log"
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(OURS) and not key.endswith("_API_KEY")
        }
        # The folder is where a test writes its app.
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self.env = {**inherited, "REFLEX_LOG_FORMAT": "json", **env}
        if database_url:
            self.env["DATABASE_URL"] = database_url
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, *arguments],
                cwd=folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=die_with_parent(signal.SIGKILL),
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def send(self, sent: signal.Signals) -> None:
        self.process.send_signal(sent)

    def terminate(self) -> None:
        """Ask it to stop cleanly."""
        self.send(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it as a debugger or a paused virtual machine would; it knows nothing of the gap."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """End it at whatever instruction it is, and what it started with it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.exited()

    async def exited(self, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for its end without holding up the event loop; its exit code."""
        await eventually(lambda: not self.is_running, timeout_s=timeout_s, what=f"the end of {self}")
        return self.process.wait()

    async def says(self, text: str, *, times: int = 1, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for `text` in its output."""
        await self._until(
            lambda: self.log.count(text) >= times, timeout_s=timeout_s, what=f"{text!r} {times}x in the output"
        )

    async def is_ready(self, condition: Callable[[], Awaitable[bool]]) -> None:
        await self._until(condition, timeout_s=READY_TIMEOUT_S, what="readiness")

    async def close(self) -> None:
        """End it in any case: cleanly if it can."""
        if self.is_running:
            self.thaw()
            self.terminate()
            with suppress(AssertionError):
                await self.exited()
        await self.kill()

    def __repr__(self) -> str:
        return f"reflex {' '.join(self.arguments)} (pid {self.pid})"

    async def _until(self, condition: Callable[[], bool | Awaitable[bool]], *, timeout_s: float, what: str) -> None:
        async def met() -> bool:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return True
            tail = "\n".join(self.log.splitlines()[-20:])
            assert self.is_running, f"{self} ended with {self.process.returncode} before {what}:\n{tail}"
            return False

        try:
            await eventually(met, timeout_s=timeout_s, what=f"{what} of {self}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- output ---\n{self.log[-4000:]}") from None


@asynccontextmanager
async def reflex_process(
    *arguments: str,
    folder: Path,
    env: Mapping[str, str] | None = None,
    name: str | None = None,
    database_url: str | None = None,
) -> AsyncGenerator[ReflexProcess]:
    """Any `reflex` command; not waited for."""
    name = name or f"{arguments[0]}-{time.monotonic_ns()}"
    process = ReflexProcess(*arguments, folder=folder, env=env or {}, name=name, database_url=database_url)
    try:
        yield process
    finally:
        await process.close()


class GatewayProcess(ReflexProcess):
    """A gateway; `url` is where it listens."""

    url: str


@asynccontextmanager
async def gateway(
    database_url: str, folder: Path, *, port: int | None = None, env: Mapping[str, str] | None = None
) -> AsyncGenerator[GatewayProcess]:
    """A `reflex gateway` that answers GET /health."""
    port = port or free_port()
    process = GatewayProcess(
        "gateway", "--port", str(port),
        folder=folder, env=env or {}, name=f"gateway-{port}", database_url=database_url,
    )  # fmt: skip
    process.url = f"http://127.0.0.1:{port}"
    async with httpx2.AsyncClient() as client:

        async def healthy() -> bool:
            with suppress(httpx2.TransportError):
                return (await client.get(f"{process.url}/health", timeout=2)).is_success
            return False

        try:
            await process.is_ready(healthy)
            yield process
        finally:
            await process.close()


@asynccontextmanager
async def worker(
    database_url: str,
    folder: Path,
    *,
    app: str,
    arguments: tuple[str, ...] = (),
    processes: int = 1,
    env: Mapping[str, str] | None = None,
    registry_url: str | None = None,
) -> AsyncGenerator[ReflexProcess]:
    """A `reflex worker` that has entered itself among the workers, with each of its processes.

    Args:
        app: A module below `folder`.
        registry_url: Where to look for its entry, if `database_url` goes through a proxy that a test may close.
    """
    process = ReflexProcess(
        "worker", "--app", app, "--processes", str(processes), *arguments,
        folder=folder, env=env or {}, name=f"worker-{time.monotonic_ns()}", database_url=database_url,
    )  # fmt: skip

    async def enlisted() -> bool:
        url = registry_url or database_url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            found = await conn.execute("SELECT pid FROM reflex.worker")
            pids = {pid for (pid,) in await found.fetchall()}
            return len([pid for pid in pids if process.pid in (pid, _parent_of(pid))]) >= processes

    try:
        await process.is_ready(enlisted)
        yield process
    finally:
        await process.close()


def _parent_of(pid: int) -> int | None:
    """None if there is no such process any more."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(status.partition("PPid:")[2].split()[0])
