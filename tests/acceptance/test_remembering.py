"""State with real processes: two workers add to one key, one of them is killed."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
from psycopg import AsyncConnection

from reflex.core.log import append
from tests.processes import eventually, worker
from tests.queue_fixtures import count, is_quiet, new_event

COUNTING = Path(__file__).with_name("counting.py")
EVENTS = 60


async def test_two_workers_on_one_key_count_each_event_once_though_one_is_killed(
    database_url: str, tmp_path: Path, db: AsyncConnection[Any]
) -> None:
    """Promise 4. Fails without the version in hold_states, and if the state is written in another transaction than the
    settlement: an event would be counted twice or not at all, or published without being counted."""
    shutil.copy(COUNTING, tmp_path)
    env = {"REFLEX_LEASE_TIMEOUT_S": "1", "REFLEX_CONCURRENCY": "8"}
    async with AsyncExitStack() as running:
        contexts = [worker(database_url, tmp_path, app=COUNTING.stem, env=env) for _ in range(2)]
        workers = await asyncio.gather(*map(running.enter_async_context, contexts))
        events = [new_event(key="A", payload=orjson.dumps({"number": n}).decode()) for n in range(EVENTS)]
        await append(db, events[: EVENTS // 2])
        await eventually(lambda: count(db, "state"), what="the first run")
        await workers[0].kill()
        await append(db, events[EVENTS // 2 :])
        await eventually(lambda: is_quiet(db), timeout_s=60, what="a quiet queue")
    cursor = await db.execute("SELECT data FROM reflex.state")
    ((tally,),) = await cursor.fetchall()
    assert tally["count"] == EVENTS
    assert sorted(tally["seen"]) == list(range(EVENTS)), "nothing lost, nothing twice"
    assert await count(db, "event WHERE type = 'counted'") == EVENTS
    assert await count(db, "dead_letter") == 0
