"""A newcomer's path, as `make newcomer` runs it: a fresh clone, a project from its template, and an update of that.

With nothing but what a new machine has: system folders on the path, an empty HOME, and the package index.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from reflex.core.lifeline import die_with_parent
from tests.deploy.dockerfile import ROOT
from tests.processes import eventually, free_port

pytestmark = pytest.mark.timeout(600)

COPIER = Path(sys.executable).with_name("copier")
# How a machine reaches its package index, and what it has from there already.
INDEX = ("PIP_", "UV_", "SSL_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
AUTHOR = {f"GIT_{who}_{what}": "t@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Newcomer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clone, self.project = folder / "reflex", folder / "my-agent"
        (home := folder / "home").mkdir()
        uv = subprocess.run([ROOT / ".tools/bin/uv", "cache", "dir"], capture_output=True, text=True, check=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name.upper().startswith(INDEX)},
            **AUTHOR,
            "HOME": str(home),
            "PATH": os.defpath,
            "PYTHON": sys.executable,
            "UV_CACHE_DIR": uv.stdout.strip(),
        }

    def run(self, *command: str | Path, folder: Path) -> str:
        done = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, check=False, timeout=400
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def commit(self, folder: Path, *, tag: str | None = None) -> None:
        self.run("git", "init", "--quiet", folder=folder)
        self.run("git", "add", "--all", folder=folder)
        self.run("git", "commit", "--quiet", "--message", "as it is", folder=folder)
        if tag:
            self.run("git", "tag", tag, folder=folder)

    @asynccontextmanager
    async def dev(self, folder: Path) -> AsyncGenerator[list[str]]:
        """`make dev` in a terminal of its own, ended by Ctrl-C; gives the words of the line that it tells to type."""
        log = folder.with_suffix(".log")
        with log.open("w") as output:
            process = subprocess.Popen(  # noqa: ASYNC220
                ["make", "dev"],
                cwd=folder,
                env=self.environment | {"REFLEX_PORT": str(free_port())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

        def told() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return re.search(r"Send an event:\s+(curl .*)\n", log.read_text())

        try:
            line = await eventually(told, timeout_s=300, what=f"`make dev` in {folder}")
            assert line
            yield shlex.split(line[1])
            os.killpg(process.pid, signal.SIGINT)
            await eventually(lambda: process.poll() is not None, what="the end of `make dev`")
            assert "stopping" in log.read_text()
            await eventually(lambda: not alive(process.pid), what="the end of its processes")
        finally:
            if alive(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


async def accepted(url: str, body: str) -> dict[str, str]:
    """Send an event; its deliveries' triggers with their states, once all have ended."""
    async with httpx2.AsyncClient() as client:
        answer = await client.post(url, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 202, answer.text
        event_id = answer.json()["id"]

        async def ended() -> dict[str, str]:
            deliveries = (await client.get(f"{url}/{event_id}")).json()["deliveries"]
            states = {each["trigger"]: each["state"] for each in deliveries}
            return {} if {"pending", "running"} & {*states.values()} else states

        return await eventually(ended, timeout_s=60, what="the end of the runs")


def typed(words: list[str]) -> tuple[str, str]:
    """Address and body of a line of curl."""
    assert words[:3] == ["curl", "-X", "POST"]
    return words[3], words[-1]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """With a clone of this tree, whose template had an earlier version."""
    new = Newcomer(tmp_path_factory.mktemp("newcomer"))
    files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ":!.tools"]
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (new.clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, new.clone / name, follow_symlinks=False)
    older(new.clone / "deploy/template")
    new.commit(new.clone, tag="v0.0.1")
    shutil.rmtree(new.clone / "deploy/template")
    shutil.copytree(ROOT / "deploy/template", new.clone / "deploy/template")
    new.commit(new.clone, tag="v0.0.2")
    return new


def older(template: Path) -> None:
    """A template that knew no `make format`, named an older linter, and had another app."""
    makefile = template / "Makefile.jinja"
    text = makefile.read_text()
    start = text.index("format: .venv")
    makefile.write_text(text[:start] + text[text.index("type-check: .venv") :])
    manifest = template / "pyproject.toml.jinja"
    manifest.write_text(manifest.read_text().replace("ruff>=0.14", "ruff>=0.13"))
    agents = template / "{{package}}/agents.py.jinja"
    agents.write_text(agents.read_text().replace("Get somebody out of bed.", "Wake somebody."))


