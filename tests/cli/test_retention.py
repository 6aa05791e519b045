"""`reflex prune` as people type them, beside real workers and gateways."""

import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from reflex.cli.pruning import prune
from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.errors import EventRejected
from reflex.core.log_reading import log_bounds
from reflex.core.retention import take_turn
from reflex.core.settings import load_settings
from tests.acceptance.shop import ACTING, Shop
from tests.cli.test_commands import Done, reflex
from tests.core.log_fixtures import place_all
from tests.processes import eventually, reflex_process
from tests.queue_fixtures import count, publish
from tests.queue_fixtures import shop as register_shop

BEGINNING = str(Cursor(0, 0))


@pytest.fixture
async def shop(database_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    shutil.copy(ACTING, tmp_path)
    async with await connect(database_url, name="test") as conn:
        yield Shop(database_url, tmp_path, conn)


async def run(shop: Shop, *arguments: str, **env: str) -> Done:
    return await reflex(*arguments, folder=shop.folder, url=shop.database_url, **env)


async def grown_old(shop: Shop) -> None:
    await place_all(shop.conn)
    await shop.conn.execute("UPDATE reflex.log SET placed_at = now() - interval '2 hours'")


async def test_a_worker_runs_again_what_is_replayed_and_prunes_what_is_old(shop: Shop) -> None:
    """From end to end: the second run is recorded beside the first one, and with REFLEX_KEEP both go with their event.
    Fails if the second run is refused for the key of the first, if its log does not say what it is, or if the setting
    does not get to the workers."""
    async with shop.worker() as worker:
        ids = await shop.publish({"n": 1}, {"n": 2})
        for event_id in ids:
            await shop.becomes("succeeded", event_id)
        await place_all(shop.conn)
        done = await run(shop, "replay", "--trigger", "pack", "--after", BEGINNING, "--yes", "--json")
        assert (done.json["replayed"], done.json["left_alone"], done.json["dry_run"]) == (2, 0, False)
        for event_id in ids:
            await shop.has_started(event_id, times=2)
            await eventually(lambda id=event_id: has_run(shop, id, 2), what="two runs")
            assert await shop.outcomes(event_id) == [(1, "succeeded"), (1, "succeeded")]
        lines = [orjson.loads(line) for line in worker.log.splitlines()]
        ends = [line.get("replay") for line in lines if line.get("event") == "run succeeded"]
        assert ends == [None, None, True, True]
    await grown_old(shop)
    async with shop.worker(keep="1h") as worker:
        await worker.says("pruned what is older than is kept")
        assert await count(shop.conn, "event") == await count(shop.conn, "run") == 0
        # What the runs returned is in the log as well, and as old.
        (line,) = [line for line in map(orjson.loads, worker.log.splitlines()) if "pruned" in line.get("event", "")]
        assert (line["events"], line["runs"], line["needed"]) == (6, 4, 0)


async def has_run(shop: Shop, event_id: object, times: int) -> bool:
    return await shop.count("FROM reflex.run WHERE event_id = %s", event_id) == times


async def test_prune_says_what_would_go_and_then_what_went(shop: Shop) -> None:
    """Fails if a dry run removes anything, or REFLEX_KEEP does not count."""
    await register_shop(shop.conn)
    await publish(shop.conn, 3, "weather.changed")
    await publish(shop.conn)
    await grown_old(shop)
    await publish(shop.conn, 1, "weather.changed")
    await place_all(shop.conn)
    dry = await run(shop, "prune", "--dry-run", "--json", REFLEX_KEEP="1h")
    assert dry.json == {
        "events": 3, "runs": 0, "sessions": 0, "needed": 1, "until": str(Cursor(2, 1)), "dry_run": True,
    }  # fmt: skip
    assert await count(shop.conn, "event") == 5
    done = await run(shop, "prune", "--keep", "1h", REFLEX_KEEP="9h")
    assert done.output == (
        "removed 3 events with 0 runs, and 0 sessions\n"
        "1 older events stay: a delivery of theirs is pending, running or dead\n"
    )
    done = await run(shop, "prune", "--until", str(Cursor(3, 1)), "--json")
    assert (done.json["events"], done.json["needed"]) == (1, 1)
    assert (await log_bounds(shop.conn)).start == Cursor(3, 1)


async def test_ctrl_c_ends_a_prune_that_waits_for_its_turn(shop: Shop) -> None:
    """Fails with a traceback, or if it does not wait for who has the turn."""
    await publish(shop.conn, 3, "weather.changed")
    await place_all(shop.conn)
    command = ("prune", "--until", str(Cursor(1, 2)))
    async with (
        shop.conn.transaction(),
        reflex_process(*command, folder=shop.folder, database_url=shop.database_url) as process,
    ):
        await take_turn(shop.conn)
        await eventually(lambda: waits(shop), what="a prune that waits")
        process.send(signal.SIGINT)
        assert await process.exited() == 130
        assert process.log == ""
    assert (await run(shop, "prune", "--until", str(Cursor(1, 2)))).output.startswith("removed 2 events")


async def waits(shop: Shop) -> bool:
    return await shop.count("FROM pg_locks WHERE NOT granted") > 0


async def test_what_makes_no_sense_is_one_sentence(shop: Shop) -> None:
    """Fails if a default is made up where a mistake would be dear."""
    await register_shop(shop.conn)
    ahead = str(Cursor(7, 1))
    settings = load_settings(database_url=shop.database_url)
    given: dict[str, Any]
    nothing: dict[str, Any] = {"keep": None, "until": None, "dry_run": False, "as_json": False}
    for given, said in (
        ({}, "--keep: is missing; write how much to keep, such as 12h or 30d (REFLEX_KEEP counts, too)"),
        ({"keep": "0d"}, "--keep: is '0d'; write"),
        ({"keep": "1d", "until": BEGINNING}, "--keep: goes without --until"),
        ({"until": ahead}, "--until: this cursor is ahead of the log"),
        ({"until": "x"}, "--until: 'x' is no cursor"),
    ):
        with pytest.raises(EventRejected) as caught:
            await prune(settings, **nothing | given)
        assert said in str(caught.value)
