"""Whether the partitions of events and runs are made in time, and those that are over go."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number, seconds
from reflex.core.keeping import is_over
from reflex.core.partitions import READ_BYTES, TABLES, Partition, end_of, list_partitions
from reflex.core.periods import DAY, Periods
from reflex.core.statements import only_row

__all__ = ["PARTITIONS", "judge_partitions"]

# As the alert ReflexNoPartitionAhead has it.
SOON: Final = timedelta(hours=12)
# Each costs a look-up by id a little; a period has eight or so, and what was made for another one.
MANY: Final = 60
BY_HAND: Final = "reflex retention --now"


async def look_at_partitions(installation: Installation) -> Looked:
    conn = installation.connection
    partitions = await list_partitions(conn)
    is_owner, now = await only_row(conn, "check_partitions")
    problems = [
        problem
        for table in TABLES
        for problem in judge_partitions(
            [part for part in partitions if part.table == table], installation.settings.periods(), is_owner, now=now
        )
    ]
    end = min(end_of([part for part in partitions if part.table == table]) for table in TABLES)
    return Looked(f"{number(len(partitions), 'partition')}, made until {end:%Y-%m-%d %H:%M %Z}", problems)


def judge_partitions(
    partitions: Sequence[Partition], periods: Periods, is_owner: bool, *, now: datetime
) -> list[Problem]:
    """`partitions` of one table, its rest among them; `now` of the database's clock. Pure."""
    table = partitions[0].table
    end = end_of(partitions)
    (rest,) = [part for part in partitions if part.is_rest]
    problems: list[Problem] = []

    def warn(says: str, means: str, *cure: str) -> None:
        problems.append(Problem(Level.WARNING, says, means, cure))

    if end <= now + SOON:
        warn(
            f"the partitions of {table} "
            + (f"ended {seconds((now - end).total_seconds())} ago" if end <= now else "end soon"),
            f"Nothing is refused: what comes goes to {rest.name}, and leaves it row by row. It takes "
            f"{'a worker' if is_owner else 'somebody'} with the role that owns the tables to make them; the logs of "
            "workers say why they do not.",
            BY_HAND if is_owner else f"DATABASE_URL=<of the role that migrates> {BY_HAND}",
        )
    if rest.bytes > READ_BYTES:
        warn(
            f"{rest.name} has {rest.bytes / 1024**3:.1f} GiB",
            "PostgreSQL reads all of it when a partition is made, and nothing can be stored meanwhile. So workers "
            "make none. Do it at a quiet time; it takes some seconds.",
            BY_HAND,
        )
    if late := [part.name for part in partitions if is_over(part, periods, now - DAY)]:
        warn(
            f"{number(len(late), 'partition')} of {table} should have gone: {', '.join(late[:3])}",
            "More than 10,000 of its events are pending, running or dead, or something holds on to the table (a dump, "
            "a long transaction), or no worker has REFLEX_KEEP.",
            BY_HAND,
            "reflex doctor --only transactions,deliveries,dead-letters",
        )
    if len(partitions) > MANY:
        warn(
            f"{table} has {len(partitions)} partitions",
            "Each costs a claim and a look-up a little. They become fewer as they go; REFLEX_KEEP says when.",
            "reflex retention",
        )
    return problems


PARTITIONS: Final = Check(
    "partitions", "are they made in time, and do those go that are over", Need.SCHEMA,
    look_at_partitions,
)  # fmt: skip
