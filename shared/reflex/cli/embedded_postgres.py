"""A PostgreSQL server of our own for development and tests: made, started and stopped by one process.

It works as root and as an ordinary user, listens on the loopback address only, asks for a password that
nobody else on the machine can read, and dies with the process that started it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from reflex.cli.postgres_account import (
    ServerAccount,
    environment,
    identity,
    reachable,
    server_account,
)
from reflex.cli.postgres_binaries import binaries_for
from reflex.cli.postgres_cluster import PostgresNotStarted, cluster_url, make_cluster
from reflex.cli.postmaster import forget_crashed_server, read_pid_file, running_server
from reflex.core.lifeline import die_with_parent

__all__ = ["EmbeddedPostgres", "PostgresNotStarted", "running_url"]

# Commits still reach the operating system, so killing the server loses nothing; only a power cut would.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
START_TIMEOUT_S = 60.0  # recovery after a crash takes its time
STOP_SIGNALS = ((signal.SIGINT, 30), (signal.SIGQUIT, 5), (signal.SIGKILL, 5))
TAKES_CONNECTIONS = ("ready", "standby")  # the second one if the folder is that of a standby
LOG_LIMIT_BYTES = 10 * 1024 * 1024
ADVICE = "Set REFLEX_DATA_DIR to another folder, or DATABASE_URL to a server that runs already."


def running_url(data_dir: Path) -> str | None:
    """The address of the server that runs on `data_dir`, for a second terminal; None if there is none."""
    try:
        server = running_server(data_dir)
        return cluster_url(data_dir, server.port) if server and server.status == "ready" else None
    except OSError:  # the folder is someone else's
        return None


class EmbeddedPostgres:
    """One server on one data folder, which outlives it: the next start finds the data again.

    Args:
        data_dir: Made on the first start. The log is `postgres.log` beside it.
        port: None for a free one, kept over later starts of this object if it still is free.
        durable: False trades the safety of the data against a power cut for speed; for tests.
        settings: Further settings of the server, as in postgresql.conf.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir.parent / "postgres.log"
        self.settings = {**({} if durable else NOT_DURABLE), **(settings or {})}
        self._durable = durable
        self._wanted_port = port
        self._port = port
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the database `postgres`, with its password: not for logs."""
        if self._port is None:
            raise RuntimeError("the server has no port before its first start")
        return cluster_url(self.data_dir, self._port)

    @property
    def pid(self) -> int:
        if self._server is None:
            raise RuntimeError("the server does not run")
        return self._server.pid

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def start(self) -> Self:
        """Return when it takes connections.

        Raises:
            PostgresNotStarted: Another server holds the folder, or this one failed; with its last log lines.
            ConfigurationError: The programs or an account to run them are missing.
        """
        if threading.current_thread() is not threading.main_thread():
            # The kernel's parent-death signal follows the thread: the server would die with the thread pool.
            raise RuntimeError("start the embedded PostgreSQL from the main thread")
        try:
            account = server_account(self.data_dir)
            binaries = binaries_for(account)
            self._refuse_second_server()
            make_cluster(self.data_dir, binaries, account, durable=self._durable)
            self._start(binaries, account)
        except OSError as error:
            reason = f"cannot keep PostgreSQL's data in {self.data_dir}: {error.strerror or error}."
            raise PostgresNotStarted(f"{reason} {ADVICE}") from error
        except BaseException:  # Ctrl-C during the start
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Shut down: open transactions are rolled back, committed data is written."""
        if self._server is None:
            return
        for stop_signal, patience_s in STOP_SIGNALS:
            if self._server.poll() is None:
                self._server.send_signal(stop_signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(patience_s)
        self._server = None

    def abort(self) -> None:
        """Shut down without writing: the next start recovers what was committed from the log."""
        if self._server:
            self._server.send_signal(signal.SIGQUIT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _refuse_second_server(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while server := running_server(self.data_dir):
            # "stopping": the process that started it was killed a moment ago. It is leaving; let it.
            if server.status != "stopping" or time.monotonic() > deadline:
                raise PostgresNotStarted(
                    f"a PostgreSQL server (pid {server.pid}) runs on {self.data_dir} already: another "
                    f"`reflex dev`? Stop that one, or end the server with `kill -INT {server.pid}`. {ADVICE}"
                )
            time.sleep(0.02)
        forget_crashed_server(self.data_dir)

    def _start(self, binaries: Path, account: ServerAccount | None) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self._port = self._port or _free_port()
            self.log_file.touch(mode=0o600)  # it quotes statements
            with self.log_file.open("ab") as log:
                if log.tell() > LOG_LIMIT_BYTES:
                    log.truncate(0)
                before = log.seek(0, os.SEEK_END)
                if self._runs(binaries, account, log, deadline):
                    return
            self.stop()
            self._refuse_second_server()
            said = self._log_lines(before)
            taken = any("could not bind" in line for line in said)
            # After a SIGKILL of the server its connections take a moment to notice.
            haunted = any("pre-existing shared memory block" in line for line in said)
            if time.monotonic() > deadline or not (haunted or (taken and self._wanted_port is None)):
                tail = "\n".join(f"    {line}" for line in said[-8:]) or "    (it wrote nothing)"
                raise PostgresNotStarted(f"PostgreSQL did not start. The end of {self.log_file}:\n{tail}")
            if taken:
                self._port = None
            time.sleep(0.05)

    def _runs(self, binaries: Path, account: ServerAccount | None, log: BinaryIO, deadline: float) -> bool:
        """Start the server; False if it exits or is not ready in time."""
        crashed = read_pid_file(self.data_dir)
        options = ["-p", str(self._port), "-h", "127.0.0.1", "-k", ""]
        for name, value in self.settings.items():
            options += ["-c", f"{name}={value}"]
        with reachable(self.data_dir, account) as (path, inherited):
            self._server = subprocess.Popen(  # noqa: S603 - our own words
                [str(binaries / "postgres"), "-D", path, *options], cwd="/", pass_fds=inherited, env=environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must not reach it before its clients
                preexec_fn=die_with_parent(signal.SIGINT), **identity(account),
            )  # fmt: skip
        while self._server.poll() is None and time.monotonic() < deadline:
            found = read_pid_file(self.data_dir)
            # The file that a crash left says "ready" as well.
            if found and found != crashed and found.pid == self._server.pid and found.status in TAKES_CONNECTIONS:
                return True
            time.sleep(0.01)
        return False

    def _log_lines(self, offset: int) -> list[str]:
        with self.log_file.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace").splitlines()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
