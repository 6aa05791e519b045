"""The connection of a command that looks into the database, and what is said when there is none to be had."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from reflex.core.database import connect, describe
from reflex.core.errors import ConfigurationError, DatabaseUnavailable
from reflex.core.settings import Settings, load_settings

__all__ = ["connected", "database_url", "run_connected"]

T = TypeVar("T")


def database_url(settings: Settings) -> str:
    """DATABASE_URL, else that of the `reflex dev` which runs on the same REFLEX_DATA_DIR, in another terminal.

    Raises:
        ConfigurationError: There is neither.
    """
    if settings.database_url:
        return settings.database_url
    from reflex.cli.embedded_postgres import running_url

    return running_url(settings.data_dir / "postgres") or settings.require_database_url()


@asynccontextmanager
async def connected(url: str, *, name: str) -> AsyncGenerator[AsyncConnection[Any]]:
    """A connection to a database that has the schema.

    Raises:
        DatabaseUnavailable: It cannot be reached.
        ConfigurationError: It was never migrated.
    """
    try:
        async with await connect(url, name=name) as conn:
            yield conn
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise ConfigurationError(f"{describe(url)} has no Reflex schema yet: run `reflex migrate` first") from None
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"cannot reach PostgreSQL at {describe(url)}: {error}") from error


def run_connected(action: Callable[[AsyncConnection[Any]], Awaitable[T]], *, name: str) -> T:
    """Do it on a connection to `database_url`. Raises as that and `connected` do."""
    url = database_url(load_settings())

    async def act() -> T:
        async with connected(url, name=name) as conn:
            return await action(conn)

    return asyncio.run(act())
