"""What it costs to be asked for an API key, without limits and with both: ingest with one, beside ingest at a gateway
that wants none, in turn."""

import asyncio
from collections import defaultdict
from typing import Final

from reflex.cli.bench.processes import BenchmarkFailed, load
from reflex.cli.bench.results import Figure, Row, beside
from reflex.cli.bench.sample import register, write_bodies
from reflex.cli.bench.services import gateway
from reflex.cli.bench.setting import Setting
from reflex.core.api_keys import create_api_key
from reflex.core.database import connect

__all__ = ["auth"]

AT_LEAST: Final = 0.90
CONNECTIONS: Final = 64
WITH_KEY, LIMITED, OPEN = "with an API key", "with an API key that has a rate and a quota", "open"
# More than one gateway takes in, and so little that it comes back to the database for more about once a second.
RATE: Final = "20000/s"
QUOTA: Final = "999999999999/d"


def auth(setting: Setting) -> list[Row]:
    """Both gateways write to the same database, which a row for each key is added to."""
    found: dict[str, list[float]] = defaultdict(list)
    seconds = setting.sized(3.0, 0.4)
    with setting.database() as url:
        register(url)
        event, _ = write_bodies(setting.folder)
        keys = {
            WITH_KEY: asyncio.run(new_key(url)),
            LIMITED: asyncio.run(new_key(url, rate=RATE, quota=QUOTA)),
            OPEN: "",
        }
        with (
            gateway(setting.folder, url, env={"REFLEX_ACCESS": "keys"}) as asking,
            gateway(setting.folder, url) as open_to_all,
        ):
            fronts = {WITH_KEY: asking, LIMITED: asking, OPEN: open_to_all}
            for name, front in fronts.items():
                load(front.port, event, connections=CONNECTIONS, seconds=setting.sized(1.0, 0.2), key=keys[name])
            for run in range(setting.runs):
                setting.say(f"auth: run {run + 1} of {setting.runs}")
                counted: dict[str, int] = defaultdict(int)
                turns = setting.sized([*fronts, *reversed(fronts)], [*fronts])
                for turn in turns:
                    port, key = fronts[turn].port, keys[turn]
                    done = load(port, event, connections=CONNECTIONS, seconds=seconds, key=key)
                    counted[turn] += done["requests"]
                for turn, requests in counted.items():
                    found[turn].append(requests / (turns.count(turn) * seconds))
        if not asyncio.run(has_counted(url)):
            raise BenchmarkFailed(f"{LIMITED}: nothing was counted against the limits, so the row says nothing")
    figures = {turn: Figure(tuple(found[turn]), "events/s") for turn in keys}
    what = f"POST /events, {CONNECTIONS} connections"
    return [
        beside("auth", f"{what}, {turn}", figures[turn], OPEN, figures[OPEN], at_least=AT_LEAST)
        for turn in (WITH_KEY, LIMITED)
    ]


async def has_counted(url: str) -> bool:
    """Whether the gateway has taken anything of a quota."""
    async with await connect(url, name="reflex bench") as conn:
        return await (await conn.execute("SELECT FROM reflex.allowance WHERE used > 0")).fetchone() is not None


async def new_key(url: str, *, rate: str | None = None, quota: str | None = None) -> str:
    async with await connect(url, name="reflex bench") as conn:
        key = await create_api_key(conn, name="bench", scopes=["publish"], rate=rate, quota=quota)
        return key.secret
