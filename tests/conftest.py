"""The PostgreSQL that the tests run on: DATABASE_URL's if that is set, else an embedded server for the session.

One database is migrated a session; each test that asks for one gets its own copy, made in some 20 ms.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row
from xdist.workermanage import WorkerController

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.database import connect, with_database
from reflex.core.migrate import upgrade

SERVERS = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Where async tests run: psycopg and hypercorn are used on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Address of a database whose account may create others. It is never written to."""
    if given := os.environ.get("DATABASE_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="reflex-tests-") as folder:
        settings = {"max_connections": "200"}
        with EmbeddedPostgres(Path(folder) / "postgres", durable=False, settings=settings) as server:
            yield server.url


@pytest.fixture(scope="session")
def postgres(postgres_url: str, pytestconfig: pytest.Config) -> Iterator[psycopg.Connection]:
    """The connection that makes and drops the databases of the session."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        where = "DATABASE_URL" if os.environ.get("DATABASE_URL") else "embedded"
        server = f"{conn.info.parameter_status('server_version')} ({where})"
        pytestconfig.stash.setdefault(SERVERS, set()).add(server)
        yield conn


@pytest.fixture(scope="session")
def template_database(postgres: psycopg.Connection, postgres_url: str) -> Iterator[str]:
    """Name of a migrated database to copy. Nobody may connect to it: an open connection would stop the copying."""
    name = f"reflex_test_{uuid4().hex[:12]}"
    _create(postgres, name, template="template0")
    try:
        upgrade(with_database(postgres_url, name))
        postgres.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        yield name
    finally:
        _drop(postgres, name)


@pytest.fixture
def database_url(postgres: psycopg.Connection, postgres_url: str, template_database: str) -> Iterator[str]:
    """Address of a migrated, empty database of this test alone."""
    yield from _fresh_database(postgres, postgres_url, template_database)


@pytest.fixture(scope="module")
def shared_database_url(postgres: psycopg.Connection, postgres_url: str, template_database: str) -> Iterator[str]:
    """The same for all tests of a module: where starting what works on it takes longer than the tests."""
    yield from _fresh_database(postgres, postgres_url, template_database)


@pytest.fixture
def empty_database_url(postgres: psycopg.Connection, postgres_url: str) -> Iterator[str]:
    """Address of a database without the schema, for tests of the migrations."""
    yield from _fresh_database(postgres, postgres_url, "template0")


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection[DictRow]]:
    """An autocommit connection to the test's database; rows are dictionaries."""
    dict_rows = AsyncConnection[DictRow]
    async with await dict_rows.connect(database_url, autocommit=True, row_factory=dict_row) as conn:
        yield conn


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection as the product has them: autocommit, rows are tuples."""
    async with await connect(database_url, name="tests") as conn:
        yield conn


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """One more, to be in its way."""
    async with await connect(database_url, name="tests, too") as conn:
        yield conn


def _fresh_database(postgres: psycopg.Connection, url: str, template: str) -> Iterator[str]:
    name = f"reflex_test_{uuid4().hex[:12]}"
    _create(postgres, name, template=template)
    try:
        yield with_database(url, name)
    finally:
        _drop(postgres, name)


def _create(postgres: psycopg.Connection, name: str, *, template: str) -> None:
    # WAL_LOG copies block by block; the other strategy begins with a checkpoint of the whole server.
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY WAL_LOG")
    postgres.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))


def _drop(postgres: psycopg.Connection, name: str) -> None:
    postgres.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say on which server the tests of this process ran: to the process that prints the summary, if it is another."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = list(session.config.stash.get(SERVERS, set()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    # A process that crashed says nothing.
    servers = getattr(node, "workeroutput", {}).get("servers", [])
    node.config.stash.setdefault(SERVERS, set()).update(servers)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for server in sorted(config.stash.get(SERVERS, set())):
        terminalreporter.write_line(f"PostgreSQL {server}")
