"""What the tests of live readers start from."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Appends to the log; an autocommit connection as the gateway has it."""
    async with await connect(database_url, name="test") as conn:
        yield conn
