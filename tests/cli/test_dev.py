"""`reflex dev` as a user meets it: one command, one terminal, nothing left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import psycopg
import pytest

from reflex.cli.dev import Stack, default_commands
from reflex.cli.embedded_postgres import running_url
from reflex.cli.postmaster import read_pid_file
from reflex.cli.supervisor import Command
from reflex.core.errors import ConfigurationError
from reflex.core.settings import Settings
from tests.cli.test_commands import reflex
from tests.processes import ReflexProcess, eventually, free_port

APP = """
from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger

async def greet(ctx: AgentContext) -> None:
    print("{greeting}", ctx.event.payload["message"], flush=True)

Trigger(name="greet", filter=type_filter("http"), agent=greet)
"""
# The supervisor alone, with one program in the place of all processes.
STUB = """
import json, sys
from reflex.cli.dev import run_dev
from reflex.cli.supervisor import Command
from reflex.core.settings import load_settings
program = "import time; print('up', flush=True); time.sleep(600)"
sys.exit(run_dev(load_settings(), commands=[Command("stub", "worker", (sys.executable, "-S", "-c", program))]))
"""


class StubbedDev(ReflexProcess):
    program = (sys.executable, "-c", STUB)


class DeafDev(ReflexProcess):
    """Told to stop during the start, where the exception gets lost: Python drops one that meets its fork hooks."""

    program = (
        sys.executable,
        "-c",
        """
import contextlib, os, signal
from reflex.cli.dev import Stack
def prepare(stack):
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
Stack.prepare = prepare
"""
        + STUB,
    )


class Dev:
    """A running `reflex dev` in `folder`, on the app `shop` there."""

    def __init__(self, process: ReflexProcess, folder: Path, port: int) -> None:
        self.process = process
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    async def send(self, message: str) -> None:
        """Once there is a gateway to take it: it may be restarting."""

        async def accepted() -> bool:
            async with httpx2.AsyncClient() as client:
                try:
                    answer = await client.post(
                        f"{self.url}/events", json={"type": "http", "payload": {"message": message}}
                    )
                except httpx2.TransportError:
                    return False
                assert answer.status_code == 202, answer.text
                return True

        await eventually(accepted)

    async def ends(self, sent: signal.Signals) -> int:
        """Its exit code; nothing that it started may be left then."""
        self.process.send(sent)
        code = await self.process.exited(timeout_s=20)
        await eventually(lambda: not started_by(self.folder), timeout_s=5, what="the end of all its processes")
        return code


@asynccontextmanager
async def dev(
    folder: Path, *, port: int | None = None, kind: type[ReflexProcess] = ReflexProcess, **env: str
) -> AsyncGenerator[Dev]:
    port = port or free_port()
    given = {"REFLEX_APP": "shop", "REFLEX_PORT": str(port), "REFLEX_DATA_DIR": str(folder / "state"), **env}
    given["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")  # the app is found without
    arguments = ("dev",) if kind is ReflexProcess else ()
    process = kind(*arguments, folder=folder, env=given, name=f"dev-{uuid4().hex[:8]}")
    try:
        yield Dev(process, folder, port)
    finally:
        await process.close()


def assert_stopped_cleanly(ended: Dev) -> None:
    """Asked to, not killed: each said so."""
    assert "gateway stopped" in ended.process.log
    assert ended.process.log.count("worker has stopped") == 2


def started_by(folder: Path) -> list[int]:
    """The live processes that were told about `folder`, or work in it."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            told = f"REFLEX_DATA_DIR={folder}".encode() in (entry / "environ").read_bytes()
            if told or (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:  # ended meanwhile
            continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP.format(greeting="hello"))
    # The gateway must not look for its packages in the working folder.
    (tmp_path / "hypercorn.py").write_text("raise RuntimeError('someone else's file')")
    return tmp_path


