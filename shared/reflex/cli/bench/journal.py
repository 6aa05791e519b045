"""What the journal adds to a step of an agent's run: a tool call or a model request."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from reflex.cli.bench.processes import Process, wait_until
from reflex.cli.bench.results import Figure, Row, below, under
from reflex.cli.bench.services import Poster, gateway, worker
from reflex.cli.bench.setting import Setting

__all__ = ["FOUND", "journal"]

APP: Final = "reflex.cli.bench.journal_agents"
# What a run has found, by its number.
FOUND: Final = "journal-{}.json"
PATIENCE_S: Final = 120.0


def journal(setting: Setting) -> list[Row]:
    """A worker, all defaults, runs an agent that makes 100 tool calls: with the journal, without, and with a plain
    INSERT of the same rows by its own code. The difference of equal steps is what the journal adds.

    The first run opens connections and fills caches, and is not counted.
    """
    calls = setting.sized(100, 5)
    p50s: list[float] = []
    p95s: list[float] = []
    inserts: list[float] = []
    stamps = setting.folder / "stamps-journal"
    stamps.mkdir()
    with (
        setting.database() as url,
        gateway(setting.folder, url) as front,
        worker(setting.folder, url, stamps=stamps, app=APP) as process,
        Poster(front.port) as client,
    ):
        for run in range(setting.runs + 1):
            setting.say(f"journal: run {run} of {setting.runs}" if run else "journal: warm-up")
            found = once(client, process, stamps, number=run, calls=calls)
            if not run:
                continue
            added = [with_it - bare for with_it, bare in zip(found["journaled"], found["bare"], strict=True)]
            p50, p95 = quantiles_ms(added)
            p50s.append(p50)
            p95s.append(p95)
            inserts.append(quantiles_ms(found["inserts"])[0])
    ours, plain = Figure(tuple(p50s), "ms"), Figure(tuple(inserts), "ms")
    return [
        under("journal", "what the journal adds to a step, p50", ours, limit=5),
        under("journal", "what the journal adds to a step, p95", Figure(tuple(p95s), "ms")),
        below("journal", "the same, p50", ours, "INSERT and commit of the same row by the agent", plain, limit=2),
    ]


def once(client: Poster, process: Process, stamps: Path, *, number: int, calls: int) -> dict[str, list[float]]:
    """Seconds, in the order of the steps."""
    payload: dict[str, Any] = {"number": number, "calls": calls}
    client.post(orjson.dumps({"type": "bench.journaled", "source": "bench", "payload": payload}))
    path = stamps / FOUND.format(number)
    wait_until(lambda: bool(process.check()) and path.exists(), what="the end of a run", timeout_s=PATIENCE_S)
    return orjson.loads(path.read_bytes())


def quantiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 95th percentile."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return cuts[9] * 1000, cuts[18] * 1000
