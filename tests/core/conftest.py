"""Connections that tests let get in one another's way: each has its name, by which a test sees that it waits."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(database_url, name="one") as conn:
        yield conn


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(database_url, name="two") as conn:
        yield conn


@pytest.fixture
async def three(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(database_url, name="three") as conn:
        yield conn
