"""Every block of code in the README and the guides: run where it can be, and checked against what it names."""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import httpx2
import psycopg
import pytest
import typer
import yaml
from pydantic_ai import models
from typer.core import TyperCommand, TyperGroup

from reflex.agent.app import load_app
from reflex.cli.main import app as cli
from reflex.core.events import EventRegistry
from tests.docs.blocks import PAGES, ROOT, Block, Command, all_blocks, commands_of
from tests.gateway.gateways import served, settings_for

BLOCKS: Final = all_blocks()
LANGUAGES: Final = {"python", "sh", "console", "json", "yaml", "toml", "ini", "sql", "js", "text"}
# What stands in the guides beside `reflex`, `curl` and `make`. A program that is misspelt is none of these.
PROGRAMS: Final = {
    "git", "cd", "mkdir", "cp", "grep", "install", "useradd", "systemctl", "docker", "kubectl", "pytest", "createdb",
    "copier", "pg_basebackup", "uvx", "pg_rewind", "deploy/install.sh",
}  # fmt: skip
AN_ID: Final = re.compile(r"\$ID|[0-9a-f]{8}-[0-9a-f]{4}-7")
IS_A_TEST: Final = re.compile(r"^(?:async )?def test_", re.MULTILINE)


def checked(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and block.reason is None]


def commands(*programs: str) -> list[Command]:
    found = [command for block in checked("sh", "console") for command in commands_of(block)]
    return [command for command in found if not programs or command.words[0] in programs]


def pages_with(blocks: list[Block]) -> list[Any]:
    pages = sorted({block.page for block in blocks})
    return [pytest.param(page, id=page.stem) for page in pages]


def program_of(page: Path, *, tests: bool) -> str:
    """The page's blocks of Python as one file: they go on where the last one ended."""
    blocks = [block.text for block in checked("python") if block.page == page]
    return "\n\n".join(text for text in blocks if bool(IS_A_TEST.search(text)) is tests)


def test_every_fence_is_seen_and_says_what_it_is() -> None:
    """Fails with: a fence that the collector does not understand, one without a language."""
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page for block in BLOCKS), page
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []


def test_what_is_not_checked_is_little_and_says_why() -> None:
    left_out = [block for block in BLOCKS if block.reason is not None]
    assert len(left_out) <= 5, [f"{block}: {block.reason}" for block in left_out]
    pictures = [block for block in BLOCKS if block.language == "text"]
    assert len(pictures) <= 8, [str(block) for block in pictures]
    reasons = sum(page.read_text().count("<!-- not run") for page in PAGES)
    assert reasons == len(left_out), "a reason stands in the line before its block"


@pytest.mark.parametrize("page", pages_with([block for block in checked("python") if not IS_A_TEST.search(block.text)]))
def test_the_python_of_a_page_is_a_program_that_loads(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page together, as the app that they are. Fails with: a name that no block has defined."""
    monkeypatch.setattr(EventRegistry, "classes", dict(EventRegistry.classes))
    monkeypatch.setattr(models, "ALLOW_MODEL_REQUESTS", False)
    monkeypatch.syspath_prepend(tmp_path)
    name = "page_" + page.stem.replace("-", "_").lower()
    program = program_of(page, tests=False)
    (tmp_path / f"{name}.py").write_text(program)
    if "Trigger(" in program:
        assert load_app(name, default_model="offline").triggers
    else:
        import_module(name)


@pytest.mark.parametrize("page", pages_with([block for block in checked("python") if IS_A_TEST.search(block.text)]))
def test_the_tests_of_a_page_pass(page: Path, tmp_path: Path, postgres_url: str) -> None:
    """As an author would copy them beside the app of the page, for a pytest of their own."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/app.py").write_text(program_of(page, tests=False))
    (tmp_path / "test_page.py").write_text("from datetime import timedelta\n" + program_of(page, tests=True))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {tmp_path} {ROOT}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": postgres_url},
    )  # fmt: skip
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr


