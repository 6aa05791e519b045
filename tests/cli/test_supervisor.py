"""The supervisor of `reflex dev`, with programs of a few lines in the place of gateways and workers."""

import asyncio
import io
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reflex.cli.output import Output
from reflex.cli.supervisor import Command, Supervisor
from tests.processes import eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflex.core.restarts.RESTART_S", (0.01, 0.02))
    monkeypatch.setattr("reflex.cli.supervisor.LAST_WORDS_S", 0.0)


def command(name: str, program: str, *, role: str = "worker", waits_for_code: bool = False) -> Command:
    return Command(name, role, (sys.executable, "-u", "-S", "-c", program), waits_for_code=waits_for_code)


class Supervised:
    """A supervisor at work, and what it wrote so far."""

    def __init__(self, commands: list[Command], environment: Callable[[], dict[str, str]], grace_s: float) -> None:
        self.stream = io.StringIO()
        output = Output([command.name for command in commands], self.stream)
        self.supervisor = Supervisor(commands, environment=environment, output=output, grace_s=grace_s)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    async def says(self, text: str, *, times: int = 1) -> None:
        try:
            await eventually(lambda: self.text.count(text) >= times)
        except AssertionError:
            raise AssertionError(f"{text!r} was not said {times} times:\n{self.text}") from None


@asynccontextmanager
async def supervised(
    *commands: Command, environment: Callable[[], dict[str, str]] = dict, grace_s: float = 10
) -> AsyncGenerator[Supervised]:
    found = Supervised(list(commands), environment, grace_s)
    running = asyncio.create_task(found.supervisor.run())
    try:
        yield found
    finally:
        found.supervisor.stop()
        found.supervisor.stop()
        await running


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_each_line_begins_with_who_wrote_it() -> None:
    program = "import sys, time; print('one'); sys.stderr.write('two\\nthree'); sys.stderr.flush(); time.sleep(60)"
    async with supervised(command("worker-1", program)) as found:
        await found.says("worker-1  | two\n")
        assert "worker-1  | one\n" in found.text
        assert "three" not in found.text
        found.supervisor.stop()
        await found.says("worker-1  | three\n")


async def test_a_line_without_an_end_is_cut_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflex.cli.output.LONGEST_LINE", 1000)
    program = "import time; print('x' * 5000, end='', flush=True); time.sleep(60)"
    async with supervised(command("worker-1", program)) as found:
        await found.says("worker-1  | xxx", times=2)


async def test_a_process_that_ends_is_started_again_with_one_sentence() -> None:
    async with supervised(command("gateway", "print('up'); raise SystemExit(3)", role="gateway")) as found:
        await found.says("gateway   | up", times=3)
        assert "reflex    | gateway ended with exit code 3; starting it again in 0.01 s\n" in found.text
        assert "again in 0.02 s" in found.text


async def test_a_process_that_was_killed_says_by_what() -> None:
    async with supervised(command("gateway", "import os; os.kill(os.getpid(), 9)", role="gateway")) as found:
        await found.says("gateway was killed by SIGKILL; starting it again")


async def test_apps_that_do_not_load_wait_for_a_change_of_the_code(tmp_path: Path) -> None:
    app = tmp_path / "app"
    program = (
        f"import sys, time, os; print('looking'); sys.exit(2) if not os.path.exists({str(app)!r}) else print('up')"
    )
    workers = [command(f"worker-{n}", f"{program}; time.sleep(60)", waits_for_code=True) for n in (1, 2)]
    async with supervised(*workers) as found:
        await found.says("no worker can start; waiting for a change of the code")
        await found.says("looking", times=2)
        await asyncio.sleep(0.2)
        assert found.text.count("looking") == 2
        assert found.text.count("waiting for a change") == 1
        found.supervisor.restart(frozenset({"worker"}))
        await found.says("waiting for a change", times=2)
        app.touch()
        found.supervisor.restart(frozenset({"worker"}))
        await found.says("| up", times=2)


async def test_a_change_restarts_the_roles_that_it_concerns_and_no_other() -> None:
    program = "print('up'); import time; time.sleep(60)"
    commands = [command("worker-1", program), command("gateway", program, role="gateway")]
    async with supervised(*commands) as found:
        await found.says("| up", times=2)
        found.supervisor.restart(frozenset({"worker"}))
        await found.says("worker-1  | up", times=2)
        assert found.text.count("gateway   | up") == 1
        assert "starting it again" not in found.text


async def test_each_start_asks_for_the_environment_anew() -> None:
    addresses = iter(["first", "second", "third"])
    program = "import os, time; print('at', os.environ['ADDRESS']); time.sleep(60)"
    async with supervised(command("worker-1", program), environment=lambda: {"ADDRESS": next(addresses)}) as found:
        await found.says("at first")
        found.supervisor.restart(frozenset({"worker"}))
        await found.says("at second")


async def test_a_stop_asks_first() -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('leaving'), sys.exit()))\n"
        "print('up'); time.sleep(60)"
    )
    async with supervised(command("worker-1", program)) as found:
        await found.says("| up")
        found.supervisor.stop()
        await found.says("worker-1  | leaving")
    assert "starting it again" not in found.text


DEAF = (
    "import signal, os, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('pid', os.getpid()); time.sleep(60)"
)


async def pid_said(found: Supervised) -> int:
    await found.says("| pid ")
    return int(found.text.rpartition("| pid ")[2].split()[0])


async def test_what_does_not_stop_within_its_grace_is_killed() -> None:
    async with supervised(command("worker-1", DEAF), grace_s=0.1) as found:
        pid = await pid_said(found)
        found.supervisor.stop()
        await eventually(lambda: is_gone(pid), timeout_s=5)
        await found.says("worker-1 did not stop within 0.1 s; killing it")


async def test_a_second_stop_kills_at_once() -> None:
    async with supervised(command("worker-1", DEAF), grace_s=60) as found:
        pid = await pid_said(found)
        found.supervisor.stop()
        found.supervisor.stop()
        await eventually(lambda: is_gone(pid), timeout_s=5)


async def test_what_a_process_started_goes_with_it() -> None:
    child = "import subprocess; print('pid', subprocess.Popen(['sleep', '60']).pid); raise SystemExit(3)"
    async with supervised(command("worker-1", child)) as found:
        pid = await pid_said(found)
        await eventually(lambda: is_gone(pid), timeout_s=5)
        await found.says("starting it again")


async def test_names_have_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        output = Output(["gateway"], stream)
        output.write("gateway", "up")
        output.say("ready")
        assert ("\x1b[" in stream.getvalue()) is coloured
    monkeypatch.setenv("NO_COLOR", "1")
    output = Output(["gateway"], plain := Terminal())
    output.write("gateway", "up")
    assert plain.getvalue() == "gateway   | up\n"


async def test_a_terminal_that_goes_away_is_noticed() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    output = Output([], Closed())
    output.say("anyone?")
    assert output.closed.is_set()
    output.say("no error")
