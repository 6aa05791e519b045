"""The benchmarks carry out what they say and report it; how fast anything is, no test judges."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reflex.cli.bench import suite
from reflex.cli.bench.databases import Server
from reflex.cli.bench.processes import BenchmarkFailed
from reflex.cli.bench.results import Figure, Row, Verdict, above, below, beside, failed, under
from reflex.cli.bench.setting import Setting
from reflex.core.errors import ConfigurationError
from reflex.core.settings import load_settings


def bench(*arguments: str, folder: Path, database_url: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("REFLEX_")}
    return subprocess.run(
        [sys.executable, "-m", "reflex.cli.main", "bench", *arguments],
        cwd=folder, env={**env, "DATABASE_URL": database_url}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip


def test_a_small_run_measures_real_processes_and_writes_what_it_found(tmp_path: Path, postgres_url: str) -> None:
    done = bench(
        "--quick", "--only", "single", "--only", "latency", "--only", "journal", "--json", "found.json",
        folder=tmp_path, database_url=postgres_url,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["bench"] for row in found["rows"]} == {"single", "latency", "journal"}
    by_limit = {row["against"]: row for row in found["rows"] if row["bench"] == "single"}
    assert by_limit.keys() == {"the same app, no database", "hypercorn no-op"}
    for row in found["rows"]:
        assert row["verdict"] in {"ok", "short", "-"}
        assert len(row["ours"]["runs"]) == 1
        # What the journal adds is a difference: of five steps on a busy machine it may be less than nothing.
        assert row["ours"]["median"] > 0 or row["bench"] == "journal"
    for row in by_limit.values():
        assert row["ratio"] == pytest.approx(row["ours"]["median"] / row["theirs"]["median"])
        assert row["what"] in done.stdout
    assert found["machine"]["cores"] >= 1
    assert found["postgres"]["kind"] == "DATABASE_URL"
    assert not list((tmp_path / ".reflex").iterdir()), "files of the measured processes were left behind"


def test_a_name_that_is_no_benchmark_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no benchmark 'speed'; there are single, batch, drain"):
        suite.run_benchmarks(load_settings(data_dir=tmp_path / "data"), only=["speed"])
    assert not (tmp_path / "data").exists()


def test_a_benchmark_that_fails_is_a_row_and_the_others_go_on(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Setting) -> list[Row]:
        raise BenchmarkFailed("the gateway ended with 2: port in use")

    def works(setting: Setting) -> list[Row]:
        return [under("works", "works", Figure((1.0,) * setting.runs, "ms"), limit=2)]

    monkeypatch.setattr(suite, "BENCHMARKS", {"broken": broken, "works": works})
    found = suite.run_benchmarks(load_settings(database_url=postgres_url, data_dir=tmp_path), runs=2)

    assert [(row["bench"], row["verdict"]) for row in found["rows"]] == [("broken", "failed"), ("works", "ok")]
    assert found["ok"] is False
    assert "the gateway ended with 2: port in use" in capsys.readouterr().out


def test_each_database_of_a_benchmark_is_its_own_and_is_dropped(tmp_path: Path, postgres_url: str) -> None:
    import psycopg

    def databases() -> set[str]:
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            return {name for (name,) in conn.execute("SELECT datname FROM pg_database").fetchall()}

    server = Server(postgres_url, folder=tmp_path, embedded=False)
    with server.database() as one, server.database(migrated=False) as other:
        made = {url.rpartition("/")[2] for url in (one, other)}
        assert made <= databases()
        with psycopg.connect(one) as conn:
            assert conn.execute("SELECT count(*) FROM reflex.event").fetchone() == (0,)
    assert not made & databases()


def test_a_ratio_is_the_median_of_runs_made_side_by_side() -> None:
    # The machine was slow in the second run, for both; the third run is spoilt.
    ours, theirs = Figure((90, 45, 10), "/s"), Figure((100, 50, 100), "/s")
    assert beside("x", "x", ours, "limit", theirs, at_least=0.9).ratio == pytest.approx(0.9)
    assert ours.ratio_to(Figure((90,), "/s")) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (beside("x", "x", Figure((3,), "/s"), "limit", Figure((4,), "/s"), at_least=0.75), Verdict.OK),
        (beside("x", "x", Figure((2,), "/s"), "limit", Figure((4,), "/s"), at_least=0.75), Verdict.SHORT),
        (beside("x", "x", Figure((2,), "/s"), "limit", Figure((4,), "/s")), Verdict.INFO),
        (above("x", "x", Figure((1, 9, 10), "/s"), at_least=9), Verdict.OK),
        (above("x", "x", Figure((1, 8, 10), "/s"), at_least=9), Verdict.SHORT),
        (under("x", "x", Figure((1, 2, 30), "ms"), limit=2.5), Verdict.OK),
        (under("x", "x", Figure((2.5,), "ms"), limit=2.5), Verdict.SHORT),
        (under("x", "x", Figure((2,), "ms")), Verdict.INFO),
        (below("x", "x", Figure((3,), "ms"), "limit", Figure((2,), "ms"), limit=2), Verdict.OK),
        (below("x", "x", Figure((4,), "ms"), "limit", Figure((2,), "ms"), limit=2), Verdict.SHORT),
        (failed("x", "x", "why"), Verdict.FAILED),
    ],
)
def test_the_median_is_what_is_judged(row: Row, verdict: Verdict) -> None:
    assert row.verdict is verdict
