"""The databases that are measured: on an embedded server as a production server is set up, or on DATABASE_URL's."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg import Connection, sql

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.database import conninfo, with_database
from reflex.core.migrate import upgrade

__all__ = ["Server", "connected", "open_server", "wal_position"]

# Durable: every commit reaches the disk. Beyond that only what any server of this size would set; the distance
# between checkpoints keeps one from falling into a measurement of a few seconds.
SERVER_SETTINGS: Final = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
}


class Server:
    """A PostgreSQL server on which the benchmarks make databases of their own."""

    def __init__(self, url: str, *, folder: Path, embedded: bool) -> None:
        """`folder` is for the files of the processes that are measured."""
        self.url = url
        self.folder = folder
        self.embedded = embedded

    @contextmanager
    def database(self, *, migrated: bool = True) -> Generator[str]:
        """The address of a new database, which is dropped afterwards."""
        name = f"reflex_bench_{uuid4().hex[:12]}"
        identifier = sql.Identifier(name)
        with connected(self.url) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(identifier))
            url = with_database(self.url, name)
            try:
                if migrated:
                    upgrade(url)
                yield url
            finally:
                conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))

    def facts(self) -> dict[str, str]:
        """What has to be known about the server to compare figures."""
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")
        with connected(self.url) as conn:
            found = {name: str(one(conn, sql.SQL("SHOW {}").format(sql.Identifier(name)))) for name in names}
        return {"kind": "embedded" if self.embedded else "DATABASE_URL", **found}


@contextmanager
def open_server(database_url: str | None, data_dir: Path) -> Generator[Server]:
    """The server of `database_url`, else an embedded one whose data lies below `data_dir` for the time being.

    Not below /tmp, which may be memory: there a commit costs nothing.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=data_dir.absolute()))
    try:
        if database_url:
            yield Server(database_url, folder=folder, embedded=False)
        else:
            with EmbeddedPostgres(folder / "postgres", settings=SERVER_SETTINGS) as server:
                yield Server(server.url, folder=folder, embedded=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connected(url: str, *, name: str = "reflex bench") -> Generator[Connection[Any]]:
    """An autocommit connection."""
    with psycopg.connect(conninfo(url, name=name), autocommit=True) as conn:
        yield conn


def one(conn: Connection[Any], query: sql.Composed | sql.SQL) -> Any:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0]


def wal_position(conn: Connection[Any]) -> int:
    """How many bytes of WAL the server has written since it was made, those not yet flushed included."""
    return int(one(conn, sql.SQL("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")))
