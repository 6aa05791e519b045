"""How long a killed worker's delivery waits until it runs elsewhere."""

import os
import time
from pathlib import Path
from typing import Final

from reflex.cli.bench.processes import wait_until
from reflex.cli.bench.results import Figure, Row, under
from reflex.cli.bench.services import Poster, gateway, worker
from reflex.cli.bench.setting import Setting
from reflex.cli.bench.stamps import read_stamps

__all__ = ["takeover"]

APP: Final = "reflex.cli.bench.holding_agents"
EVENT: Final = b'{"type":"bench.held","source":"bench","payload":{}}'
PATIENCE_S: Final = 60.0


def takeover(setting: Setting) -> list[Row]:
    """From SIGKILL to the start of the next attempt on another worker, all defaults."""
    waits: list[float] = []
    runs = setting.sized(setting.runs, 1)
    for run in range(runs):
        setting.say(f"takeover: run {run + 1} of {runs}, takes about 12 s")
        # Some beats of its heart later, as a worker dies in real life, and not each time at the same point of a beat.
        waits.append(
            once(setting, setting.folder / f"stamps-takeover-{run}", alive_s=setting.sized(3 + run * 0.7, 0.5))
        )
    what = "SIGKILL of a worker to its delivery running elsewhere"
    return [under("takeover", what, Figure(tuple(waits), "s"), limit=15)]


def once(setting: Setting, stamps: Path, *, alive_s: float) -> float:
    stamps.mkdir()
    with (
        setting.database() as url,
        gateway(setting.folder, url) as front,
        worker(setting.folder, url, stamps=stamps, app=APP) as one,
        worker(setting.folder, url, stamps=stamps, app=APP) as other,
    ):
        with Poster(front.port) as client:
            client.post(EVENT)
        wait_until(lambda: len(begun(stamps)) == 1, what="the first attempt")
        time.sleep(alive_s)
        (holder,) = begun(stamps)
        victim, survivor = (one, other) if one.pid == holder else (other, one)
        killed_at = time.monotonic()
        victim.kill()
        wait_until(lambda: survivor.pid in begun(stamps), what="the second attempt", timeout_s=PATIENCE_S)
        return begun(stamps)[survivor.pid] - killed_at


def begun(stamps: Path) -> dict[int, float]:
    """When which process, by its pid, began the delivery."""
    found = {int(path.stem): read_stamps(path) for path in stamps.iterdir() if os.path.getsize(path)}
    return {pid: times[0] for pid, times in found.items() if times}
