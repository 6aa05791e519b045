"""The wheels of `make wheels`: what they say of themselves, and the core's alone in an environment.

The gateway and the worker each in theirs are tests of the images; all three together, those of a newcomer's project.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import psycopg
import pytest

from reflex.core.migrate import HEAD
from reflex.core.version import VERSION
from tests.deploy.dockerfile import ROOT, UV

pytestmark = pytest.mark.timeout(300)

NAMES = ["core", "gateway", "worker"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Built by the target, in a copy of what it reads."""
    source = tmp_path_factory.mktemp("source")
    for name in ("shared", "gateway", "worker", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        ["make", "wheels", f"UV={UV}"], cwd=source, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: source / f"dist/reflex_fleet_{name}-{VERSION}-py3-none-any.whl" for name in NAMES}


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_has_the_version_of_the_one_file_and_the_license(wheels: dict[str, Path], name: str) -> None:
    said = metadata(wheels[name])
    assert said["Version"] == VERSION
    assert said["License-Expression"] == "Apache-2.0"
    with ZipFile(wheels[name]) as archive:
        (folder,) = {part.split("/")[0] for part in archive.namelist() if ".dist-info/" in part}
        for text in ("LICENSE", "NOTICE"):
            assert archive.read(f"{folder}/licenses/{text}") == (ROOT / text).read_bytes()


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_wheel_asks_for_the_core_of_its_own_version(wheels: dict[str, Path], name: str) -> None:
    """Another one has another schema and other statements."""
    asked = metadata(wheels[name]).get_all("Requires-Dist") or []
    assert [each for each in asked if each.startswith("reflex-fleet")] == [f"reflex-fleet-core=={VERSION}"]


def test_a_release_writes_the_version_where_it_stands(tmp_path: Path) -> None:
    for name in ("shared/reflex/core/version.py", "gateway/pyproject.toml", "worker/pyproject.toml", "pyproject.toml",
                 "CHANGELOG.md", "copier.yml", "deploy/release.sh", "docs/changelog.d"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs/changelog.d/+a-test.fixed.md").write_text("A thing that a test has written.\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "before"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)

    def release(version: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TOWNCRIER": str(Path(sys.executable).with_name("towncrier"))}
        command = ["sh", "deploy/release.sh", version]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    refused = release("2,0")
    assert (refused.returncode, "is not a version" in refused.stderr) == (2, True)
    done = release("7.8.9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '\nVERSION = "7.8.9"\n' in (tmp_path / "shared/reflex/core/version.py").read_text()
    for name in ("gateway", "worker"):
        assert '"reflex-fleet-core==7.8.9",' in (tmp_path / name / "pyproject.toml").read_text()
    assert (tmp_path / "copier.yml").read_text() == (ROOT / "copier.yml").read_text().replace(VERSION, "7.8.9")
    changes = (tmp_path / "CHANGELOG.md").read_text()
    assert re.search(r"<!-- the releases -->\n\n## 7\.8\.9, \d{4}-\d\d-\d\d\n", changes), changes
    assert "\n### Fixed\n\n- A thing that a test has written.\n" in changes
    assert [file.name for file in (tmp_path / "docs/changelog.d").iterdir()] == ["README.md"]


@pytest.fixture(scope="module")
def core(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The commands of an environment that holds the core's wheel and what it asks for, in the versions of the lock."""
    venv = tmp_path_factory.mktemp("core") / "venv"
    uv = [str(UV), "--quiet"]
    done = subprocess.run([*uv, "venv", "--python", sys.executable, str(venv)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    install = [*uv, "pip", "install", "--python", str(venv / "bin/python"), "--no-build", "--no-sources"]
    done = subprocess.run(
        [*install, "--constraints", str(ROOT / "requirements.lock"), str(wheels["core"])],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    yield venv / "bin"
    shutil.rmtree(venv)


def reflex(core: Path, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "HOME": str(folder), **variables}
    command = [str(core / "reflex"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_core_alone_migrates(core: Path, empty_database_url: str, tmp_path: Path) -> None:
    done = reflex(core, "--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"reflex {VERSION}\n"), done.stderr
    done = reflex(core, "migrate", folder=tmp_path, DATABASE_URL=empty_database_url)
    assert done.returncode == 0, done.stdout + done.stderr
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT version_num FROM reflex.alembic_version").fetchone() == (HEAD,)


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("gateway", "reflex-fleet-gateway"),
        ("worker", "reflex-fleet-worker"),
        ("register", "reflex-fleet-worker"),
        ("dev", "reflex-fleet-gateway"),
    ],
)
def test_a_command_of_a_part_that_is_missing_is_one_sentence(
    core: Path, database_url: str, tmp_path: Path, command: str, missing: str
) -> None:
    variables = {"DATABASE_URL": database_url, "REFLEX_APP": "shop.app", "REFLEX_PORT": "0"}
    done = reflex(core, command, folder=tmp_path, **variables)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr == f"reflex: this environment has no {missing}, which the command needs; install it\n"
