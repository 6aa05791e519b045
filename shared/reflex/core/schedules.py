"""Schedules as the database knows them: what appends an event by the clock, when next, and what became of it.

When a schedule fires is decided in reflex.agent.timing, which reads cron; here are the rows and the statements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from reflex.core.reads import fetch, has_open_deliveries
from reflex.core.statements import only_row, statement

__all__ = [
    "Advance",
    "DueSchedule",
    "Missed",
    "Overlap",
    "ScheduleDefinition",
    "ScheduleRow",
    "advance_schedules",
    "list_schedules",
    "register_schedules",
    "retire_schedules",
    "take_due_schedules",
    "upcoming_schedules",
]


class Missed(StrEnum):
    """What becomes of fires that passed while no worker ran: one event for all of them, none, or one for each."""

    ONCE = "once"
    SKIP = "skip"
    ALL = "all"


class Overlap(StrEnum):
    """Whether a schedule fires while a delivery of its last event is not finished."""

    ALLOW = "allow"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class ScheduleDefinition:
    """A schedule as an app defines it. `spec` says when (`timing.read_timing` reads it); `description` says it to
    people; `payload` is JSON text."""

    name: str
    spec: Mapping[str, Any]
    description: str
    missed: Missed
    overlap: Overlap
    type: str
    payload: str
    key: str | None


class DueSchedule(NamedTuple):
    """A schedule that is due, locked. `next_at` None: its first fire is not planned yet, counted from `started_at`.

    `busy`: it is not to overlap with itself, and a delivery of its last event is not finished. `now` is the moment
    by which it is due, of the database's clock.
    """

    schedule_id: int
    name: str
    spec: dict[str, Any]
    missed: str
    overlap: str
    type: str
    payload: str
    key: str | None
    started_at: datetime
    next_at: datetime | None
    busy: bool
    now: datetime


class Advance(NamedTuple):
    """Where a schedule goes on. The order of the fields is that of the arrays in `sql/advance_schedules.sql`.

    `last_at` and `last_event_id` None: it did not fire, they stay. `fired` and `skipped` are added to the counts.
    """

    schedule_id: int
    next_at: datetime
    last_at: datetime | None
    last_event_id: UUID | None
    fired: int
    skipped: int


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule: by `cron` in the time zone `tz`, or every `every_s` seconds; `description` says it in words.

    `next_at` is null until a worker has planned the first fire. `last_at` is the planned time of the last event.
    `fired` counts events, `skipped` the planned times without one: missed, or with the last event not finished. A
    retired schedule does not fire: no running code has it.
    """

    id: int
    name: str
    app: str
    description: str
    cron: str | None
    tz: str | None
    every_s: float | None
    missed: Literal["once", "skip", "all"]
    overlap: Literal["allow", "skip"]
    type: str
    key: str | None
    registered_at: datetime
    retired_at: datetime | None
    next_at: datetime | None
    last_at: datetime | None
    last_event_id: UUID | None
    fired: int
    skipped: int
    live_workers: int


async def register_schedules(
    conn: AsyncConnection[Any],
    app_id: int,
    definitions: Sequence[ScheduleDefinition],
    *,
    now: datetime | None = None,
) -> dict[str, int]:
    """Add or update an app's schedules; one whose `spec` is as before keeps its next fire. Their ids, by name."""
    columns: dict[str, list[Any]] = {
        "name": [definition.name for definition in definitions],
        "spec": [orjson.dumps(definition.spec).decode() for definition in definitions],
        "description": [definition.description for definition in definitions],
        "missed": [str(definition.missed) for definition in definitions],
        "overlap": [str(definition.overlap) for definition in definitions],
        "type": [definition.type for definition in definitions],
        "payload": [definition.payload for definition in definitions],
        "key": [definition.key for definition in definitions],
    }
    cursor = await conn.execute(statement("register_schedules"), {"app_id": app_id, "now": now, **columns})
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def upcoming_schedules(
    conn: AsyncConnection[Any], schedule_ids: Sequence[int], *, now: datetime | None = None
) -> tuple[bool, timedelta | None]:
    """Whether one of these is due, and how long until the next of the others is (None: there is none)."""
    parameters = {"schedule_ids": list(schedule_ids), "now": now}
    is_due, next_in = await only_row(conn, "upcoming_schedules", parameters)
    return is_due, next_in


async def take_due_schedules(
    conn: AsyncConnection[Any], schedule_ids: Sequence[int], *, limit: int, now: datetime | None = None
) -> list[DueSchedule]:
    """Lock the due ones among these, the longest due first. What another worker has locked is left to it.

    Args:
        conn: Inside a transaction, which also appends the events and moves the schedules on.
    """
    parameters = {"schedule_ids": list(schedule_ids), "limit": limit, "now": now}
    cursor = await conn.execute(statement("take_due_schedules"), parameters)
    taken: list[DueSchedule] = []
    for *columns, last_event_id, now_ in await cursor.fetchall():
        busy = last_event_id is not None and await has_open_deliveries(conn, last_event_id)
        taken.append(DueSchedule(*columns, busy=busy, now=now_))
    return taken


async def advance_schedules(conn: AsyncConnection[Any], advances: Sequence[Advance]) -> None:
    """Move schedules on that this transaction has locked."""
    columns = zip(*advances, strict=True)
    parameters = {name: list(column) for name, column in zip(Advance._fields, columns, strict=True)}
    await conn.execute(statement("advance_schedules"), parameters)


async def retire_schedules(
    conn: AsyncConnection[Any], *, after: timedelta = timedelta(minutes=1), now: datetime | None = None
) -> list[str]:
    """Retire schedules that no living worker knows. Returns their names."""
    cursor = await conn.execute(statement("retire_schedules"), {"after": after, "now": now})
    return [row[0] for row in await cursor.fetchall()]


async def list_schedules(
    conn: AsyncConnection[Any], *, lease_timeout: timedelta, now: datetime | None = None
) -> list[ScheduleRow]:
    """Every schedule, retired ones too, by app and name.

    Args:
        lease_timeout: A worker whose heartbeat is older than this does not count as live.
    """
    parameters = {"lease_timeout": lease_timeout, "now": now}
    return [ScheduleRow(**row) for row in await fetch(conn, "list_schedules", parameters)]
