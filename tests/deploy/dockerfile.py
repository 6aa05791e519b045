"""Replays a Dockerfile without an engine: the COPYs out of the build context, and the calls of deploy/install.sh."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
UV = ROOT / ".tools/bin/uv"


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    text: str

    @property
    def flags(self) -> dict[str, str]:
        return dict(re.findall(r"--(\w+)=(\S+)", self.text.split(" -- ")[0]))

    @property
    def arguments(self) -> list[str]:
        """The words after the flags, or the list of the exec form."""
        if self.text.startswith("["):
            return json.loads(self.text)
        return [word for word in shlex.split(self.text) if not word.startswith("--")]


def stages(role: str) -> list[list[Instruction]]:
    """The instructions of each stage of deploy/ROLE.Dockerfile, its FROM first."""
    lines = (ROOT / f"deploy/{role}.Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if found and word:
            found[-1].append(Instruction(word, re.sub(r"\s+", " ", rest).strip()))
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the builder: the last rule that matches it or a folder above it wins."""
    verdict = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!")
            above = [PurePosixPath(path), *PurePosixPath(path).parents]
            if any(_matches(candidate.parts, tuple(pattern.split("/"))) for candidate in above):
                verdict = not rule.startswith("!")
    return verdict


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not path or not pattern:
        return path == pattern
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return PurePosixPath(path[0]).match(pattern[0]) and _matches(path[1:], pattern[1:])


def copy(instruction: Instruction, folder: Path) -> None:
    """What a COPY brings from the build context into `folder`."""
    *sources, target = instruction.arguments
    for source in sources:
        origin = ROOT / source
        files = [file for file in origin.rglob("*") if file.is_file()] if origin.is_dir() else [origin]
        for file in files:
            inside = (
                file.relative_to(origin) if origin.is_dir() else Path(file.name) if target.endswith("/") else Path()
            )
            if not ignored(file.relative_to(ROOT).as_posix()):
                destination = folder / target / inside
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, destination)


def install(context: Path, step: str, role: str, venv: Path) -> subprocess.CompletedProcess[str]:
    """deploy/install.sh as the build stage runs it, in a copied context; uv links from its cache instead of copying."""
    environment = {**os.environ, "UV": str(UV), "PYTHON": sys.executable}
    command = ["deploy/install.sh", step, role, str(venv)]
    return subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Image:
    """What the final stage holds: the virtual environment, the working folder and the variables."""

    role: str
    context: Path
    venv: Path
    app: Path

    @property
    def environment(self) -> dict[str, str]:
        found = {"PATH": os.defpath, "HOME": str(self.app)}
        for instruction in stages(self.role)[-1]:
            if instruction.word == "ENV":
                for word in instruction.arguments:
                    name, _, value = word.partition("=")
                    value = value.replace("$PATH", found["PATH"]).replace("/opt/reflex", str(self.venv))
                    found[name] = str(self.app) if value == "/app" else value
        # The image was compiled when it was built, which takes half a minute; here each module is at its first import.
        found.pop("PYTHONDONTWRITEBYTECODE")
        return {**found, "PYTHONPYCACHEPREFIX": str(self.venv / "bytecode")}

    def run(
        self, *command: str, cwd: Path | None = None, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command in the image. `reflex` and `python` are the image's, nothing of this checkout is on the path."""
        program = str(self.venv / "bin" / command[0])
        environment = {**self.environment, **(variables or {})}
        return subprocess.run(
            [program, *command[1:]],
            cwd=cwd or self.app,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @contextmanager
    def started(self, variables: dict[str, str], log: Path) -> Generator[subprocess.Popen[bytes]]:
        """The ENTRYPOINT and CMD as a process; killed in the end if it still lives."""
        final = {instruction.word: instruction for instruction in stages(self.role)[-1]}
        program, *arguments = [*final["ENTRYPOINT"].arguments, *final["CMD"].arguments]
        command = [str(self.venv / "bin" / program), *arguments]
        with log.open("w") as output:
            environment = {**self.environment, **variables}
            process = subprocess.Popen(command, cwd=self.app, env=environment, stdout=output, stderr=output)
            try:
                yield process
            finally:
                process.kill()
                process.wait()


def build(role: str, folder: Path) -> Image:
    """Replay the COPYs of both stages and the RUNs that call the install script.

    Raises:
        AssertionError: A call failed; the text is what it printed.
    """
    image = Image(role, folder / "src", folder / "venv", folder / "app")
    image.app.mkdir(parents=True)
    build_stage, final_stage = stages(role)
    for instruction in build_stage:
        if instruction.word == "COPY":
            copy(instruction, image.context)
        elif instruction.word == "RUN" and "deploy/install.sh" in instruction.arguments:
            _, step, named, _ = instruction.arguments
            done = install(image.context, step, named, image.venv)
            assert done.returncode == 0, done.stdout + done.stderr
    for instruction in final_stage:
        if instruction.word == "COPY" and "from" not in instruction.flags:
            copy(instruction, image.app)
    return image
