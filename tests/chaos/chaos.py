"""A storm over a running system, and what is left of the promises after it: `python -m tests.chaos.chaos`.

Clients post all the time; processes are killed and frozen, PostgreSQL crashes, connections are cut and swallowed. Then
everything heals, and every accepted event must have come to exactly one end. A seed repeats the plan of the blows.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from reflex.core.database import connect
from tests.chaos.calamities import CALAMITIES, Blow, plan
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.verdict import fetch, verdict
from tests.customers import Customers
from tests.processes import eventually
from tests.queue_fixtures import is_quiet

__all__ = ["Report", "storm"]

QUIET_S = 120.0
CUSTOMERS = 12


@dataclass(slots=True)
class Report:
    """What happened, in lines for people. `wrong` is empty if every promise was kept."""

    seed: int
    lines: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])

    def say(self, about: str, text: object) -> None:
        self.lines.append(f"  {about:10}{text}")

    def __str__(self) -> str:
        end = [f"  WRONG     {what}" for what in self.wrong] or ["  kept      every promise"]
        return "\n".join([f"chaos with seed {self.seed}", *self.lines, *end])


async def storm(*, seed: int, seconds: float, gateways: int = 2, workers: int = 3, folder: Path) -> Report:
    """Run it once. It ends by itself, and leaves no process behind."""
    report = Report(seed)
    began = time.monotonic()
    async with running_fleet(folder, gateways=gateways, workers=workers) as fleet:
        customers = Customers(
            [member.url for member in fleet.gateways], order, customers=CUSTOMERS, pause_s=0.2, patience_s=4,
            repeat_every=7,
        )  # fmt: skip
        watching = asyncio.create_task(fleet.watch())
        try:
            async with customers:
                done = await strike(fleet, plan(seed, seconds))
                await fleet.heal()
                report.say("blows", named(done))
                await customers.close()
            await settle(fleet, customers, report)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        report.wrong += fleet.complaints
    report.say("took", f"{time.monotonic() - began:.0f} s, of which the storm {seconds:g} s")
    return report


def order(number: int) -> Mapping[str, Any]:
    delay = {"delay": 0.5} if number % 10 == 0 else {}
    return {"type": "order.placed", "source": "chaos", "key": f"k{number % 50}", "payload": {"n": number}, **delay}


async def strike(fleet: Fleet, blows: list[Blow]) -> Counter[str]:
    """Let the blows fall when they are due; they may overlap. Returns how many of each."""
    began = time.monotonic()
    done: Counter[str] = Counter()
    falling: list[asyncio.Task[None]] = []

    async def fall(blow: Blow) -> None:
        befall, _ = CALAMITIES[blow.calamity]
        await befall(fleet, blow)
        done[blow.calamity] += 1

    for blow in blows:
        await asyncio.sleep(blow.at_s - (time.monotonic() - began))
        falling.append(asyncio.create_task(fall(blow)))
    await asyncio.gather(*falling)
    return done


async def settle(fleet: Fleet, customers: Customers, report: Report) -> None:
    """Wait for quiet, judge, and report."""
    conn = await connect(fleet.server.url, name="chaos")
    async with conn:
        began = time.monotonic()
        try:
            await eventually(lambda: is_quiet(conn), timeout_s=QUIET_S, what="quiet after the storm")
        except AssertionError as error:
            report.wrong.append(str(error))
        report.say("quiet", f"{time.monotonic() - began:.1f} s after the last event was accepted")
        report.say("accepted", f"{len(customers.accepted)} events; {customers.repeated} of them were sent once more")
        refused = {status: times for status, times in customers.answers.items() if status != 202}
        report.say("refused", f"{named(refused) or 'none'}; {customers.unanswered} times no answer")
        report.say("runs", named(await counts(conn, "SELECT outcome, count(*) FROM reflex.run GROUP BY 1")))
        letters = await counts(conn, "SELECT reason, count(*) FROM reflex.dead_letter GROUP BY 1")
        report.say("dead", named(letters) or "none")
        report.say("starts", named({member.name: member.starts for member in fleet.members}))
        report.wrong += customers.wrong
        report.wrong += await verdict(conn, customers.accepted)


async def counts(conn: AsyncConnection[Any], query: str) -> dict[str, int]:
    return dict(await fetch(conn, query))


def named(numbers: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=lambda pair: -pair[1]))


def main() -> int:
    asked = argparse.ArgumentParser(description="A storm over a running system. Exit code 1 if a promise was broken.")
    asked.add_argument("--seconds", type=float, default=300, help="how long it lasts (300)")
    asked.add_argument("--seed", type=int, default=None, help="repeat the plan of an earlier run")
    asked.add_argument("--workers", type=int, default=3)
    asked.add_argument("--gateways", type=int, default=2)
    given = asked.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    print(f"chaos with seed {seed} for {given.seconds:g} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="reflex-chaos-"))
    report = asyncio.run(
        storm(seed=seed, seconds=given.seconds, gateways=given.gateways, workers=given.workers, folder=folder)
    )
    print(report)
    if report.wrong:
        print(f"  the logs are in {folder}; the same plan again: --seed {seed} --seconds {given.seconds:g}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
