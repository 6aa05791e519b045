"""Every named statement against the migrated schema: a renamed column shows here, not at night."""

import re

import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.statements import names, statement


@pytest.mark.parametrize("name", names())
async def test_statement_can_be_prepared(name: str, conn: AsyncConnection[DictRow]) -> None:
    """Fails if a statement names a column, table or function that is not there."""
    text = statement(name)
    assert text.startswith("-- "), f"{name}.sql begins with what it does and why"
    # Strings and comments keep their percent signs; a placeholder becomes a typeless NULL.
    prepared = re.sub(r"%\((\w+)\)[sb]", "NULL", text).replace("%%", "%")
    await conn.execute(f"EXPLAIN {prepared}".encode())
