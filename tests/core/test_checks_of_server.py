"""Each check of PostgreSQL, made to fail by what people do to servers, and to pass by the cure that it names."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.checks import checkup, clocks, vacuum
from reflex.core.checks.catalogue import examine, names
from reflex.core.checks.checkup import Checkup, Installation, Level, Problem
from reflex.core.checks.durability import standbys_wanted
from reflex.core.checks.reaching import judge_round_trip
from reflex.core.checks.server_settings import identifier
from reflex.core.database import connect, with_database
from reflex.core.ids import first_id_at, new_id
from reflex.core.log import append
from reflex.core.migrate import upgrade
from reflex.core.settings import Settings
from tests.checking import check_named, checked, checked_all, cure, only_problem, statements, told
from tests.faults import FaultProxy
from tests.poolers import pgbouncer
from tests.processes import eventually
from tests.queue_fixtures import new_event
from tests.standbys import standby_of

# Few connections and locks, so that they are soon used up; a second phase, and slots that hold vacuum back.
SMALL = {
    "max_connections": "30", "max_prepared_transactions": "2", "wal_level": "logical", "shared_buffers": "1MB",
    "max_locks_per_transaction": "32",
}  # fmt: skip

NAME = "Shop-1"  # has to be quoted


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """One that waits for its disk, unlike that of the other tests."""
    with (
        tempfile.TemporaryDirectory(prefix="reflex-tests-checks-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres", settings=SMALL) as server,
    ):
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {identifier(NAME)}".encode())
        upgrade(with_database(server.url, NAME))
        yield server


@pytest.fixture
async def admin(server: EmbeddedPostgres) -> AsyncIterator[AsyncConnection[Any]]:
    """On another database."""
    async with await connect(server.url, name="tests: admin") as conn:
        yield conn


@pytest.fixture
def url(server: EmbeddedPostgres) -> str:
    """Of a migrated database there, which all tests share: each leaves it as it was."""
    return make_conninfo(server.url, dbname=NAME)


async def test_a_server_in_order_passes(url: str) -> None:
    """But for what this one has too little of."""
    made = await checked_all(url)
    assert [each.name for each in made if each.level not in (Level.OK, Level.NOTE)] == ["server"], made
    told_of = {problem.says.split()[0] for problem in made[7].problems}
    assert told_of == {"max_locks_per_transaction", "shared_buffers"}
    for problem in made[7].problems:
        assert problem.level is Level.WARNING
        assert "off the command that starts PostgreSQL" in problem.cure[0]


@pytest.mark.parametrize(
    "where", ["DATABASE {database}", "ROLE {role}", "ROLE {role} IN DATABASE {database}", "ROLE ALL"]
)
async def test_a_commit_that_waits_for_no_disk_is_cured_where_it_was_ordered(
    url: str, admin: AsyncConnection[Any], where: str
) -> None:
    """Fails if one place of the four is not seen, or if the cure resets another one."""
    place = where.format(database=identifier(NAME), role=identifier(admin.info.user))
    await admin.execute(f"ALTER {place} SET synchronous_commit = off".encode())
    problem = only_problem(await checked("durability", url), Level.ERROR)
    assert statements(problem) == [f"ALTER {place} RESET synchronous_commit;"]
    await cure(admin, problem)
    assert (await checked("durability", url)).level is Level.OK


async def test_what_is_ordered_for_another_role_is_seen(url: str, admin: AsyncConnection[Any]) -> None:
    """Fails if only the settings of the own session are read: a gateway may have another role."""
    await admin.execute("CREATE ROLE clerk")
    await admin.execute("ALTER ROLE clerk SET synchronous_commit = off")
    try:
        problem = only_problem(await checked("durability", url), Level.WARNING)
        assert "role clerk" in problem.says
        await cure(admin, problem)
        assert (await checked("durability", url)).level is Level.OK
    finally:
        await admin.execute("DROP ROLE clerk")


async def test_options_of_the_address_are_named_as_the_place(url: str) -> None:
    problem = only_problem(
        await checked("durability", make_conninfo(url, options="-c synchronous_commit=off")), Level.ERROR
    )
    assert "DATABASE_URL" in problem.cure[0]
    assert "this connection" in problem.says


HURTS = (
    ("durability", "fsync", "off", Level.ERROR),
    ("durability", "full_page_writes", "off", Level.WARNING),
    ("durability", "synchronous_commit", "off", Level.ERROR),
    ("server", "autovacuum", "off", Level.ERROR),
    ("server", "track_counts", "off", Level.ERROR),
    ("server", "default_transaction_isolation", "'repeatable read'", Level.ERROR),
    ("server", "default_transaction_read_only", "on", Level.ERROR),
    ("timeouts", "statement_timeout", "'5s'", Level.WARNING),
    ("timeouts", "lock_timeout", "'1s'", Level.WARNING),
    ("timeouts", "idle_session_timeout", "'1min'", Level.WARNING),
    ("timeouts", "idle_in_transaction_session_timeout", "'2s'", Level.WARNING),
)


async def test_settings_of_the_server_that_hurt_are_found_and_cured(url: str, admin: AsyncConnection[Any]) -> None:
    """Fails if one of them is not read, or if what is said to cure it does not."""
    orders = [f"ALTER SYSTEM SET {setting} = {bad}" for _, setting, bad, _ in HURTS]
    await told(admin, "; ".join([*orders, "SELECT pg_reload_conf()"]))
    found = {name: (await checked(name, url)).problems for name in ("durability", "server", "timeouts")}
    problems = [naming(setting, found[check]) for check, setting, _, _ in HURTS]
    assert [problem.level for problem in problems] == [level for *_, level in HURTS]
    await admin.execute("SET default_transaction_read_only = off")
    await told(admin, " ".join(statements(problem)[0] for problem in problems))
    still = [problem.says for name in found for problem in (await checked(name, url)).problems]
    assert not [says for says in still for _, setting, _, _ in HURTS if setting in says]
    await told(admin, "ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()")


async def test_that_forgotten_transactions_have_no_limit_is_a_note(url: str) -> None:
    problem = only_problem(await checked("timeouts", url), Level.NOTE)
    async with await connect(url, name="tests") as conn:
        await cure(conn, problem)
    made = await checked("timeouts", url)
    assert (made.level, made.says) == (Level.OK, "idle_in_transaction_session_timeout 60 s")


async def test_a_standby_that_commits_wait_for_and_is_away_is_found_without_waiting_for_it(
    url: str, admin: AsyncConnection[Any]
) -> None:
    """Fails if a look commits anything that waits: it would hang as everything else does."""
    await told(admin, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (b, c)'; SELECT pg_reload_conf()")
    made = {each.name: each for each in await checked_all(url)}
    problem = only_problem(made["durability"], Level.ERROR)
    assert "none of them follows" in problem.says
    assert made["listen"].level is Level.OK, made["listen"]
    await told(admin, "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
    assert (await checked("durability", url)).level is Level.OK


async def test_a_standby_is_told_from_a_primary_and_counts_if_it_follows(
    server: EmbeddedPostgres, url: str, admin: AsyncConnection[Any], tmp_path: Path
) -> None:
    """Fails if a standby looks like a server that takes writes, or one that follows like one that does not."""
    with standby_of(server, tmp_path / "second" / "postgres") as standby:
        await told(admin, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (second)'; SELECT pg_reload_conf()")

        async def is_well() -> bool:
            made = await checked("durability", url)
            return made.level is Level.OK and made.says.endswith("commits wait for FIRST 1 (second)")

        await eventually(is_well, what="a standby that follows")  # it says only now and then how far it is
        made = await checked("server", make_conninfo(url, port=make_port(standby)))
        assert "this server is a standby" in only_problem(made, Level.ERROR).says
        made = await checked("listen", make_conninfo(url, port=make_port(standby)))
        assert made.level is Level.UNKNOWN
        await told(admin, "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [("", 0), ("b", 1), ("b, c", 1), ("FIRST 2 (a, b, c)", 2), ("any 1 (a, b)", 1), ("3(a, b, c)", 3), ("*", 1)],
)
def test_how_many_standbys_a_commit_waits_for(names: str, wanted: int) -> None:
    assert standbys_wanted(names) == wanted


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_text_is_found(
    postgres: psycopg.Connection, postgres_url: str, encoding: str
) -> None:
    """Fails in SQL_ASCII if texts come as bytes, in which nothing is found."""
    name = f"reflex_test_{uuid4().hex[:12]}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    try:
        made = await checked("server", with_database(postgres_url, name))
        assert encoding in only_problem(made, Level.ERROR).says
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_connections_that_are_nearly_used_up_are_counted_by_name(
    server: EmbeddedPostgres, url: str, admin: AsyncConnection[Any]
) -> None:
    """Fails if those that are reserved count as free, or if a limit of the database or the role is not read."""
    assert (await checked("connections", url)).level is Level.OK
    async with AsyncExitStack() as stack:
        for _ in range(15):
            await stack.enter_async_context(await connect(url, name="reflex worker"))
        problem = only_problem(await checked("connections", url), Level.WARNING)
        assert "reflex worker 15" in problem.means
        assert "of 27" in problem.says
        assert "max_connections = 60" in problem.cure[0]
    limited = f"ALTER DATABASE {identifier(NAME)} CONNECTION LIMIT 3"
    await admin.execute(limited.encode())
    await admin.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 2")
    try:
        made = await checked("connections", make_conninfo(url, user="few", password="few"))
        assert [problem.says for problem in made.problems] == [
            f"3 connections left: 0 of 3 are used (the connection limit of database {NAME})",
            "2 connections left: 0 of 2 are used (the connection limit of role few)",
        ]
        for problem in made.problems:
            await cure(admin, problem)
        assert (await checked("connections", make_conninfo(url, user="few", password="few"))).level is Level.OK
    finally:
        await admin.execute("DROP ROLE few")


async def test_notifications_that_do_not_come_through_a_pooler_are_missed(database_url: str, postgres_url: str) -> None:
    """Fails if LISTEN is believed because it was accepted, or if the second address is not compared with the first."""
    with pgbouncer(database_url) as pooler:
        made = await checked("listen", pooler.url)
        assert "connection pooler" in only_problem(made, Level.WARNING).says
        made = await checked("listen", pooler.url, direct_url=database_url)
        assert (made.level, made.says[:37]) == (Level.OK, "a notification came through REFLEX_DI")
        made = await checked("listen", pooler.url, direct_url=pooler.url)
        assert "REFLEX_DIRECT_URL leads to" in only_problem(made, Level.WARNING).says
        made = await checked("listen", pooler.url, direct_url=postgres_url)
        assert "two databases" in only_problem(made, Level.ERROR).says
        made = await checked("listen", pooler.url, direct_url="postgresql://a:s3cret@127.0.0.1:1/x")
        assert "127.0.0.1:1/x" in only_problem(made, Level.ERROR).says
        assert "s3cret" not in str(made)


async def test_a_long_way_to_the_database_is_measured(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy:
        await proxy.delay(0.008)
        problem = only_problem(await checked("database", proxy.url), Level.WARNING)
    assert "round trip" in problem.says
    assert judge_round_trip(0.001, lease_timeout_s=10) == []
    (problem,) = judge_round_trip(0.2, lease_timeout_s=1)
    assert (problem.level, "heartbeat" in problem.means) == (Level.ERROR, True)


async def test_a_check_that_gets_no_answer_ends_and_the_next_one_is_made(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if one that waits for a lock holds all the others back."""
    monkeypatch.setattr(checkup, "LOOK_S", 1.0)
    async with await connect(database_url, name="tests") as conn, conn.transaction():
        await conn.execute("LOCK TABLE reflex.worker")
        workers, budgets = await checked_all(database_url, [check_named("workers"), check_named("budgets")])
    assert "nothing came back within 1 s" in workers.says
    assert (workers.level, budgets.level) == (Level.UNKNOWN, Level.OK)


