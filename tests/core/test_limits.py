"""The allowance of a key: what one statement takes of its rate and its day, at any moment and after any other."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.api_keys import create_api_key, find_api_keys, list_api_keys
from reflex.core.limits import Limits, Portion, return_allowance, take_allowance
from reflex.core.pages import QueryRejected

Conn = AsyncConnection[Any]
NOW = datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


async def limited(conn: Conn, rate: str | None = None, quota: str | None = None) -> str:
    return (await create_api_key(conn, name="test", scopes=["publish"], now=NOW, rate=rate, quota=quota)).key.id


async def test_limits_are_stored_and_shown(db: Conn) -> None:
    key = await limited(db, rate="0.5/s", quota="100000/d")
    free = (await create_api_key(db, name="free", scopes=["publish"])).key
    assert (await find_api_keys(db, [key]))[key].limits == Limits(0.5, 100_000)
    assert {row.id: str(row.limits) for row in await list_api_keys(db)} == {key: "0.5/s 100000/d", free.id: ""}
    with pytest.raises(LookupError):
        await take_allowance(db, free.id, rated=0, counted=1)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"rate": "50"}, "rate: '50' is none"), ({"rate": "0/s"}, "rate"), ({"rate": "-1/s"}, "rate"),
        ({"rate": "9999999/s"}, "rate"), ({"rate": "nan/s"}, "rate"), ({"quota": "1.5/d"}, "quota"),
        ({"quota": "0/d"}, "quota: '0/d' is none"), ({"quota": "10/h"}, "quota"), ({"quota": "٣/d"}, "quota"),
    ],
)  # fmt: skip
async def test_limits_that_make_no_sense_are_refused(db: Conn, limits: dict[str, str], said: str) -> None:
    with pytest.raises(QueryRejected, match=said):
        await limited(db, **limits)


async def test_limits_are_for_keys_that_publish(db: Conn) -> None:
    with pytest.raises(QueryRejected, match="rate: limits what a key publishes"):
        await create_api_key(db, name="test", scopes=["read"], rate="1/s")


async def test_the_bucket_holds_a_second_and_fills_with_the_clock(db: Conn) -> None:
    """Fails if it fills without end, if what is refused is taken, or if the portion is more than is there."""
    key = await limited(db, rate="10/s")

    async def take(rated: float, portion: float, after_s: float) -> Portion:
        return await take_allowance(
            db, key, rated=rated, counted=0, portion=portion, now=NOW + timedelta(seconds=after_s)
        )

    assert (await take(1, 4, 60))[:4] == (True, 4, 0, 10)
    assert (await take(1, 99, 60))[:4] == (True, 6, 0, 6)
    assert (await take(1, 4, 60))[:4] == (False, 0, 0, 0)
    assert (await take(2, 4, 60.1))[:2] == (False, 0)
    assert (await take(2, 4, 60.2))[:3] == (True, 2, 0)
    assert (await take(0, 9, 70))[:3] == (True, 0, 0), "nothing was needed"


async def test_more_than_the_bucket_holds_passes_when_it_is_full_and_leaves_a_debt(db: Conn) -> None:
    key = await limited(db, rate="10/s")

    async def take(rated: float, after_s: float) -> Portion:
        return await take_allowance(db, key, rated=rated, counted=0, now=NOW + timedelta(seconds=after_s))

    assert (await take(1, 0)).granted
    assert not (await take(25, 0)).granted, "not full"
    assert (await take(25, 1))[:2] == (True, 25)
    assert (await take(1, 1))[:4] == (False, 0, 0, -15)
    assert not (await take(1, 2.5)).granted
    assert (await take(1, 2.6)).granted
    slow = await limited(db, rate="0.5/s")
    assert (await take_allowance(db, slow, rated=1, counted=0, now=NOW)).granted, "one event in any case"


async def test_a_portion_of_the_day_is_small_and_the_day_is_that_of_utc(db: Conn) -> None:
    """Fails if portions do not get smaller at the end, so that one gateway keeps what another one needs; or if the day
    is that of the session's time zone."""
    await db.execute("SET TimeZone = 'Asia/Tokyo'")
    key = await limited(db, quota="1000/d")

    async def take(counted: int, after: timedelta = timedelta()) -> Portion:
        return await take_allowance(db, key, rated=0, counted=counted, now=NOW + after)

    assert await take(1) == (True, 0, 10, 0, 1000, 3600)
    assert (await take(970))[2:] == (970, 0, 990, 3600)
    assert [(await take(1)).counted for _ in range(5)] == [5, 3, 3, 2, 1]
    assert [(await take(1)).counted for _ in range(7)] == [1] * 6 + [0]
    assert not (await take(1, SECOND * 3599)).granted
    assert (await take(0)).granted, "none was needed"
    assert await take(1, SECOND * 3600) == (True, 0, 10, 0, 1000, 86_400)


