"""`reflex schedules` as people type it."""

import asyncio
import shutil
from pathlib import Path

from reflex.core.database import connect
from reflex.core.ids import new_id
from reflex.core.workers import Incarnation, enlist
from tests.acceptance.test_timers import TICKING
from tests.cli.test_commands import reflex


async def test_schedules_are_registered_and_listed_for_people_and_for_programs(
    database_url: str, tmp_path: Path
) -> None:
    """Fails if a schedule of an app without a worker looks as if it would fire."""
    shutil.copy(TICKING, tmp_path)

    async def run(*arguments: str) -> str:
        done = await reflex(*arguments, folder=tmp_path, url=database_url)
        assert done.code == 0, done
        return done.output

    assert "no schedule is registered" in await run("schedules")
    assert "schedule    minute  Every minute -> tock" in await run("register", "--app", "ticking")
    assert (await run("schedules")).count("no worker of ticking is running") == 2
    async with await connect(database_url, name="t") as conn:
        await enlist(conn, Incarnation(new_id(), 1, [], "host", 1, 10, [1, 2]))
        await conn.execute(
            "UPDATE reflex.schedule SET next_at = now() + interval '150 min', last_at = now() - interval '3 min', "
            "last_event_id = gen_random_uuid(), fired = 7, skipped = 2 WHERE name = 'minute'"
        )
        await conn.execute("UPDATE reflex.schedule SET retired_at = now() WHERE name = 'second'")
    table, json = await asyncio.gather(run("schedules"), run("schedules", "--json"))
    minute, second = table.splitlines()[1:]
    assert minute.split()[:8] == ["minute", "ticking", "Every", "minute", "Europe/Stockholm", "in", "2", "h"]
    assert minute.split()[8:11] == ["3", "min", "ago"]
    assert minute.split()[-2:] == ["7", "2"]
    assert "never: retired" in second
    for said in ('"cron": "* * * * *"', '"every_s": 1.0', '"tz": "Europe/Stockholm"', '"missed": "all"'):
        assert said in json