async def test_a_database_that_goes_away_between_two_checks_is_said_to_have(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy:
        made: dict[str, Checkup] = {}
        async for each in examine(Installation(Settings.model_construct(), proxy.url)):
            made[each.name] = each
            if each.name == "connections":
                await proxy.cut()
    after = [made[name] for name in names()[names().index("durability") :]]
    assert {each.level for each in after} == {Level.UNKNOWN}
    assert {each.says for each in after[1:]} == {"could not be looked at: the connection to the database was lost"}
    assert made["database"].level is not Level.ERROR


async def test_a_clock_that_is_wrong_is_found_whatever_the_way_takes(database_url: str) -> None:
    """The database's clock is put ahead, behind a delay. Fails if the round trip counts as a part of the difference."""
    async with await connect(database_url, name="tests") as conn:
        await conn.execute("CREATE SCHEMA fake")
        await conn.execute(
            "CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql "
            "AS $$SELECT pg_catalog.clock_timestamp() + interval '90 s'$$"
        )
    assert (await checked("clock", database_url)).level is Level.OK
    wrong = make_conninfo(database_url, options="-c search_path=fake,pg_catalog")
    problem = only_problem(await checked("clock", wrong), Level.ERROR)
    assert "behind the database's by 90 s at least" in problem.says
    assert clocks.judge_skew(clocks.Skew(timedelta(seconds=3), timedelta(seconds=2.5))) == []
    (problem,) = clocks.judge_skew(clocks.Skew(timedelta(seconds=3), timedelta(seconds=1)))
    assert problem.level is Level.WARNING
    assert "ahead of the database's by 2 s at least, 4 s at most" in problem.says


@pytest.mark.parametrize(
    ("away_s", "level", "said"),
    [(0, None, ""), (20, Level.WARNING, "ahead of"), (600, Level.ERROR, "ahead of"), (-600, Level.WARNING, "behind")],
)
async def test_an_event_tells_the_clock_of_who_made_it(
    database_url: str, away_s: int, level: Level | None, said: str
) -> None:
    """Fails if only the greatest ids are looked at, among which one of a clock that is late is not."""
    async with await connect(database_url, name="tests") as conn:
        await append(conn, [new_event()])
        row = await (await conn.execute("SELECT now()")).fetchone()
        assert row
        odd = first_id_at(row[0] + timedelta(seconds=away_s)).int >> 80 << 80 | new_id().int & (1 << 80) - 1
        await append(conn, [new_event(source="shop")._replace(event_id=UUID(int=odd))])
        await append(conn, [new_event() for _ in range(3)])
    made = await checked("event-clocks", database_url)
    if level is None:
        assert (made.level, made.says) == (Level.OK, "those behind the newest 3 appends are right")
    else:
        problem = only_problem(made, level)
        assert said in problem.says
        assert "'shop'" in problem.says


async def test_rows_that_nobody_clears_away_are_counted(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a table whose autovacuum was turned off passes."""
    async with await connect(database_url, name="tests") as conn:
        monkeypatch.setattr(vacuum, "MANY_DEAD", 2000)
        await conn.execute("ALTER TABLE reflex.unrouted SET (autovacuum_enabled = false)")
        await conn.execute("INSERT INTO reflex.unrouted SELECT 'a.b', gen_random_uuid() FROM generate_series(1, 2001)")
        await conn.execute("DELETE FROM reflex.unrouted")
        await conn.execute("SELECT pg_stat_force_next_flush()")
        await conn.execute("SELECT 1")
        made = await checked("vacuum", database_url)
        assert "autovacuum was turned off for reflex.unrouted" in only_problem(made, Level.ERROR).says
        assert "2,001 dead rows" in only_problem(made, Level.WARNING).says
        await cure(conn, only_problem(made, Level.ERROR))
        await cure(conn, only_problem(made, Level.WARNING))
    made = await checked("vacuum", database_url)
    assert (made.level, made.problems) == (Level.OK, ())


def test_rows_that_grow_too_old_are_an_error_before_postgresql_stops() -> None:
    ages = (200_000_000, 700_000_000, 1_600_000_000)
    found = [[problem.level for problem in vacuum.judge_age("shop", age)] for age in ages]
    assert found == [[], [Level.WARNING], [Level.ERROR]]


async def test_who_holds_vacuum_back_is_named_and_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that forgot its transaction, one prepared for a second phase, a slot that nobody reads. Fails if one of
    them is not seen, if the cure ends another one, or if what a session did last is shown: it may be a secret."""
    assert (await checked("transactions", url)).level is Level.OK
    monkeypatch.setattr(vacuum, "LONG_S", 0.0)
    monkeypatch.setattr(vacuum, "FAR_BEHIND", -1)
    async with await connect(url, name="forgotten") as idle, await connect(url, name="tests") as conn:
        await idle.execute("BEGIN")
        await idle.execute("CREATE ROLE nobody PASSWORD 's3cret'")
        await conn.execute("BEGIN")
        await conn.execute("CREATE TABLE half (id int)")
        await conn.execute("PREPARE TRANSACTION 'it''s half'")
        made = await checked("transactions", url)
        by_name = {word: naming(word, made.problems) for word in ("forgotten", "half")}
        assert "idle in transaction" in by_name["forgotten"].means
        assert "s3cret" not in str(made)
        for problem in by_name.values():
            assert problem.level is Level.WARNING
            await cure(conn, problem)
        with pytest.raises(psycopg.OperationalError):
            await idle.execute("SELECT 1")
        await conn.execute("SELECT pg_create_logical_replication_slot('unread', 'pgoutput')")
        await cure(conn, naming("unread", (await checked("transactions", url)).problems))
    assert (await checked("transactions", url)).level is Level.OK


async def test_a_role_that_may_see_little_says_what_it_could_not_see(url: str, admin: AsyncConnection[Any]) -> None:
    """Fails if a refused look ends the others, or if a session that cannot be seen counts as none."""
    await admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    try:
        async with await connect(url, name="somebody else's"):
            made = {each.name: each for each in await checked_all(make_conninfo(url, user="guest", password="guest"))}
        assert made["schema"].says == "could not be looked at: permission denied for schema reflex"
        assert made["workers"].level is Level.UNKNOWN
        assert only_problem(made["transactions"], Level.NOTE).says == "1 session of other roles cannot be seen"
        assert (made["durability"].level, made["listen"].level, made["clock"].level) == (Level.OK,) * 3
        assert made["connections"].level is Level.OK
    finally:
        await admin.execute("DROP ROLE guest")


def naming(word: str, problems: Any) -> Problem:
    (found,) = [problem for problem in problems if word in problem.says]
    return found


def make_port(server: EmbeddedPostgres) -> str:
    return str(conninfo_to_dict(server.url)["port"])
