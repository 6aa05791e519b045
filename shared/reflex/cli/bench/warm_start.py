"""How long a developer waits: from `reflex dev` to the first accepted event, with the data of an earlier start."""

import contextlib
import time
from pathlib import Path
from typing import Final

from reflex.cli.bench.processes import BenchmarkFailed, Process, free_port, wait_until
from reflex.cli.bench.results import Figure, Row, under
from reflex.cli.bench.sample import APP, write_bodies
from reflex.cli.bench.services import REFLEX, Poster
from reflex.cli.bench.setting import Setting

__all__ = ["warm_start"]

START_TIMEOUT_S: Final = 90.0


def warm_start(setting: Setting) -> list[Row]:
    """The first start, which makes the database, does not count."""
    event, _ = write_bodies(setting.folder)
    data_dir = setting.folder / "dev"
    setting.say("dev: first start")
    cold_s = start(setting.folder, data_dir, event.read_bytes())
    times: list[float] = []
    for run in range(setting.runs):
        setting.say(f"dev: run {run + 1} of {setting.runs}")
        times.append(start(setting.folder, data_dir, event.read_bytes()))
    what = "warm `reflex dev`, command to first accepted event"
    return [under("dev", what, Figure(tuple(times), "s"), limit=5, details={"first_start_s": round(cold_s, 2)})]


def start(folder: Path, data_dir: Path, event: bytes) -> float:
    port = free_port()
    env = {"REFLEX_PORT": str(port), "REFLEX_DATA_DIR": str(data_dir), "REFLEX_APP": APP}
    began = time.monotonic()
    process = Process([*REFLEX, "dev"], folder=folder, name="dev", env=env)

    def accepted() -> bool:
        process.check()
        with contextlib.suppress(OSError, BenchmarkFailed), Poster(port) as client:
            client.post(event)
            return True
        return False

    try:
        wait_until(accepted, what="an event accepted by `reflex dev`", timeout_s=START_TIMEOUT_S)
        return time.monotonic() - began
    finally:
        process.stop()
