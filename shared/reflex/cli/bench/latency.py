"""How long an event takes from the client to its agent, while nothing else goes on."""

import statistics
import time
from pathlib import Path
from typing import Final

import orjson

from reflex.cli.bench.processes import wait_until
from reflex.cli.bench.results import Figure, Row, under
from reflex.cli.bench.sample import PAYLOAD
from reflex.cli.bench.services import Poster, gateway, worker
from reflex.cli.bench.setting import Setting
from reflex.cli.bench.stamps import read_stamps

__all__ = ["latency"]

EVENTS_A_SECOND: Final = 20
# The first ones open connections and fill caches.
WARM_UP: Final = 20


def latency(setting: Setting) -> list[Row]:
    """From before the request is sent to the first line of the agent; one gateway, one worker, all defaults."""
    warm_up, events = setting.sized((WARM_UP, 200), (3, 17))
    p50s: list[float] = []
    p99s: list[float] = []
    accepted: list[float] = []
    for run in range(setting.runs):
        setting.say(f"latency: run {run + 1} of {setting.runs}")
        stamps = setting.folder / f"stamps-latency-{run}"
        stamps.mkdir()
        with (
            setting.database() as url,
            gateway(setting.folder, url) as front,
            worker(setting.folder, url, stamps=stamps),
        ):
            with Poster(front.port) as client:
                sent, answered = send(client, warm_up + events)
            started = starts(stamps, warm_up + events)
        waits = [(begun - at) * 1000 for begun, at in zip(started, sent, strict=True)][warm_up:]
        cuts = statistics.quantiles(waits, n=100, method="inclusive")
        p50s.append(cuts[49])
        p99s.append(cuts[98])
        accepted.append(statistics.median(answered[warm_up:]) * 1000)
    what = f"POST to the agent's start at {EVENTS_A_SECOND} events/s"
    return [
        under("latency", f"{what}, p50", Figure(tuple(p50s), "ms"), limit=5, details={"answered_p50_ms": accepted}),
        under("latency", f"{what}, p99", Figure(tuple(p99s), "ms"), limit=20),
    ]


def send(client: Poster, count: int) -> tuple[list[float], list[float]]:
    """When each event was sent, and how long its 202 took."""
    sent: list[float] = []
    answered: list[float] = []
    next_at = time.monotonic()
    for number in range(count):
        body = orjson.dumps({"type": "bench.placed", "source": "bench", "payload": {**PAYLOAD, "number": number}})
        time.sleep(max(0.0, next_at - time.monotonic()))
        next_at += 1 / EVENTS_A_SECOND
        at = time.monotonic()
        client.post(body)
        sent.append(at)
        answered.append(time.monotonic() - at)
    return sent, answered


def starts(stamps: Path, count: int) -> list[float]:
    """When each of them started, once all have."""

    def found() -> list[float]:
        return [at for path in stamps.iterdir() for at in read_stamps(path)]

    wait_until(lambda: len(found()) == count and all(found()), what=f"the start of {count} agents")
    return found()
