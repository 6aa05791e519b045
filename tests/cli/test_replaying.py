"""`reflex replay` as people type it: it counts, asks, keeps its rate, and goes on where it stopped."""

import asyncio
import os
import pty
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reflex.cli import replaying
from reflex.cli.replaying import Asked
from reflex.core.cursors import Cursor
from reflex.core.database import connect
from reflex.core.errors import EventRejected
from reflex.core.log import append
from reflex.core.settings import load_settings
from tests.acceptance.shop import ACTING, Shop
from tests.cli.test_commands import Done, reflex
from tests.core.log_fixtures import place_all
from tests.processes import OURS, eventually, reflex_process
from tests.queue_fixtures import count, new_event, ordered_shop, publish
from tests.queue_fixtures import shop as register_shop

BEGINNING = str(Cursor(0, 0))
PACK = ("replay", "--trigger", "pack")
# The most marks that any second has, whenever it begins.
BUSIEST = """
SELECT max(within) FROM (
    SELECT count(*) OVER (ORDER BY replayed_at RANGE BETWEEN CURRENT ROW AND '999999 microseconds' FOLLOWING) AS within
    FROM reflex.replayed
) AS seconds
"""


@pytest.fixture
async def shop(database_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    shutil.copy(ACTING, tmp_path)
    async with await connect(database_url, name="test") as conn:
        yield Shop(database_url, tmp_path, conn)


async def run(shop: Shop, *arguments: str, **env: str) -> Done:
    return await reflex(*arguments, folder=shop.folder, url=shop.database_url, **env)


async def come_later(shop: Shop, *appends: int) -> None:
    """Events are in the log, and then there is a trigger for them."""
    await register_shop(shop.conn, {"log": "*"}, app="other")
    for size in appends:
        await publish(shop.conn, size)
    await place_all(shop.conn)
    await register_shop(shop.conn)


async def waits(shop: Shop) -> bool:
    return await shop.count("FROM pg_locks WHERE NOT granted") > 0


async def test_it_counts_first_and_nobody_who_can_be_asked_means_no(shop: Shop) -> None:
    """Fails if a dry run makes anything, or if what runs in a script replays without having been told so."""
    await come_later(shop, 3, 2)
    dry = await run(shop, *PACK, "--since", "1h", "--dry-run")
    lines = dry.output.splitlines()
    assert lines[:3] == [
        "trigger     pack of shop",
        "events      5 of 5 would be replayed",
        "left alone  0 of which a delivery is pending, running or dead",
    ]
    assert [line.split()[0] for line in lines[3:5]] == ["first", "last"]
    assert "order.created" in lines[3]
    assert "outside of Reflex, it does again" in lines[5]
    as_json = await run(shop, *PACK, "--since", "1h", "--dry-run", "--json")
    assert as_json.json == {
        "cursor": str(Cursor(2, 2)), "looked_at": 5, "replayed": 5, "left_alone": 0, "dry_run": True,
    }  # fmt: skip
    refused = await run(shop, *PACK, "--since", "1h")
    assert (refused.code, refused.output) == (2, "")
    assert refused.error == f"reflex: {replaying.NOBODY_TO_ASK}\n"
    assert await count(shop.conn, "replayed") == await shop.count("FROM reflex.delivery WHERE trigger_id = 2") == 0


async def test_it_replays_what_was_stored_between_two_moments(shop: Shop) -> None:
    """Fails if a moment is taken for its neighbour, or for the sender's time."""
    await come_later(shop, 1, 1, 1, 1)
    await shop.conn.execute("UPDATE reflex.log SET placed_at = now() - make_interval(hours => 5 - position::int)")
    done = await run(shop, *PACK, "--since", "210m", "--until", "90m", "--yes", "--json")
    assert (done.json["cursor"], done.json["replayed"]) == (str(Cursor(3, 1)), 2)
    rows = await shop.conn.execute(
        "SELECT position FROM reflex.log JOIN reflex.replayed ON event_id = ANY(event_ids) ORDER BY 1"
    )
    assert [row[0] for row in await rows.fetchall()] == [2, 3]
    again = await run(shop, *PACK, "--since", "210m", "--until", "90m", "--yes", "--json")
    assert (again.json["replayed"], again.json["left_alone"]) == (0, 2)
    nothing = await run(shop, *PACK, "--since", "1m", "--yes")
    assert nothing.output == f"{Cursor(4, 1)}  0 replayed, 0 left alone, of 0 events\n"


async def test_never_more_than_the_rate_goes_in_within_a_second(shop: Shop) -> None:
    """Of one append, which is larger. However slow the machine is, it holds. Fails if a portion is the whole of an
    append, or if the next one does not wait."""
    await come_later(shop, 50)
    done = await run(shop, *PACK, "--since", "1h", "--rate", "20/s", "--yes")
    lines = done.output.splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == [str(Cursor(1, place)) for place in (20, 40, 50)]
    assert await count(shop.conn, "replayed") == 50
    row = await (await shop.conn.execute(BUSIEST)).fetchone()
    assert row == (20,)


async def test_ctrl_c_ends_it_and_what_it_says_then_does_the_rest(shop: Shop) -> None:
    """In its second portion, which waits for a key. Fails with a traceback, if the first portion is undone, or if the
    rest leaves anything out, or does anything again."""
    await register_shop(shop.conn, {"log": "*"}, app="other")
    await append(shop.conn, [new_event(key="a") for _ in range(500)])
    await append(shop.conn, [new_event(key="b")])
    await place_all(shop.conn)
    await ordered_shop(shop.conn)
    command = (*PACK, "--after", BEGINNING, "--yes")
    async with (
        shop.conn.transaction(),
        reflex_process(*command, folder=shop.folder, database_url=shop.database_url) as process,
    ):
        await shop.conn.execute("INSERT INTO reflex.lane (trigger_id, key, head) VALUES (2, 'b', 0)")
        await process.says("500 replayed")
        await eventually(lambda: waits(shop), what="a portion that waits")
        process.send(signal.SIGINT)
        assert await process.exited() == 130
        rest = f"--after {Cursor(5, 100)} --up-to {Cursor(6, 1)}"
        assert process.log.splitlines()[-2:] == [
            f"{Cursor(5, 100)}  500 replayed, 0 left alone, of 500 events",
            f"not finished, 500 replayed; to go on from here: {rest}",
        ]
    assert await count(shop.conn, "ordered") == 500
    # As if workers had done it meanwhile: what is pending would be left alone in any case.
    await shop.conn.execute("DELETE FROM reflex.ordered; DELETE FROM reflex.lane")
    await publish(shop.conn)
    await place_all(shop.conn)
    done = await run(shop, *PACK, *rest.split(), "--yes")
    assert done.output == f"{Cursor(6, 1)}  1 replayed, 0 left alone, of 1 events\n"
    assert await count(shop.conn, "replayed") == 501


@pytest.mark.parametrize(("answer", "code", "made"), [("n", 1, 0), ("y", 0, 3)])
async def test_on_a_terminal_it_asks_and_shows_a_bar(shop: Shop, answer: str, code: int, made: int) -> None:
    """Fails if no is taken for yes, or if the bar is drawn over what a program would read."""
    await come_later(shop, 3)
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    env |= {"DATABASE_URL": shop.database_url, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "reflex.cli.main", *PACK, "--since", "1h"]
    with (shop.folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=theirs, stdout=output, stderr=theirs, cwd=shop.folder, env=env
        )
    os.close(theirs)
    os.set_blocking(ours, False)
    said = b""

    def asked(end: bytes) -> bool:
        nonlocal said
        try:
            said += os.read(ours, 65_536)
        except BlockingIOError:
            pass
        except OSError:  # The other end is closed.
            return True
        return end in said

    try:
        await eventually(lambda: asked(b"Replay them?"), what="the question")
        os.write(ours, f"{answer}\n".encode())
        await eventually(lambda: asked(b"\0"), what="the end")
        assert await asyncio.wait_for(process.wait(), 20) == code, said
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        os.close(ours)
    assert await count(shop.conn, "replayed") == made
    assert (b"3/3" in said) == bool(made)
    written = (shop.folder / "output").read_text().lstrip()  # the end of click's question
    assert written == (f"{Cursor(1, 3)}  3 replayed, 0 left alone, of 3 events\n" if made else "")


async def test_what_makes_no_sense_is_one_sentence(shop: Shop) -> None:
    """Fails if a default is made up where a mistake would be dear."""
    await register_shop(shop.conn)
    settings = load_settings(database_url=shop.database_url)
    ahead = str(Cursor(7, 1))
    given: dict[str, Any]
    for given, said in (
        ({}, "--since: is missing; say from when on, as in 2h or 2026-01-31T09:00:00Z, or behind which cursor"),
        ({}, f"--after {BEGINNING} begins with the first event of the log"),
        ({"after": "x"}, "--after: 'x' is no cursor"),
        ({"after": ahead}, "--after: this cursor is ahead of the log"),
        ({"after": BEGINNING, "up_to": ahead}, "--up-to: this cursor is ahead of the log"),
        ({"after": BEGINNING, "since": "2h"}, "--since: goes without --after"),
        ({"since": "2h", "until": "1h", "up_to": BEGINNING}, "--until: goes without --up-to"),
        ({"since": "1h", "until": "2h"}, "--until: is not after --since"),
        ({"since": "yesterday"}, "--since: 'yesterday' is not a moment"),
        ({"since": "2h", "types": ["*.x"]}, "--type: '*.x' is not a type pattern"),
        ({"since": "2h", "rate": "0"}, "--rate: '0' is no rate; write 50/s"),
    ):  # fmt: skip
        with pytest.raises(EventRejected) as caught:
            await replaying.count(settings, Asked("pack", **given), dry_run=True, yes=False, as_json=False)
        assert said in str(caught.value)
    missing = await run(shop, "replay", "--trigger", "wrap", "--since", "2h", "--yes")
    assert (missing.code, missing.output) == (1, "")
    assert missing.error == "reflex: there is no trigger 'wrap'; there are pack of shop\n"
