"""`reflex doctor` as people type it: what it prints, how it ends, and what it does where there is little to look at."""

import os
import re
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import NamedTuple

import orjson
import psycopg
import pytest

from reflex.cli.main import app
from reflex.core.checks.catalogue import names
from reflex.core.errors import ConfigurationError
from tests.cli.test_commands import NO_SERVER
from tests.processes import OURS

GUIDE = Path(__file__).parents[2] / "docs/guides/doctor.md"
HEALTHY = "settings,database,schema,listen,connections,clock,event-clocks,vacuum,transactions,workers,models,budgets"


class Done(NamedTuple):
    code: int
    lines: list[str]
    text: str


Doctor = Callable[..., Done]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    """The command in this process, with these variables and no others of ours."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(OURS):
            monkeypatch.delenv(name)

    def run(*arguments: str, url: str | None = None, **env: str) -> Done:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**({"DATABASE_URL": url} if url else {}), **env}.items():
                patch.setenv(name, value)
            code = app(["doctor", *arguments], standalone_mode=False)
        output, error = capsys.readouterr()
        assert error == ""
        return Done(code, output.splitlines(), output)

    return run


def test_a_healthy_installation_is_a_line_a_check_and_exit_code_0(doctor: Doctor, database_url: str) -> None:
    """Fails if a check that was not asked for is made, or if a note counts as a problem."""
    done = doctor("--only", HEALTHY, url=database_url, REFLEX_KEEP="30d")
    assert done.code == 0, done
    asked = HEALTHY.split(",")
    assert [line.split()[1] for line in done.lines[: len(asked)]] == asked
    assert "· workers: no worker is running" in done.lines
    assert "  → reflex worker --app MODULE" in done.lines
    assert done.lines[-1].endswith("1 note")
    done = doctor("--only", "schema", "--only", "budgets", url=database_url)
    assert (done.code, done.text.count("✓"), done.lines[-1]) == (0, 2, "Nothing is wrong.")


def test_what_is_wrong_is_an_exit_code_and_a_statement_that_cures_it(
    doctor: Doctor, database_url: str, postgres: psycopg.Connection
) -> None:
    """An error is exit code 1; a warning is one with --strict. Fails if JSON says anything else than the lines do."""
    name = database_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode())
    done = doctor("--only", "server", url=database_url)
    assert done.code == 1
    assert "✗ server        default_transaction_isolation is serializable" in done.lines
    assert f'  → ALTER DATABASE "{name}" RESET default_transaction_isolation;' in done.lines
    assert done.lines[-1] == "1 error"
    done = doctor("--only", "server", "--json", url=database_url)
    document = orjson.loads(done.text)
    (check,) = document["checks"]
    assert (done.code, document["ok"], check["name"], check["level"]) == (1, False, "server", "error")
    (problem,) = check["problems"]
    assert problem.keys() == {"level", "says", "means", "cure"}
    postgres.execute(problem["cure"][0].encode())
    warned = {"url": database_url, "REFLEX_LEASE_TIMOUT_S": "s3cret", "REFLEX_KEEP": "30d"}
    done = doctor("--only", "server,settings", **warned)
    assert (done.code, done.lines[-1]) == (0, "1 warning")
    assert "Rename it to REFLEX_LEASE_TIMEOUT_S" in done.text
    assert "s3cret" not in done.text
    assert doctor("--only", "server,settings", "--strict", **warned).code == 1


def test_the_worst_comes_first(doctor: Doctor) -> None:
    done = doctor("--only", "settings,database", REFLEX_LEASE_TIMOUT_S="3")
    assert [line.split()[:2] for line in done.lines if line[1:].startswith((" settings:", " database:"))] == [
        ["✗", "database:"], ["!", "settings:"], ["·", "settings:"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (NO_SERVER, "PostgreSQL cannot be reached at 127.0.0.1:1/shop"),
        ("postgresql://reflex:pass@s3cret@127.0.0.1:1/shop", "%40"),
        (None, "DATABASE_URL is not set"),
    ],
)
def test_without_a_database_it_says_what_it_can(doctor: Doctor, url: str | None, said: str) -> None:
    """Fails if it ends with the first thing that is missing, or if a part of the password is shown."""
    done = doctor(url=url)
    assert done.code == 1
    assert said in " ".join(done.text.split())
    assert "s3cret" not in done.text
    assert "✓ versions" in done.text
    missed = len(names()) - 3
    assert f"? {missed} checks" in done.text
    assert f"{missed} checks that could not be made" in done.lines[-1]
    assert len(orjson.loads(doctor("--json", url=url).text)["checks"]) == len(names())


def test_a_database_that_was_never_migrated_or_is_newer(
    doctor: Doctor, empty_database_url: str, database_url: str
) -> None:
    """Fails if a schema that is not this code's keeps it from looking at all else."""
    done = doctor(url=empty_database_url)
    assert done.code == 1
    assert "✗ schema        the database has no Reflex schema" in done.lines
    assert "  → reflex migrate" in done.lines
    assert "✓ server" in done.text
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("UPDATE reflex.alembic_version SET version_num = '9999'")
        conn.execute("DROP TABLE reflex.circuit")  # contracted meanwhile
    done = doctor("--only", "schema,models,budgets", url=database_url)
    assert done.code == 0
    assert "! schema" in done.text
    assert '? models        could not be looked at: relation "reflex.circuit" does not exist' in done.lines
    assert "✓ budgets" in done.text


def test_a_check_that_does_not_exist_is_answered_with_those_that_do(doctor: Doctor) -> None:
    listed = doctor("--list")
    assert [line.split()[0] for line in listed.lines] == names()
    assert [each["name"] for each in orjson.loads(doctor("--list", "--json").text)["checks"]] == names()
    with pytest.raises(ConfigurationError, match=r"there is no check 'vacum'; there are: settings, .*, vacuum"):
        doctor("--only", "vacuum,vacum")


def test_the_guide_has_each_check_in_its_order() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", GUIDE.read_text(), re.MULTILINE)
    assert rows == names()


@pytest.mark.parametrize(
    ("encoding", "is_terminal", "no_color", "begins"),
    [
        ("utf-8", True, False, "\x1b[31m✗\x1b[0m database"),
        ("utf-8", True, True, "✗ database"),
        ("utf-8", False, False, "✗ database"),
        ("latin-1", False, False, "x database"),
    ],
)
def test_signs_are_coloured_on_a_terminal_and_plain_where_there_are_none(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, encoding: str, is_terminal: bool, no_color: bool, begins: str
) -> None:
    """Fails if a pipe gets colours, or a terminal that has no such signs an error."""
    written = BytesIO()
    stream = TextIOWrapper(written, encoding=encoding, write_through=True)
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    doctor("--only", "database", **({"NO_COLOR": "1"} if no_color else {}))
    text = written.getvalue().decode(encoding)
    assert text.startswith(begins)
    assert f"  {'→' if encoding == 'utf-8' else '>'} export DATABASE_URL" in text
