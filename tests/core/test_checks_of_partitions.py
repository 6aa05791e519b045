"""The check of partitions, made to fail by what becomes of a database that nobody looks after."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.checks.checkup import Level
from reflex.core.checks.partitions import judge_partitions
from reflex.core.partitions import READ_BYTES, Partition
from reflex.core.periods import DAY, Periods
from tests.checking import checked, only_problem
from tests.core.test_partitions import NOW

OURS = Partition("event", "event_1", NOW - DAY, NOW + 5 * DAY, 0, 0)
REST = Partition("event", "event_rest", None, None, 0, 0)


async def test_partitions_that_have_ended(db: AsyncConnection[Any], database_url: str) -> None:
    """Fails if nobody is told until the rest is large."""
    made = await checked("partitions", database_url)
    assert made.level is Level.OK
    assert made.says.startswith("4 partitions, made until 20")
    await db.execute(
        "ALTER TABLE reflex.run DETACH PARTITION reflex.run_first; "
        "ALTER TABLE reflex.run ATTACH PARTITION reflex.run_first "
        "FOR VALUES FROM (MINVALUE) TO ('01910000-0000-0000-0000-000000000000')"
    )
    problem = only_problem(await checked("partitions", database_url), Level.WARNING)
    assert problem.says.startswith("the partitions of run ended ")
    assert problem.cure == ("reflex retention --now",)


@pytest.mark.parametrize(
    ("partitions", "periods", "says"),
    [
        ([OURS, REST], Periods(30 * DAY), None),
        ([OURS._replace(until=NOW + timedelta(hours=11)), REST], Periods(), "the partitions of event end soon"),
        ([OURS, REST._replace(bytes=READ_BYTES * 2)], Periods(), "event_rest has 2.0 GiB"),
        (
            [OURS._replace(name="event_0", until=NOW - 32 * DAY), OURS, REST],
            Periods(30 * DAY),
            "1 partition of event should have gone: event_0",
        ),
        ([OURS._replace(name="event_0", until=NOW - 30.5 * DAY), OURS, REST], Periods(30 * DAY), None),
        ([*[OURS] * 60, REST], Periods(), "event has 61 partitions"),
    ],
)
def test_what_is_wrong_with_partitions(partitions: list[Partition], periods: Periods, says: str | None) -> None:
    problems = judge_partitions(partitions, periods, True, now=NOW)
    assert [problem.says for problem in problems] == ([says] if says else [])
    assert all(problem.cure for problem in problems)


def test_whoever_may_not_make_them_is_told_who_may() -> None:
    (problem,) = judge_partitions([OURS._replace(until=NOW), REST], Periods(), False, now=NOW)
    assert "with the role that owns the tables" in problem.means
    assert problem.cure == ("DATABASE_URL=<of the role that migrates> reflex retention --now",)
