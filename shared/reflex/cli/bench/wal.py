"""How many bytes of write-ahead log one event costs, from its ingest to the record of its run."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import Connection, sql

from reflex.cli.bench.contestants import LEFT
from reflex.cli.bench.databases import connected, one, wal_position
from reflex.cli.bench.processes import load, wait_until
from reflex.cli.bench.results import Figure, Row, under
from reflex.cli.bench.sample import BATCH, NDJSON, settle_down, write_bodies
from reflex.cli.bench.services import gateway, worker
from reflex.cli.bench.setting import Setting

__all__ = ["wal"]

LIMIT: Final = 1500
DRAIN_S: Final = 180.0
# Of all that was written, the images of whole pages: what a checkpoint in between would multiply.
PAGE_IMAGES: Final = sql.SQL(
    "SELECT sum(fpi_size)::float8 / greatest(sum(combined_size), 1) "
    "FROM pg_get_wal_stats('0/0'::pg_lsn + {}::numeric, '0/0'::pg_lsn + {}::numeric)"
)


def wal(setting: Setting) -> list[Row]:
    """Gateway and worker under load; the difference of the WAL's position over everything that was written meanwhile.

    The first load after a checkpoint writes whole images of the pages it touches and is not counted. What counts
    includes heartbeats, autovacuum and all else that a running system writes.
    """
    single, batch = write_bodies(setting.folder)
    found = [once(setting, batch, connections=4, events=BATCH, content_type=NDJSON)]
    if not setting.quick:
        found.append(once(setting, single, connections=64, events=1, content_type="application/json"))
    return [
        under("wal", f"WAL of an event, {what}", figure, limit=LIMIT, details=details)
        for what, (figure, details) in zip((f"batches of {BATCH}", "single, 64 connections"), found, strict=False)
    ]


def once(
    setting: Setting, body: Path, *, connections: int, events: int, content_type: str
) -> tuple[Figure, dict[str, Any]]:
    """Bytes an event, by run, and how much of that are images of pages."""
    stamps = setting.folder / f"stamps-wal-{events}"
    stamps.mkdir()
    bytes_each: list[float] = []
    shares: list[float] = []
    with (
        setting.database() as url,
        gateway(setting.folder, url) as front,
        worker(setting.folder, url, stamps=stamps) as back,
        connected(url) as conn,
    ):
        settle_down(url)
        for run in range(setting.runs + 1):
            setting.say(f"wal: {events} a request, " + (f"run {run} of {setting.runs}" if run else "warm-up"))
            before = wal_position(conn)
            seconds = setting.sized(2.0, 0.5)
            counted = load(front.port, body, connections=connections, seconds=seconds, content_type=content_type)
            wait_until(partial(is_empty, conn), what="an empty queue", timeout_s=DRAIN_S)
            back.check()
            after = wal_position(conn)
            if run:
                bytes_each.append((after - before) / (counted["sent"] * events))
                shares += page_images(conn, before, after)
    return Figure(tuple(bytes_each), "bytes"), {"share_of_page_images": [round(share, 3) for share in shares]}


def is_empty(conn: Connection[Any]) -> bool:
    return not one(conn, sql.SQL("SELECT {}").format(sql.SQL(LEFT)))


def page_images(conn: Connection[Any], before: int, after: int) -> list[float]:
    """The share of full-page images, if the server can tell."""
    with contextlib.suppress(psycopg.Error):
        conn.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        return [float(one(conn, PAGE_IMAGES.format(sql.Literal(before), sql.Literal(after))))]
    return []
