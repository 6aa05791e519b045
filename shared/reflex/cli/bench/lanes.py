"""What order costs: deliveries with a key each, and a hundred thousand of one key, beside deliveries without order.

Events go on arriving for the trigger that is measured, for the one hot key all with that key.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, LiteralString

import orjson

from reflex.cli.bench.databases import connected
from reflex.cli.bench.drain import Contestant, Drained, drain
from reflex.cli.bench.ordered_agents import ORDERED_TYPE, UNORDERED_TYPE
from reflex.cli.bench.results import Figure, Row, beside
from reflex.cli.bench.sample import PAYLOAD, clear, register, settle_down
from reflex.cli.bench.setting import Setting
from reflex.core.database import connect
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.log import append

__all__ = ["lanes"]

APP: Final = "reflex.cli.bench.ordered_agents"
PROCESSES: Final = (1, 2)
APPENDS_A_SECOND: Final = 50
EVENTS_AN_APPEND: Final = 20
# Ids as of now, in order.
EVENTS: Final = (
    "INSERT INTO reflex.event (event_id, type, source, key, time, payload) "
    "SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '70008000' "
    "|| lpad(to_hex(number), 12, '0'))::uuid, "
    "%(type)s, 'bench', CASE WHEN %(hot)s THEN 'hot' ELSE 'k' || number END, now(), %(payload)s::jsonb "
    "FROM generate_series(1, %(count)s) AS number"
)
DELIVERIES: Final = (
    "INSERT INTO reflex.delivery (trigger_id, event_id) SELECT trigger_id, event_id "
    "FROM reflex.event CROSS JOIN reflex.trigger WHERE trigger.name = 'unordered'"
)
ORDERED: Final = (
    "INSERT INTO reflex.ordered (trigger_id, key, position, event_id) "
    "SELECT trigger_id, key, nextval('reflex.lane_position'), event_id "
    "FROM (SELECT * FROM reflex.event ORDER BY event_id) AS event CROSS JOIN reflex.trigger "
    "WHERE trigger.name = 'ordered'"
)
LANES: Final = (
    "INSERT INTO reflex.lane (trigger_id, key, pending, head) "
    "SELECT trigger_id, key, count(*), min(position) FROM reflex.ordered GROUP BY trigger_id, key"
)


@dataclass(frozen=True, slots=True)
class Load:
    """What is pending when the workers start, and what arrives while they work."""

    name: str
    type: str
    hot: bool
    queries: tuple[LiteralString, ...]


UNORDERED: Final = Load("without order", UNORDERED_TYPE, hot=False, queries=(DELIVERIES,))
SPREAD: Final = Load("a key each", ORDERED_TYPE, hot=False, queries=(ORDERED, LANES))
HOT: Final = Load("one hot key", ORDERED_TYPE, hot=True, queries=(ORDERED, LANES))


def lanes(setting: Setting) -> list[Row]:
    """The time to the start of the first half of what is pending."""
    pending = setting.sized(100_000, 4_000)
    rates: dict[tuple[str, int], list[float]] = {}
    with setting.database() as url:
        register(url, APP)
        for run in range(setting.runs):
            for processes in PROCESSES:
                loads = (UNORDERED, SPREAD, HOT)
                # There and back again: what drifts drifts for all of them.
                for load in loads if run % 2 == 0 else reversed(loads):
                    setting.say(f"lanes: run {run + 1} of {setting.runs}, {processes} process(es), {load.name}")
                    rate = drained(setting, url, load, processes, pending).start_rate
                    rates.setdefault((load.name, processes), []).append(rate)
    return [
        beside(
            "lanes",
            f"ordered drain of {pending:,} pending, {load.name}, {processes} process{'es' * (processes > 1)}",
            Figure(tuple(rates[load.name, processes]), "/s"),
            UNORDERED.name,
            Figure(tuple(rates[UNORDERED.name, processes]), "/s"),
            at_least=0.5,
        )
        for load in (SPREAD, HOT)
        for processes in PROCESSES
    ]


def drained(setting: Setting, url: str, load: Load, processes: int, pending: int) -> Drained:
    clear(url)
    with connected(url) as conn:
        parameters = {"count": pending, "type": load.type, "hot": load.hot, "payload": orjson.dumps(PAYLOAD).decode()}
        conn.execute(EVENTS, parameters)
        for query in load.queries:
            conn.execute(query)
    settle_down(url)
    contestant = Contestant(
        name=f"worker, {load.name}",
        command=[sys.executable, "-m", "reflex.cli.main", "worker", "--app", APP],
        # In the order in which an append takes its locks.
        table="reflex.lane, reflex.delivery",
        left="false",
        application="reflex worker",
        refill=lambda _url, _count: None,
        env={"REFLEX_CONCURRENCY": "200", "REFLEX_LOG_LEVEL": "warning"},
    )
    with arriving(url, load):
        return drain(url, contestant, processes=processes, count=pending // 2, folder=setting.folder, to_the_end=False)


@contextmanager
def arriving(url: str, load: Load) -> Generator[None]:
    """A thousand events a second, as long as the block lasts."""
    stop = threading.Event()
    feeding = threading.Thread(target=lambda: asyncio.run(feed(url, load, stop)))
    feeding.start()
    try:
        yield
    finally:
        stop.set()
        feeding.join()


async def feed(url: str, load: Load, stop: threading.Event) -> None:
    payload = orjson.dumps(PAYLOAD).decode()
    number = 0
    async with await connect(url, name="reflex bench feed") as conn:
        while not stop.is_set():
            began = time.monotonic()
            events: list[NewEvent] = []
            for _ in range(EVENTS_AN_APPEND):
                number += 1
                key = "hot" if load.hot else f"fed-{number}"
                events.append(NewEvent(new_id(), load.type, "bench", key, None, payload))
            await append(conn, events)
            await asyncio.sleep(max(0.0, 1 / APPENDS_A_SECOND - (time.monotonic() - began)))
