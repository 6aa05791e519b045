"""`reflex dev`: PostgreSQL, a gateway, two workers and the app on this machine, in one terminal, with one Ctrl-C."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Final

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.cli.first_event import command_line, database_clock, first_event, inputs_of
from reflex.cli.output import Output
from reflex.cli.reload import roles_of, watch, watched_folders
from reflex.cli.supervisor import Command, Supervisor
from reflex.core.errors import ConfigurationError
from reflex.core.exposure import check_exposure
from reflex.core.migrate import upgrade
from reflex.core.settings import Settings

__all__ = ["dev", "run_dev"]

DEFAULT_APP: Final = "examples.orders.app"
WORKERS: Final = 2
# One of these says that a real model is wanted.
PROVIDER_KEYS: Final = (
    "ANTHROPIC_API_KEY", "AWS_BEARER_TOKEN_BEDROCK", "AZURE_OPENAI_API_KEY", "CEREBRAS_API_KEY", "CO_API_KEY",
    "DEEPSEEK_API_KEY", "FIREWORKS_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "HF_TOKEN",
    "MISTRAL_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "PYDANTIC_AI_GATEWAY_API_KEY", "TOGETHER_API_KEY",
    "XAI_API_KEY",
)  # fmt: skip
# A reload must not wait for a long run: it goes on after the restart, like after any other deploy.
DRAIN_GRACE_S: Final = 2.0
LOOK_S: Final = 0.05
REGISTERED_LOOK_S: Final = 0.25


def dev(settings: Settings) -> None:
    """Run until Ctrl-C; the exit code is 0 then."""
    sys.exit(run_dev(settings))


def run_dev(settings: Settings, *, commands: Sequence[Command] | None = None) -> int:
    """Run until SIGINT or SIGTERM, and leave no process.

    Args:
        commands: Instead of the gateway and the workers; for tests.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: The port is in use, or PostgreSQL does not start.
        DatabaseUnavailable: DATABASE_URL is set and does not answer.
    """
    stack = Stack(settings, list(commands or default_commands(settings.metrics_port)))
    ends = stop_signals()
    for each in ends:
        signal.signal(each, stack.interrupt)
    try:
        stack.prepare()
        asyncio.run(stack.serve())
    except KeyboardInterrupt:  # before there was anything to stop cleanly, or once more while stopping
        pass
    finally:
        for each in ends:
            signal.signal(each, stack.hurry)
        stack.close()
    if stack.failure:
        raise stack.failure
    return 0


class Stack:
    """Everything that one `reflex dev` runs."""

    def __init__(self, settings: Settings, commands: list[Command]) -> None:
        self.settings = settings
        self.app = settings.app or DEFAULT_APP
        check_exposure(settings)  # or the gateway would say so, again and again
        self.port = usable_port(settings.host, settings.port)
        self.model = settings.default_model or (None if any(map(os.environ.get, PROVIDER_KEYS)) else "offline")
        given = "drain_grace_s" in settings.model_fields_set
        self.grace_s = settings.drain_grace_s if given else DRAIN_GRACE_S
        self.output = Output([command.name for command in commands])
        self.supervisor = Supervisor(commands, environment=self.environment, output=self.output, grace_s=self.grace_s)
        self.failure: ConfigurationError | None = None
        self.interrupted = False
        self.postgres: EmbeddedPostgres | None = None
        if settings.database_url is None:
            self.postgres = EmbeddedPostgres(settings.data_dir / "postgres")

    @property
    def database_url(self) -> str:
        return self.postgres.url if self.postgres else self.settings.require_database_url()

    @property
    def direct_url(self) -> str:
        """Our own server has no pooler, whatever is set for another one."""
        return self.postgres.url if self.postgres else self.settings.require_direct_url()

    def environment(self) -> dict[str, str]:
        """What the processes are told. It wins over their `.env`."""
        told = {
            "DATABASE_URL": self.database_url,
            "REFLEX_DIRECT_URL": self.direct_url,
            "REFLEX_APP": self.app,
            "REFLEX_PORT": str(self.port),
            "REFLEX_DRAIN_GRACE_S": str(self.grace_s),
            # They write to a pipe; it is read by a person all the same.
            "REFLEX_LOG_FORMAT": "pretty" if self.settings.log_format == "auto" else self.settings.log_format,
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **told, **({"DEFAULT_MODEL": self.model} if self.model else {})}

    def interrupt(self, number: int, _: FrameType | None) -> None:
        """A signal before the event loop runs."""
        # Kept as well as raised: an exception that meets one of Python's own hooks around a fork is lost.
        self.interrupted = True
        raise KeyboardInterrupt(number)

    def prepare(self) -> None:
        """A database with the schema."""
        if self.postgres:
            self.output.say(f"starting PostgreSQL on {self.settings.data_dir / 'postgres'}")
            self.postgres.start()
        upgrade(self.direct_url)

    async def serve(self) -> None:
        """Return when everything that was started has ended, PostgreSQL excepted."""
        loop = asyncio.get_running_loop()
        for each in stop_signals():
            loop.add_signal_handler(each, self.stop)
        if self.interrupted:
            return
        started_at = await database_clock(self.database_url)
        besides = [
            asyncio.create_task(work)
            for work in (self.announce(started_at), self.reload(), self.keep_postgres(), self.stop_without_terminal())
        ]
        try:
            await self.supervisor.run()
        finally:
            for task in besides:
                task.cancel()
            await asyncio.gather(*besides, return_exceptions=True)

    def stop(self) -> None:
        again = self.supervisor.stopping.is_set()
        self.output.say("killing what is left" if again else "stopping; Ctrl-C again to kill at once")
        self.supervisor.stop()

    def close(self) -> None:
        if self.postgres:
            self.postgres.stop()

    def hurry(self, *_: object) -> None:
        """A signal while `close` waits."""
        if self.postgres:
            self.postgres.abort()

    async def announce(self, started_at: datetime) -> None:
        """Wait for the gateway, then say where everything is; wait for the app, then say what to send."""
        while not await answers(self.settings.host, self.port):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        url = f"http://localhost:{self.port}"
        model = f"model   {self.model}" if self.model else "model   what each agent names"
        if self.model == "offline" and not self.settings.default_model:
            model += ": no provider key such as OPENAI_API_KEY is set. For a real model set it and DEFAULT_MODEL"
        self.output.block(
            f"Reflex is ready: one gateway, {WORKERS} workers, app {self.app}\n\n"
            f"  events  {url}/events\n"
            f"  docs    {url}/docs\n"
            f"  health  {url}/health/detailed\n"
            f"  {model}\n\n"
            "Ctrl-C stops everything."
        )
        # A worker registers the app after it has imported it, or after somebody has mended it.
        while not (inputs := await inputs_of(self.app, since=started_at, url=self.database_url)):  # noqa: ASYNC110
            await asyncio.sleep(REGISTERED_LOOK_S)
        self.output.block(f"Send an event:\n\n  {command_line(url, first_event(inputs))}")

    async def reload(self) -> None:
        """Restart whom a change of code concerns."""
        working_folder = Path.cwd()
        folders = watched_folders(self.app, working_folder)

        def changed(files: list[Path]) -> None:
            roles = roles_of(files, folders)
            first = files[0].relative_to(working_folder) if files[0].is_relative_to(working_folder) else files[0]
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            who = " and ".join("the gateway" if role == "gateway" else "the workers" for role in sorted(roles))
            self.output.say(f"{first}{more} changed: restarting {who}")
            self.supervisor.restart(roles)

        try:
            await watch(folders, changed)
        except* ImportError:
            self.output.say("code is not reloaded: the package watchfiles is not installed")
        except* OSError as errors:
            self.output.say(f"code is not reloaded any more: {errors.exceptions[0]}")

    async def keep_postgres(self) -> None:
        """Start the embedded server again if it ends. The processes wait for it, unless it has to move."""
        while self.postgres:
            await asyncio.sleep(0.5)
            if not self.postgres.is_running:
                self.output.say("PostgreSQL has ended; starting it again")
                before = self.postgres.url
                try:
                    self.postgres.start()
                except ConfigurationError as error:
                    self.failure = error
                    self.supervisor.stop()
                    return
                if self.postgres.url != before:
                    self.supervisor.restart(frozenset({"gateway", "worker"}))

    async def stop_without_terminal(self) -> None:
        await self.output.closed.wait()
        self.supervisor.stop()


def default_commands(metrics_port: int | None = None) -> list[Command]:
    # -P: like the `reflex` script, and unlike plain `python -m`, this does not look for packages in the working folder.
    reflex = (sys.executable, "-P", "-m", "reflex.cli.main")
    # Each worker needs a port of its own: the next ones are theirs.
    ports = [() if metrics_port is None else ("--metrics-port", str(metrics_port + n)) for n in range(WORKERS)]
    workers = [
        Command(f"worker-{number}", "worker", (*reflex, "worker", *port), waits_for_code=True)
        for number, port in enumerate(ports, 1)
    ]
    return [Command("gateway", "gateway", (*reflex, "gateway")), *workers]


def usable_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        ConfigurationError: It cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} is in use by another program (another `reflex dev`?): "
                "stop it, or set REFLEX_PORT to a free port"
            ) from None
        reason = error.strerror or error
        raise ConfigurationError(f"REFLEX_HOST {host!r}, REFLEX_PORT {port}: cannot listen there: {reason}") from None


async def answers(host: str, port: int) -> bool:
    """Whether the gateway says that it is there. By hand: an HTTP client takes longer to import than to ask."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(everywhere.get(host, host), port)
            with contextlib.closing(writer):
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200" in await reader.readline()
    except (OSError, TimeoutError):
        return False


def stop_signals() -> list[signal.Signals]:
    """What ends us: also a terminal that closes, but not under nohup.

    SIGINT in any case: a shell script starts its background commands with it ignored, and Python leaves it so.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]