async def test_a_moment_that_is_late_neither_empties_the_bucket_nor_brings_yesterday_back(db: Conn) -> None:
    """A statement that waited for the row has an earlier moment than what it finds. Fails without either greatest()."""
    key = await limited(db, rate="10/s", quota="100/d")
    tomorrow = NOW + timedelta(hours=1)
    await take_allowance(db, key, rated=10, counted=60, now=tomorrow + SECOND)
    assert (await take_allowance(db, key, rated=1, counted=1, now=NOW))[:1] == (False,)
    half = await limited(db, rate="10/s")
    await take_allowance(db, half, rated=5, counted=0, now=tomorrow)
    assert (await take_allowance(db, half, rated=5, counted=0, now=tomorrow - SECOND)).granted, "five are there"
    late = await take_allowance(db, key, rated=0, counted=41, now=tomorrow - SECOND)
    assert (late.granted, late.quota_left) == (False, 40)
    after = await take_allowance(db, key, rated=5, counted=1, now=tomorrow + SECOND * 1.5)
    assert (after.granted, after.available) == (True, 5)


async def test_nothing_is_taken_if_one_of_the_two_is_short(db: Conn) -> None:
    key = await limited(db, rate="10/s", quota="5/d")
    assert not (await take_allowance(db, key, rated=6, counted=6, now=NOW)).granted
    assert not (await take_allowance(db, key, rated=11, counted=6, now=NOW)).granted
    assert (await take_allowance(db, key, rated=5, counted=5, portion=99, now=NOW))[:3] == (True, 10, 5)


async def test_what_is_given_back_can_be_taken_again_but_not_on_another_day(db: Conn) -> None:
    key = await limited(db, rate="10/s", quota="1000/d")
    other = await limited(db, quota="10/d")
    for _ in range(2):
        assert (await take_allowance(db, key, rated=10, counted=1000, now=NOW)).granted
        assert not (await take_allowance(db, key, rated=1, counted=1, now=NOW)).granted
        await return_allowance(db, {key: (10, 1000), other: (0, 3)}, now=NOW)
    await take_allowance(db, key, rated=0, counted=1000, now=NOW)
    await return_allowance(db, {key: (500, 1000)}, now=NOW + timedelta(hours=2))
    assert not (await take_allowance(db, key, rated=0, counted=1, now=NOW)).granted
    assert (await take_allowance(db, key, rated=11, counted=0, now=NOW)).available == 10


async def test_two_gateways_that_take_at_once_do_not_get_the_same(db: Conn, other: Conn) -> None:
    """One holds the row, the other waits for it. Fails if the row is not locked before it is read."""
    key = await limited(db, quota="2/d")
    async with db.transaction():
        first = await take_allowance(db, key, rated=0, counted=2, now=NOW)
        waits = asyncio.create_task(take_allowance(other, key, rated=0, counted=1, now=NOW))
        async with asyncio.timeout(30):
            while not await (
                await db.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                )
            ).fetchone():
                await db.execute("SELECT pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)
    assert (first.granted, (await waits).granted) == (True, False)
