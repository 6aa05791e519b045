"""What the system costs while nothing happens: CPU and memory of one gateway and one worker."""

import time
from typing import Final

from reflex.cli.bench import usage
from reflex.cli.bench.results import Figure, Row, skipped, under
from reflex.cli.bench.services import gateway, worker
from reflex.cli.bench.setting import Setting

__all__ = ["idle"]

CPU: Final = "idle: CPU of one gateway and one worker"
MEMORY: Final = "idle: resident memory of the gateway"


def idle(setting: Setting) -> list[Row]:
    """CPU time over wall time, children included; the gateway's memory at the end."""
    if not usage.available():
        return [skipped("idle", CPU, "needs /proc, which this system has not")]
    seconds = setting.sized(20.0, 3.0)
    shares: list[float] = []
    memory: list[float] = []
    worker_memory: list[float] = []
    stamps = setting.folder / "stamps-idle"
    stamps.mkdir()
    with (
        setting.database() as url,
        gateway(setting.folder, url) as front,
        worker(setting.folder, url, stamps=stamps) as back,
    ):
        pids = (front.process.pid, back.pid)
        time.sleep(setting.sized(5.0, 1.0))
        for run in range(setting.runs):
            setting.say(f"idle: run {run + 1} of {setting.runs}, {seconds:g} s")
            before, at = sum(map(usage.cpu_s, pids)), time.monotonic()
            time.sleep(seconds)
            shares.append((sum(map(usage.cpu_s, pids)) - before) / (time.monotonic() - at) * 100)
            memory.append(usage.resident_mb(front.process.pid))
            worker_memory.append(usage.resident_mb(back.pid))
    return [
        under("idle", CPU, Figure(tuple(shares), "%"), limit=1),
        under("idle", MEMORY, Figure(tuple(memory), "MB"), limit=90),
        under("idle", "idle: resident memory of the worker", Figure(tuple(worker_memory), "MB")),
    ]