async def test_a_fresh_clone_takes_the_event_that_make_dev_tells_to_send(newcomer: Newcomer) -> None:
    async with newcomer.dev(newcomer.clone) as words:
        assert await accepted(*typed(words)) == {"hello": "succeeded"}


def test_a_project_of_the_template_passes_its_own_checks_at_once(newcomer: Newcomer) -> None:
    newcomer.run("make", "wheels", folder=newcomer.clone)
    given = ["--data", "name=my-agent", "--data", "source=wheels", "--defaults", "--quiet"]
    newcomer.run(
        COPIER, "copy", *given, "--vcs-ref", "v0.0.1", newcomer.clone, newcomer.project, folder=newcomer.folder
    )
    shutil.copytree(newcomer.clone / "dist", newcomer.project / "wheels")
    # The other tests have seen how it is made.
    (newcomer.project / ".tools").symlink_to(newcomer.clone / ".tools")
    said = newcomer.run("make", "ci", folder=newcomer.project)
    assert re.search(r"\n7 passed", said), said
    (newcomer.project / ".git/info").mkdir(parents=True)
    (newcomer.project / ".git/info/exclude").write_text(".tools\n")
    newcomer.commit(newcomer.project)


def follow_the_readme(project: Path) -> str:
    """An event, an agent, a trigger and a test of one's own, as the README has them; the event to send."""
    readme = (project / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    imports = {
        "my_agent/events.py": ("", ""),
        "my_agent/agents.py": ("import TicketOpened", "import TicketClosed, TicketOpened"),
        "my_agent/triggers.py": ("import page,", "import page, say_thanks,"),
        "tests/test_app.py": ("", ""),
    }
    assert len(blocks) == len(imports)
    for (name, (before, after)), block in zip(imports.items(), blocks, strict=True):
        text = (project / name).read_text()
        assert before in text
        gap = "\n" if name.endswith("triggers.py") else "\n\n"
        (project / name).write_text(text.replace(before, after, 1) + gap + block)
    found = re.search(r"^curl .* -d '(.*)'$", readme, re.MULTILINE)
    assert found
    return found[1]


async def test_an_event_of_ones_own_as_the_readme_says(newcomer: Newcomer) -> None:
    async with newcomer.dev(newcomer.project) as words:
        url, body = typed(words)
        assert json.loads(body)["payload"]["text"] == "Our shop is down since noon."
        assert await accepted(url, body) == {"sort-tickets": "succeeded"}
        event = follow_the_readme(newcomer.project)

        # The gateway takes it before anybody knows it; the workers come back with a trigger that does.
        async def thanked() -> bool:
            return await accepted(url, event) == {"thanks": "succeeded"}

        await eventually(thanked, timeout_s=60, what="the new trigger")
    said = newcomer.run("make", "ci", folder=newcomer.project)
    assert re.search(r"\n8 passed", said), said


def test_an_update_brings_what_is_new_and_leaves_what_is_the_teams(newcomer: Newcomer) -> None:
    project = newcomer.project
    makefile = project / "Makefile"
    makefile.write_text(makefile.read_text() + "\nship: ## ours\n\t@echo shipped\n")
    (project / "docs/running.md").unlink()
    newcomer.commit(project)
    theirs = {file: file.read_text() for folder in ("my_agent", "tests") for file in (project / folder).glob("*.py")}
    assert "Wake somebody." in theirs[project / "my_agent/agents.py"]

    newcomer.run(COPIER, "update", "--defaults", "--quiet", folder=project)
    assert {file: file.read_text() for file in theirs} == theirs
    assert not (project / "docs/running.md").exists()
    changed = newcomer.run("git", "status", "--porcelain", folder=project).split("\n")
    assert sorted(filter(None, changed)) == [" M .copier-answers.yml", " M Makefile", " M pyproject.toml"]
    assert "ruff>=0.14" in (project / "pyproject.toml").read_text()
    assert newcomer.run("make", "ship", folder=project) == "shipped\n"
    newcomer.run("make", "format", "ci", folder=project)
    assert {file: file.read_text() for file in theirs} == theirs
