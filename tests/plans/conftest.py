"""What most tests of plans start from: a database that their module's `FILL` has filled."""

from collections.abc import Iterator

import psycopg
import pytest


@pytest.fixture
def full(database_url: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(request.module.FILL.encode())
        conn.execute("VACUUM ANALYZE")
        yield conn
