"""`reflex retention` as people type it."""

from datetime import timedelta

import psycopg
import pytest

from reflex.cli.retention import goes, warnings
from reflex.core.partitions import Partition
from reflex.core.periods import DAY, Periods
from tests.cli.conftest import Run
from tests.core.test_partitions import NOW

OLD = "01900000-0000-7000-8000-000000000001"  # of June 2024


def test_what_is_kept_in_which_partitions_and_a_pass_by_hand(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the table and the pass do not say the same, or if the pass needs a worker."""
    out, _ = run("retention")
    assert "events are kept for good (REFLEX_KEEP)" in out
    assert "runs are kept as long as their events (REFLEX_KEEP_RUNS)" in out
    assert [line.split()[:2] for line in out.splitlines() if "at other times" in line] == [["at", "other"]] * 2
    monkeypatch.setenv("REFLEX_KEEP", "30d")
    monkeypatch.setenv("REFLEX_KEEP_RUNS", "365d")
    with psycopg.connect(database_url) as conn:
        insert = (
            "INSERT INTO reflex.event (event_id, type, source, time, payload, created_at) "
            "VALUES (%s, 'a', 's', now(), '{}', now() - interval '90 days')"
        )
        conn.execute(insert, [OLD])
    out, _ = run("retention", "--now")
    assert sorted({line.partition("_")[0] for line in out.splitlines()}) == ["made event", "made run"]
    out, _ = run("retention")
    assert "events are kept for 30d" in out
    assert "runs are kept for 365d" in out
    out, _ = run("retention", "--now")
    assert out == "nothing to do\n"


def test_a_partition_that_is_over_goes(run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if it is only shown."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE reflex.event DETACH PARTITION reflex.event_first")
        conn.execute(
            "ALTER TABLE reflex.event ATTACH PARTITION reflex.event_first "
            "FOR VALUES FROM (MINVALUE) TO ('01910000-0000-0000-0000-000000000000')"
        )
    monkeypatch.setenv("REFLEX_KEEP", "30d")
    out, _ = run("retention")
    assert "with the next pass" in out
    assert "No partition is there for today: since 2024-" in out
    out, _ = run("retention", "--now", "--json")
    assert '"name": "event_first"' in out
    assert "No partition is there" not in run("retention")[0]


@pytest.mark.parametrize(
    ("periods", "expected"),
    [
        (Periods(), None),
        (Periods(30 * DAY), "with the next pass"),
        (Periods(90 * DAY), f"{NOW + 50 * DAY:%Y-%m-%d}"),
        (Periods(4 * DAY, 50 * DAY), "with the next pass"),
    ],
)
def test_when_a_partition_goes(periods: Periods, expected: str | None) -> None:
    assert goes(Partition("event", "event_1", NOW - 41 * DAY, NOW - 40 * DAY, 0, 0), periods, NOW) == expected


def test_that_nobody_makes_partitions_is_said() -> None:
    """Fails if it is found out when the disk is full."""
    parts = [Partition("run", "run_1", None, NOW, 0, 0), Partition("run", "run_rest", None, None, 0, 0)]
    assert warnings(parts, NOW - timedelta(hours=1)) == []
    assert "run `reflex retention --now`" in warnings(parts, NOW + timedelta(hours=1))[0]
