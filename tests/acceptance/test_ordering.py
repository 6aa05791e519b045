"""Promise 7, with real processes: two that append, three that work, one of which is killed."""

import asyncio
import random
import shutil
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.log import append
from tests.acceptance import queueing
from tests.processes import eventually, worker
from tests.queue_fixtures import is_quiet, new_event

KEYS = [f"k{number}" for number in range(8)]
APPENDS = 80
LOG = """
SELECT event.payload #>> '{chat,id}' AS key, event.event_id
FROM (
    SELECT 1 AS part, position AS place, event_ids FROM reflex.log
    UNION ALL SELECT 2, append_id, event_ids FROM reflex.appended
) AS appended
CROSS JOIN unnest(event_ids) WITH ORDINALITY AS listed (event_id, number)
JOIN reflex.event USING (event_id)
ORDER BY part, place, number
"""
SETTLED = "SELECT event_id, finished_at FROM reflex.run WHERE outcome = 'succeeded'"


async def test_each_key_keeps_its_order_under_load_while_workers_are_killed(database_url: str, tmp_path: Path) -> None:
    """Fails with a lane that stays ready while it runs, with a retry that lets the next one by, with a reap that
    leaves the lane claimed, and if the batch of a lane runs in parallel."""
    shutil.copy(str(queueing.__file__), tmp_path)
    env = {"REFLEX_LEASE_TIMEOUT_S": "1", "REFLEX_LOG_LEVEL": "warning", "REFLEX_CONCURRENCY": "20"}
    async with (
        await connect(database_url, name="one") as one,
        await connect(database_url, name="two") as two,
        AsyncExitStack() as running,
    ):
        contexts = [worker(database_url, tmp_path, app="queueing", env=env) for _ in range(3)]
        workers = await asyncio.gather(*map(running.enter_async_context, contexts))
        sending = [asyncio.create_task(send(conn, seed)) for seed, conn in enumerate((one, two))]
        await eventually(lambda: (tmp_path / "said.txt").exists(), what="the first run")
        await asyncio.sleep(0.7)
        await workers[0].kill()
        await asyncio.gather(*sending)
        await eventually(lambda: is_quiet(one), timeout_s=60, what="a quiet queue")

        log: dict[str, list[UUID]] = defaultdict(list)
        for key, event_id in await (await one.execute(LOG)).fetchall():
            log[key].append(event_id)
        settled = await (await one.execute(SETTLED)).fetchall()
        assert await is_quiet(two)
    finished = dict(settled)
    assert len(finished) == len(settled), "nothing was settled twice"
    assert finished.keys() == {event_id for events in log.values() for event_id in events}, "and nothing was lost"
    for events in log.values():
        at = [finished[event_id] for event_id in events]
        assert at == sorted(at), "settled in the order of the log"
    check_runs(log, (tmp_path / "said.txt").read_text().splitlines(), killed=workers[0].pid)


def check_runs(log: dict[str, list[UUID]], said: list[str], *, killed: int) -> None:
    """One at a time for each key, and none before those ahead of it have run; but for what the killed one had not
    settled, which runs again from there on."""
    running: dict[str, int] = {}
    reached: dict[str, int] = defaultdict(int)
    last_pid: dict[str, int] = {}
    for line in said:
        what, key, event, pid = line.split()
        if what == "end":
            assert running.pop(key) == int(pid)
            continue
        assert running.get(key, killed) == killed, f"two runs of {key} at a time"
        running[key] = int(pid)
        place = log[key].index(UUID(event))
        assert place <= reached[key], f"{event} of {key} ran before what was ahead of it"
        assert place >= reached[key] - 1 or last_pid[key] == killed, f"{event} of {key} ran again"
        reached[key] = place + 1
        last_pid[key] = int(pid)


async def send(conn: AsyncConnection[object], seed: int) -> None:
    """Appends of a few events each, half of them of one key; one in fifty fails at its first attempt."""
    rnd = random.Random(seed)
    for _ in range(APPENDS):
        keys = [KEYS[0] if rnd.random() < 0.5 else rnd.choice(KEYS) for _ in range(rnd.randint(1, 6))]
        payloads = [{"chat": {"id": key}, "fail": rnd.random() < 0.02} for key in keys]
        await append(conn, [new_event("chat.said", orjson.dumps(payload).decode()) for payload in payloads])
        await asyncio.sleep(0.005)
