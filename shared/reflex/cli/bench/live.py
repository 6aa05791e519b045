"""Live readers: what a gateway hands out to a thousand subscribers, how soon, and what an idle one costs.

The limit is hypercorn itself: the same frames, sent to as many WebSockets of an app that does nothing else.
"""

import asyncio
import http.client
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import orjson

from reflex.cli.bench import usage
from reflex.cli.bench.processes import BenchmarkFailed, Process, started, wait_until
from reflex.cli.bench.results import Figure, Row, beside, under
from reflex.cli.bench.sample import PAYLOAD
from reflex.cli.bench.services import Service, gateway, reference
from reflex.cli.bench.setting import Setting
from reflex.core.database import connect
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.log import append

__all__ = ["live"]

TYPE: Final = "bench.placed"
SUBSCRIBE: Final = orjson.dumps({"op": "subscribe", "id": "bench", "types": [TYPE]}).decode()
# A gateway says hello, and that a subscription is there.
WELCOME, SUBSCRIBED = 1, 1
CROWD: Final = {"REFLEX_WS_MAX_PER_ADDRESS": "20000"}
EVENTS_A_SECOND: Final = 100


def live(setting: Setting) -> list[Row]:
    """Broadcast to 1,000 subscribers beside bare hypercorn; latency with 100; memory with 10,000 idle ones."""
    subscribers, events = setting.sized((1000, 100), (50, 20))
    ours: list[float] = []
    theirs: list[float] = []
    memory: list[float] = []
    for run in range(setting.runs):
        setting.say(f"live: broadcast, run {run + 1} of {setting.runs}")
        with setting.database() as url, gateway(setting.folder, url, env=CROWD) as front:
            rate, grown = broadcast(setting, front, url, subscribers=subscribers, events=events)
            ours.append(rate)
            memory.append(grown * 1000 / subscribers)
        with setting.database() as url, reference(setting.folder, "broadcast", url) as bare:
            theirs.append(bare_broadcast(setting, bare, subscribers=subscribers, events=events))
    what = f"events to {subscribers:,} subscribers"
    rows = [
        beside("live", what, Figure(tuple(ours), "frames/s"), "hypercorn alone", Figure(tuple(theirs), "frames/s"),
               at_least=0.5),
        under("live", f"memory of a subscriber, of {subscribers:,}", Figure(tuple(memory), "kB")),
    ]  # fmt: skip
    return [*rows, *latency(setting), idle(setting)]


def broadcast(setting: Setting, front: Service, url: str, *, subscribers: int, events: int) -> tuple[float, float]:
    """Frames a second, from before the events are appended until the last has arrived; and MB that all took."""
    before = usage.resident_mb(front.process.pid)
    with crowd(
        setting, front, "/ws", subscribers, hello=SUBSCRIBE, before=WELCOME + SUBSCRIBED, rounds=2, frames=events
    ) as told:
        grown = usage.resident_mb(front.process.pid) - before
        asyncio.run(publish(url, events))  # once to warm up
        told(1)
        at = time.monotonic()
        asyncio.run(publish(url, events))
        return subscribers * events / (told(2)["done_at"] - at), grown


def bare_broadcast(setting: Setting, bare: Service, *, subscribers: int, events: int) -> float:
    frame = orjson.dumps({"op": "event", "subscription": "bench", "cursor": "A" * 15, "event": event_of(1)})
    with crowd(setting, bare, "/", subscribers, rounds=2, frames=events) as told:
        for round in (1, 2):
            at = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", bare.port, timeout=120)
            connection.request("POST", "/", frame, {"times": str(events)})
            connection.getresponse().read()
            connection.close()
            done_at = told(round)["done_at"]
        return subscribers * events / (done_at - at)


def event_of(number: int) -> dict[str, Any]:
    """As a subscriber gets it, so that frames are as large."""
    when = "2026-01-31T09:00:00.012345Z"
    return {
        "id": str(new_id()), "type": TYPE, "source": "bench", "key": None, "time": when,
        "payload": {**PAYLOAD, "number": number}, "correlation_id": None, "causation_id": None, "depth": 0,
        "trace_context": None, "available_at": None, "created_at": when,
    }  # fmt: skip


