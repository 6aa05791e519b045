"""Migrations: from nothing, twice, at once, and in agreement with the tables that SQLAlchemy knows."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from reflex.core.database import sqlalchemy_url
from reflex.core.errors import DatabaseUnavailable
from reflex.core.migrate import HEAD, current_revision, script_location, upgrade
from reflex.core.schema import metadata

ROOT = Path(__file__).parents[2]


def test_head_is_the_newest_file() -> None:
    """`reflex migrate` skips Alembic at HEAD: a forgotten constant would skip a migration."""
    assert ScriptDirectory(str(script_location())).get_current_head() == HEAD


def test_the_tables_are_those_that_sqlalchemy_knows(database_url: str) -> None:
    engine = sa.create_engine(sqlalchemy_url(database_url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        options = {"include_schemas": True, "compare_server_default": False, "version_table_schema": "reflex"}
        context = MigrationContext.configure(connection, opts={**options, "include_name": only_ours})
        assert compare_metadata(context, metadata) == []


def only_ours(name: str | None, kind: str, parents: object) -> bool:
    if kind == "table":  # the partitions are made by whoever runs, and are like their tables
        return re.fullmatch(r"(event|run)_(first|rest|[0-9]+)", name or "") is None
    return name == "reflex" if kind == "schema" else True


def test_upgrade_from_nothing_and_again(empty_database_url: str) -> None:
    assert current_revision(empty_database_url) is None
    upgrade(empty_database_url)
    upgrade(empty_database_url)
    assert current_revision(empty_database_url) == HEAD


def test_an_upgrade_waits_for_the_one_before_it(empty_database_url: str) -> None:
    """Fails without the advisory lock in migrations/env.py: replicas that start together collide."""
    env = {**os.environ, "DATABASE_URL": empty_database_url}
    command = [sys.executable, "-m", "reflex.cli.main", "migrate"]
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(7305412001)")
        waiting = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        try:
            asked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = %s::oid"
            database = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
            deadline = time.monotonic() + 30
            while conn.execute(asked, database).fetchone() != (1,):
                assert waiting.poll() is None, "it did not wait"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert current_revision(empty_database_url) is None
            conn.execute("SELECT pg_advisory_unlock_all()")
            _, complaint = waiting.communicate(timeout=60)
        finally:
            waiting.kill()
    assert waiting.returncode == 0, complaint
    assert current_revision(empty_database_url) == HEAD


def test_alembic_upgrade_head_and_down_from_the_root(empty_database_url: str) -> None:
    env = {**os.environ, "DATABASE_URL": empty_database_url}
    alembic = [sys.executable, "-m", "alembic"]
    subprocess.run([*alembic, "upgrade", "head"], cwd=ROOT, env=env, check=True, capture_output=True)
    assert current_revision(empty_database_url) == HEAD
    subprocess.run([*alembic, "downgrade", "base"], cwd=ROOT, env=env, check=True, capture_output=True)
    with psycopg.connect(empty_database_url) as conn:
        left = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'reflex'::regnamespace AND relkind = 'r'"
        )
        assert left.fetchall() == [("alembic_version",)]


def test_alembic_without_an_address_says_which_variable() -> None:
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "DATABASE_URL" in done.stderr


def test_a_database_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"cannot reach PostgreSQL at 127\.0\.0\.1:1/"):
        upgrade("postgresql://me:secret@127.0.0.1:1/x")


def test_what_there_was_becomes_the_first_partition_and_comes_back(empty_database_url: str) -> None:
    """Fails if rows are lost on the way, or if an event of a clock that is ahead is in the way of the migration."""
    upgrade(empty_database_url, "0021")
    far = "0200aaaa-0000-7000-8000-000000000001"  # a clock that is years ahead
    fill = f"""
    INSERT INTO reflex.event (event_id, type, source, key, time, payload, correlation_id)
    SELECT gen_random_uuid(), 'a', 's', n::text, now(), '{{"n": 1}}', 'c' FROM generate_series(1, 100) AS n
    ON CONFLICT DO NOTHING;
    UPDATE reflex.event SET event_id = ('0190' || substr(event_id::text, 5))::uuid;
    UPDATE reflex.event SET event_id = '{far}' WHERE key = '100';
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, usage)
    SELECT 1, event_id, 1, 1, event_id, now(), 'succeeded', '{{}}' FROM reflex.event;
    """
    everything = (
        "SELECT md5(string_agg(event::text, '' ORDER BY event_id)) FROM reflex.event UNION ALL "
        "SELECT md5(string_agg(run::text, '' ORDER BY event_id)) FROM reflex.run"
    )
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(fill.encode())
        before = conn.execute(everything).fetchall()
        upgrade(empty_database_url)
        conn.execute("DISCARD ALL")
        assert conn.execute(everything).fetchall() == before
        tables = conn.execute("SELECT DISTINCT tableoid::regclass::text FROM reflex.event").fetchall()
        assert tables == [("reflex.event_first",)]
        conn.execute("SET enable_seqscan = off")
        used = conn.execute("EXPLAIN SELECT FROM reflex.event WHERE key = '7' AND event_id IS NOT NULL").fetchall()
        assert "ix_event_key_first" in str(used), "the indexes are those that were there"
    env = {**os.environ, "DATABASE_URL": empty_database_url}
    subprocess.run([sys.executable, "-m", "alembic", "downgrade", "0021"], cwd=ROOT, env=env, check=True)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        assert conn.execute(everything).fetchall() == before
    upgrade(empty_database_url)