async def test_one_command_takes_an_event_to_an_agent_and_a_second_start_keeps_it(folder: Path) -> None:
    async with dev(folder) as first:
        await first.process.says("Reflex is ready")
        port = first.url.rpartition(":")[2]
        for line in (f"http://localhost:{port}/events", f"http://localhost:{port}/docs", f":{port}/health"):
            assert line in first.process.log
        await first.process.says("Send an event")
        curl = re.search(r"curl -X POST (\S+) .* -d '(.*)'", first.process.log)
        assert curl
        assert curl[1] == f"http://localhost:{port}/events"
        assert json.loads(curl[2]) == {"type": "http", "payload": {"message": "Hello, Reflex!"}}
        assert "offline: no provider key" in first.process.log
        await first.process.says("worker is ready", times=2)
        await first.send("one")
        await first.process.says("| hello one")
        assert re.search(r"^worker-[12]  \| hello one$", first.process.log, re.MULTILINE)
        assert await first.ends(signal.SIGINT) == 0
        assert_stopped_cleanly(first)
        assert running_url(folder / "state" / "postgres") is None
    async with dev(folder) as second:
        await second.process.says("Reflex is ready")
        url = running_url(folder / "state" / "postgres")
        assert url
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT payload FROM reflex.event").fetchall() == [({"message": "one"},)]
        await second.process.says("worker is ready", times=2)
        # From another terminal, which names no database either.
        for command in (("dead-letters", "list"), ("status",)):
            done = await reflex(*command, folder=folder, REFLEX_DATA_DIR=second.process.env["REFLEX_DATA_DIR"])
            assert (done.code, done.error) == (0, "")
        assert await second.ends(signal.SIGTERM) == 0
        assert_stopped_cleanly(second)


@pytest.mark.skipif(sys.platform != "linux", reason="no parent-death signal")
async def test_a_killed_dev_takes_everything_with_it(folder: Path) -> None:
    async with dev(folder) as killed:
        await killed.process.says("Reflex is ready")
        await killed.process.says("worker is ready")
        assert len(started_by(folder)) >= 5  # itself, a gateway, two workers, a server
        await killed.ends(signal.SIGKILL)


async def test_a_change_of_the_app_is_what_the_next_event_meets(folder: Path, empty_database_url: str) -> None:
    async with dev(folder, DATABASE_URL=empty_database_url) as running:
        await running.process.says("worker is ready")
        await running.send("one")
        await running.process.says("| hello one")
        assert not (folder / "state").exists()  # DATABASE_URL is used, and was migrated
        (folder / "shop.py").write_text("import nowhere\n")
        await running.process.says("shop.py changed: restarting the workers")
        await running.process.says("no worker can start; waiting for a change of the code")
        assert "No module named 'nowhere'" in running.process.log
        (folder / "shop.py").write_text(APP.format(greeting="welcome back"))
        await running.send("two")
        await running.process.says("| welcome back two")
        assert await running.ends(signal.SIGINT) == 0


