"""`reflex replay`: a trigger gets events again that are in the log."""

from collections.abc import Sequence

import orjson
import typer

from reflex.cli.connecting import connected, database_url
from reflex.core.cursors import Cursor
from reflex.core.events import check_type_pattern
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import log_bounds
from reflex.core.pages import QueryRejected
from reflex.core.replaying import Replayed, find_trigger, replay
from reflex.core.settings import Settings

__all__ = ["replay_events"]


async def replay_events(
    settings: Settings,
    name: str,
    *,
    app: str | None,
    after: str | None,
    until: str | None,
    types: Sequence[str],
    sources: Sequence[str],
    key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """A line after each portion, with the cursor that goes on from there and what was done so far.

    Raises:
        NotFound: There is no such trigger, or no more.
        QueryRejected: It is not said where to begin, or one of the types is none.
        CursorRejected: A cursor makes no sense, or what came after it is gone.
    """
    begin = Cursor.parse(after, field="--after") if after is not None else None
    end = Cursor.parse(until, field="--until") if until is not None else None
    filter = LogFilter(tuple(map(checked, types)), tuple(sources), key)
    async with connected(database_url(settings), name="reflex replay") as conn:
        trigger = await find_trigger(conn, name, app=app)
        if begin is None:
            start = (await log_bounds(conn)).start
            raise QueryRejected(
                f"is missing; --after {start} begins with the first event of the log, and `reflex tail` shows cursors",
                field="--after",
            )
        done = Replayed(begin)
        ended = False
        try:
            async for done in replay(conn, trigger, after=begin, until=end, filter=filter, dry_run=dry_run):
                say(done, as_json=as_json, dry_run=dry_run)
            ended = True
        finally:
            if not ended and done.cursor != begin:
                typer.echo(f"not finished; to go on from here: --after {done.cursor}", err=True)
    if done.cursor == begin:
        say(done, as_json=as_json, dry_run=dry_run)


def checked(pattern: str) -> str:
    try:
        return check_type_pattern(pattern)
    except TypeError as error:
        raise QueryRejected(str(error), field="--type") from None


def say(done: Replayed, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps({**done._asdict(), "cursor": str(done.cursor), "dry_run": dry_run}).decode())
        return
    replayed = f"{done.replayed} {'would be ' if dry_run else ''}replayed"
    typer.echo(f"{done.cursor}  {replayed}, {done.left_alone} left alone, of {done.looked_at} events")
