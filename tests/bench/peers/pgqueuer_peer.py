# pyright: basic, reportMissingImports=false
"""pgqueuer for the drain benchmark: the fastest library of its kind that we know, set up the way it likes best.

It runs in an environment of its own (requirements.txt beside this file), so nothing of Reflex is imported here.

    pgqueuer_peer.py install
    pgqueuer_peer.py fill COUNT        replaces what is in the queue
    pgqueuer_peer.py work BATCH [--uvloop]

DATABASE_URL names the database. `work` writes the time of each start to BENCH_STAMPS_FOLDER, as Reflex's own agent
does in reflex/cli/bench/stamps.py.
"""

import argparse
import asyncio
import mmap
import os
import struct
import time
from pathlib import Path

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

# The same number of bytes that Reflex's sample event has in its payload.
PAYLOAD = (
    b'{"customer":"c-4711","amount":250.0,"currency":"EUR",'
    b'"note":"two boxes, to be left with the neighbour if nobody opens"}'
)
FILL_BATCH = 1000
CAPACITY = 2**20
FLOAT = struct.Struct("<d")
NAME = "bench pgqueuer"


async def install(url: str) -> None:
    conn = await asyncpg.connect(url)
    await Queries(AsyncpgDriver(conn)).install()
    await conn.close()


async def fill(url: str, count: int) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute("TRUNCATE pgqueuer, pgqueuer_log")
    queries = Queries(AsyncpgDriver(conn))
    for at in range(0, count, FILL_BATCH):
        size = min(FILL_BATCH, count - at)
        await queries.enqueue(["bench"] * size, [PAYLOAD] * size, [0] * size)
    await conn.close()


async def work(url: str, batch: int) -> None:
    """Until it is killed. A batch is also how many run at once."""
    size = (CAPACITY + 1) * 8
    path = Path(os.environ["BENCH_STAMPS_FOLDER"]) / f"{os.getpid()}.stamps"
    with path.open("w+b") as file:
        file.truncate(size)
        stamps = mmap.mmap(file.fileno(), size)
    count = 0
    conn = await asyncpg.connect(url, server_settings={"application_name": NAME})
    queue = PgQueuer(AsyncpgDriver(conn))

    @queue.entrypoint("bench")
    async def note_start(job: object) -> None:
        nonlocal count
        count += 1
        FLOAT.pack_into(stamps, count * 8, time.monotonic())
        FLOAT.pack_into(stamps, 0, count)

    await queue.run(batch_size=batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["install", "fill", "work"])
    parser.add_argument("number", type=int, nargs="?", default=0)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    url = os.environ["DATABASE_URL"]
    match options.action:
        case "install":
            asyncio.run(install(url))
        case "fill":
            asyncio.run(fill(url, options.number))
        case _ if options.uvloop:
            import uvloop

            uvloop.run(work(url, options.number))
        case _:
            asyncio.run(work(url, options.number))


if __name__ == "__main__":
    main()
