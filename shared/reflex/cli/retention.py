"""`reflex retention`: what is kept for how long, in which partitions; and a pass of it by hand."""

from datetime import datetime
from typing import Any

import typer

from reflex.cli.connecting import connected, database_url
from reflex.cli.tables import print_json, print_table
from reflex.core.durations import written
from reflex.core.errors import ReflexError
from reflex.core.keeping import Keeping, Kept, goes_whole, is_over
from reflex.core.partitions import TABLES, Partition, end_of, list_partitions
from reflex.core.periods import Periods, partition_width
from reflex.core.settings import Settings
from reflex.core.statements import only_row

__all__ = ["keep_now", "show_retention"]


async def show_retention(settings: Settings, *, as_json: bool) -> None:
    """Print the periods and all partitions.

    Raises:
        DatabaseUnavailable: It cannot be reached.
        ConfigurationError: It has no schema.
    """
    periods = settings.periods()
    async with connected(database_url(settings), name="reflex retention") as conn:
        partitions = await list_partitions(conn)
        now: datetime = (await only_row(conn, "clock"))[0]
    if as_json:
        print_json(
            {
                "keep": {name: period and written(period) for name, period in periods._asdict().items()},
                "partitions": [{**part._asdict(), "goes_at": goes_at(part, periods)} for part in partitions],
            }
        )
        return
    typer.echo(f"events are kept {length(periods.events)} (REFLEX_KEEP)")
    runs = length(periods.runs) if periods.runs else "as long as their events"
    typer.echo(f"runs are kept {runs} (REFLEX_KEEP_RUNS)")
    typer.echo(f"dead letters are kept {length(periods.dead_letters)} (REFLEX_KEEP_DEAD_LETTERS)")
    for table in TABLES:
        typer.echo()
        of_table = [part for part in partitions if part.table == table]
        print_table(
            [f"{table}s made", "until", "rows", "size", "goes"],
            [
                (
                    "at other times" if part.is_rest else day(part.since) or "before", day(part.until),
                    f"{part.rows:,}", size(part.bytes), goes(part, periods, now),
                )
                for part in of_table
            ],
            nothing="no partitions",
        )  # fmt: skip
        for sentence in warnings(of_table, now):
            typer.echo(sentence)


async def keep_now(settings: Settings, *, as_json: bool) -> None:
    """Do a whole pass, and say what it did.

    Raises:
        ReflexError: The role may not, or something held on to a table.
    """
    keeping = Keeping(settings.periods(), whatever_it_takes=True)
    async with connected(database_url(settings), name="reflex retention") as conn:
        while await keeping.portion(conn):
            pass
    done = keeping.done
    if as_json:
        print_json(as_object(done))
    else:
        for line in described(done):
            typer.echo(line)
    if done.not_owner:
        raise ReflexError(
            "this role does not own the tables, so it may make and drop no partitions; use the DATABASE_URL that "
            "`reflex migrate` uses"
        )
    if done.busy:
        raise ReflexError(
            f"something holds on to the partitions of {' and '.join(sorted(set(done.busy)))}, such as a dump or a long "
            "transaction; `reflex doctor` shows which. Try again when it has ended"
        )


def warnings(partitions: list[Partition], now: datetime) -> list[str]:
    end = end_of(partitions)
    rest = next(part for part in partitions if part.is_rest)
    if end > now:
        return []
    return [
        f"No partition is there for today: since {day(end)} all goes to {rest.name}, from where it leaves row by row. "
        "Start a worker, or run `reflex retention --now`."
    ]


def goes_at(part: Partition, periods: Periods) -> datetime | None:
    period = periods.of(part.table)
    return part.until + period if part.until and period else None


def goes(part: Partition, periods: Periods, now: datetime) -> str | None:
    period = periods.of(part.table)
    if period and not is_over(part, periods, now) and not goes_whole(part, partition_width(period)):
        return "row by row"
    return "with the next pass" if is_over(part, periods, now) else day(goes_at(part, periods))


def described(done: Kept) -> list[str]:
    lines = [f"made {part.name}, until {day(part.until)}" for part in done.made]
    for dropped in done.dropped:
        moved = f"; {dropped.moved} rows of it are needed, and stay" if dropped.moved else ""
        lines.append(f"dropped {dropped.partition.name} with some {dropped.rows:,} rows{moved}")
    lines += [f"{part.name} stays: too many of its events are pending, running or dead" for part in done.stay]
    if done.given_up:
        lines.append(f"gave up {done.given_up} dead letters")
    if done.pruned.is_any or done.runs:
        removed = f"{done.pruned.events} events with {done.pruned.runs} runs, {done.runs} runs of events that were gone"
        lines.append(f"removed one by one: {removed}, and {done.pruned.sessions} sessions")
    return lines or ["nothing to do"]


def as_object(done: Kept) -> dict[str, Any]:
    return {
        **done._asdict(),
        "pruned": done.pruned._asdict(),
        "made": [part.name for part in done.made],
        "dropped": [{"name": d.partition.name, "rows": d.rows, "moved": d.moved} for d in done.dropped],
        "stay": [part.name for part in done.stay],
    }


def length(period: Any) -> str:
    return f"for {written(period)}" if period else "for good"


def day(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%d}" if moment else None


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
