"""A real standby of a real server, for tests: copied with pg_basebackup, following by streaming replication."""

import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.cli.postgres_account import environment, give, identity, reachable, server_account
from reflex.cli.postgres_binaries import binaries_for
from reflex.core.lifeline import die_with_parent

__all__ = ["commits_wait", "either_of", "is_synchronous", "kill", "promote", "standby_of"]

NAME: Final = "second"


@contextmanager
def standby_of(primary: EmbeddedPostgres, data_dir: Path) -> Generator[EmbeddedPostgres]:
    """A hot standby. `primary.url` stays what it is; that of the standby has the same password."""
    account = server_account(data_dir)
    data_dir.mkdir(mode=0o700, parents=True)
    give(data_dir, account)
    parts = urlsplit(primary.url)
    source = f"host={parts.hostname} port={parts.port} user={parts.username} application_name={NAME}"
    with reachable(data_dir, account) as (path, inherited):
        # -R: what makes it a standby, and where it follows. It writes the password down as well.
        subprocess.run(
            [binaries_for(account) / "pg_basebackup", "-D", path, "-d", source, "-R", "-X", "stream", "-c", "fast"],
            cwd="/", pass_fds=inherited, env={**environment(), "PGPASSWORD": parts.password or ""}, check=True,
            timeout=60, preexec_fn=die_with_parent(signal.SIGKILL), **identity(account),
        )  # fmt: skip
    # It does not start with less of some settings than the primary has.
    with EmbeddedPostgres(data_dir, durable=False, settings=primary.settings) as standby:
        yield standby


def either_of(*servers: EmbeddedPostgres) -> str:
    """The address of whichever takes writes."""
    parts = urlsplit(servers[0].url)
    account = parts.netloc.rpartition("@")[0]
    hosts = ",".join(urlsplit(server.url).netloc.rpartition("@")[2] for server in servers)
    return urlunsplit(parts._replace(netloc=f"{account}@{hosts}", query="target_session_attrs=read-write"))


def commits_wait(primary: psycopg.Connection) -> None:
    """From now on a commit waits for the standby."""
    primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'".encode())
    primary.execute("SELECT pg_reload_conf()")


def is_synchronous(primary: psycopg.Connection) -> bool:
    """Whether commits wait for the standby, which is there."""
    found = primary.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
    return found == [("sync",)]


def kill(server: EmbeddedPostgres) -> None:
    """As a power cut would; it does not come back by itself."""
    os.kill(server.pid, signal.SIGKILL)
    server.stop()


def promote(standby: EmbeddedPostgres) -> None:
    """Return when it takes writes."""
    with psycopg.connect(standby.url, autocommit=True) as conn:
        assert conn.execute("SELECT pg_promote(true, 30)").fetchone() == (True,)
