"""What would outlive its transaction has no place in Reflex: behind a pooler the session is the next client's."""

import re
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.pooler import adapt, through_pooler
from reflex.core.statements import names, statement

ROOT = Path(__file__).parents[2]
MODULES = [path for part in ("shared/reflex/core", "gateway", "worker") for path in (ROOT / part).rglob("*.py")]
# Each with what it would leave behind.
KEPT = {
    "a lock of the session": r"(?i)pg_(try_)?advisory_lock",
    "a setting of the session": r"set_config\([^()]*,\s*false\)|(?:\A(?:--[^\n]*\n)*|[\"'])SET (?!LOCAL\b)\w",
    "a temporary table": r"(?i)\bcreate\s+(temp|temporary)\b",
    "a cursor that outlives its transaction": r"(?i)\bwith hold\b|\.cursor\(\s*[\"'n]",
    "a prepared statement": r"(?<![\w.])PREPARE \w|prepare=True",
}
# The probe is closed again in its transaction.
ALLOWED = {("pooler.py", "a prepared statement")}


@pytest.mark.parametrize("kind", KEPT)
def test_nothing_is_kept_in_a_session(kind: str) -> None:
    assert len(MODULES) > 100
    texts = [(name, statement(name)) for name in names()]
    texts += [(path.name, path.read_text()) for path in MODULES]
    assert {(name, kind) for name, text in texts if re.search(KEPT[kind], text)} <= ALLOWED


async def test_a_direct_connection_is_none_through_a_pooler_and_prepares(database_url: str) -> None:
    async with await connect(database_url, name="test") as conn:
        assert not await through_pooler(conn)
        assert conn.prepare_threshold is not None
        for _ in range(conn.prepare_threshold + 2):
            await conn.execute("SELECT 1 + %s", [1])
        cursor = await conn.execute("SELECT count(*) FROM pg_prepared_statements")
        assert await cursor.fetchone() == (1,)


async def test_a_connection_that_breaks_while_it_is_looked_at_says_so(database_url: str) -> None:
    conn = await AsyncConnection.connect(database_url, autocommit=True)
    await conn.close()
    with pytest.raises(psycopg.OperationalError):
        await adapt(conn)
