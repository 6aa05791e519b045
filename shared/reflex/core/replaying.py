"""Replay: new deliveries of one trigger for events that are in the log already."""

from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.errors import NotFound
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import expired, log_bounds
from reflex.core.pages import QueryRejected
from reflex.core.retention import take_turn
from reflex.core.statements import only_row, statement

__all__ = ["Replayed", "ReplayedTrigger", "find_trigger", "replay"]

# Events that one statement looks at. Lanes are locked, and a worker's NOTIFY waits, until it commits.
PORTION: Final = 500
EVERYTHING: Final = LogFilter()


class ReplayedTrigger(NamedTuple):
    """The trigger that gets the events again."""

    trigger_id: int
    name: str
    app: str


class Replayed(NamedTuple):
    """How far a replay is, and what it has done so far.

    `left_alone` are events of which the trigger's delivery is pending, running or dead, or about to be made.
    """

    cursor: Cursor
    looked_at: int = 0
    replayed: int = 0
    left_alone: int = 0


async def find_trigger(conn: AsyncConnection[Any], name: str, *, app: str | None = None) -> ReplayedTrigger:
    """The trigger of that name.

    Raises:
        NotFound: There is none, or it is retired; the sentence names those that there are.
        QueryRejected: Several apps have one, and `app` does not say which.
    """
    rows = await (await conn.execute(statement("find_triggers"))).fetchall()
    known = [(ReplayedTrigger(*row[:3]), row[3]) for row in rows]
    found = [
        (trigger, is_retired) for trigger, is_retired in known if trigger.name == name and app in (None, trigger.app)
    ]
    serving = [trigger for trigger, is_retired in found if not is_retired]
    if len(serving) == 1:
        return serving[0]
    if serving:
        apps = ", ".join(trigger.app for trigger in serving)
        raise QueryRejected(f"several apps have a trigger {name!r}: say which of {apps} is meant", field="app")
    others = ", ".join(f"{trigger.name} of {trigger.app}" for trigger, is_retired in known if not is_retired)
    what = f"trigger {name!r} is retired: no running code has it" if found else f"there is no trigger {name!r}"
    raise NotFound(f"{what}{f' of {app}' if app and not found else ''}; there are {others or 'none'}")


async def replay(
    conn: AsyncConnection[Any],
    trigger: ReplayedTrigger,
    *,
    after: Cursor,
    until: Cursor | None = None,
    filter: LogFilter = EVERYTHING,
    dry_run: bool = False,
    portion: int = PORTION,
) -> AsyncGenerator[Replayed]:
    """Make new deliveries for the events after a cursor that the trigger's routes match, in the order of the log.

    Runs of before stay, their journals do not. A delivery that is open or dead is left alone.

    Args:
        conn: Autocommit: each portion is a commit.
        until: The last event; None means the end of the log as it is now, so that what comes of the replay is no part
            of it.
        filter: By type, source and key.
        dry_run: Only count.
        portion: How many events to look at in one commit, or some more: an append is looked at as a whole.

    Yields:
        After each portion, how far it is. To go on after an interruption, begin again after the last cursor.

    Raises:
        CursorExpired: Events after `after` were dropped from the log, perhaps since the portion before.
        CursorRejected: A cursor is ahead of the log.
    """
    bounds = await log_bounds(conn)
    bounds.check(after)
    until = bounds.end if until is None else bounds.check(until, field="until")
    done = Replayed(after)
    while done.cursor < until:
        parameters = {
            "trigger": trigger.trigger_id, **filter.parameters(), **done.cursor._asdict(),
            "end_position": until.position, "end_place": until.place, "limit": portion, "dry_run": dry_run,
        }  # fmt: skip
        async with conn.transaction():
            await take_turn(conn)
            row = await only_row(conn, "replay_events", parameters)
        start_position, start_place, position, place, looked_at, replayed, left_alone, _ = row
        if done.cursor < (start := Cursor(start_position, start_place)):
            raise expired(start, field="after")
        reached = until if position is None else min(until, Cursor(position, place))
        # `until` may be a place where no append is: then the last one before it has been read.
        cursor = reached if reached > done.cursor else until
        done = Replayed(cursor, done.looked_at + looked_at, done.replayed + replayed, done.left_alone + left_alone)
        yield done
