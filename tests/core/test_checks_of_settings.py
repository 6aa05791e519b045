"""What is said of the variables of an environment, and of versions: nothing here needs a database."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reflex.core.checks import checkup
from reflex.core.checks.checkup import Checkup, Installation, Level
from reflex.core.checks.variables import judge_names, judge_values, read_settings
from reflex.core.checks.versions import judge_distributions, judge_postgres, judge_revision
from reflex.core.migrate import HEAD
from reflex.core.settings import Settings
from reflex.core.version import VERSION
from tests.checking import check_named


def values(**settings: Any) -> Settings:
    given: dict[str, Any] = {"keep": timedelta(days=30), **settings}
    return Settings.model_construct(**given)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REFLEX_LEASE_TIMOUT_S", "REFLEX_LEASE_TIMEOUT_S"),
        ("REFLEX_LEASE_TIMEOUT", "REFLEX_LEASE_TIMEOUT_S"),
        ("REFLEX_DATABASE_URL", "DATABASE_URL"),
        ("REFLEX_DEFAULT_MODEL", "DEFAULT_MODEL"),
        ("REFLEX_SOMETHING_ELSE", None),
        ("REFLEX_WEBHOOK_SECRET", "REFLEX_WEBHOOK_<NAME>_SECRET"),
        ("REFLEX_WEBHOOK_PRIVAT", "REFLEX_WEBHOOK_PRIVATE"),
    ],
)
def test_a_name_that_nobody_reads_leads_to_the_one_that_is_meant(name: str, meant: str | None) -> None:
    (problem,) = judge_names([name, "PATH", "REFLEX_PORT"])
    assert problem.level is Level.WARNING
    assert problem.says == f"{name} is no setting" + (f"; {meant} is" if meant else "")


def test_names_that_are_read_are_no_problem() -> None:
    """Fails if settings are compared by their case, or those of webhooks are taken for misspelt."""
    assert judge_names(["REFLEX_PORT", "reflex_port", "REFLEX_WEBHOOK_GITHUB_SECRET", "REFLEX_METRICS_FD"]) == []
    assert len(judge_names(["reflex_prot"])) == 1


@pytest.mark.parametrize(
    ("settings", "level", "said"),
    [
        ({"host": "0.0.0.0"}, Level.ERROR, "REFLEX_ACCESS is 'open'"),
        ({"host": "0.0.0.0", "access": "open-to-all"}, Level.WARNING, "lets in whoever reaches"),
        ({"host": "0.0.0.0", "access": "keys"}, None, ""),
        ({"access": "open-to-all"}, None, ""),
        ({"direct_url": "postgresql://a:s3cret@b/c"}, Level.ERROR, "DATABASE_URL is not"),
        ({"lease_timeout_s": 2}, Level.WARNING, "REFLEX_LEASE_TIMEOUT_S is 2"),
        ({"max_body_bytes": 2048}, Level.WARNING, "REFLEX_MAX_BODY_BYTES (2048) is less than REFLEX_MAX_PAYLOAD_BYTES"),
        ({"max_step_bytes": 2048}, Level.WARNING, "less than REFLEX_MAX_OUTPUT_BYTES"),
        ({"ws_idle_s": 10}, Level.WARNING, "REFLEX_WS_IDLE_S (10) is not more than REFLEX_WS_PING_S (20)"),
        ({"keep": None}, Level.NOTE, "REFLEX_KEEP is not set"),
        ({}, None, ""),
    ],
)
def test_values_that_do_not_go_together(settings: dict[str, Any], level: Level | None, said: str) -> None:
    found = judge_values(values(**settings))
    assert [problem.level for problem in found] == ([level] if level else [])
    assert all(said in problem.says for problem in found)
    assert "s3cret" not in str(found)


async def test_every_value_that_makes_no_sense_is_named_and_the_rest_is_looked_at_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fails if only the first is, if a value is repeated, which may be a secret, or if `.env` is not read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REFLEX_PORT=s3cret\n")
    monkeypatch.setenv("REFLEX_PORT", "")  # undone afterwards
    monkeypatch.delenv("REFLEX_PORT")
    for name, value in {"REFLEX_KEEP": "long", "REFLEX_ACCESS": "everybody", "REFLEX_POLL_INTERVAL_S": "7"}.items():
        monkeypatch.setenv(name, value)
    settings, unread = read_settings()
    assert sorted(name for name, _ in unread) == ["REFLEX_ACCESS", "REFLEX_KEEP", "REFLEX_PORT"]
    assert (settings.port, settings.access, settings.keep, settings.poll_interval_s) == (8000, "open", None, 7)
    made = await check_named("settings").make(Installation(settings, None, unread))
    assert made.level is Level.ERROR
    assert [problem.level for problem in made.problems].count(Level.ERROR) == 3
    assert "s3cret" not in str(made)


def test_distributions_of_two_releases_do_not_fit() -> None:
    assert judge_distributions({"reflex-fleet-core": VERSION, "reflex-fleet-worker": VERSION}) == []
    (problem,) = judge_distributions({"reflex-fleet-core": VERSION, "reflex-fleet-worker": "0.0.7"})
    assert problem.level is Level.ERROR
    assert problem.says == f"reflex-fleet-worker is 0.0.7, but reflex is {VERSION}"
    assert f"'reflex-fleet-worker=={VERSION}'" in problem.cure[0]


@pytest.mark.parametrize(
    ("version", "level"), [(140_011, Level.ERROR), (150_004, None), (180_006, None), (190_000, Level.WARNING)]
)
def test_which_versions_of_postgresql_will_do(version: int, level: Level | None) -> None:
    assert [problem.level for problem in judge_postgres(version)] == ([level] if level else [])


@pytest.mark.parametrize(
    ("revision", "level"),
    [(None, Level.ERROR), ("0001", Level.ERROR), (HEAD, None), ("9999", Level.WARNING), ("fork", Level.WARNING)],
)
def test_which_revisions_of_the_schema_will_do(revision: str | None, level: Level | None) -> None:
    assert [problem.level for problem in judge_revision(revision)] == ([level] if level else [])


def test_a_length_of_time_is_said_in_one_unit() -> None:
    said = [checkup.seconds(length) for length in (0.00012, 0.05, 1, 12.34, 300, 9000, 864_000)]
    assert said == ["0.12 ms", "50 ms", "1 s", "12.3 s", "5 min", "2 h", "10 days"]


def test_the_worst_problem_decides() -> None:
    order = [Level.OK, Level.NOTE, Level.UNKNOWN, Level.WARNING, Level.ERROR]
    assert sorted(order, key=checkup.severity) == order
    assert Checkup("a", Level.OK, "").problems == ()
