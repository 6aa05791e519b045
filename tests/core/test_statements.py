"""Every named statement against the migrated schema: a renamed column shows here, not at night."""

import re

import psycopg
import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

from reflex.core.statements import names, source, statement

# Each as it is, and without each of the parts that can be left out.
WHOLE = [(name, None) for name in names()]
SHORTENED = [(name, part) for name in names() for part in sorted(set(re.findall(r"-- <(\w+)>", source(name))))]


@pytest.mark.parametrize(("name", "without"), [*WHOLE, *SHORTENED])
def test_statement_can_be_prepared(name: str, without: str | None, shared_database_url: str) -> None:
    """Fails if a statement names a column, table or function that is not there, or that was left out."""
    # Strings keep their percent signs; a placeholder becomes a typeless NULL.
    prepared = re.sub(r"%\((\w+)\)[sb]", "NULL", statement(name, without=without)).replace("%%", "%")
    with psycopg.connect(shared_database_url) as conn:
        conn.execute(f"EXPLAIN {prepared}".encode())


@pytest.mark.parametrize("name", names())
def test_a_statement_says_what_it_does_and_is_short_when_it_is_run(name: str) -> None:
    """Fails if comments or indentation are sent, and with a string of two lines, whose indentation would be lost."""
    assert source(name).startswith("-- "), f"{name}.sql begins with what it does and why"
    text = statement(name)
    assert [line for line in text.splitlines() if "--" in line] == [f"-- {name}"]
    assert len(text) <= MAX_CACHED_STATEMENT_LENGTH, "psycopg would read it anew for each execution"
    assert [line for line in text.splitlines() if line.count("'") % 2] == []


def test_what_is_left_out_is_whole() -> None:
    """Fails if the parts are matched greedily, or not up to the end of their line."""
    whole, shortened = (statement("append_events", without=part).splitlines() for part in (None, "lanes"))
    assert SHORTENED == [("append_events", "lanes")]
    assert set(shortened) <= set(whole)
    assert not [line for line in shortened if "lane." in line or "laned" in line or "keyed" in line]
    assert {"nobody AS (", "later AS (", "FROM stored"} <= set(shortened)
