"""The command `reflex`. Each command imports what it needs when it runs: `--help` must not wait for a model library."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from reflex.cli import approvals, budgets, dead_letters, doctor, effects, keys, state, waiting, webhooks
from reflex.core.errors import CONFIGURATION_EXIT_CODE, ConfigurationError, ReflexError
from reflex.core.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["app", "main"]

T = TypeVar("T")

# As a shell counts a command that Ctrl-C ended: what was asked for is not done.
INTERRUPTED_EXIT_CODE = 130

# Logfire brings a plugin through which pydantic imports the whole of it: half a second and 30 MB, listening or not.
if not os.environ.get("LOGFIRE_TOKEN"):
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "logfire-plugin")

app = typer.Typer(
    name="reflex",
    help="Event-driven AI agents on PostgreSQL. Every command reads DATABASE_URL, and `.env` in the working folder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(effects.app, name="effects")
app.add_typer(keys.app, name="keys")
app.add_typer(approvals.app, name="approvals")
app.add_typer(budgets.app, name="budgets")
app.add_typer(state.app, name="state")
app.add_typer(waiting.app, name="waiting")
app.add_typer(webhooks.app, name="webhooks")

DISTRIBUTIONS = {
    "reflex.gateway": "reflex-fleet-gateway",
    "reflex.worker": "reflex-fleet-worker",
    "reflex.agent": "reflex-fleet-worker",
}

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
GatewayUrl = Annotated[str | None, typer.Option("--url", help="The gateway (http://127.0.0.1:REFLEX_PORT).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
AppPath = Annotated[str | None, typer.Option("--app", help="The app's module, as REFLEX_APP.", metavar="MODULE")]


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reflex {VERSION}")
        raise typer.Exit


@app.callback()
def reflex(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


@app.command()
def dev() -> None:
    """Everything on this machine: PostgreSQL, a gateway, two workers and the app of REFLEX_APP. Ctrl-C stops all."""
    from importlib.util import find_spec

    for part in ("reflex.gateway", "reflex.worker"):
        if find_spec(part) is None:  # before its process is started, and again and again
            raise ModuleNotFoundError(name=part)
    from reflex.cli.dev import dev as run
    from reflex.core.settings import load_settings

    run(load_settings())


@app.command()
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on, as REFLEX_HOST (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, as REFLEX_PORT (8000).")] = None,
) -> None:
    """Take events in over HTTP."""
    from reflex.core.logs import configure_logs
    from reflex.core.settings import load_settings
    from reflex.core.telemetry import configure_traces

    settings = load_settings(host=host, port=port)
    settings.require_database_url()
    configure_logs(service="gateway", format=settings.log_format, level=settings.log_level)
    finish = configure_traces("reflex-gateway")
    from reflex.gateway.server import serve

    try:
        serve(settings)
    finally:
        finish()


@app.command()
def worker(
    app: AppPath = None,
    concurrency: Annotated[int | None, typer.Option(help="Slots: runs at one time in a process (100).")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes (1).")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Show metrics there, as REFLEX_METRICS_PORT.")] = None,
) -> None:
    """Claim deliveries and run the app's agents."""
    import asyncio

    from reflex.core.logs import configure_logs
    from reflex.core.settings import load_settings
    from reflex.core.telemetry import configure_traces

    settings = load_settings(app=app, concurrency=concurrency, processes=processes, metrics_port=metrics_port)
    settings.require_database_url()
    configure_logs(service="worker", format=settings.log_format, level=settings.log_level)
    if settings.processes > 1:
        from reflex.worker.showing import supervised

        options = [*(["--app", settings.app] if settings.app else []), "--concurrency", str(settings.concurrency)]
        raise typer.Exit(supervised([*options, "--processes", "1"], settings))
    finish = configure_traces("reflex-worker")
    make_importable(Path.cwd())
    from reflex.worker.process import work

    try:
        asyncio.run(work(settings))
    finally:
        finish()


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date. Several at once take turns."""
    from reflex.core.database import describe
    from reflex.core.migrate import HEAD, upgrade
    from reflex.core.settings import load_settings

    url = load_settings().require_direct_url()
    upgrade(url)
    typer.echo(f"{describe(url)} is at revision {HEAD}")


@app.command()
def register(app: AppPath = None, json: Json = False) -> None:
    """Load an app and put what it declares into the database, as a starting worker does."""
    import asyncio

    from reflex.cli import registering
    from reflex.core.settings import load_settings

    make_importable(Path.cwd())
    asyncio.run(registering.register_app(load_settings(app=app), as_json=json))


@app.command()
def send(
    type: Annotated[str, typer.Argument(help="The event's type, as in order.created.")],
    payload: Annotated[str, typer.Argument(help="A JSON object, @file, or - for standard input.")] = "{}",
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "cli",
    key: Annotated[str | None, typer.Option(help="What it is about: an order, a user.")] = None,
    id: Annotated[str | None, typer.Option(help="Idempotency key: sent again, nothing is stored twice.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until it is delivered.")] = None,
    wait: Annotated[float | None, typer.Option(help="Seconds to wait for what its deliveries come to.")] = None,
    url: GatewayUrl = None,
    json: Json = False,
) -> None:
    """Send one event to a gateway. One that wants an API key gets the one in REFLEX_API_KEY.

    The key has no option: other people on the machine can read what a program was started with.
    """
    from reflex.cli.sending import send_event
    from reflex.core.settings import load_settings

    settings = load_settings()
    fields = {"type": type, "source": source, "key": key, "id": id, "delay": delay}
    gateway = url or f"http://127.0.0.1:{settings.port}"
    send_event(gateway, fields, payload, api_key=settings.api_key, wait_s=wait, as_json=json)


@app.command()
def tail(
    types: Annotated[
        list[str] | None, typer.Argument(help="Types, or prefixes such as 'order.*'; without any, all.", metavar="TYPE")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only what came from there.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what is about this.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Only this chain of events.")] = None,
    after: Annotated[str | None, typer.Option(help="Begin after this cursor, not now.", metavar="CURSOR")] = None,
    count: Annotated[int | None, typer.Option(help="Stop after so many events.", min=1)] = None,
    url: GatewayUrl = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the cursor.")] = False,
) -> None:
    """Watch events as they are stored. Ctrl-C stops, and says how to go on from there.

    A gateway that wants an API key gets the one in REFLEX_API_KEY. It has no option: other people on the machine can
    read what a program was started with.
    """
    from reflex.cli.tailing import Tail
    from reflex.core.settings import load_settings

    given = {"type": ",".join(types or ()), "source": source, "key": key, "correlation_id": correlation_id}
    filters = {name: value for name, value in given.items() if value}
    settings = load_settings()
    gateway = url or f"http://127.0.0.1:{settings.port}"
    Tail(gateway, filters, api_key=settings.api_key, after=after, as_json=json).follow(count=count)


@app.command()
def status(json: Json = False) -> None:
    """The queue, the workers and the dead letters, as the database has them now."""
    import asyncio

    from reflex.cli.status import show_status
    from reflex.core.settings import load_settings

    asyncio.run(show_status(load_settings(), as_json=json))


app.command()(doctor.doctor)


@app.command()
def cancel(
    delivery: Annotated[str, typer.Argument(help="The delivery's id: <trigger_id>-<event_id>.")],
    reason: Annotated[str | None, typer.Option(help="Kept with the delivery.")] = None,
    json: Json = False,
) -> None:
    """End a delivery that is pending, waits, runs or is dead. It does not come back.

    A run is stopped by its worker within seconds; one that does not stop loses its lease, and nothing it does counts.
    """
    import asyncio

    from reflex.cli.cancelling import cancel_one
    from reflex.core.settings import load_settings

    asyncio.run(cancel_one(load_settings(), delivery, reason=reason, as_json=json))


@app.command()
def schedules(json: Json = False) -> None:
    """When each schedule fires next, and what its last event was."""
    import asyncio

    from reflex.cli.schedules import show_schedules
    from reflex.core.settings import load_settings

    asyncio.run(show_schedules(load_settings(), as_json=json))


@app.command()
def prune(
    keep: Annotated[str | None, typer.Option(help="How much to keep, as REFLEX_KEEP: 12h, 30d.", metavar="AGE")] = None,
    until: Annotated[str | None, typer.Option(help="Everything up to this cursor.", metavar="CURSOR")] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove old events, with their runs and idempotency keys, and sessions that are as old.

    Readers that are further behind are told that they missed something. Events of which a delivery is pending, running
    or dead stay until it is not. Ctrl-C stops; what was removed stays removed.
    """
    from reflex.cli.pruning import prune as run
    from reflex.core.settings import load_settings

    interruptible(run(load_settings(), keep=keep, until=until, dry_run=dry_run, as_json=json))


