"""A run of writers and readers over gateways and a PostgreSQL that are killed meanwhile, and what must hold after it.

The order that all have to agree on is that of `reflex.log`. What is checked, in the manner of Jepsen's list-append:
the log holds what was committed and nothing else, once; each writer's appends are in it in the order in which it made
them; and each reader, whatever cursors it resumed from and at which gateway, got all of it that its filter lets
through, once, in that order.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import orjson
import psycopg
from psycopg import AsyncConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import WebSocketException

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.log import append
from reflex.core.migrate import upgrade
from tests.customers import Customers
from tests.processes import GatewayProcess, eventually, free_port, gateway
from tests.queue_fixtures import new_event

__all__ = ["History", "live_through"]

BEGINNING = str(Cursor(0, 0))
OURS = "direct.event"
THEIRS = "posted.event"
# What a reader may meet when a gateway, or the database behind it, is away.
AWAY = (httpx2.TransportError, OSError, WebSocketException, EOFError)


class TurnedAway(Exception):
    """The gateway says that it cannot serve this now."""


@dataclass(slots=True)
class Writer:
    """Appends straight into the database, in transactions that stay open for a while."""

    committed: list[list[UUID]] = field(default_factory=list[list[UUID]])
    rolled_back: list[UUID] = field(default_factory=list[UUID])

    async def write(self, url: str, chance: random.Random, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                async with await connect(url, name="test writer") as conn:
                    while not over.is_set():
                        await self.append(conn, chance)
            except (psycopg.Error, OSError):
                await asyncio.sleep(0.1)

    async def append(self, conn: AsyncConnection[Any], chance: random.Random) -> None:
        events = [new_event(OURS) for _ in range(chance.choice([1, 1, 2, 5, 120]))]
        ids = [event.event_id for event in events]
        keeps = chance.random() < 0.8
        await conn.execute("BEGIN")
        await append(conn, events)
        await asyncio.sleep(chance.choice([0, 0, 0.01, 0.05, 0.3]))
        if keeps:
            await conn.execute("COMMIT")
            self.committed.append(ids)
        else:
            await conn.execute("ROLLBACK")
            self.rolled_back += ids
        await asyncio.sleep(chance.random() * 0.04)


@dataclass(slots=True)
class Reader:
    """Reads from the beginning, a little at a time, each time from the last cursor it has and at any gateway."""

    name: str
    type: str | None
    read: Callable[["Reader", str], Awaitable[None]]
    cursor: str = BEGINNING
    ids: list[UUID] = field(default_factory=list[UUID])
    connections: int = 0

    def got(self, cursor: str, event: dict[str, Any]) -> None:
        self.ids.append(UUID(event["id"]))
        self.cursor = cursor

    async def follow(self, urls: list[str], chance: random.Random, over: asyncio.Event) -> None:
        while not over.is_set():
            with suppress(TimeoutError, TurnedAway, *AWAY):
                async with asyncio.timeout(chance.choice([0.05, 0.2, 1, 3])):
                    await self.read(self, chance.choice(urls))
            await asyncio.sleep(0.02)


async def read_stream(reader: Reader, url: str) -> None:
    query = {"after": BEGINNING, **({"type": reader.type} if reader.type else {})}
    headers = {"last-event-id": reader.cursor}
    async with (
        httpx2.AsyncClient(base_url=url, timeout=10) as client,
        client.sse("/events/stream", params=query, headers=headers) as source,
    ):
        if source.response.status_code != 200:
            text = (await source.response.aread()).decode()
            assert source.response.status_code == 503, text
            raise TurnedAway(text)
        reader.connections += 1
        async for frame in source:
            if frame.event == "closing":
                continue
            if frame.data:
                reader.got(frame.id, orjson.loads(frame.data))
            else:
                reader.cursor = frame.id


async def read_websocket(reader: Reader, url: str) -> None:
    address = f"{url.replace('http', 'ws')}/ws"
    # A client that leaves in the midst of much has stopped reading, so it never sees the answer to its close.
    async with connect_websocket(address, proxy=None, max_size=None, close_timeout=0.1) as connection:
        types = {"types": [reader.type]} if reader.type else {}
        await connection.send(orjson.dumps({"op": "subscribe", "id": "all", "after": reader.cursor, **types}).decode())
        async for text in connection:
            frame = orjson.loads(text)
            match frame["op"]:
                case "subscribed":
                    reader.connections += 1
                case "event":
                    reader.got(frame["cursor"], frame["event"])
                case "refused":
                    assert frame["problem"]["status"] == 503, frame
                    raise TurnedAway(frame)
                case _:
                    pass


@dataclass(slots=True)
class Front:
    """A gateway that is killed and started again, at one address."""

    database_url: str
    folder: Path
    port: int = field(default_factory=free_port)
    kills: int = 0
    process: GatewayProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def flap(self, chance: random.Random, over: asyncio.Event, ended: asyncio.Event) -> None:
        while True:
            async with gateway(self.database_url, self.folder, port=self.port) as self.process:
                with suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(1, 4)):
                        await over.wait()
                if over.is_set() and self.kills:  # on a busy machine all is over before the first
                    await ended.wait()
                    return
                await self.process.kill()
                self.kills += 1


@dataclass(slots=True)
class History:
    """What happened. `wrong` is empty if every reader got what it should have."""

    seed: int
    readers: list[Reader]
    log: list[UUID] = field(default_factory=list[UUID])
    kills: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        connections = sum(reader.connections for reader in self.readers)
        return (
            f"seed {self.seed}: {len(self.log)} events, {len(self.readers)} readers with {connections} connections,"
            f" {self.kills} gateways killed\n" + "\n".join(self.wrong or ["every reader got the log, once, in order"])
        )


async def live_through(*, seed: int, seconds: float, folder: Path) -> History:
    """Run it once. It ends by itself, and leaves no process behind."""
    plan = random.Random(seed)
    chances = [random.Random(plan.random()) for _ in range(20)]
    writers = [Writer() for _ in range(4)]
    kinds = [(read_stream, "stream"), (read_websocket, "websocket")]
    readers = [
        Reader(f"{kind} of {type or 'everything'}", type, read)
        for read, kind in kinds for type in (None, None, OURS, THEIRS)
    ]  # fmt: skip
    history = History(seed, readers)
    writing_over, killing_over, reading_over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with EmbeddedPostgres(folder / "postgres", durable=False, settings={"max_connections": "100"}) as server:
        upgrade(server.url)
        fronts = [Front(server.url, folder) for _ in range(2)]
        urls = [front.url for front in fronts]
        async with all_of(
            *(front.flap(chances.pop(), killing_over, reading_over) for front in fronts),
            *(reader.follow(urls, chances.pop(), reading_over) for reader in readers),
        ):
            writing = all_of(*(writer.write(server.url, chances.pop(), writing_over) for writer in writers))
            async with writing, Customers(urls, order, customers=3, repeat_every=5) as customers:
                ends_at = time.monotonic() + seconds
                await asyncio.sleep(seconds * plan.uniform(0.3, 0.6))
                server.stop()
                server.start()
                await asyncio.sleep(ends_at - time.monotonic())
                writing_over.set()
                killing_over.set()
            async with await connect(server.url, name="test") as conn:
                history.log = await complete_log(conn)
                types = dict(await (await conn.execute("SELECT event_id, type FROM reflex.event")).fetchall())
            with suppress(AssertionError):
                await eventually(lambda: all_have_read(readers, history.log, types), timeout_s=20)
            reading_over.set()
        history.kills = sum(front.kills for front in fronts)
    history.wrong = [*customers.wrong, *judge_log(history.log, types, writers, list(customers.accepted.values()))]
    for reader in readers:
        history.wrong += judge_reader(reader, [id for id in history.log if reader.type in (None, types[id])])
    return history


def order(number: int) -> dict[str, Any]:
    return {"type": THEIRS, "payload": {"n": number}}


@asynccontextmanager
async def all_of(*work: Awaitable[None]) -> AsyncGenerator[None]:
    """Run all of it meanwhile; it has to end by itself."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def complete_log(conn: AsyncConnection[Any]) -> list[UUID]:
    """The log, once the gateways have given every append its position."""

    async def all_placed() -> bool:
        return await (await conn.execute("SELECT FROM reflex.appended LIMIT 1")).fetchone() is None

    await eventually(all_placed, what="an empty reflex.appended")
    cursor = await conn.execute(
        "SELECT member.event_id FROM reflex.log"
        " CROSS JOIN LATERAL unnest(event_ids) WITH ORDINALITY AS member (event_id, place) ORDER BY position, place"
    )
    return [event_id for (event_id,) in await cursor.fetchall()]


