"""The plans of the log's order on 200,000 events: a page costs what it shows, wherever in the log it is, and whatever
the statistics say."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from reflex.core.log_filter import LogFilter
from reflex.core.statements import statement
from tests.plans.partitioned import leaves, nodes, split
from tests.plans.test_read_plans import rows_read

# Half of the events were appended one by one, the other half, in between, by the hundred.
FILL = """
INSERT INTO reflex.event (event_id, type, source, time, payload, correlation_id, reply_to)
SELECT lpad(to_hex(n), 32, '0')::uuid, CASE n % 1000 WHEN 0 THEN 'order.rare' ELSE 'order.common' END, 's', now(), '{}',
       CASE WHEN n % 7 = 0 THEN 'c' || n / 700 END, CASE WHEN n % 500 = 0 THEN 'somebody' END
FROM generate_series(1, 200000) AS n;
INSERT INTO reflex.log (event_ids)
SELECT array_agg(lpad(to_hex(n), 32, '0')::uuid ORDER BY n)
FROM generate_series(1, 200000) AS n
GROUP BY CASE WHEN n / 1000 % 2 = 0 THEN n ELSE n / 100 * 100 END ORDER BY min(n);
INSERT INTO reflex.appended (event_ids) SELECT event_ids FROM reflex.log WHERE position <= 50000;
"""
MIDDLE = {"position": 50_500, "place": 50}
PREPARED = {
    "analyzed when empty": "SET plan_cache_mode = auto",
    "analyzed": "VACUUM ANALYZE",
    "analyzed, and one plan for all parameters": "VACUUM ANALYZE; SET plan_cache_mode = force_generic_plan",
}


@pytest.fixture(scope="module")
def filled(shared_database_url: str) -> Iterator[psycopg.Connection]:
    """One database for the module: nothing here changes it. What it knows of its tables is that they are empty."""
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        split(conn, 200_000)
        for table in itertools.chain.from_iterable(map(leaves, ("event", "log", "appended"))):
            conn.execute(f"ALTER TABLE reflex.{table} SET (autovacuum_enabled = off)".encode())
        conn.execute("VACUUM ANALYZE")
        conn.execute(FILL)
        yield conn


# The order counts: once analyzed, the statistics stay.
@pytest.fixture(scope="module", params=PREPARED)
def full(request: pytest.FixtureRequest, filled: psycopg.Connection) -> psycopg.Connection:
    for command in PREPARED[request.param].split("; "):
        filled.execute(command.encode())
    return filled


def explain(conn: psycopg.Connection, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan of a prepared statement, with what each really read; in a transaction that is undone."""
    order: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in order:
            order.append(match[1])
        return f"${order.index(match[1]) + 1}"

    text = re.sub(r"%\((\w+)\)[sb]", number, statement(name)).replace("%%", "%")
    with conn.transaction(force_rollback=True):
        conn.execute(f"PREPARE explained AS {text}".encode())
        values = sql.SQL(", ").join(sql.Literal(parameters[name]) for name in order)
        called = sql.SQL("explained({})").format(values) if order else sql.SQL("explained")
        explained = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON, TIMING off) EXECUTE {}").format(called)
        row = conn.execute(explained).fetchone()
        conn.execute("DEALLOCATE explained")
    assert row is not None
    return nodes(row[0][0]["Plan"])


def scanned_whole(plan: list[dict[str, Any]]) -> set[str]:
    """Tables; of a partition that has a row or none there is no better way."""
    scans = [n for n in plan if n["Node Type"] == "Seq Scan" and rows_read([n], n["Relation Name"]) > n["Actual Loops"]]
    return {node["Relation Name"] for node in scans} - {"log_start"}


def page(filter: LogFilter, **bounds: int) -> dict[str, Any]:
    return {**MIDDLE, **filter.parameters(), "limit": 100, "looked_at": 2000, "max_bytes": 2**23, **bounds}


@pytest.mark.parametrize("limit", [1, 100, 500])
def test_a_page_from_the_middle_of_the_log_reads_what_it_shows(full: psycopg.Connection, limit: int) -> None:
    """The rest of the append that it goes on in the middle of, and that of its last one, are all that is read besides.

    Fails if `found` is not cut at the limit: all that might be looked at is read and sorted.
    """
    plan = explain(full, "read_log", page(LogFilter(), limit=limit))
    assert scanned_whole(plan) == set()
    assert rows_read(plan, "event") <= limit + 200
    assert rows_read(plan, "log") <= limit + 20


@pytest.mark.parametrize(
    "filter",
    [LogFilter(types=("order.rare",)), LogFilter(types=("*",), sources=("nobody",)), LogFilter(reply_to="somebody"),
     LogFilter(types=("order.*",), sources=("s",), key="k", correlation_id="c7", reply_to="somebody")],
)  # fmt: skip
def test_a_filter_that_matches_little_reads_what_is_looked_at(full: psycopg.Connection, filter: LogFilter) -> None:
    """Fails if appends are counted and not their events: a hundred times as much may be looked at then."""
    plan = explain(full, "read_log", page(filter))
    assert scanned_whole(plan) == set()
    assert 2000 <= rows_read(plan, "event") <= 2100
    # Twice: once for the events, once for where reading goes on; and the appends of one event are one each.
    assert rows_read(plan, "log") <= 2 * 2010


def test_a_reader_at_the_end_of_the_log_reads_next_to_nothing(full: psycopg.Connection) -> None:
    """What every reader does all day."""
    row = full.execute("SELECT max(position) FROM reflex.log").fetchone()
    assert row is not None
    plan = explain(full, "read_log", {**page(LogFilter()), "position": row[0], "place": 99})
    assert scanned_whole(plan) == set()
    assert rows_read(plan, "event") <= 1
    assert rows_read(plan, "log") <= 2


def test_the_bounds_are_found_without_reading_the_log(full: psycopg.Connection) -> None:
    """One row of the log, its last."""
    plan = explain(full, "log_bounds", {})
    assert scanned_whole(plan) == set()
    assert rows_read(plan, "log") == 1


@pytest.mark.parametrize("limit", [1, 1000])
def test_placing_reads_what_it_places(full: psycopg.Connection, limit: int) -> None:
    """With 50,000 appends that wait, as after an hour without a gateway. Fails if they are named by `append_id IN`."""
    plan = explain(full, "place_appended", {"after": 20_000, "limit": limit})
    assert scanned_whole(plan) == set()
    assert rows_read(plan, "appended") <= 3 * limit
