"""A real PgBouncer for tests, on the file that `deploy/pgbouncer` has: it can be killed and started again."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
import pytest

from reflex.cli.postgres_account import give, identity, server_account
from reflex.core.lifeline import die_with_parent
from tests.debian import debian_program
from tests.processes import free_port

__all__ = ["PgBouncer", "pgbouncer", "program", "version"]

EXAMPLE: Final = Path(__file__).parents[1] / "deploy/pgbouncer/pgbouncer.ini"
START_TIMEOUT_S: Final = 20.0
KEEPS_STATEMENTS: Final = (1, 22)


@cache
def program() -> str:
    """Its path, or PGBOUNCER's. A fresh machine gets it installed; one that is somebody's own is left as it is."""
    found = os.environ.get("PGBOUNCER") or debian_program("pgbouncer", "pgbouncer")
    if found is None:
        reason = "there is no PgBouncer on this machine: install it, as in `apt-get install pgbouncer`"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@cache
def version() -> tuple[int, ...]:
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    assert found, said
    return tuple(map(int, found.groups()))


class PgBouncer:
    """In front of one database, on a port of its own that it keeps.

    Args:
        settings: Other values than the example's.
    """

    def __init__(self, database_url: str, folder: Path, settings: dict[str, str]) -> None:
        self._database = urlsplit(database_url)
        self._account = server_account(folder)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.log_file = folder / "pgbouncer.log"
        accounts = folder / "userlist.txt"
        accounts.write_text(f'"{self._database.username}" "{unquote(self._database.password or "")}"\n')
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(
            self._adapted(EXAMPLE.read_text(), {
                "listen_addr": "127.0.0.1", "listen_port": str(self.port), "auth_file": str(accounts), **settings,
            })
        )  # fmt: skip
        for path in (folder, accounts, self._config):
            give(path, self._account)

    def _adapted(self, text: str, settings: dict[str, str]) -> str:
        name = self._database.path.removeprefix("/")
        where = f"host={self._database.hostname} port={self._database.port} dbname={name}"
        text, databases = re.subn(r"(?m)^reflex = .*$", f"{name} = {where}", text)
        assert databases == 1
        for setting, value in settings.items():
            text, found = re.subn(rf"(?m)^{setting} =.*$", f"{setting} = {value}", text)
            assert found == 1, f"the example has no line for {setting}"
        if version() < KEEPS_STATEMENTS:
            text, _ = re.subn(r"(?m)^max_prepared_statements = .*$", "", text)
        return text

    @property
    def url(self) -> str:
        """The database's address through it."""
        account, at, _ = self._database.netloc.rpartition("@")
        return urlunsplit(self._database._replace(netloc=f"{account}{at}127.0.0.1:{self.port}"))

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def start(self) -> None:
        """Return when it takes connections."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [program(), str(self._config)], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=die_with_parent(signal.SIGKILL), **identity(self._account),
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                return
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at whatever instruction it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def pgbouncer(database_url: str, **settings: str) -> Generator[PgBouncer]:
    """One that runs."""
    # Not below the folders of pytest, which its account cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="reflex-tests-pgbouncer-"))
    pooler = PgBouncer(database_url, folder, settings)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.kill()
        shutil.rmtree(folder)
