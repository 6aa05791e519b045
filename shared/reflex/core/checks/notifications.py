"""Whether what is notified is heard: workers and gateways listen, so as not to have to look."""

import time
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, seconds
from reflex.core.checks.reaching import OURS, place_of, reason
from reflex.core.database import connect
from reflex.core.errors import ConfigurationError
from reflex.core.listening import listen_to, notified
from reflex.core.pooler import through_pooler
from reflex.core.statements import only_row, statement

__all__ = ["LISTEN"]

HEARD_WITHIN_S: Final = 5.0
POOLER_MEANS: Final = (
    "Workers find new work up to REFLEX_POLL_INTERVAL_S later, live readers get events up to two seconds later, a "
    "cancellation takes a second, and progress is not shown. `reflex migrate` refuses."
)


async def look_at_listen(installation: Installation) -> Looked:
    """Notify on one connection and hear it on another: the way of all that is not found by looking."""
    direct = installation.settings.direct_url
    url = direct or installation.url
    assert url is not None
    try:
        listening = await connect(url, name=OURS)
    except (psycopg.Error, OSError, ConfigurationError) as error:
        if not direct:
            raise
        return Looked("", [direct_is_away(direct, reason(direct, error))])
    async with listening:
        if await through_pooler(listening):
            return Looked("", [behind_pooler(is_direct=direct is not None)])
        problems = [elsewhere()] if direct and await is_elsewhere(installation, listening) else []
        channel = f"reflex_doctor_{uuid4().hex}"
        await listen_to(listening, [channel])
        began = time.perf_counter()
        await installation.connection.execute(statement("check_notify"), {"channel": channel})
        heard = problems or await notified(listening, within_s=HEARD_WITHIN_S)
        took = time.perf_counter() - began
    if not heard:
        problems = [
            Problem(
                Level.WARNING, "what is notified on one connection is not heard on another",
                POOLER_MEANS,
                ["Set REFLEX_DIRECT_URL to the address of PostgreSQL itself: not a pooler's, nor a standby's."],
            )
        ]  # fmt: skip
    through = "REFLEX_DIRECT_URL" if direct else "DATABASE_URL"
    return Looked(f"a notification came through {through} within {seconds(took)}", problems)


def behind_pooler(*, is_direct: bool) -> Problem:
    where = "REFLEX_DIRECT_URL leads to" if is_direct else "DATABASE_URL leads to"
    return Problem(
        Level.WARNING,
        f"{where} a connection pooler, which passes no notifications on",
        POOLER_MEANS,
        ["Set REFLEX_DIRECT_URL to the address of PostgreSQL itself, as in postgresql://user:password@db:5432/name"],
    )


def direct_is_away(url: str, why: str) -> Problem:
    return Problem(
        Level.ERROR,
        f"PostgreSQL cannot be reached over REFLEX_DIRECT_URL ({place_of(url) or 'misread'})",
        f"{POOLER_MEANS} It says: {why}",
        [
            'psql "$REFLEX_DIRECT_URL" -c "SELECT 1"',
            "Correct REFLEX_DIRECT_URL, or take it away if there is no pooler.",
        ],
    )


def elsewhere() -> Problem:
    return Problem(
        Level.ERROR,
        "DATABASE_URL and REFLEX_DIRECT_URL lead to two databases",
        "Workers and gateways listen where nothing is notified, and `reflex migrate` migrates the other one.",
        ["Set REFLEX_DIRECT_URL to the server, and the database, that the pooler of DATABASE_URL leads to."],
    )


async def is_elsewhere(installation: Installation, other: AsyncConnection[Any]) -> bool:
    return await only_row(installation.connection, "check_place") != await only_row(other, "check_place")


LISTEN: Final = Check("listen", "do notifications come through", Need.SERVER, look_at_listen)
