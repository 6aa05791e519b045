"""pgqueuer as a contestant: the fastest comparable library for Python, in an environment of its own."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reflex.cli.bench.drain import Contestant
from reflex.cli.bench.processes import BenchmarkFailed
from reflex.cli.bench.sample import settle_down

__all__ = ["Pgqueuer"]

SCRIPT: Final = Path("tests/bench/peers/pgqueuer_peer.py")
ENVIRONMENT: Final = Path(".tools/peers/bin/python")
APPLICATION: Final = "bench pgqueuer"
BATCHES: Final = (100, 500, 1000)


class Pgqueuer:
    """How to run it. `missing` says what is not there, and how to get it."""

    def __init__(self, python: Path | None) -> None:
        """`python` None: the environment that the Makefile makes, if it is there."""
        # Not resolved: a virtual environment's python is a link out of it.
        self.python = (python or ENVIRONMENT).absolute()
        self.script = SCRIPT.absolute()
        self.missing = ""
        if not self.script.exists():
            self.missing = f"no {SCRIPT} here; run `make bench` in a checkout of the project"
        elif not self.python.exists():
            self.missing = f"no environment for peers at {self.python}; `make bench` makes it, or give --peers-python"

    def contestants(self, *, quick: bool) -> Sequence[Contestant]:
        """Every setting that is tried; the best of them counts."""
        if quick:
            return [self.contestant(500, uvloop=True)]
        return [self.contestant(batch, uvloop=uvloop) for batch in BATCHES for uvloop in (False, True)]

    def contestant(self, batch: int, *, uvloop: bool) -> Contestant:
        name = f"pgqueuer batch {batch}{' uvloop' if uvloop else ''}"
        return Contestant(
            name=name,
            command=[*self.command("work", batch), *(["--uvloop"] if uvloop else [])],
            table="pgqueuer",
            left="EXISTS (SELECT FROM pgqueuer)",
            application=APPLICATION,
            refill=self.refill,
        )

    def command(self, *arguments: object) -> list[str]:
        return [str(self.python), str(self.script), *map(str, arguments)]

    def install(self, url: str) -> None:
        self.run(url, "install")

    def refill(self, url: str, count: int) -> None:
        self.run(url, "fill", count)
        settle_down(url)

    def run(self, url: str, *arguments: object) -> None:
        command = self.command(*arguments)
        done = subprocess.run(  # noqa: S603 - our own words
            command, env={"DATABASE_URL": url}, capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise BenchmarkFailed(f"pgqueuer: {arguments[0]} failed: {done.stderr.strip()[-1500:]}")