@app.command()
def retention(
    now: Annotated[bool, typer.Option("--now", help="Do what workers do from time to time, all of it, now.")] = False,
    json: Json = False,
) -> None:
    """What is kept for how long, in which partitions, and what goes next.

    Workers make the partitions of events and runs ahead of time and drop them when REFLEX_KEEP and REFLEX_KEEP_RUNS say
    so; what is still needed stays. --now is for those whose workers may not: it needs the role that owns the tables.
    """
    from reflex.cli.retention import keep_now, show_retention
    from reflex.core.settings import load_settings

    interruptible((keep_now if now else show_retention)(load_settings(), as_json=json))


@app.command()
def replay(
    trigger: Annotated[str, typer.Option(help="The trigger's name.")],
    since: Annotated[
        str | None, typer.Option(help="Events stored since then: RFC 3339, or an age such as 2h.", metavar="WHEN")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Events stored before then; by default all there are.", metavar="WHEN")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Begin after this cursor, not by time.", metavar="CURSOR")] = None,
    up_to: Annotated[str | None, typer.Option(help="End with this one, not by time.", metavar="CURSOR")] = None,
    type: Annotated[
        list[str] | None, typer.Option(help="Only events of this type; order.* is a prefix. Again for more.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only what came from there. Again for more.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what is about this.")] = None,
    app: Annotated[str | None, typer.Option("--app", help="The trigger's app, if several have one.")] = None,
    rate: Annotated[
        str | None, typer.Option(help="No more than that, as in 50/s, 30/m or 100/h.", metavar="RATE")
    ] = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the cursor.")] = False,
) -> None:
    """Give a trigger events again that are in the log. What its agent does outside of Reflex, it does again.

    It counts first, and asks. The runs of before stay; those of the replay know that they are (`ctx.is_replay`). A
    delivery that is pending, running or dead is left alone (`reflex dead-letters retry`). Ctrl-C stops, and says how to
    go on from there.
    """
    from reflex.cli.replaying import Asked, agreed, carry_out, count
    from reflex.core.settings import load_settings

    settings = load_settings()
    asked = Asked(trigger, app, since, until, after, up_to, type or (), source or (), key, rate)
    counted = interruptible(count(settings, asked, dry_run=dry_run, yes=yes, as_json=json))
    if dry_run:
        return
    if counted.done.replayed and not yes:
        agreed()
    interruptible(carry_out(settings, counted, as_json=json))