def all_have_read(readers: list[Reader], log: list[UUID], types: dict[UUID, str]) -> bool:
    counts = Counter(types[event_id] for event_id in log)
    return all(len(reader.ids) >= (counts[reader.type] if reader.type else len(log)) for reader in readers)


def judge_log(log: list[UUID], types: dict[UUID, str], writers: list[Writer], accepted: list[UUID]) -> list[str]:
    wrong: list[str] = []
    places = {event_id: place for place, event_id in enumerate(log)}
    if len(places) != len(log):
        wrong.append(f"{len(log) - len(places)} events are in the log twice")
    if places.keys() != types.keys():
        wrong.append(f"{len(places.keys() ^ types.keys())} events are stored or in the log, and not both")
    if lost := [event_id for event_id in accepted if event_id not in places]:
        wrong.append(f"{len(lost)} accepted events are not in the log: {lost[:3]}")
    for number, writer in enumerate(writers):
        mine = [event_id for ids in writer.committed for event_id in ids]
        if lost := [event_id for event_id in mine if event_id not in places]:
            wrong.append(f"{len(lost)} events that writer {number} committed are not in the log: {lost[:3]}")
        elif mine != sorted(mine, key=lambda event_id: places[event_id]):
            wrong.append(f"the appends of writer {number} are not in the order in which it made them")
        if phantoms := [event_id for event_id in writer.rolled_back if event_id in places]:
            wrong.append(f"{len(phantoms)} events that writer {number} rolled back are in the log: {phantoms[:3]}")
    return wrong


def judge_reader(reader: Reader, log: list[UUID]) -> list[str]:
    if reader.ids == log:
        return []
    missed, twice = set(log) - set(reader.ids), len(reader.ids) - len(set(reader.ids))
    foreign = set(reader.ids) - set(log)
    what = f"missed {len(missed)}, got {twice} twice and {len(foreign)} that it should not have"
    if not (missed or twice or foreign):
        place = next(index for index, (own, true) in enumerate(zip(reader.ids, log, strict=True)) if own != true)
        what = f"got all of it in another order from place {place} on"
    return [f"the {reader.name} with {reader.connections} connections, {len(reader.ids)} of {len(log)} events: {what}"]
