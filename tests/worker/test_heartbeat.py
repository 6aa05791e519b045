"""The heartbeat: alive while the worker is, whatever its event loop does."""

import threading
import time

import psycopg

from reflex.core.database import connect
from reflex.worker.heartbeat import Heartbeat
from tests.processes import eventually
from tests.queue_fixtures import enlisted, shop


async def test_it_beats_while_the_event_loop_is_blocked(database_url: str) -> None:
    """Promise 6. Fails if the beat is an asyncio task."""
    async with await connect(database_url, name="t") as conn:
        worker_id = await enlisted(conn, await shop(conn))
        await conn.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
        heartbeat = Heartbeat(database_url, worker_id=worker_id, lease_timeout_s=1, on_declared_dead=lambda: None)
        heartbeat.start()
        time.sleep(1)  # noqa: ASYNC251 (the point: nothing else runs on this loop)
        (age,) = await (
            await conn.execute("SELECT extract(epoch FROM clock_timestamp() - heartbeat_at)::float FROM reflex.worker")
        ).fetchone() or (None,)
        heartbeat.stop()
        assert age is not None
        assert age < 0.8


async def test_a_worker_that_was_declared_dead_is_told(database_url: str) -> None:
    """Fails if beat() does not look at whether a row came back."""
    async with await connect(database_url, name="t") as conn:
        worker_id = await enlisted(conn, await shop(conn))
        told = threading.Event()
        heartbeat = Heartbeat(database_url, worker_id=worker_id, lease_timeout_s=1, on_declared_dead=told.set)
        heartbeat.start()
        await conn.execute("DELETE FROM reflex.worker")
        await eventually(told.is_set)
        heartbeat.join(5)
        assert not heartbeat.is_alive()


async def test_it_comes_back_after_its_connection_was_cut(database_url: str) -> None:
    """Promise 9. Fails if an error ends the thread."""
    async with await connect(database_url, name="t") as conn:
        worker_id = await enlisted(conn, await shop(conn))
        heartbeat = Heartbeat(database_url, worker_id=worker_id, lease_timeout_s=1, on_declared_dead=lambda: None)
        heartbeat.start()
        for _ in range(3):
            await conn.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 hour'")
            await eventually(lambda: fresh(database_url))
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'reflex heartbeat' "
                "AND datname = current_database()"
            )
        heartbeat.stop()


def fresh(url: str) -> bool:
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT heartbeat_at > now() - interval '2 s' FROM reflex.worker").fetchone()
        return row == (True,)