async def test_a_port_in_use_is_one_sentence_before_anything_is_started(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with dev(folder, port=port) as refused:
            assert await refused.process.exited() == 2
            assert refused.process.log.count("\n") == 1
            assert f"port {port} is in use" in refused.process.log
            assert "REFLEX_PORT" in refused.process.log
            assert not (folder / "state").exists()


async def test_a_second_dev_on_the_same_data_is_refused_and_the_first_goes_on(folder: Path) -> None:
    async with dev(folder, kind=StubbedDev) as first:
        await first.process.says("stub      | up")
        holder = read_pid_file(folder / "state" / "postgres")
        assert holder
        async with dev(folder) as second:
            assert await second.process.exited() == 2
            assert f"pid {holder.pid}" in second.process.log
            assert str(folder / "state" / "postgres") in second.process.log
        assert running_url(folder / "state" / "postgres")
        assert await first.ends(signal.SIGINT) == 0


async def test_a_server_that_was_killed_is_started_again_at_its_address(folder: Path) -> None:
    async with dev(folder, kind=StubbedDev) as running:
        await running.process.says("stub      | up")
        holder, url = read_pid_file(folder / "state" / "postgres"), running_url(folder / "state" / "postgres")
        assert holder
        os.kill(holder.pid, signal.SIGKILL)
        await running.process.says("PostgreSQL has ended; starting it again")
        await eventually(lambda: running_url(folder / "state" / "postgres") == url)
        assert await running.ends(signal.SIGINT) == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_stop_in_the_middle_of_the_first_start_leaves_nothing(folder: Path, sent: signal.Signals) -> None:
    async with dev(folder, kind=StubbedDev) as running:
        await running.process.says("starting PostgreSQL")
        assert await running.ends(sent) == 0
        assert "stub" not in running.process.log


async def test_a_stop_whose_exception_python_drops_is_not_forgotten(folder: Path) -> None:
    async with dev(folder, kind=DeafDev) as running:
        assert await running.process.exited() == 0
        assert "stub" not in running.process.log


def test_an_output_that_nobody_reads_any_more_ends_it(folder: Path) -> None:
    env = {**os.environ, "REFLEX_DATA_DIR": str(folder / "state"), "REFLEX_PORT": str(free_port())}
    env.pop("DATABASE_URL", None)
    pipe = subprocess.PIPE
    with subprocess.Popen(StubbedDev.program, cwd=folder, env=env, stdout=pipe, stderr=pipe) as unread:
        assert unread.stdout
        assert unread.stderr
        assert b"starting PostgreSQL" in unread.stdout.readline()
        unread.stdout.close()  # as `reflex dev | head -1` does
        try:
            assert unread.wait(20) == 0
            assert unread.stderr.read() == b""
        finally:
            unread.kill()
    assert not started_by(folder)


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, port=0, **given)  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith(("REFLEX_", "DEFAULT_MODEL", "DATABASE_URL", "HF_TOKEN")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", "postgresql://there")


@pytest.mark.usefixtures("no_provider")
def test_without_a_provider_key_the_model_is_the_offline_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Stack(settings(), []).environment()["DEFAULT_MODEL"] == "offline"
    monkeypatch.setenv("GROQ_API_KEY", "x")
    assert "DEFAULT_MODEL" not in Stack(settings(), []).environment()
    monkeypatch.setenv("DEFAULT_MODEL", "groq:llama")
    assert Stack(settings(), []).environment()["DEFAULT_MODEL"] == "groq:llama"


@pytest.mark.usefixtures("no_provider")
def test_with_a_server_of_its_own_nobody_listens_to_another_one(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Fails if REFLEX_DIRECT_URL of `.env`, which is for a deployment, reaches the processes."""
    monkeypatch.setenv("REFLEX_DIRECT_URL", "postgresql://direct")
    assert Stack(settings(), []).environment()["REFLEX_DIRECT_URL"] == "postgresql://direct"
    monkeypatch.delenv("DATABASE_URL")
    own = Stack(settings(data_dir=folder), [])
    assert own.postgres
    with own.postgres:
        told = own.environment()
    assert told["REFLEX_DIRECT_URL"] == told["DATABASE_URL"] == own.postgres.url


@pytest.mark.usefixtures("no_provider")
def test_processes_are_told_the_example_app_and_a_short_grace_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Stack(settings(), []).environment()
    assert told["REFLEX_APP"] == "examples.orders.app"
    assert float(told["REFLEX_DRAIN_GRACE_S"]) < 5
    assert int(told["REFLEX_PORT"]) > 0
    monkeypatch.setenv("REFLEX_APP", "shop")
    monkeypatch.setenv("REFLEX_DRAIN_GRACE_S", "17")
    told = Stack(settings(), []).environment()
    assert (told["REFLEX_APP"], float(told["REFLEX_DRAIN_GRACE_S"])) == ("shop", 17)


@pytest.mark.usefixtures("no_provider")
def test_each_worker_shows_its_metrics_at_a_port_of_its_own() -> None:
    """Fails if both are left with REFLEX_METRICS_PORT as it is: the second one could not listen on it."""
    told = [command.arguments[-2:] for command in default_commands(9100) if command.role == "worker"]
    assert told == [("--metrics-port", "9100"), ("--metrics-port", "9101")]
    assert not [each for command in default_commands() for each in command.arguments if each == "--metrics-port"]


def test_a_host_that_is_not_ours_is_a_sentence_that_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"REFLEX_HOST '192\.0\.2\.1'"):
        Stack(settings(host="192.0.2.1", access="open-to-all"), [Command("gateway", "gateway", ())])
