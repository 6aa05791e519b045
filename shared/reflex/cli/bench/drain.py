"""One drain: workers start together on a full queue, and it is measured how fast the queue gets empty.

The same for everything that is compared: the queue's table is locked until all processes are up and wait for it, so
that no process begins before another. The rate is deliveries / (first run started -> nothing left in the queue).
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString

from psycopg import Connection, sql

from reflex.cli.bench import usage
from reflex.cli.bench.agents import STAMPS_FOLDER
from reflex.cli.bench.databases import connected, one
from reflex.cli.bench.processes import BenchmarkFailed, Process, started, wait_until
from reflex.cli.bench.stamps import count_stamps, read_stamps

__all__ = ["Contestant", "Drained", "drain"]

DRAIN_TIMEOUT_S: Final = 180.0
WAITING: Final = sql.SQL(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = {}"
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that drains a queue. `application` is what its claiming connections call themselves."""

    name: str
    command: Sequence[str]
    table: LiteralString
    left: LiteralString
    application: str
    refill: Callable[[str, int], None]
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Drained:
    """`rate` is until nothing was left, `start_rate` until the last of them started; deliveries a second.

    The CPU time for each delivery, of the claiming processes and of a server on this machine, moves little when
    others use the cores.
    """

    rate: float
    start_rate: float
    cpu_us: float | None
    server_cpu_us: float | None


def drain(
    url: str, contestant: Contestant, *, processes: int, count: int, folder: Path, to_the_end: bool = True
) -> Drained:
    """Let `processes` of them work off `count` deliveries.

    Args:
        url: The database; its queue is full already.
        to_the_end: False if there are more deliveries than those; then both rates are until the last start.

    Raises:
        BenchmarkFailed: A process ended, or it takes too long.
    """
    stamps = folder / "stamps"
    shutil.rmtree(stamps, ignore_errors=True)
    stamps.mkdir()
    env = {"DATABASE_URL": url, STAMPS_FOLDER: str(stamps), **contestant.env}
    # Two connections: what pg_stat_activity says stays the same for the length of a transaction.
    with connected(url) as conn, connected(url) as holder, ExitStack() as stack:
        with holder.transaction():
            holder.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(contestant.table)))
            running = [
                stack.enter_context(started(contestant.command, folder=folder, name="contestant", env=env))
                for _ in range(processes)
            ]
            waiting = WAITING.format(sql.Literal(contestant.application))

            def all_wait() -> bool:
                for process in running:
                    process.check()
                return one(conn, waiting) >= processes

            wait_until(all_wait, what=f"{processes} waiting processes of {contestant.name}")
            pids, server = [process.pid for process in running], usage.server_pid(conn.info.backend_pid)
            before = cpu_of(pids), cpu_of([server])
        ended = wait_for_the_end(conn, contestant, running, stamps, count, to_the_end=to_the_end)
        after = cpu_of(pids), cpu_of([server])
        starts = sorted(at for path in stamps.iterdir() for at in read_stamps(path))
        if len(starts) < count:
            raise BenchmarkFailed(f"{contestant.name}: {len(starts)} of {count} runs are on record")
        first, last = starts[0], starts[count - 1]
        start_rate = count / (last - first)
        cpu_us = [
            None if now is None or then is None else (now - then) / len(starts) * 1e6
            for now, then in zip(after, before, strict=True)
        ]
        return Drained(count / (ended - first) if to_the_end else start_rate, start_rate, *cpu_us)


def cpu_of(pids: Sequence[int | None]) -> float | None:
    """None if it cannot be known."""
    known = [pid for pid in pids if pid is not None]
    return sum(map(usage.cpu_s, known)) if usage.available() and known else None


def wait_for_the_end(
    conn: Connection[Any],
    contestant: Contestant,
    running: Sequence[Process],
    stamps: Path,
    count: int,
    *,
    to_the_end: bool,
) -> float:
    what = f"the end of {contestant.name}"
    left = sql.SQL("SELECT {}").format(sql.SQL(contestant.left))

    def all_started() -> bool:
        for process in running:
            process.check()
        return count_stamps(stamps.iterdir()) >= count

    # The database is not asked before all have started: a question that comes too often is work for it, too.
    wait_until(all_started, what=what, timeout_s=DRAIN_TIMEOUT_S, every_s=0.01)
    if to_the_end:
        wait_until(lambda: not one(conn, left), what=what, timeout_s=DRAIN_TIMEOUT_S, every_s=0.005)
    return time.monotonic()
