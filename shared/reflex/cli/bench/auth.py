"""What it costs to be asked for an API key: ingest with one, beside ingest at a gateway that wants none, in turn."""

import asyncio
from collections import defaultdict
from typing import Final

from reflex.cli.bench.processes import load
from reflex.cli.bench.results import Figure, Row, beside
from reflex.cli.bench.sample import register, write_bodies
from reflex.cli.bench.services import gateway
from reflex.cli.bench.setting import Setting
from reflex.core.api_keys import create_api_key
from reflex.core.database import connect

__all__ = ["auth"]

AT_LEAST: Final = 0.90
CONNECTIONS: Final = 64
WITH_KEY, OPEN = "with an API key", "open"


def auth(setting: Setting) -> list[Row]:
    """Both gateways write to the same database, which one row for the key is added to."""
    found: dict[str, list[float]] = defaultdict(list)
    seconds = setting.sized(3.0, 0.4)
    with setting.database() as url:
        register(url)
        event, _ = write_bodies(setting.folder)
        keys = {WITH_KEY: asyncio.run(new_key(url)), OPEN: ""}
        with (
            gateway(setting.folder, url, env={"REFLEX_ACCESS": "keys"}) as asking,
            gateway(setting.folder, url) as open_to_all,
        ):
            fronts = {WITH_KEY: asking, OPEN: open_to_all}
            for name, front in fronts.items():
                load(front.port, event, connections=CONNECTIONS, seconds=setting.sized(1.0, 0.2), key=keys[name])
            for run in range(setting.runs):
                setting.say(f"auth: run {run + 1} of {setting.runs}")
                counted: dict[str, int] = defaultdict(int)
                turns = setting.sized([WITH_KEY, OPEN, OPEN, WITH_KEY], [WITH_KEY, OPEN])
                for turn in turns:
                    port, key = fronts[turn].port, keys[turn]
                    done = load(port, event, connections=CONNECTIONS, seconds=seconds, key=key)
                    counted[turn] += done["requests"]
                for turn, requests in counted.items():
                    found[turn].append(requests / (turns.count(turn) * seconds))
    ours, theirs = (Figure(tuple(found[turn]), "events/s") for turn in (WITH_KEY, OPEN))
    what = f"POST /events, {CONNECTIONS} connections, {WITH_KEY}"
    return [beside("auth", what, ours, OPEN, theirs, at_least=AT_LEAST)]


async def new_key(url: str) -> str:
    async with await connect(url, name="reflex bench") as conn:
        return (await create_api_key(conn, name="bench", scopes=["publish"])).secret
