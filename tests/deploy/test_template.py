"""The template of projects, in all its variants: rendered, then read by the tools that a team has for it.

What such a project does is in newcomer.py, which `make newcomer` runs.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from copier import run_copy
from ruamel.yaml import YAML

from reflex.core.version import VERSION
from tests.deploy.dockerfile import ROOT

BIN = Path(sys.executable).parent
OFF = {"examples": False, "docs": False, "ci": False}
# Each of the four sources, with everything and with nothing beside the app.
VARIANTS: dict[str, dict[str, Any]] = {
    "on": {"name": "my-agent", "author": "Ada Lövelace"},
    "off": {**OFF, "name": "Sorting.Tickets", "python": "3.13"},
    "wheels": {"name": "a" * 30, "source": "wheels"},
    "git": {**OFF, "name": "zebra", "source": "git", "address": "git+https://git.example.com/reflex.git"},
    "checkout": {"name": "x2", "source": "checkout", "docs": False},
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template without its history, whose latest tag it would be otherwise."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copy(ROOT / "copier.yml", folder)
    shutil.copytree(ROOT / "deploy/template", folder / "deploy/template")
    return folder


@pytest.fixture(scope="module")
def projects(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("projects")
    for variant, answers in VARIANTS.items():
        run_copy(str(template), folder / variant, data=answers, defaults=True, quiet=True)
    return {variant: folder / variant for variant in VARIANTS}


def says(*command: str | Path, folder: Path) -> str:
    """What a tool has to complain about: nothing, if it ends well."""
    program, *arguments = command
    done = subprocess.run(
        [BIN / program, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def yaml(file: Path) -> Any:
    return YAML(typ="safe").load(file)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_linter_has_nothing_to_say(projects: dict[str, Path], variant: str) -> None:
    assert says("ruff", "check", ".", folder=projects[variant]) == ""
    assert says("ruff", "format", "--check", ".", folder=projects[variant]) == ""


@pytest.mark.parametrize("variant", ["on", "off"])
def test_its_types_are_strict(projects: dict[str, Path], variant: str) -> None:
    (projects[variant] / ".venv").symlink_to(BIN.parent)
    assert says("pyright", folder=projects[variant]) == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_not_wanted_is_not_there(projects: dict[str, Path], variant: str) -> None:
    project, answers = projects[variant], VARIANTS[variant]
    for option, path in (("examples", "examples"), ("docs", "docs"), ("ci", ".github")):
        assert (project / path).exists() is answers.get(option, True)
    images = answers.get("source") != "checkout"
    for path in ("Dockerfile", ".dockerignore", "docker-compose.yml"):
        assert (project / path).exists() is images
    made = [file for file in project.rglob("*") if file.is_file() and not {".venv", ".ruff_cache"} & {*file.parts}]
    assert not [file for file in made if "{" in file.name or file.suffix == ".jinja"]
    assert not [file for file in made if re.search(r"\{%|(?<!\$)\{\{|\n\n\n\n", file.read_text())]


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_manifest_says_where_reflex_comes_from(projects: dict[str, Path], variant: str) -> None:
    answers = VARIANTS[variant]
    manifest = tomllib.loads((projects[variant] / "pyproject.toml").read_text())
    groups = manifest["dependency-groups"]
    every = [*manifest["project"]["dependencies"], *groups["gateway"]]
    assert {each.removeprefix("reflex-fleet-") for each in every} == {
        f"{part}~={VERSION}" for part in ("core", "gateway", "worker")
    }
    assert not [each for each in groups["gateway"] if "worker" in each]
    assert manifest["project"]["requires-python"] == f">={answers.get('python', '3.11')}"
    sources = manifest["tool"]["uv"].get("sources", {})
    assert {name: sorted(source) for name, source in sources.items()} == {
        "on": {},
        "off": {},
        "wheels": {name: ["index"] for name in names()},
        "git": {name: ["git", "subdirectory"] for name in names()},
        "checkout": {name: ["editable", "path"] for name in names()},
    }[variant]
    if variant == "git":
        assert sources["reflex-fleet-core"]["git"] == "https://git.example.com/reflex.git"


def names() -> list[str]:
    return [f"reflex-fleet-{part}" for part in ("core", "gateway", "worker")]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "checkout"])
def test_its_deploy_files_are_valid(projects: dict[str, Path], variant: str) -> None:
    project = projects[variant]
    schema = ("check-jsonschema", "--builtin-schema")
    assert says(*schema, "vendor.compose-spec", "docker-compose.yml", folder=project) == ""
    # What is pinned by the lock needs no pin here; git is the distribution's.
    assert says("hadolint", "--ignore", "DL3013", "--ignore", "DL3008", "Dockerfile", folder=project) == ""
    services = yaml(project / "docker-compose.yml")["services"]
    targets = re.findall(r"^FROM .* AS (\w+)$", (project / "Dockerfile").read_text(), re.MULTILINE)
    for service in ("migrate", "gateway", "worker"):
        assert services[service]["build"]["target"] in targets
    # The builder sees what the Dockerfile copies.
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (project / "Dockerfile").read_text(), re.MULTILINE)
    seen = re.findall(r"^!(.+)$", (project / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(" ".join(copied).split()) == sorted(seen)


def test_its_workflow_is_valid_and_asks_for_no_right_that_it_does_not_need(projects: dict[str, Path]) -> None:
    workflow = ".github/workflows/ci.yml"
    folder = projects["on"]
    assert says("check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow, folder=folder) == ""
    (folder / "zizmor.yml").write_text('rules: {unpinned-uses: {config: {policies: {"*": ref-pin}}}}')
    assert says("zizmor", "--offline", "--quiet", "--config", "zizmor.yml", workflow, folder=folder) == ""
    assert [step["run"] for step in yaml(folder / workflow)["jobs"]["ci"]["steps"] if "run" in step] == ["make ci"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"name": "my agent"}, "letters, digits"),
        ({"package": "My-Agent"}, "small letter"),
        ({"package": "class"}, "something else"),
        ({"package": "reflex"}, "something else"),
        ({"description": 'a "good" one'}, "without quotes"),
        ({"source": "git"}, "an address"),
        ({"source": "moon"}, "choice"),
    ],
)
def test_an_answer_that_would_not_work_is_refused(
    template: Path, tmp_path: Path, answers: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        run_copy(str(template), tmp_path / "project", data=answers, defaults=True, quiet=True)
    assert not (tmp_path / "project/Makefile").exists()


def test_it_asks_for_the_version_that_it_comes_with() -> None:
    assert yaml(ROOT / "copier.yml")["reflex_version"]["default"] == VERSION
