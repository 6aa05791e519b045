"""How fast events come in, single and in batches: beside the same app without a database, bare hypercorn, and COPY."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from reflex.cli.bench import usage
from reflex.cli.bench.copying import copy_rate
from reflex.cli.bench.processes import load
from reflex.cli.bench.results import Figure, Row, above, beside
from reflex.cli.bench.sample import BATCH, NDJSON, clear, register, settle_down, write_bodies
from reflex.cli.bench.services import Service, gateway, reference
from reflex.cli.bench.setting import Setting

__all__ = ["batch", "single"]

OURS: Final = "gateway"
VALIDATE: Final = "the same app, no database"
NO_OP: Final = "hypercorn no-op"
SINGLE_CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8


def single(setting: Setting) -> list[Row]:
    """One event a request, from 64 connections to one gateway process, with one matching trigger."""
    with setting.database() as url, ExitStack() as stack:
        event, _ = write_bodies(setting.folder)
        found = Found()
        services = servers(setting, url, stack)
        for run in range(setting.runs):
            setting.say(f"single: run {run + 1} of {setting.runs}")
            measure(setting, services, event, found, connections=SINGLE_CONNECTIONS, events=1)
    what = f"POST /events, {SINGLE_CONNECTIONS} connections"
    ours, details = found.figure(OURS), found.details()
    return [
        beside("single", what, ours, VALIDATE, found.figure(VALIDATE), at_least=0.75, details=details),
        beside("single", what, ours, NO_OP, found.figure(NO_OP)),
    ]


def batch(setting: Setting) -> list[Row]:
    """A hundred events a request, as NDJSON."""
    with setting.database() as url, ExitStack() as stack:
        _, events = write_bodies(setting.folder)
        found = Found()
        services = servers(setting, url, stack)
        copied: list[float] = []
        for run in range(setting.runs):
            setting.say(f"batch: run {run + 1} of {setting.runs}")
            measure(setting, services, events, found, connections=BATCH_CONNECTIONS, events=BATCH, content_type=NDJSON)
            copied.append(copy_rate(url, events=setting.sized(50_000, 5_000)))
            clear(url)
            settle_down(url)
    what = f"NDJSON batches of {BATCH}, {BATCH_CONNECTIONS} connections"
    ours = found.figure(OURS)
    return [
        beside("batch", what, ours, VALIDATE, found.figure(VALIDATE), at_least=0.35, details=found.details()),
        above("batch", what, ours, at_least=40_000, note="asked of a quiet machine with two cores"),
        beside("batch", what, ours, NO_OP, found.figure(NO_OP)),
        beside("copy", what, ours, "COPY of the same rows", Figure(tuple(copied), "events/s")),
    ]


class Found:
    """The rates by server and run, and what else was seen."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.others: dict[str, list[Mapping[str, Any]]] = defaultdict(list)

    def figure(self, name: str) -> Figure:
        return Figure(tuple(self.rates[name]), "events/s")

    def details(self) -> dict[str, Any]:
        """By server, what was seen in each slice: CPU moves less than rates when others use the cores."""
        return {
            name: {key: [round(seen[key], 2) for seen in slices] for key in slices[0]}
            for name, slices in self.others.items()
        }


def servers(setting: Setting, url: str, stack: ExitStack) -> dict[str, Service]:
    register(url)
    return {
        OURS: stack.enter_context(gateway(setting.folder, url)),
        VALIDATE: stack.enter_context(reference(setting.folder, "validate", url)),
        NO_OP: stack.enter_context(reference(setting.folder, "no-op", url)),
    }


def measure(
    setting: Setting,
    services: Mapping[str, Service],
    body: Path,
    found: Found,
    *,
    connections: int,
    events: int,
    content_type: str = "application/json",
) -> None:
    """One run: the servers in turn, there and back again, so that what disturbs the machine disturbs all of them."""
    seconds = setting.sized(1.5, 0.4)
    there = list(services)
    turns = setting.sized([*there, *reversed(there)], there)
    counted: dict[str, int] = defaultdict(int)
    for name in turns:
        service = services[name]
        before = usage.cpu_s(service.process.pid) if usage.available() else None
        result = load(service.port, body, connections=connections, seconds=seconds, content_type=content_type)
        service.process.check()
        counted[name] += result["requests"]
        seen = {"p50_ms": result["p50_ms"], "p99_ms": result["p99_ms"]}
        if before is not None:
            seen["cpu_us_per_event"] = (usage.cpu_s(service.process.pid) - before) / (result["sent"] * events) * 1e6
        found.others[name].append(seen)
    for name, requests in counted.items():
        found.rates[name].append(requests * events / (turns.count(name) * seconds))