@app.command()
def bench(
    only: Annotated[
        list[str] | None, typer.Option(help="One benchmark; give it again for more.", metavar="NAME")
    ] = None,
    runs: Annotated[int, typer.Option(help="How often each is measured; the median counts.", min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Small and once: shows that it works, not how fast.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything that was measured to this file.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a figure is short of what is asked.")
    ] = False,
    peers_python: Annotated[Path | None, typer.Option(help="A Python that has the peers (.tools/peers).")] = None,
) -> None:
    """Measure this version on this machine, each figure beside a limit or a peer of the same run.

    It starts a PostgreSQL of its own, below REFLEX_DATA_DIR; with DATABASE_URL it makes and drops databases there.
    """
    from reflex.cli.bench.suite import run_benchmarks, write_document
    from reflex.core.settings import load_settings

    document = run_benchmarks(load_settings(), only=only or (), runs=runs, quick=quick, peers_python=peers_python)
    if json is not None:
        write_document(document, json)
    raise typer.Exit(1 if strict and not document["ok"] else 0)


def interruptible(work: "Coroutine[Any, Any, T]") -> T:
    """Run what says itself how far it was when Ctrl-C ends it."""
    import asyncio

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None


def make_importable(folder: Path) -> None:
    """An app's module is looked for in the working folder; the `reflex` script, unlike `python -m`, would not."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def main() -> None:
    """Errors raised on purpose are one sentence and an exit code: 2 for the configuration, 1 for the rest."""
    try:
        app()
    except ModuleNotFoundError as error:
        distribution = DISTRIBUTIONS.get(".".join((error.name or "").split(".")[:2]))
        if distribution is None:
            raise
        typer.echo(f"reflex: this environment has no {distribution}, which the command needs; install it", err=True)
        sys.exit(CONFIGURATION_EXIT_CODE)
    except ReflexError as error:
        typer.echo(f"reflex: {error}", err=True)
        sys.exit(CONFIGURATION_EXIT_CODE if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
