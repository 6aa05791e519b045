"""Batches, rate limits and duplicates with workers that are killed at any instruction."""

import asyncio
import shutil
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from reflex.core.log import append
from tests.processes import eventually, worker
from tests.queue_fixtures import count, is_quiet, new_event

GATHERING = Path(__file__).with_name("gathering.py")
EVENTS = 200
KEYS = 3
SETTINGS = {"REFLEX_LEASE_TIMEOUT_S": "1", "REFLEX_POLL_INTERVAL_S": "0.1", "REFLEX_CONCURRENCY": "8"}


async def outputs(db: AsyncConnection[Any], trigger: str) -> list[list[int]]:
    """What the runs of the trigger that succeeded returned."""
    query = "SELECT output FROM reflex.run JOIN reflex.trigger USING (trigger_id) WHERE name = %s AND outcome = %s"
    cursor = await db.execute(query, [trigger, "succeeded"])
    return [output for (output,) in await cursor.fetchall()]


async def test_each_event_is_in_one_batch_whoever_is_killed(
    database_url: str, db: AsyncConnection[Any], tmp_path: Path
) -> None:
    """Two workers, and one of them is killed four times while events come in; another takes its place.

    Fails with: an event that is kept in another transaction than the one that settles it; a batch that is forgotten
    before its run has ended; limits and duplicates that are counted in a worker, or not again by who takes over.
    """
    shutil.copy(GATHERING, tmp_path / "gathering_app.py")
    sent = 0

    async with AsyncExitStack() as stack:

        async def started() -> Any:
            return await stack.enter_async_context(worker(database_url, tmp_path, app="gathering_app", env=SETTINGS))

        await started()
        for turn in range(4):
            doomed = await started()
            for _ in range(5):
                portion = range(sent, sent + EVENTS // 20)
                events = [
                    new_event("counted", f'{{"number": {n}, "twin": {n // 2}}}', key=f"k{n % KEYS}") for n in portion
                ]
                await append(db, events)
                sent += len(portion)
                await asyncio.sleep(0.05 + 0.02 * turn)
            await doomed.kill()
        await eventually(lambda: is_quiet(db), timeout_s=60, what="a quiet queue")
    assert sent == EVENTS
    assert await count(db, "dead_letter") == 0
    assert await count(db, "run WHERE outcome = 'lost'") > 0
    batches = await outputs(db, "batches")
    assert Counter(number for batch in batches for number in batch) == dict.fromkeys(range(EVENTS), 1)
    for batch in batches:
        assert len(batch) <= 7
        assert len({number % KEYS for number in batch}) == 1
        assert batch == sorted(batch)
    assert len(batches) <= EVENTS / 7 + KEYS * 6
    assert Counter(number % KEYS for (number,) in await outputs(db, "some")) == dict.fromkeys(range(KEYS), 10)
    assert Counter(number // 2 for (number,) in await outputs(db, "first")) == dict.fromkeys(range(EVENTS // 2), 1)
    assert await count(db, "batch") == await count(db, "gathered") == 0
    assert await count(db, "step") == 0
