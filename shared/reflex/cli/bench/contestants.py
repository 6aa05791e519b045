"""Who drains: our worker, and the raw loop on the same tables."""

import sys
from typing import Final

from reflex.cli.bench import raw_loop
from reflex.cli.bench.drain import Contestant
from reflex.cli.bench.sample import APP, clear, fill, settle_down

__all__ = ["LEFT", "our_worker", "raw"]

LEFT: Final = "EXISTS (SELECT FROM reflex.delivery) OR EXISTS (SELECT FROM reflex.lease)"


def our_worker(slots: int | None = None) -> Contestant:
    """`reflex worker` at its defaults; or with so many slots, and without a line of log for each run, as the others
    work."""
    env = {} if slots is None else {"REFLEX_CONCURRENCY": str(slots), "REFLEX_LOG_LEVEL": "warning"}
    return Contestant(
        name="worker at its defaults" if slots is None else f"worker with {slots} slots, runs not logged",
        command=[sys.executable, "-m", "reflex.cli.main", "worker", "--app", APP],
        table="reflex.delivery",
        left=LEFT,
        application="reflex worker",
        refill=refill,
        env=env,
    )


def raw(batch: int) -> Contestant:
    """psycopg alone, claiming `batch` deliveries at a time."""
    return Contestant(
        name=f"raw psycopg loop of {batch}",
        command=[sys.executable, "-m", "reflex.cli.bench.raw_loop", str(batch)],
        table="reflex.delivery",
        left=LEFT,
        application=raw_loop.NAME,
        refill=refill,
    )


def refill(url: str, count: int) -> None:
    clear(url)
    fill(url, pending=count)
    settle_down(url)
