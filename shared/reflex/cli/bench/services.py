"""The system under measurement: real gateway and worker processes, waited for until they do their work."""

import http.client
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from psycopg import sql

from reflex.cli.bench.agents import STAMPS_FOLDER
from reflex.cli.bench.databases import connected, one
from reflex.cli.bench.processes import BenchmarkFailed, Process, free_port, started, wait_until
from reflex.cli.bench.sample import APP

__all__ = ["REFLEX", "Poster", "Service", "gateway", "reference", "worker"]

REFLEX: Final = (sys.executable, "-m", "reflex.cli.main")
ANSWER_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Service:
    """A process that listens on a port of this machine."""

    process: Process
    port: int


class Poster:
    """A client on one keep-alive connection, for requests whose time counts one by one."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)

    def post(self, body: bytes) -> bytes:
        """Publish one event; the answer.

        Raises:
            BenchmarkFailed: It was not accepted.
        """
        self._connection.request("POST", "/events", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status != http.client.ACCEPTED:
            raise BenchmarkFailed(f"POST /events was answered with {answer.status}: {said[:500]!r}")
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def gateway(folder: Path, url: str, *, env: Mapping[str, str] | None = None) -> AbstractContextManager[Service]:
    """`reflex gateway` with its defaults, but for what `env` says."""
    return listening(folder, url, "gateway", [*REFLEX, "gateway", "--port"], env=env)


def reference(folder: Path, kind: str, url: str) -> AbstractContextManager[Service]:
    """A server of `reference_server`; `kind` is `validate`, `no-op` or `broadcast`."""
    return listening(folder, url, kind, [sys.executable, "-m", "reflex.cli.bench.reference_server", kind])


@contextmanager
def listening(
    folder: Path, url: str, name: str, command: list[str], *, env: Mapping[str, str] | None = None
) -> Generator[Service]:
    """A server, from the moment on when it answers; its port is the last word of its command."""
    port = free_port()
    env = {**(env or {}), "DATABASE_URL": url}
    with started([*command, str(port)], folder=folder, name=name, env=env) as process:
        wait_until(lambda: bool(process.check()) and answers(port), what=f"an answer of the {name} server")
        yield Service(process, port)


@contextmanager
def worker(folder: Path, url: str, *, stamps: Path, app: str = APP) -> Generator[Process]:
    """`reflex worker` with its defaults, from the moment on when it is enlisted."""
    with connected(url) as conn:
        count = sql.SQL("SELECT count(*) FROM reflex.worker")
        before = one(conn, count)
        env = {"DATABASE_URL": url, STAMPS_FOLDER: str(stamps)}
        with started([*REFLEX, "worker", "--app", app], folder=folder, name="worker", env=env) as process:
            wait_until(lambda: one(conn, count) > before and bool(process.check()), what="an enlisted worker")
            yield process


def answers(port: int) -> bool:
    """Whether something there takes requests by now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
