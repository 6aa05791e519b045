"""Clocks: of this machine beside the database's, and of those that made the ids of the newest events."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number, seconds
from reflex.core.ids import time_of
from reflex.core.reads import fetch
from reflex.core.statements import only_row

__all__ = ["CLOCK", "EVENT_CLOCKS", "Skew", "id_time", "judge_event_clocks", "judge_skew"]

SAMPLES: Final = 5
EVENTS: Final = 50
NOTICED: Final = timedelta(seconds=1)
# Senders of webhooks are believed for five minutes; a minute is on the way there.
FAR: Final = timedelta(minutes=1)
# Between making an id and committing it an event may wait for a database that is away.
COMMITTED_WITHIN: Final = timedelta(minutes=1)
MEANS: Final = (
    "The database's clock decides what is due; this one makes the ids of events, signs webhooks and believes their "
    "senders, and says when a certificate or a key is too old."
)
CURE: Final = ("timedatectl status", "sudo systemctl restart systemd-timesyncd  # or chronyd, or ntpd")


class Skew(NamedTuple):
    """How far this machine's clock is ahead of the database's, give or take `within`."""

    ahead: timedelta
    within: timedelta


async def look_at_clock(installation: Installation) -> Looked:
    skew = await measure(installation.connection)
    return Looked(f"this machine and the database differ by at most {apart(abs(skew.ahead) + skew.within)}",
                  judge_skew(skew))  # fmt: skip


async def measure(conn: AsyncConnection[Any]) -> Skew:
    """The tightest of a few: the database said what its clock is some time between asking and being answered."""
    found: list[Skew] = []
    for _ in range(SAMPLES):
        asked = datetime.now(UTC)
        (theirs,) = await only_row(conn, "check_round_trip")
        answered = datetime.now(UTC)
        half = (answered - asked) / 2
        found.append(Skew(asked + half - theirs, abs(half)))
    return min(found, key=lambda skew: skew.within)


def judge_skew(skew: Skew) -> list[Problem]:
    """What a difference means that is certain, whatever the round trip took. Pure."""
    least = abs(skew.ahead) - skew.within
    if least <= NOTICED:
        return []
    where = "ahead of" if skew.ahead > timedelta() else "behind"
    most = abs(skew.ahead) + skew.within
    return [
        Problem(
            Level.ERROR if least > FAR else Level.WARNING,
            f"this machine's clock is {where} the database's by {apart(least)} at least, {apart(most)} at most",
            MEANS,
            [*CURE, "The same on the database's machine, if it is that one that is wrong."],
        )
    ]


class Made(NamedTuple):
    """An event: the moment in its id, by the clock of who made it, and when the database stored it, by its own."""

    source: str
    made_at: datetime
    created_at: datetime


async def look_at_event_clocks(installation: Installation) -> Looked:
    events = [
        Made(row["source"], made_at, row["created_at"])
        for row in await fetch(installation.connection, "check_events", {"limit": EVENTS})
        if (made_at := id_time(row["event_id"])) is not None
    ]
    if not events:
        return Looked("there are no events yet")
    says = f"those behind the newest {number(len(events), 'append')} are right"
    return Looked(says, judge_event_clocks(events))


def judge_event_clocks(events: list[Made]) -> list[Problem]:
    """Whether gateways and workers that made the newest events have wrong clocks. An id made before its commit is late
    by what the commit took; one made after it cannot be. Pure."""
    problems: list[Problem] = []
    first = max(events, key=lambda event: event.made_at - event.created_at)
    ahead = first.made_at - first.created_at
    if ahead > NOTICED:
        problems.append(wrong("ahead of", ahead, first))
    last = min(events, key=lambda event: event.made_at - event.created_at)
    behind = last.created_at - last.made_at
    if behind > COMMITTED_WITHIN:
        problems.append(wrong("behind", behind, last))
    return problems


def wrong(where: str, by: timedelta, event: Made) -> Problem:
    waited = " Or it waited that long for a database that was away." if where == "behind" else ""
    return Problem(
        Level.ERROR if by > FAR and not waited else Level.WARNING,
        f"an event from {event.source!r} was made by a clock that is {where} the database's by {apart(by)}",
        f"It was stored at {event.created_at:%Y-%m-%d %H:%M:%S %Z}, and its id says {event.made_at:%H:%M:%S}: "
        f"the clock of the gateway, or the worker, that took it is wrong.{waited} Lists by time, replays and their "
        "bounds are off by that.",
        [f"{CURE[0]}  # on the machines of gateways and workers", CURE[1]],
    )


def id_time(event_id: UUID) -> datetime | None:
    """The moment that a UUIDv7 was made; None for ids of another kind."""
    if event_id.version != 7:
        return None
    try:
        return time_of(event_id)
    except (ValueError, OverflowError):  # beyond the year 9999
        return None


def apart(length: timedelta) -> str:
    return seconds(length.total_seconds())


CLOCK: Final = Check("clock", "do this machine and the database agree on the time", Need.SERVER, look_at_clock)
EVENT_CLOCKS: Final = Check(
    "event-clocks", "did those that made events know the time", Need.SCHEMA, look_at_event_clocks
)
