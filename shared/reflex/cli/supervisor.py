"""The child processes of `reflex dev`: started, restarted when they end or their code changes, ended with us."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from reflex.cli.output import Output
from reflex.core.errors import CONFIGURATION_EXIT_CODE
from reflex.core.lifeline import die_with_parent
from reflex.core.restarts import Restarts

__all__ = ["Command", "Supervisor"]

LOOK_S: Final = 0.05
# What a process may need after its own grace: a last write to the database.
LAST_WORDS_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Command:
    """One process to keep running. `role` is what changes of code are about: `gateway` or `worker`."""

    name: str
    role: str
    arguments: tuple[str, ...]
    # A worker whose app does not load says why and ends with code 2: only another code can change that.
    waits_for_code: bool = False


@dataclass(slots=True, eq=False)
class Child:
    """A command, and the process that currently runs it."""

    command: Command
    process: "subprocess.Popen[bytes] | None" = None
    told_to_end: asyncio.Event = field(default_factory=asyncio.Event)

    def signal_group(self, sent: signal.Signals) -> None:
        """To the process and what it started: it leads a group of its own."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sent)


class Supervisor:
    """Keeps a set of commands running until `stop`.

    Args:
        environment: Called before each start.
        grace_s: What a process has for its clean end, beyond which it is killed.
    """

    def __init__(
        self,
        commands: list[Command],
        *,
        environment: Callable[[], Mapping[str, str]],
        output: Output,
        grace_s: float,
    ) -> None:
        self._children = [Child(command) for command in commands]
        self._environment = environment
        self._output = output
        self._patience_s = grace_s + LAST_WORDS_S
        self._waiting_for_code: set[str] = set()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Start everything at once; return when everything has ended."""
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(self._keep(child))

    def stop(self) -> None:
        """End all: cleanly the first time, at once the second."""
        if self.stopping.is_set():
            for child in self._children:
                child.signal_group(signal.SIGKILL)
        self.stopping.set()
        for child in self._children:
            child.told_to_end.set()

    def restart(self, roles: frozenset[str]) -> None:
        """End the processes of these roles cleanly and start them anew."""
        self._waiting_for_code -= roles
        for child in self._children:
            if child.command.role in roles:
                child.told_to_end.set()

    async def _keep(self, child: Child) -> None:
        command = child.command
        restarts = Restarts()
        while not self.stopping.is_set():
            child.told_to_end.clear()
            began = time.monotonic()
            code = await self._run(child)
            if child.told_to_end.is_set():
                restarts.forget()
            elif code == CONFIGURATION_EXIT_CODE and command.waits_for_code:
                self._say_waiting_for_code(command)
                await child.told_to_end.wait()
            else:
                wait_s = restarts.wait_s(time.monotonic() - began)
                self._output.say(f"{command.name} {ending(code)}; starting it again in {wait_s:g} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await child.told_to_end.wait()

    async def _run(self, child: Child) -> int:
        """One life of a process; its exit code, negative for a signal."""
        process = child.process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own words, and it returns at once
            child.command.arguments, env=self._environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must reach it once, through us
            preexec_fn=die_with_parent(signal.SIGKILL),
        )  # fmt: skip
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        copying = asyncio.create_task(self._output.copy(child.command.name, reader))
        ending = asyncio.create_task(self._end_when_told(child))
        try:
            # Looked at, not waited for: asyncio's wait() may last as long as any grandchild holds the pipe.
            while process.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        finally:
            ending.cancel()
            child.signal_group(signal.SIGKILL)  # what it left behind
            await asyncio.wait([copying], timeout=1)
            copying.cancel()
            pipe.close()
        return process.returncode

    async def _end_when_told(self, child: Child) -> None:
        await child.told_to_end.wait()
        assert child.process
        child.process.terminate()
        await asyncio.sleep(self._patience_s)
        self._output.say(f"{child.command.name} did not stop within {self._patience_s:g} s; killing it")
        child.signal_group(signal.SIGKILL)

    def _say_waiting_for_code(self, command: Command) -> None:
        if command.role not in self._waiting_for_code:  # once, not once a worker
            self._output.say(f"no {command.role} can start; waiting for a change of the code")
        self._waiting_for_code.add(command.role)


def ending(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
