"""The benchmarks by name, in the order in which they run, and the report of what they found."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
import typer

from reflex.cli.bench.auth import auth
from reflex.cli.bench.databases import open_server
from reflex.cli.bench.history import history
from reflex.cli.bench.idle import idle
from reflex.cli.bench.ingest import batch, single
from reflex.cli.bench.journal import journal
from reflex.cli.bench.lanes import lanes
from reflex.cli.bench.latency import latency
from reflex.cli.bench.live import live
from reflex.cli.bench.machine import facts, load_average
from reflex.cli.bench.metrics import metrics
from reflex.cli.bench.results import Row, failed, short
from reflex.cli.bench.setting import Setting
from reflex.cli.bench.takeover import takeover
from reflex.cli.bench.throughput import throughput
from reflex.cli.bench.wal import wal
from reflex.cli.bench.warm_start import warm_start
from reflex.cli.tables import print_table
from reflex.core.errors import ConfigurationError, ReflexError
from reflex.core.settings import Settings

__all__ = ["BENCHMARKS", "run_benchmarks", "write_document"]

BENCHMARKS: Final[Mapping[str, Callable[[Setting], list[Row]]]] = {
    "single": single,
    "batch": batch,
    "drain": throughput,
    "history": history,
    "lanes": lanes,
    "latency": latency,
    "live": live,
    "journal": journal,
    "takeover": takeover,
    "wal": wal,
    "idle": idle,
    "metrics": metrics,
    "auth": auth,
    "dev": warm_start,
}
COLUMNS: Final = ("what", "ours: median (range)", "limit or peer", "ratio", "asked", "")


def run_benchmarks(
    settings: Settings,
    *,
    only: Sequence[str] = (),
    runs: int = 3,
    quick: bool = False,
    peers_python: Path | None = None,
) -> dict[str, Any]:
    """Run them one after the other, print the table, and return everything as one JSON-able document.

    Raises:
        ConfigurationError: `only` names something that is no benchmark.
    """
    unknown = sorted(set(only) - BENCHMARKS.keys())
    if unknown:
        raise ConfigurationError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    machine = facts()
    with open_server(settings.database_url, settings.data_dir) as server:
        postgres = server.facts()
        load_before = load_average()
        setting = Setting(server, 1 if quick else runs, quick, say, peers_python)
        rows: list[Row] = []
        loads: dict[str, float] = {}
        began = time.monotonic()
        for name in [name for name in BENCHMARKS if not only or name in only]:
            loads[name] = load_average()
            rows += carried_out(name, setting)
        seconds = round(time.monotonic() - began, 1)
    typer.echo(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}")
    typer.echo(
        f"Python {machine['python']}, PostgreSQL {postgres['server_version']} ({postgres['kind']}, "
        f"fsync {postgres['fsync']}, synchronous_commit {postgres['synchronous_commit']}), "
        f"load average before the start {load_before:g}\n"
    )
    report(rows)
    return {
        "machine": machine,
        "postgres": postgres,
        "load_average": {"before": load_before, **loads},
        "quick": quick,
        "runs": setting.runs,
        "seconds": seconds,
        "ok": not short(rows),
        "rows": [row.document() for row in rows],
    }


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """For programs, and for comparing two versions.

    Raises:
        ConfigurationError: It cannot be written there.
    """
    try:
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error


def carried_out(name: str, setting: Setting) -> list[Row]:
    """A benchmark that fails is a row that says so; the others go on."""
    try:
        return BENCHMARKS[name](setting)
    except (ReflexError, psycopg.Error, OSError, subprocess.SubprocessError) as error:
        say(f"{name} failed: {error}")
        return [failed(name, name, str(error))]


def report(rows: Sequence[Row]) -> None:
    print_table(COLUMNS, [row.cells() for row in rows], nothing="nothing was measured")
    for note in {f"{row.what}: {row.note}": None for row in rows if row.note}:
        typer.echo(f"\n{note}")


def say(text: str) -> None:
    typer.echo(text, err=True)
