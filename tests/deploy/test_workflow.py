"""The workflow of this repository: its schema, what an attacker could do with it, and that its targets exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT

WORKFLOW = ".github/workflows/ci.yml"


@pytest.mark.parametrize(
    "command",
    [
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW),
        ("zizmor", "--offline", "--quiet", "--config", ".github/zizmor.yml", WORKFLOW),
    ],
    ids=["schema", "security"],
)
def test_a_checker_has_nothing_to_say(command: tuple[str, ...]) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_makes_is_a_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"- run: make (.+)$", (ROOT / WORKFLOW).read_text(), re.MULTILINE)
    assert {word for line in named for word in line.split()} == {"ci", "test", "wheels", "audit"}
    assert {word for line in named for word in line.split()} <= {*targets}
