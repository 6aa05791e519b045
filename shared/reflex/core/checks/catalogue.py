"""All checks, in the order in which they are made and shown: what hinders others first.

A new one is a module beside this one with a function that looks, a Check, and its name here.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from reflex.core.checks.checkup import Check, Checkup, Installation
from reflex.core.checks.clocks import CLOCK, EVENT_CLOCKS
from reflex.core.checks.durability import DURABILITY
from reflex.core.checks.fleet import DEAD_LETTERS, DELIVERIES, LOG, MODELS, WORKERS
from reflex.core.checks.notifications import LISTEN
from reflex.core.checks.partitions import PARTITIONS
from reflex.core.checks.reaching import CONNECTIONS, DATABASE, reached
from reflex.core.checks.server import SERVER, TIMEOUTS
from reflex.core.checks.standing_orders import BUDGETS, SCHEDULES
from reflex.core.checks.vacuum import TRANSACTIONS, VACUUM
from reflex.core.checks.variables import SETTINGS
from reflex.core.checks.versions import SCHEMA, VERSIONS

__all__ = ["CHECKS", "examine", "names"]

CHECKS: Final = (
    SETTINGS,
    DATABASE,
    VERSIONS,
    SCHEMA,
    LISTEN,
    CONNECTIONS,
    DURABILITY,
    SERVER,
    TIMEOUTS,
    CLOCK,
    EVENT_CLOCKS,
    VACUUM,
    TRANSACTIONS,
    WORKERS,
    DELIVERIES,
    DEAD_LETTERS,
    LOG,
    PARTITIONS,
    MODELS,
    SCHEDULES,
    BUDGETS,
)


def names() -> list[str]:
    """The names of all checks, in their order."""
    return [check.name for check in CHECKS]


async def examine(installation: Installation, checks: Sequence[Check] = CHECKS) -> AsyncGenerator[Checkup]:
    """Make the checks one after another; each as soon as it was made. Changes nothing, and raises nothing for what is
    wrong with the installation."""
    async with reached(installation):
        for check in checks:
            yield await check.make(installation)