@pytest.mark.parametrize("command", commands("reflex"), ids=lambda command: command.where.rpartition("/")[2])
def test_a_command_of_a_page_exists_with_its_options(command: Command) -> None:
    """Parsed by the real command line, which stops before it does anything. Fails with: an option that was renamed."""
    parsed: Any = typer.main.get_command(cli)
    parent, name, words = None, "reflex", list(command.words[1:])
    while isinstance(parsed, TyperGroup):
        parent = typer.Context(parsed, info_name=name, parent=parent)
        name, parsed, words = parsed.resolve_command(parent, words)
    parsed.make_context(name, words, parent=parent)
    assert isinstance(parsed, TyperCommand), f"{command.where}: a group, not a command"


def test_the_other_programs_are_known_and_their_files_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        program, *words = command.words or ("make",)
        assert program in PROGRAMS | {"reflex", "curl", "make"}, f"{command.where}: {program}"
        for word in (program, *words):
            if word.startswith(("deploy/", "examples/", "docs/", "tests/")):
                assert list(ROOT.glob(word)), f"{command.where}: there is no {word}"
        if program == "make":
            asked = {word for word in words if "=" not in word}
            assert asked <= targets, f"{command.where}: {asked - targets}"


class Curl(argparse.ArgumentParser):
    """As much of curl as the guides use."""

    def __init__(self) -> None:
        super().__init__()
        self.add_argument("address")
        self.add_argument("-X", dest="method")
        self.add_argument("-H", dest="headers", action="append", default=[])
        self.add_argument("-d", dest="body")
        for silent in ("-N", "-s", "-i"):
            self.add_argument(silent, action="store_true")

    def request(self, words: tuple[str, ...], host: str) -> dict[str, Any]:
        given = self.parse_args(words)
        path = re.fullmatch(r"(?:http://)?(?:localhost|127\.0\.0\.1):8000(/.*)", given.address)
        assert path, f"{given.address} is no address of a gateway"
        headers = dict(header.split(": ", 1) for header in given.headers)
        method = given.method or ("POST" if given.body else "GET")
        return {"method": method, "url": f"http://{host}{path[1]}", "headers": headers, "content": given.body}


async def test_a_gateway_answers_each_request_of_the_pages(shared_database_url: str) -> None:
    """One gateway for all. An id that is made up is not found, by a route that exists. Fails with: a path or a method
    that is gone, a body that is refused.
    """
    async with served(settings_for(shared_database_url)) as (host, port), httpx2.AsyncClient(timeout=30) as client:
        described = (await client.get(f"http://{host}:{port}/openapi.json")).json()["paths"]
        templates: dict[str, list[re.Pattern[str]]] = {"GET": [], "POST": [], "DELETE": []}
        for template, operations in described.items():
            for method in operations.keys() & {"get", "post", "delete"}:
                templates[method.upper()].append(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))))
        for command in commands("curl"):
            request = Curl().request(command.words[1:], f"{host}:{port}")
            async with client.stream(**request) as answer:
                if answer.is_success:
                    continue
                problem = json.loads(await answer.aread())
            assert AN_ID.search(request["url"]), f"{command.where}: {problem}"
            assert problem["status"] == 404, f"{command.where}: {problem}"
            path = request["url"].partition(f":{port}")[2].partition("?")[0]
            assert any(template.fullmatch(path) for template in templates[request["method"]]), (
                f"{command.where}: {path}"
            )


@pytest.mark.parametrize("block", checked("json", "yaml", "toml", "ini"), ids=lambda block: block.page.stem)
def test_data_parses(block: Block) -> None:
    match block.language:
        case "json":
            json.loads(block.text)
        case "yaml":
            list(yaml.safe_load_all(block.text))
        case "toml":
            tomllib.loads(block.text)
        case _:
            for line in block.text.splitlines():
                assert re.fullmatch(r"[A-Z][A-Z0-9_]*=\S+|#.*|", line), line


@pytest.fixture
def session(shared_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(shared_database_url, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("block", checked("sql"), ids=lambda block: block.page.stem)
def test_sql_runs(block: Block, session: psycopg.Connection) -> None:
    session.execute(block.text.encode())
