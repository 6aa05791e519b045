"""The kit in an author's own project: a folder with an app and tests, and a plain `pytest`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = '''
from typing import Literal

from pydantic_ai import Agent
from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry


@EventRegistry.register
class TicketOpened(BaseEvent):
    type: Literal["ticket.opened"] = "ticket.opened"
    text: str


analyst = Agent("openai-chat:gpt-5", instructions="Say what the ticket is about.")


@analyst.tool_plain
def history(customer: str) -> list[str]:
    """Earlier tickets of a customer."""
    return ["lost parcel"]


async def triage(ctx: AgentContext) -> str:
    about = (await ctx.run_agent(analyst)).output
    await ctx.publish("ticket.sorted", {"about": about})
    return about


Trigger("triage", type_filter("ticket.opened"), triage)
'''

TESTS = """
from desk.app import TicketOpened
from reflex.testing.model import call


async def test_a_ticket_is_sorted(reflex_app):
    async with reflex_app() as t:
        t.model.answers([call("history", customer="ada"), "a parcel"])
        await t.publish(TicketOpened(text="where is it?"))
        await t.run()
        assert t.runs[0].output == "a parcel"
        assert t.published.of("ticket.sorted")[0].payload == {"about": "a parcel"}


class TestCrashes:
    async def test_nothing_is_lost(self, crash_at_every_step):
        report = await crash_at_every_step("desk.app", TicketOpened(text="?"), repeatable={"history"})
        assert report.ok, report

    async def test_that_fails_by_its_report(self, crash_at_every_step):
        report = await crash_at_every_step("desk.app", TicketOpened(text="?"))
        assert report.ok, report


async def test_that_fails(reflex_app):
    async with reflex_app("desk.app") as t:
        await t.publish(TicketOpened(text="where is it?"))
        await t.run()
        assert t.published == ()


def test_without_the_fixture():
    assert True
"""


# Each starts a process that loads pydantic-ai, and some of them a server: long on a machine with much else to do.
pytestmark = pytest.mark.timeout(300)


def pytest_in(project: Path, *arguments: str, database_url: str = "") -> subprocess.CompletedProcess[str]:
    """Plain `pytest`, as it was installed beside the worker; without any provider's key."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    if database_url:
        environment["DATABASE_URL"] = database_url
    command = [str(Path(sys.executable).with_name("pytest")), "-q", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "app.py").write_text(APP)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_desk.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nreflex_app = "desk.app"\n')
    return tmp_path


def test_a_project_of_an_author_runs_with_plain_pytest(project: Path) -> None:
    """No plugin for async tests is configured, the agent's model has no key, and two of the tests fail, with what a
    tired person needs. Fails without: the entry point; the app loaded before the tests import it (its agent asks for
    the key); pytest_pyfunc_call; the two sections in the reports of failed tests.
    """
    done = pytest_in(project)
    assert "2 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "what happened in the Reflex app" in done.stdout
    assert "<triage: succeeded, attempt 1, ticket.opened -> 'offline model: ticket.opened received" in done.stdout
    assert 'NOT RECORDED  triage: history({"customer":"offline"})' in done.stdout
    assert "killed at   3. triage: before step 2 (history) is recorded" in done.stdout
    assert "repeatable={…}" in done.stdout


def test_an_app_that_cannot_be_loaded_is_one_sentence(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.pytest.ini_options]\nreflex_app = "desk.nothing"\n')
    done = pytest_in(project)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the setting reflex_app: there is no module 'desk.nothing'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_fixture_without_an_app_says_what_to_write(project: Path) -> None:
    (project / "pyproject.toml").unlink()
    (project / "tests" / "test_desk.py").write_text(
        "async def test_it(reflex_app):\n    async with reflex_app():\n        pass\n"
    )
    done = pytest_in(project)
    assert 'write reflex_app("shop.app"), or set reflex_app = "shop.app"' in done.stdout


def test_pytest_does_not_load_what_no_test_uses(project: Path) -> None:
    """Every pytest in the environment has the plugin. Fails with: an import of the kit at its top."""
    (project / "pyproject.toml").unlink()
    (project / "tests" / "test_desk.py").write_text(
        "import sys\n\n\n"
        "def test_it():\n"
        "    assert not {'pydantic_ai', 'psycopg', 'reflex.testing.app'} & set(sys.modules)\n"
    )
    done = pytest_in(project)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
