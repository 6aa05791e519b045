"""The events of the benchmarks: as request bodies, and as rows that stand for much that has happened before."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from psycopg import sql

from reflex.cli.bench.databases import connected
from reflex.core.database import connect
from reflex.core.registration import register as register_app

__all__ = ["APP", "BATCH", "NDJSON", "PAYLOAD", "clear", "fill", "register", "settle_down", "write_bodies"]

APP: Final = "reflex.cli.bench.agents"
NDJSON: Final = "application/x-ndjson"
BATCH: Final = 100

PAYLOAD: Final[dict[str, Any]] = {
    "customer": "c-4711",
    "amount": 250.0,
    "currency": "EUR",
    "note": "two boxes, to be left with the neighbour if nobody opens",
}
EVENT: Final = orjson.dumps({"type": "bench.placed", "source": "bench", "payload": PAYLOAD})

# Ids in the order of time, as UUIDv7 are; made of the number, so that the tables can be filled one after the other.
ID: Final = sql.SQL(
    "(lpad(to_hex(%(from_ms)s::bigint + number / 50), 12, '0') || '70008000' || lpad(to_hex(number), 12, '0'))::uuid"
)
TRIGGER: Final = sql.SQL("(SELECT trigger_id FROM reflex.trigger WHERE name = 'placed')")
EVENTS: Final = sql.SQL(
    "INSERT INTO reflex.event (event_id, type, source, time, payload) "
    "SELECT {}, 'bench.placed', 'bench', now(), %(payload)s::jsonb FROM generate_series(1, %(count)s) AS number"
).format(ID)
DELIVERIES: Final = sql.SQL(
    "INSERT INTO reflex.delivery (trigger_id, event_id) SELECT {}, {} FROM generate_series(1, %(count)s) AS number"
).format(TRIGGER, ID)
RUNS: Final = sql.SQL(
    "INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome) "
    "SELECT {}, {}, 1, 1, '00000000-0000-7000-8000-000000000000', now(), 'succeeded' "
    "FROM generate_series(1, %(count)s) AS number"
).format(TRIGGER, ID)
TABLES: Final = (
    "TRUNCATE reflex.event, reflex.appended, reflex.log, reflex.delivery, reflex.ordered, reflex.lane, "
    "reflex.scheduled, reflex.lease, reflex.run, reflex.dead_letter, reflex.unrouted, reflex.idempotency, reflex.worker"
)
DAY_MS: Final = 86_400_000


def register(url: str, app: str = APP) -> None:
    """Put an app's triggers into a database."""
    from reflex.agent.app import load_app

    async def put() -> None:
        async with await connect(url, name="reflex bench") as conn:
            await register_app(conn, load_app(app).manifest())

    asyncio.run(put())


def write_bodies(folder: Path) -> tuple[Path, Path]:
    """One event, and a batch of them; the files that the load generator sends."""
    single, batch = folder / "event.json", folder / "events.ndjson"
    single.write_bytes(EVENT)
    batch.write_bytes(b"\n".join([EVENT] * BATCH) + b"\n")
    return single, batch


def fill(url: str, *, pending: int, finished: int = 0) -> None:
    """Events that wait for their delivery, and others whose run is a day old."""
    now_ms = int(time.time() * 1000)
    payload = orjson.dumps(PAYLOAD).decode()
    with connected(url) as conn:
        for count, from_ms, queries in (
            (finished, now_ms - DAY_MS, (EVENTS, RUNS)),
            (pending, now_ms, (EVENTS, DELIVERIES)),
        ):
            for query in queries if count else ():
                conn.execute(query, {"count": count, "from_ms": from_ms, "payload": payload})


def clear(url: str) -> None:
    """Empty the log and the queue; triggers stay."""
    with connected(url) as conn:
        conn.execute(TABLES)


def settle_down(url: str) -> None:
    """Vacuum, statistics and a checkpoint now, so that they do not come in the middle."""
    with connected(url) as conn:
        conn.execute("VACUUM ANALYZE")
        # On a server that is not ours this may not be allowed.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            conn.execute("CHECKPOINT")
