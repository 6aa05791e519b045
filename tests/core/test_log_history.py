"""Promise 8 at random: what many writers append, and what readers that forget and resume see of it."""

import asyncio
import random
import time
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

import pytest

from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.log_reading import log_bounds, read_log
from reflex.core.placing import Placer
from tests.core.log_fixtures import BEGINNING, place, place_all, read_all
from tests.queue_fixtures import new_event

WRITERS, READERS, PLACERS = 10, 4, 2
SECONDS = 2.5


class Append(NamedTuple):
    """What one transaction stored. `began` before its first statement, `ended` once its commit had returned."""

    ids: list[UUID]
    began: float
    ended: float


class Undone(Exception):
    """Rolls a transaction back."""


@pytest.mark.parametrize("seed", [random.randrange(10**6)], ids=["any seed"])
async def test_readers_see_what_was_committed_once_in_one_order_that_time_agrees_with(
    database_url: str, seed: int
) -> None:
    """Seen to fail with: a position that is the number drawn in the append (readers miss events); placing what was
    selected and not what was deleted (events twice); a turn in no order (time disagrees); a bound that steps over who
    has an append open (events lost); in read_log.sql, `>=` for the place (events twice), `>` for the position, and a
    cursor at the end of the span though the page was cut at its limit (events missed)."""
    history = History(database_url, seed)
    stop = time.monotonic() + SECONDS
    async with asyncio.TaskGroup() as others:
        readers = [others.create_task(history.reader(n)) for n in range(READERS)]
        for n in range(PLACERS):
            others.create_task(history.placer(n))
        async with asyncio.TaskGroup() as writers:
            for n in range(WRITERS):
                writers.create_task(history.writer(n, stop))
        history.written.set()
    async with await connect(database_url, name="test") as conn:
        order, _ = await read_all(conn)
    committed = [event_id for append in history.appends for event_id in append.ids]
    assert len(order) == len(set(order)) > 200
    assert set(order) == set(committed)
    for reader in readers:
        assert reader.result() == order
    check_time(history.appends, order)


def check_time(appends: list[Append], order: list[UUID]) -> None:
    """Raises if an append is behind one that began after it had ended, or if its events are not in a row."""
    places = {event_id: n for n, event_id in enumerate(order)}
    earliest_end_behind = float("inf")
    for found in sorted(appends, key=lambda append: places[append.ids[0]], reverse=True):
        first = places[found.ids[0]]
        assert order[first : first + len(found.ids)] == found.ids
        assert found.began <= earliest_end_behind, "an append is in front of one that had ended before it began"
        earliest_end_behind = min(earliest_end_behind, found.ended)


class History:
    """The writers, placers and readers of one run, each on a connection of its own."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.seed = seed
        self.appends: list[Append] = []
        self.written = asyncio.Event()
        self.placed = asyncio.Event()

    async def writer(self, number: int, stop: float) -> None:
        chance = random.Random(f"{self.seed} writer {number}")
        async with await connect(self.url, name="writer") as conn:
            while (began := time.monotonic()) < stop:
                events = [new_event() for _ in range(chance.choice((1, 1, 2, 5)))]
                # The order within an append is that of its ids; between appends ids say nothing.
                with suppress(Undone):
                    async with conn.transaction():
                        await append(conn, events)
                        await asyncio.sleep(chance.choice((0, 0, 0.002, 0.01, 0.05)) * chance.random())
                        if chance.random() < 0.2:
                            raise Undone
                    self.appends.append(Append([event.event_id for event in events], began, time.monotonic()))
                await asyncio.sleep(chance.choice((0, 0, 0.003)) * chance.random())

    async def placer(self, number: int) -> None:
        chance = random.Random(f"{self.seed} placer {number}")
        async with await connect(self.url, name="placer") as conn:
            placer = Placer(appends_a_bound=5)
            while not self.written.is_set():
                await placer.place(conn, limit=chance.randint(1, 20))
                with suppress(Undone):
                    async with conn.transaction():
                        await place(conn, limit=chance.randint(1, 20))
                        if chance.random() < 0.1:
                            await asyncio.sleep(0.01 * chance.random())
                        if chance.random() < 0.1:
                            raise Undone
                await asyncio.sleep(0.002 * chance.random())
            await place_all(conn)
            if not (await (await conn.execute("SELECT count(*) FROM reflex.appended")).fetchone() or (1,))[0]:
                self.placed.set()

    async def reader(self, number: int) -> list[UUID]:
        """What it has read, from the beginning. Now and then it starts anew from what it had saved."""
        chance = random.Random(f"{self.seed} reader {number}")
        seen: list[UUID] = []
        cursor, saved = BEGINNING, (str(BEGINNING), 0)
        async with await connect(self.url, name="reader") as conn:
            while True:
                complete = self.placed.is_set()
                page = await read_log(
                    conn, cursor, limit=chance.randint(1, 30), looked_at=chance.randint(1, 50), max_bytes=10**5
                )
                seen += [event.event_id for event in page.events]
                if complete and page.cursor == cursor:
                    return seen
                cursor = page.cursor
                if chance.random() < 0.1:
                    saved = (str((await log_bounds(conn)).check(cursor)), len(seen))
                if chance.random() < 0.03:
                    cursor = Cursor.parse(saved[0])
                    del seen[saved[1] :]
                await asyncio.sleep(0.003 * chance.random())


def test_the_check_of_time_can_fail() -> None:
    """An order in which the later of two comes first is refused; of two that overlapped either may."""
    one, two = (new_event().event_id for _ in range(2))
    overlapping = [Append([one], 0.0, 2.0), Append([two], 1.0, 3.0)]
    check_time(overlapping, [one, two])
    check_time(overlapping, [two, one])
    one_after_the_other = [Append([one], 0.0, 1.0), Append([two], 2.0, 3.0)]
    check_time(one_after_the_other, [one, two])
    with pytest.raises(AssertionError):
        check_time(one_after_the_other, [two, one])
