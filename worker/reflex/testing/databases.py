"""Databases to test on: each a copy of a migrated one, in which the clock can be set.

Whenever Reflex wants to know the time it asks the database for `now()` or `clock_timestamp()`. In a copy these are
found in a schema that comes before PostgreSQL's own, and are as far ahead as the test says. The statements are those
of the product; none of them knows.
"""

import atexit
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from psycopg import Connection, sql

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.database import conninfo, describe, sqlalchemy_url, with_database
from reflex.core.errors import ConfigurationError, DatabaseUnavailable
from reflex.core.migrate import upgrade
from reflex.testing.recycling import emptied, keep_rows, shape_of

__all__ = ["Databases", "close_shared", "shared_databases"]

CLOCK: Final = """
CREATE SCHEMA reflex_clock;
CREATE TABLE reflex_clock.setting (ahead interval NOT NULL);
INSERT INTO reflex_clock.setting VALUES ('0');
CREATE FUNCTION reflex_clock.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT pg_catalog.now() + ahead FROM reflex_clock.setting';
CREATE FUNCTION reflex_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM reflex_clock.setting';
"""
# A default names its function once and for all, whatever comes first in the search path later.
DEFAULTS: Final = """
SELECT table_name, column_name
FROM information_schema.columns
WHERE table_schema = 'reflex' AND column_default = 'now()'
"""
SEARCH_PATH: Final = "reflex_clock, pg_catalog, public"


class Databases:
    """A server, and on it a migrated database to copy.

    Args:
        server_url: Address of a server whose account may create databases; the database that it names is never written
            to. None starts an embedded server, which dies with this process.
    """

    def __init__(self, server_url: str | None = None) -> None:
        self._stack = ExitStack()
        self._given = server_url
        self._url = ""
        self._conn: Connection[Any] | None = None
        self.template = f"reflex_testing_{uuid4().hex[:12]}"
        # Copying and emptying take the server some time: it does so while the test goes on.
        self._server = ThreadPoolExecutor(1, thread_name_prefix="reflex testing")
        self._next: Future[str] | None = None
        self._dropping: Future[None] | None = None
        self._shape = ""
        self._emptied: list[str] = []

    def fresh(self) -> str:
        """Address of a new database, migrated and empty. The first one takes a second or two.

        Raises:
            ConfigurationError: There are no PostgreSQL programs, or DATABASE_URL's account may not create databases.
            DatabaseUnavailable: The server cannot be reached.
        """
        conn = self._opened()
        # Taken before it is looked at: one that failed is not given again.
        prepared, self._next = self._next, None
        url = (prepared or self._server.submit(self._copy, conn)).result()
        self._next = self._server.submit(self._another, conn)
        return url

    def _another(self, conn: Connection[Any]) -> str:
        return self._emptied.pop() if self._emptied else self._copy(conn)

    def _copy(self, conn: Connection[Any]) -> str:
        name = f"reflex_testing_{uuid4().hex[:12]}"
        # WAL_LOG copies block by block; the other strategy begins with a checkpoint of the whole server.
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY WAL_LOG").format(
                sql.Identifier(name), sql.Identifier(self.template)
            )
        )
        set_path = sql.SQL("ALTER DATABASE {} SET search_path = " + SEARCH_PATH)
        conn.execute(set_path.format(sql.Identifier(name)))
        url = with_database(self._url, name)
        if not self._shape:
            with psycopg.connect(conninfo(url, name="reflex testing"), autocommit=True) as made:
                self._shape = shape_of(made)
        return url

    def drop(self, url: str) -> None:
        """Have done with a database that `fresh` made, whoever is connected to it, soon: it is emptied and given again,
        or dropped. Raises what went wrong the last time."""
        if self._conn is not None:
            if self._dropping is not None:
                self._dropping.result()
            self._dropping = self._server.submit(self._empty_or_drop, self._conn, url)

    def _empty_or_drop(self, conn: Connection[Any], url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        others = "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE datname = %s"
        # On a server that others use as well, none is kept longer than it is needed.
        if not self._given:
            with suppress(psycopg.Error):
                conn.execute(others, [name])
                with psycopg.connect(conninfo(url, name="reflex testing"), autocommit=True) as used:
                    if emptied(used, self._shape):
                        self._emptied.append(url)
                        return
        self._drop(conn, url)

    def _drop(self, conn: Connection[Any], url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        """Drop what is left and stop the server, if it is ours. Once more does nothing."""
        self._server.shutdown()
        # Here, and no more in the thread: at the exit of the interpreter none can be given anything to do.
        if self._conn is not None and self._next is not None and self._next.exception() is None:
            self._drop(self._conn, self._next.result())
        self._emptied.clear()  # they go with our server
        self._stack.close()
        self._conn = self._next = None

    def _opened(self) -> Connection[Any]:
        if self._conn is None:
            try:
                self._conn = self._open()
            except BaseException:
                self._stack.close()
                raise
        return self._conn

    def _open(self) -> Connection[Any]:
        if self._given:
            sqlalchemy_url(self._given)  # says what an address looks like, if it is none
            self._url = self._given
        else:
            # No TemporaryDirectory: at the exit of the interpreter that would be gone before the server.
            folder = tempfile.mkdtemp(prefix="reflex-testing-")
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            settings = {"max_connections": "200"}
            server = EmbeddedPostgres(Path(folder) / "postgres", durable=False, settings=settings)
            self._url = self._stack.enter_context(server).url
        try:
            conn = psycopg.connect(conninfo(self._url, name="reflex testing"), autocommit=True)
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"cannot reach PostgreSQL at {describe(self._url)}: {error}") from error
        self._stack.callback(conn.close)
        template = sql.Identifier(self.template)
        try:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(template))
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigurationError(
                f"the account of DATABASE_URL may not create databases on {describe(self._url)}: each test has one of "
                "its own. Run ALTER ROLE … CREATEDB, or unset DATABASE_URL to test on an embedded server"
            ) from None
        self._stack.callback(conn.execute, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(template))
        url = with_database(self._url, self.template)
        upgrade(url)
        with psycopg.connect(conninfo(url, name="reflex testing"), autocommit=True) as made:
            set_up_clock(made)
            keep_rows(made)
        # An open connection would stop the copying.
        conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(template))
        return conn


@cache
def shared_databases() -> Databases:
    """Those of this process: on DATABASE_URL's server if it is set, else on an embedded one."""
    databases = Databases(os.environ.get("DATABASE_URL"))
    atexit.register(databases.close)
    return databases


def close_shared() -> None:
    """Close those of this process, if there are any."""
    if shared_databases.cache_info().currsize:
        shared_databases().close()


def set_up_clock(conn: Connection[Any]) -> None:
    """Make the clock of a database one that can be set."""
    conn.execute(CLOCK)
    for table, column in conn.execute(DEFAULTS).fetchall():
        conn.execute(
            sql.SQL("ALTER TABLE reflex.{} ALTER COLUMN {} SET DEFAULT reflex_clock.now()").format(
                sql.Identifier(table), sql.Identifier(column)
            )
        )
