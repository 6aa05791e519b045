"""Who drains: our worker, and the raw loop on the same tables."""

import sys
from typing import Final

from reflex.cli.bench import raw_loop
from reflex.cli.bench.drain import Contestant
from reflex.cli.bench.sample import APP, clear, fill, settle_down

__all__ = ["LEFT", "our_worker", "raw"]

LEFT: Final = "EXISTS (SELECT FROM reflex.delivery) OR EXISTS (SELECT FROM reflex.lease)"


def our_worker(**settings: object) -> Contestant:
    """`reflex worker` with these settings, as in `concurrency=200`; without any it is the default."""
    env = {f"REFLEX_{name.upper()}": str(value) for name, value in settings.items()}
    return Contestant(
        name=" ".join(["reflex worker", *(f"{name} {value}" for name, value in settings.items())]),
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
