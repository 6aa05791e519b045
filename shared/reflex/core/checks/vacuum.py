"""Whether vacuum keeps up with the tables of Reflex, and who keeps it from that."""

from datetime import datetime
from typing import Final, NamedTuple

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number, seconds
from reflex.core.checks.server_settings import identifier
from reflex.core.figures import TABLES
from reflex.core.reads import fetch

__all__ = ["TRANSACTIONS", "VACUUM", "judge_age", "judge_holder", "judge_table"]

# As the alert ReflexDeadTuples has it.
MANY_DEAD: Final = 200_000
# PostgreSQL freezes by itself at 200 million, and takes no more writes short of 2,147 million.
OLD: Final = 600_000_000
VERY_OLD: Final = 1_500_000_000
LAST: Final = 2_147_483_648
# No transaction of Reflex is open for longer but those of transactional tools and of a large `reflex migrate`.
LONG_S: Final = 300.0
# A slot or a standby that is so many transactions behind.
FAR_BEHIND: Final = 1_000_000
MEANS: Final = (
    "Rows that were deleted since then stay: claims step over all of them and get slower, and the tables grow."
)


class Table(NamedTuple):
    """A row of check_vacuum."""

    name: str
    dead: int
    live: int
    vacuumed_at: datetime | None
    enabled: bool


class Holder(NamedTuple):
    """A row of check_horizon. `age` is how many transactions ago it began."""

    kind: str
    name: str
    account: str | None
    program: str | None
    state: str | None
    since: datetime | None
    age_s: float | None
    age: int | None


async def look_at_vacuum(installation: Installation) -> Looked:
    tables = [Table(**row) for row in await fetch(installation.connection, "check_vacuum", {})]
    (oldest,) = await fetch(installation.connection, "check_wraparound", {})
    problems = [problem for table in tables for problem in judge_table(table)]
    problems += judge_age(oldest["database"], oldest["age"])
    busy = [table for table in tables if table.name in TABLES]
    most = max(busy, key=lambda table: table.dead, default=None)
    if most is None or not most.dead:
        return Looked("no dead rows in the busy tables", problems)
    when = f", vacuumed {most.vacuumed_at:%Y-%m-%d %H:%M %Z}" if most.vacuumed_at else ", not vacuumed yet"
    return Looked(f"at most {number(most.dead, 'dead row')}, in {most.name} ({most.live:,} live){when}", problems)


def judge_table(table: Table) -> list[Problem]:
    problems: list[Problem] = []
    if not table.enabled:
        problems.append(
            Problem(
                Level.ERROR,
                f"autovacuum was turned off for reflex.{table.name}",
                "Rows that were deleted stay for good: claims step over all of them.",
                [f"ALTER TABLE reflex.{identifier(table.name)} RESET (autovacuum_enabled);"],
            )
        )
    if table.name in TABLES and table.dead > MANY_DEAD:
        when = f"was {table.vacuumed_at:%Y-%m-%d %H:%M %Z}" if table.vacuumed_at else "has not been yet"
        problems.append(
            Problem(
                Level.WARNING,
                f"reflex.{table.name} has {table.dead:,} dead rows beside {table.live:,} live ones",
                f"Vacuum does not keep up; the last one {when}. Something may hold it back.",
                ["reflex doctor --only transactions", f"VACUUM reflex.{identifier(table.name)};"],
            )
        )
    return problems


def judge_age(database: str, age: int) -> list[Problem]:
    """How near PostgreSQL is to refusing all writes. `age` is that of its oldest row, in transactions."""
    if age <= OLD:
        return []
    return [
        Problem(
            Level.ERROR if age > VERY_OLD else Level.WARNING,
            f"database {database} has rows that are {age:,} transactions old",
            f"At {LAST:,} PostgreSQL takes no more writes, in any database. Autovacuum should have frozen them.",
            ["reflex doctor --only transactions", "VACUUM (FREEZE, VERBOSE);  -- in that database, as its owner"],
        )
    ]


async def look_at_transactions(installation: Installation) -> Looked:
    conn = installation.connection
    holders = [Holder(**row) for row in await fetch(conn, "check_horizon", {})]
    (row,) = await fetch(conn, "check_blind", {})
    problems = [problem for holder in holders if (problem := judge_holder(holder)) is not None]
    if row["hidden"]:
        problems.append(
            Problem(
                Level.NOTE,
                f"{number(row['hidden'], 'session')} of other roles cannot be seen",
                "One of them may have a transaction open for long.",
                [f"GRANT pg_monitor TO {identifier(installation.account)};"],
            )
        )
    lengths = [holder.age_s for holder in holders if holder.age_s is not None]
    return Looked(f"the oldest is open for {seconds(max(lengths))}" if lengths else "none is open", problems)


def judge_holder(holder: Holder) -> Problem | None:
    """What it keeps from being vacuumed, and how to end it. Pure."""
    match holder.kind:
        case "transaction" if (holder.age_s or 0) > LONG_S:
            return Problem(
                Level.WARNING,
                f"a transaction is open for {seconds(holder.age_s or 0)}: pid {holder.name}, {whose(holder)}",
                f"{MEANS} Its session is {holder.state or 'active'}; pg_stat_activity has what it did last.",
                [
                    f"SELECT pg_terminate_backend({holder.name});",
                ],
            )
        case "prepared" if (holder.age_s or 0) > LONG_S:
            gid = holder.name.replace("'", "''")
            return Problem(
                Level.WARNING,
                f"a prepared transaction waits for {seconds(holder.age_s or 0)}: {holder.name!r}, of {holder.account}",
                f"{MEANS} It outlives restarts, and keeps its locks.",
                [f"ROLLBACK PREPARED '{gid}';  -- or COMMIT PREPARED, as whoever prepared it decided"],
            )
        case "slot" if (holder.age or 0) > FAR_BEHIND:
            slot = holder.name.replace("'", "''")
            return Problem(
                Level.WARNING,
                f"nobody reads the replication slot {holder.name}, which is {holder.age:,} transactions behind",
                f"{MEANS} It also keeps all of PostgreSQL's log since then, until the disk is full.",
                [f"SELECT pg_drop_replication_slot('{slot}');  -- or start again whoever reads it"],
            )
        case "standby" | "slot in use" if (holder.age or 0) > FAR_BEHIND:
            return Problem(
                Level.WARNING,
                f"a standby holds vacuum back by {holder.age:,} transactions: {holder.name}",
                f"{MEANS} A query runs there for long, and hot_standby_feedback tells this server so.",
                ["End it, there: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start LIMIT 5;",
                 "Or turn hot_standby_feedback off there."],
            )  # fmt: skip
        case _:
            return None


def whose(holder: Holder) -> str:
    return f"{holder.program or 'no name'}, of {holder.account or 'PostgreSQL itself'}"


VACUUM: Final = Check("vacuum", "does vacuum keep up", Need.SCHEMA, look_at_vacuum)
TRANSACTIONS: Final = Check("transactions", "does anything hold vacuum back", Need.SERVER, look_at_transactions)
