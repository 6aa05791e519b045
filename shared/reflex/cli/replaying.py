"""`reflex replay`: a trigger gets events again that are in the log. It counts, asks, and then does it."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
import typer
from psycopg import AsyncConnection

from reflex.cli.connecting import connected, database_url
from reflex.core.cursors import Cursor
from reflex.core.errors import ConfigurationError
from reflex.core.events import check_type_pattern
from reflex.core.log_filter import LogFilter
from reflex.core.pacing import Pace
from reflex.core.pages import QueryRejected, parse_moment
from reflex.core.reads import fetch
from reflex.core.replaying import Replay, Replayed, ReplayedTrigger, ReplaySpan, find_trigger, replay_span
from reflex.core.settings import Settings

__all__ = ["Asked", "agreed", "carry_out", "count"]

NOBODY_TO_ASK: Final = "nobody can be asked here: say --dry-run to only count, or --yes to replay without being asked"


class Asked(NamedTuple):
    """What the command was asked for, as it was written."""

    trigger: str
    app: str | None = None
    since: str | None = None
    until: str | None = None
    after: str | None = None
    up_to: str | None = None
    types: Sequence[str] = ()
    sources: Sequence[str] = ()
    key: str | None = None
    rate: str | None = None

    def filter(self) -> LogFilter:
        return LogFilter(tuple(map(checked, self.types)), tuple(self.sources), self.key)

    def pace(self) -> Pace:
        return Pace() if self.rate is None else Pace.parse(self.rate, field="--rate")

    async def span(self, conn: AsyncConnection[Any]) -> ReplaySpan:
        return await replay_span(
            conn,
            after=Cursor.parse(self.after, field="--after") if self.after is not None else None,
            since=parse_moment(self.since, field="--since") if self.since is not None else None,
            up_to=Cursor.parse(self.up_to, field="--up-to") if self.up_to is not None else None,
            until=parse_moment(self.until, field="--until") if self.until is not None else None,
            written="--{}",
        )


def checked(pattern: str) -> str:
    try:
        return check_type_pattern(pattern)
    except TypeError as error:
        raise QueryRejected(str(error), field="--type") from None


class Counted(NamedTuple):
    """What is to be done, and what a pass that only counts has found."""

    trigger: ReplayedTrigger
    span: ReplaySpan
    filter: LogFilter
    pace: Pace
    done: Replayed


async def count(settings: Settings, asked: Asked, *, dry_run: bool, yes: bool, as_json: bool) -> Counted:
    """Count, and say what would be done.

    Raises:
        NotFound: There is no such trigger, or no more.
        QueryRejected: It is not said where to begin, or something makes no sense.
        CursorRejected: A cursor makes no sense, or what came after it is gone.
        ConfigurationError: Somebody would have to be asked, and nobody can be.
    """
    filter, pace = asked.filter(), asked.pace()
    async with connected(database_url(settings), name="reflex replay") as conn:
        span = await asked.span(conn)
        trigger = await find_trigger(conn, asked.trigger, app=asked.app)
        if not (dry_run or yes or (sys.stdin.isatty() and sys.stderr.isatty())):
            raise ConfigurationError(NOBODY_TO_ASK)
        counting = Replay(conn, trigger, span, filter=filter, dry_run=True)
        async for _ in counting:
            pass
        if not as_json:
            await describe(conn, trigger, counting, err=not dry_run)
        elif dry_run:
            say(counting.done, as_json=True, dry_run=True)
    return Counted(trigger, span, filter, pace, counting.done)


def agreed() -> None:
    """Ask. Outside of the event loop, which would take the first Ctrl-C for itself. Raises typer.Abort if not."""
    typer.confirm("Replay them?", abort=True, err=True)


async def carry_out(settings: Settings, counted: Counted, *, as_json: bool) -> None:
    """Replay what was counted: with a bar on a terminal, else with a line after each portion, which has the cursor that
    goes on from there and what was done so far.

    Raises:
        CursorExpired: What comes next was dropped from the log meanwhile.
    """
    trigger, span, filter, pace, expected = counted
    if not expected.replayed:
        say(expected, as_json=as_json)
        return
    async with connected(database_url(settings), name="reflex replay") as conn:
        replay = Replay(conn, trigger, span, filter=filter, pace=pace)
        try:
            with shown(expected.replayed, as_json=as_json) as advance:
                async for done in replay:
                    advance(done)
        finally:
            if not replay.is_finished:
                rest = f"--after {replay.done.cursor} --up-to {span.up_to}"
                typer.echo(f"not finished, {replay.done.replayed} replayed; to go on from here: {rest}", err=True)


async def describe(conn: AsyncConnection[Any], trigger: ReplayedTrigger, counting: Replay, *, err: bool) -> None:
    """What would be done, for people."""
    done = counting.done
    typer.echo(f"trigger     {trigger.name} of {trigger.app}", err=err)
    typer.echo(f"events      {done.replayed} of {done.looked_at} would be replayed", err=err)
    typer.echo(f"left alone  {done.left_alone} of which a delivery is pending, running or dead", err=err)
    for name, event_id in (("first", counting.first), ("last", counting.last)):
        if event_id is not None:
            typer.echo(f"{name:10}  {await shown_event(conn, event_id)}", err=err)
    if done.replayed:
        typer.echo("What the agent does outside of Reflex, it does again for each of them.", err=err)


async def shown_event(conn: AsyncConnection[Any], event_id: UUID) -> str:
    rows = await fetch(conn, "get_event", {"event_id": event_id})
    if not rows:
        return f"{event_id}, which retention has just removed"
    return f"{event_id}  {rows[0]['type']}  {rows[0]['created_at'].isoformat(timespec='seconds')}"


@contextmanager
def shown(total: int, *, as_json: bool) -> Generator[Callable[[Replayed], None]]:
    """What is called after each portion: it moves a bar on a terminal, and prints a line elsewhere."""
    if as_json or not sys.stderr.isatty():
        yield lambda done: say(done, as_json=as_json)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    last: Replayed | None = None
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("replayed"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), rate)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("replay", total=total, rate="")

        def advance(done: Replayed) -> None:
            nonlocal last
            last = done
            speed = progress.tasks[0].speed
            # Fewer than were counted may be left to do: somebody else replays them, or they were removed.
            progress.update(bar, completed=done.replayed, rate=f"{speed:.0f}/s" if speed else "")

        yield advance
    if last is not None:
        say(last, as_json=False)


def say(done: Replayed, *, as_json: bool, dry_run: bool = False) -> None:
    if as_json:
        typer.echo(orjson.dumps({**done._asdict(), "cursor": str(done.cursor), "dry_run": dry_run}).decode())
        return
    typer.echo(f"{done.cursor}  {done.replayed} replayed, {done.left_alone} left alone, of {done.looked_at} events")
