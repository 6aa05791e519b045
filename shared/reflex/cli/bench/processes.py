"""The processes of a benchmark: started with a clean environment in a folder of their own, and always ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from reflex.core.errors import ReflexError
from reflex.core.lifeline import die_with_parent

__all__ = ["BenchmarkFailed", "Process", "free_port", "load", "started", "wait_until"]

# What a developer's shell may set and a measurement must not see.
OURS: Final = ("REFLEX_", "DATABASE_URL", "DEFAULT_MODEL", "OTEL_", "LOGFIRE_", "PG", "PYTHONDEVMODE")
READY_S: Final = 60.0
STOP_S: Final = 15.0
LOG_TAIL: Final = 1500


class BenchmarkFailed(ReflexError):
    """A benchmark could not be carried out; the others go on."""

    code = "benchmark_failed"


class Process:
    """One process in a group of its own. What it says goes to a file in `folder`."""

    def __init__(self, command: Sequence[str], *, folder: Path, name: str, env: Mapping[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        self.name = name
        self.log_file = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                # In the folder, so that no `.env` of the project is read.
                list(command), cwd=folder, env={**inherited, "REFLEX_LOG_FORMAT": "json", **env},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> Self:
        """Raises BenchmarkFailed, with the end of what it said, if it is gone."""
        if self._process.poll() is not None:
            raise BenchmarkFailed(f"{self.name} ended with {self._process.returncode}: {self.said()}")
        return self

    def said(self) -> str:
        """The end of its output."""
        return self.log_file.read_text(errors="replace").strip()[-LOG_TAIL:] or "(it said nothing)"

    def kill(self) -> None:
        """End it and its children at whatever instruction they are."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end; after a while make it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def started(command: Sequence[str], *, folder: Path, name: str, env: Mapping[str, str]) -> Generator[Process]:
    """A process for the length of a block."""
    process = Process(command, folder=folder, name=name, env=env)
    try:
        yield process
    finally:
        process.stop()


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = READY_S, every_s: float = 0.02) -> None:
    """Raises BenchmarkFailed if it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(every_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(
    port: int, body: Path, *, connections: int, seconds: float, content_type: str = "application/json", key: str = ""
) -> dict[str, Any]:
    """Let the load generator send one request over and over; what it counted.

    Raises:
        BenchmarkFailed: It failed, or an answer was not 2xx.
    """
    command = [sys.executable, "-m", "reflex.cli.bench.load", str(port), str(body), "--content-type", content_type]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += ["--key", key] if key else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + READY_S)  # noqa: S603
    if done.returncode:
        raise BenchmarkFailed(f"the load generator failed: {done.stderr.strip()[-LOG_TAIL:]}")
    counted: dict[str, Any] = json.loads(done.stdout)
    if counted["refused"]:
        raise BenchmarkFailed(f"{counted['refused']} of {counted['sent']} requests were refused")
    return counted
