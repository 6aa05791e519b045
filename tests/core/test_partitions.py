"""Partitions: made ahead of time, and what no partition takes is taken all the same."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

import reflex.core.partitions as partitions_module
from reflex.core.database import connect
from reflex.core.ids import first_id_at, time_of
from reflex.core.log import append
from reflex.core.partitions import Busy, Partition, list_partitions, make_ahead
from reflex.core.periods import DAY, Periods, boundary_after, partition_width
from reflex.core.retention import take_turn
from tests.queue_fixtures import count, new_event

NOW = datetime.now(UTC)


async def make(
    db: AsyncConnection[Any], *, table: str = "event", width: timedelta = DAY, now: datetime = NOW
) -> list[Partition]:
    async with db.transaction():
        await take_turn(db)
        return await make_ahead(db, table, width=width, now=now)


def id_at(moment: datetime) -> UUID:
    return UUID(int=first_id_at(moment).int + new_event().event_id.int % 2**60)


async def where(db: AsyncConnection[Any], event_id: UUID) -> str:
    cursor = await db.execute("SELECT tableoid::regclass::text FROM reflex.event WHERE event_id = %s", [event_id])
    row = await cursor.fetchone()
    assert row is not None
    return row[0].removeprefix("reflex.")


def test_an_id_and_its_time() -> None:
    event = new_event()
    assert abs(time_of(event.event_id) - datetime.now(UTC)) < timedelta(seconds=5)
    moment = datetime(2026, 12, 1, 10, 30, 0, 123_000, UTC)
    assert time_of(first_id_at(moment)) == moment
    assert first_id_at(moment) < id_at(moment) < first_id_at(moment + timedelta(milliseconds=1))


@pytest.mark.parametrize(("days", "width"), [(1, 1), (8, 1), (15, 1), (16, 2), (30, 3), (60, 7), (365, 45), (None, 90)])
def test_a_period_is_eight_partitions_and_no_partition_is_less_than_a_day(days: int | None, width: int) -> None:
    assert partition_width(days * DAY if days else None) == width * DAY


def test_a_boundary_is_the_same_for_all_who_make_partitions() -> None:
    assert boundary_after(datetime(2026, 12, 1, 10, tzinfo=UTC), DAY) == datetime(2026, 12, 2, tzinfo=UTC)
    assert boundary_after(datetime(2026, 12, 2, tzinfo=UTC), DAY) == datetime(2026, 12, 3, tzinfo=UTC)
    week = boundary_after(datetime(2026, 12, 2, tzinfo=UTC), 7 * DAY)
    assert week == boundary_after(week - timedelta(seconds=1), 7 * DAY)


def test_runs_go_with_their_events_unless_they_have_a_period_of_their_own() -> None:
    assert Periods(events=30 * DAY).of("run") == 30 * DAY
    assert Periods(events=30 * DAY, runs=365 * DAY).of("run") == 365 * DAY
    assert Periods(runs=7 * DAY).of("event") is None


async def test_partitions_are_made_ahead_without_a_gap_and_once(db: AsyncConnection[Any]) -> None:
    """Fails if they do not follow one another, are not made far enough, or are made again."""
    made = await make(db, width=3 * DAY)
    parts = await list_partitions(db, "event")
    assert [part.name for part in parts[1:-1]] == [part.name for part in made]
    assert (parts[0].name, parts[0].since, parts[-1].name, parts[-1].until) == ("event_first", None, "event_rest", None)
    assert [part.since for part in parts[1:-1]] == [part.until for part in parts[:-2]]
    end = parts[-2].until
    assert end is not None
    assert NOW + 6 * DAY <= end < NOW + 10 * DAY
    assert await make(db, width=3 * DAY) == []
    assert len(await make(db, width=3 * DAY, now=NOW + 3 * DAY)) == 1
    assert {part.name for part in await list_partitions(db, "run")} == {"run_first", "run_rest"}


async def test_an_event_is_stored_in_the_partition_of_its_time(db: AsyncConnection[Any]) -> None:
    """Fails if a partition has other bounds than its name says."""
    made = await make(db)
    for part in made:
        assert part.since is not None
        assert part.until is not None
        first, last = id_at(part.since), id_at(part.until - timedelta(milliseconds=1))
        await append(db, [new_event()._replace(event_id=id) for id in (first, last)])
        assert (await where(db, first), await where(db, last)) == (part.name, part.name)
        assert part.name == f"event_{part.since:%Y%m%d}"


async def test_a_new_partition_has_all_that_the_table_has(db: AsyncConnection[Any]) -> None:
    """Fails if it is made without an index, a default, a check or what is said of its columns."""
    await db.execute("ALTER TABLE reflex.event ALTER payload SET STORAGE EXTERNAL")
    for table in ("event", "run"):
        *_, made = await make(db, table=table)
        first = await described(db, f"{table}_first")
        assert await described(db, made.name) == first
        assert len(first) > 10
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'payload'"
    name = (await list_partitions(db, "event"))[1].name
    assert await (await db.execute(storage, [f"reflex.{name}"])).fetchone() in (("e",), (b"e",))


async def described(db: AsyncConnection[Any], table: str) -> set[str]:
    """Its columns, checks and indexes, without what they are called."""
    cursor = await db.execute(
        "SELECT format('%%s %%s %%s %%s', attname, format_type(atttypid, atttypmod), attnotnull, "
        "pg_get_expr(adbin, adrelid)) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = %(table)s::text::regclass AND attnum > 0 "
        "UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %(table)s::text::regclass "
        "UNION ALL SELECT regexp_replace(indexdef, '^.* USING', '') FROM pg_indexes "
        "WHERE schemaname || '.' || tablename = %(table)s::text",
        {"table": f"reflex.{table}"},
    )
    return {row[0] for row in await cursor.fetchall()}


async def test_what_came_when_nobody_had_made_a_partition_is_taken_and_moved_to_the_one_that_is_made(
    db: AsyncConnection[Any],
) -> None:
    """Fails without the rest: the append is refused. Or if what is in it is in the way of a partition, or lost."""
    later = NOW + 20 * DAY
    ids = [id_at(later - hours * timedelta(hours=1)) for hours in (1, 2, 100)]
    await append(db, [new_event()._replace(event_id=id) for id in ids])
    assert {await where(db, id) for id in ids} == {"event_rest"}
    made = await make(db, now=later)
    of_later = next(part.name for part in made if part.since is not None and part.since <= later)
    assert await where(db, ids[2]) == "event_rest"  # its day is over
    moved = [id for id in ids if time_of(id) >= (made[0].since or later)]
    assert moved
    assert {await where(db, id) for id in moved} == {of_later}
    assert await count(db, "event") == 3


async def test_where_too_much_is_in_the_rest_it_stays_and_the_next_partition_begins_after_it(
    db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if it is moved all the same, while everybody waits; or if no partition is ever made again."""
    monkeypatch.setattr(partitions_module, "MOVED_ROWS", 1)
    later = NOW + 20 * DAY
    ids = [id_at(later), id_at(later)]
    await append(db, [new_event()._replace(event_id=id) for id in ids])
    made = await make(db, now=later)
    assert {await where(db, id) for id in ids} == {"event_rest"}
    assert made[0].since == boundary_after(later, DAY)
    assert await make(db, now=later) == []


async def test_a_large_rest_is_read_only_when_somebody_says_so(
    db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a worker makes everybody wait for it by night."""
    monkeypatch.setattr(partitions_module, "READ_BYTES", 0)
    assert await make(db) == []
    async with db.transaction():
        assert await make_ahead(db, "event", width=DAY, now=NOW, whatever_it_takes=True)


async def test_whoever_holds_on_to_a_table_is_not_waited_for_and_nobody_waits_long(
    db: AsyncConnection[Any], database_url: str
) -> None:
    """Fails without a lock timeout: what comes after the one who waits for the lock waits as well."""
    async with await connect(database_url, name="dump") as dump, await connect(database_url, name="gateway") as gateway:
        async with dump.transaction():
            await dump.execute("SELECT count(*) FROM reflex.event")
            making = asyncio.create_task(make(db))
            await append(gateway, [new_event()])
            with pytest.raises(Busy):
                await making
        assert await make(db)