async def publish(url: str, count: int, *, every_s: float = 0) -> list[float]:
    """Append events; at once, or one by one. When each commit was done."""
    new = [
        NewEvent(new_id(), TYPE, "bench", None, None, orjson.dumps({**PAYLOAD, "number": number}).decode())
        for number in range(count)
    ]
    committed: list[float] = []
    async with await connect(url, name="reflex bench") as conn:
        if not every_s:
            await append(conn, new)
            return committed
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        for event in new:
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            next_at += every_s
            await append(conn, [event._replace(event_id=new_id())])
            committed.append(time.monotonic())
    return committed


def latency(setting: Setting) -> list[Row]:
    """From the commit, as its client hears of it, to each of 100 subscribers; 100 events a second."""
    subscribers, events = setting.sized((100, 1000), (10, 30))
    p50s: list[float] = []
    p99s: list[float] = []
    for run in range(setting.runs):
        setting.say(f"live: latency, run {run + 1} of {setting.runs}")
        with (
            setting.database() as url,
            gateway(setting.folder, url, env=CROWD) as front,
            crowd(
                setting, front, "/ws", subscribers, hello=SUBSCRIBE, before=WELCOME + SUBSCRIBED, rounds=1,
                frames=events, stamped=True,
            ) as told,
        ):  # fmt: skip
            committed = asyncio.run(publish(url, events, every_s=1 / EVENTS_A_SECOND))
            waits: list[float] = [(at - committed[number]) * 1000 for number, at in told(1)["stamps"]]
        cuts = statistics.quantiles(waits, n=100, method="inclusive")
        p50s.append(cuts[49])
        p99s.append(cuts[98])
    what = f"commit to client, {EVENTS_A_SECOND} events/s, {subscribers} subscribers"
    return [
        under("live", f"{what}, p50", Figure(tuple(p50s), "ms")),
        under("live", f"{what}, p99", Figure(tuple(p99s), "ms"), limit=100),
    ]


def idle(setting: Setting) -> Row:
    """What 10,000 subscribers cost that get nothing: memory of each, and CPU of the gateway."""
    subscribers, seconds = setting.sized((10_000, 20.0), (100, 2.0))
    setting.say(f"live: {subscribers:,} idle subscribers")
    with setting.database() as url, gateway(setting.folder, url, env=CROWD) as front:
        pid = front.process.pid
        before = usage.resident_mb(pid)
        with crowd(setting, front, "/ws", subscribers, hello=SUBSCRIBE, before=WELCOME + SUBSCRIBED):
            grown = usage.resident_mb(pid) - before
            cpu_s, at = usage.cpu_s(pid), time.monotonic()
            time.sleep(seconds)
            share = (usage.cpu_s(pid) - cpu_s) / (time.monotonic() - at) * 100
    figure = Figure((grown * 1000 / subscribers,), "kB")
    return under("live", f"memory of an idle subscriber, of {subscribers:,}", figure, details={"cpu_percent": share})


@contextmanager
def crowd(
    setting: Setting,
    service: Service,
    path: str,
    connections: int,
    *,
    hello: str = "",
    before: int = 0,
    rounds: int = 0,
    frames: int = 0,
    stamped: bool = False,
) -> Generator[Any]:
    """Clients that are connected. Call what this gives with the number of a round to hear how it ended."""
    command = [sys.executable, "-m", "reflex.cli.bench.sockets", str(service.port), path]
    for name, value in {
        "connections": connections, "hello": hello, "before": before, "rounds": rounds, "frames": frames
    }.items():  # fmt: skip
        command += [f"--{name}", str(value)]
    command += ["--stamped"] if stamped else []
    with started(command, folder=setting.folder, name="sockets", env={}) as process:

        def told(round: int) -> dict[str, Any]:
            wait_until(lambda: len(said(process)) > round, what=f"the end of round {round}", timeout_s=180)
            ended = said(process)[round]
            if ended["lost"]:
                raise BenchmarkFailed(f"{ended['lost']} connections were lost")
            return ended

        wait_until(lambda: bool(said(process)), what=f"{connections} connections", timeout_s=180)
        yield told


def said(process: Process) -> list[dict[str, Any]]:
    lines = process.check().log_file.read_bytes().splitlines(keepends=True)
    return [orjson.loads(line) for line in lines if line.endswith(b"\n")]
