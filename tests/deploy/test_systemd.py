"""deploy/systemd: no service manager runs here. systemd reads the units, and what they say of Reflex is compared with
Reflex."""

import configparser
import os
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from reflex.cli.main import app
from reflex.core.errors import CONFIGURATION_EXIT_CODE
from reflex.core.settings import Settings, load_settings
from tests.debian import debian_program
from tests.deploy.dockerfile import ROOT

FOLDER = ROOT / "deploy/systemd"
ROLES = ["gateway", "worker", "migrate"]
PROGRAM = "/opt/reflex/bin/reflex"
# As rated by `systemd-analyze security`, from 0 to 10: a service that has to reach the network does not get below 1.
MOST_EXPOSED = 1.5


class Unit(configparser.RawConfigParser):
    """One of each setting; of one that is there several times the last."""

    def __init__(self, role: str) -> None:
        super().__init__(strict=False, comment_prefixes=("#",))
        self.read_string((FOLDER / f"reflex-{role}.service").read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture(scope="module")
def analyze() -> str:
    found = debian_program("systemd", "systemd-analyze")
    if found is None:
        reason = "there is no systemd-analyze on this machine: install it, as in `apt-get install systemd`"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with a program that there is: that theirs is missing here is no mistake of theirs."""
    for file in FOLDER.glob("*.service"):
        (tmp_path / file.name).write_text(file.read_text().replace(PROGRAM, "/bin/true"))
    return sorted(tmp_path.glob("*.service"))


def test_systemd_understands_every_line(analyze: str, units: list[Path]) -> None:
    """It warns of a setting that it does not know, and goes on."""
    assert len(units) == len(ROLES)
    run = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    said = [line for line in run.stderr.splitlines() if "reflex" in line]
    assert (run.returncode, said) == (0, [])


def test_a_service_can_do_little_beside_its_work(analyze: str, units: list[Path]) -> None:
    for unit in units:
        rated = [
            analyze,
            "security",
            "--offline=yes",
            "--no-pager",
            f"--threshold={round(MOST_EXPOSED * 10)}",
            str(unit),
        ]
        run = subprocess.run(rated, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_runs_its_command_from_the_environment_that_is_installed(role: str) -> None:
    service = Unit(role)["Service"]
    assert service["ExecStart"] == f"{PROGRAM} {role}"
    assert role in get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert service["User"] == "reflex"
    guide = (ROOT / "docs/guides/deploying.md").read_text()
    for path in ("/opt/reflex", service["EnvironmentFile"], service["WorkingDirectory"]):
        assert path in guide, f"the guide makes no {path}"


def test_the_variables_are_ones_that_reflex_reads_and_accepts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # away from a developer's own .env
    for variable in [variable for variable in os.environ if variable.startswith("REFLEX_")]:
        monkeypatch.delenv(variable)
    lines = (FOLDER / "reflex.env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    known = {f"REFLEX_{field.upper()}" for field in Settings.model_fields} | {"DATABASE_URL", "DEFAULT_MODEL"}
    assert given.keys() <= known
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert (settings.database_url, settings.port) == (given["DATABASE_URL"], int(given["REFLEX_PORT"]))
    for role in ("gateway", "worker"):
        assert float(Unit(role)["Service"]["TimeoutStopSec"]) >= settings.drain_grace_s + 15


def test_a_worker_that_is_stopped_hears_it_once() -> None:
    """`reflex worker --processes` tells its processes itself, and the second signal ends the grace."""
    assert Unit("worker")["Service"]["KillMode"] == "mixed"


def test_a_service_is_started_again_but_not_for_a_setting_that_makes_no_sense() -> None:
    for role in ("gateway", "worker"):
        unit = Unit(role)
        assert unit["Service"]["Restart"] == "always"
        assert unit["Service"]["RestartPreventExitStatus"] == str(CONFIGURATION_EXIT_CODE)
        # What Requires= would do as well: restart it whenever somebody migrates.
        assert "reflex-migrate.service" in unit["Unit"]["Wants"].split()
        assert "reflex-migrate.service" in unit["Unit"]["After"].split()
    assert int(Unit("gateway")["Service"]["LimitNOFILE"]) > Settings.model_fields["ws_max_connections"].default
    assert Unit("migrate")["Service"]["Type"] == "oneshot"


def test_all_units_are_closed_in_the_same_way() -> None:
    own = {"Type", "ExecStart", "Restart", "RestartSec", "RestartPreventExitStatus", "KillMode", "TimeoutStopSec"}
    own |= {"LimitNOFILE", "MemoryMax", "TasksMax"}
    common = [{name: value for name, value in Unit(role)["Service"].items() if name not in own} for role in ROLES]
    assert common[0] == common[1] == common[2]
