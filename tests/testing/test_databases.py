"""Databases for tests: one that was used is given again only if it is as good as new."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pydantic_ai import Agent

from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event
from reflex.agent.triggers import Trigger
from reflex.testing.app import AppTest
from reflex.testing.databases import Databases

TABLES = """
SELECT format('%I.%I', nspname, relname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname LIKE 'reflex%'
ORDER BY 1
"""
SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"


@pytest.fixture
def databases() -> Iterator[Databases]:
    """A server of its own: what comes next depends on all that went before."""
    own = Databases()
    yield own
    own.close()


def everything(url: str) -> dict[str, Any]:
    with psycopg.connect(url) as conn:
        tables = [name for (name,) in conn.execute(TABLES.encode())]
        rows = {name: sorted(map(str, conn.execute(f"TABLE {name}".encode()).fetchall())) for name in tables}
        return {**rows, "sequences": conn.execute(SEQUENCES.encode()).fetchall()}


def given_after(databases: Databases, url: str) -> set[str]:
    """What is given once this one is done with: one is ready already, so it is not the next."""
    databases.drop(url)
    return {databases.fresh() for _ in range(3)}


async def test_a_used_database_is_given_again_without_a_trace_of_its_test(databases: Databases) -> None:
    """Fails if a table is not emptied, a row of the beginning is not there again, or a sequence goes on."""
    first, second = databases.fresh(), databases.fresh()
    new = everything(first)
    assert everything(second) == new
    agent: Agent[AgentContext, str] = Agent(deps_type=AgentContext)
    async with AppTest([Trigger(name="t", filter=any_event(), agent=agent)], databases=databases) as t:
        await t.publish("order.created", {"a": 1}, key="k", id="A1")
        await t.clock.advance(86_400)
        await t.run()
        used = t.database_url
        assert [run.trigger for run in t.runs] == ["t"]
        assert everything(used) != new
    again = {databases.fresh() for _ in range(3)}
    assert used in again
    assert everything(used) == new


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE paid (order_id text)",
        "ALTER TABLE reflex.event ALTER COLUMN depth SET DEFAULT 1",
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX ON reflex.run (outcome)",
        "CREATE TYPE mood AS ENUM ('good')",
        "ALTER TABLE reflex.event_type ADD CONSTRAINT short CHECK (length(type) < 100)",
    ],
)
def test_one_that_was_altered_is_dropped(databases: Databases, change: str) -> None:
    """Fails if only rows are looked at: the next test would find what this one has made."""
    url = databases.fresh()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(change.encode())
    assert url not in given_after(databases, url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_one_whose_settings_were_changed_is_dropped(databases: Databases) -> None:
    url = databases.fresh()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET timezone = 'Asia/Tokyo'".encode())
    assert url not in given_after(databases, url)


def test_whoever_is_still_connected_is_sent_away(databases: Databases) -> None:
    """Fails if a worker of the test before goes on in the database of the next."""
    url = databases.fresh()
    with psycopg.connect(url, autocommit=True) as conn:
        assert url in given_after(databases, url)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
