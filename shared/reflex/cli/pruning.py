"""`reflex prune`: what is older than is kept leaves the database."""

import time
from datetime import timedelta
from typing import Any, Final

import typer
from psycopg import AsyncConnection

from reflex.cli.connecting import connected
from reflex.cli.tables import print_json
from reflex.core.cursors import Cursor
from reflex.core.durations import parse_duration
from reflex.core.log_reading import log_bounds
from reflex.core.pages import QueryRejected
from reflex.core.retention import Pruning
from reflex.core.settings import Settings

__all__ = ["prune"]

# Between two lines that say how far a long run is.
EVERY_S: Final = 5.0


async def prune(settings: Settings, *, keep: str | None, until: str | None, dry_run: bool, as_json: bool) -> None:
    """One pass, in portions; when it is interrupted, what went stays gone, and the next run does the rest.

    Raises:
        QueryRejected: It is not said how much to keep, or in a way that makes no sense.
        CursorRejected: `until` is no cursor, or ahead of the log.
    """
    url = settings.require_database_url()
    age = age_to_keep(keep, until, settings)
    place = Cursor.parse(until, field="--until") if until is not None else None
    async with connected(url, name="reflex prune") as conn:
        pruning = await begun(conn, age, place, dry_run=dry_run)
        said_at = time.monotonic()
        ended = False
        try:
            while await pruning.portion(conn):
                if time.monotonic() >= said_at + EVERY_S:
                    said_at = time.monotonic()
                    typer.echo(f"so far: {described(pruning)}", err=True)
            ended = True
        finally:
            if not ended and pruning.done.is_any:
                typer.echo(f"not finished: {described(pruning)}; run it again for the rest", err=True)
    if as_json:
        print_json({**pruning.done._asdict(), "until": str(pruning.until), "dry_run": dry_run})
        return
    typer.echo(f"{'would remove' if dry_run else 'removed'} {described(pruning)}")
    if pruning.done.needed:
        typer.echo(f"{pruning.done.needed} older events stay: a delivery of theirs is pending, running or dead")


def age_to_keep(keep: str | None, until: str | None, settings: Settings) -> timedelta | None:
    """None if a cursor says how far."""
    if keep is not None and until is not None:
        raise QueryRejected("goes without --until: both say how far to prune", field="--keep")
    if until is not None:
        return None
    age = parse_duration(keep) if keep is not None else settings.keep
    if not age:
        given = "is missing" if keep is None else f"is {keep[:80]!r}"
        raise QueryRejected(
            f"{given}; write how much to keep, such as 12h or 30d (REFLEX_KEEP counts, too), or --until CURSOR",
            field="--keep",
        )
    return age


async def begun(conn: AsyncConnection[Any], age: timedelta | None, until: Cursor | None, *, dry_run: bool) -> Pruning:
    if until is None:
        assert age is not None
        return await Pruning.older_than(conn, age, dry_run=dry_run)
    bounds = await log_bounds(conn)
    # What is left from before the beginning of the log is looked at in any case.
    return Pruning(bounds.check(max(until, bounds.start), field="--until"), dry_run=dry_run)


def described(pruning: Pruning) -> str:
    done = pruning.done
    return f"{done.events} events with {done.runs} runs, and {done.sessions} sessions"
