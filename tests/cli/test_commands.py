"""The commands as people type them: what they print, what they do, and what they say when something is wrong."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from reflex.core.database import connect
from reflex.core.ids import new_id
from tests.acceptance.shop import ACTING, APP, Shop
from tests.processes import OURS, gateway

NO_SERVER = "postgresql://reflex:s3cret@127.0.0.1:1/shop"


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    output: str
    error: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.output)


async def reflex(*arguments: str, folder: Path, url: str | None = None, given: str = "", **env: str) -> Done:
    """Run a command to its end."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    database = {"DATABASE_URL": url} if url else {}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reflex.cli.main", *arguments,
        cwd=folder, env={**inherited, **database, **env},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, error = await process.communicate(given.encode())
    return Done(await process.wait(), output.decode(), error.decode())


@pytest.fixture
async def shop(database_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    shutil.copy(ACTING, tmp_path)
    async with await connect(database_url, name="test") as conn:
        yield Shop(database_url, tmp_path, conn)


async def test_register_send_status_and_dead_letters_from_end_to_end(shop: Shop) -> None:
    async def run(*arguments: str, given: str = "") -> str:
        done = await reflex(*arguments, folder=shop.folder, url=shop.database_url, given=given)
        assert done.code == 0, done
        return done.output

    async def run_twice(*arguments: str) -> list[str]:
        return [await run(*arguments), await run(*arguments)]

    registered = await run("register", "--app", APP)
    assert "trigger     pack  <- order.created" in registered
    assert "s3cret" not in registered
    async with gateway(shop.database_url, shop.folder) as front:
        send = ("send", "--url", front.url, "order.created")
        plain, again, twice, fails, waits = await asyncio.gather(
            run(*send, '{"n": 1}'),
            run(*send, "-", given='{"n": 2}'),
            run_twice(*send, "--id", "A1"),
            run(*send, '{"fail": "the warehouse is closed"}', "--json"),
            run(*send, "--delay", "3600", "--key", "K7"),
        )
        refused = await reflex(*send, "[1]", folder=shop.folder)
        assert (refused.code, refused.output) == (1, "")
        assert "payload" in refused.error
    assert twice[1] == f"{twice[0].strip()} (was there already)\n"
    failing = orjson.loads(fails)["id"]
    before = orjson.loads(await run("status", "--json"))
    assert {name: before["queue"][name] for name in ("pending", "scheduled", "dead")} == {
        "pending": 4,
        "scheduled": 1,
        "dead": 0,
    }
    assert "no live worker" in before["problems"][0]

    async with shop.worker() as worker:
        for id in (plain, again, twice[0]):
            await shop.becomes("succeeded", id_of(id))
        await shop.becomes("dead", id_of(failing))
        letters = ("dead-letters", "list")
        status, words, listed, table, nothing = await asyncio.gather(
            run("status", "--json"),
            run("status"),
            run(*letters, "--type", "order.*", "--json"),
            run(*letters),
            run(*letters, "--type", "weather.*"),
        )
        after = orjson.loads(status)
        assert (after["queue"]["dead"], after["queue"]["pending"], after["problems"]) == (1, 0, [])
        assert [(row["app"], row["pid"], row["live"]) for row in after["workers"]] == [(APP, worker.pid, True)]
        assert "reflex dead-letters list" in words
        (letter,) = orjson.loads(listed)["dead_letters"]
        assert (letter["trigger"], letter["event"]["id"], letter["attempt"]) == ("pack", failing, 3)
        assert letter["id"] in table
        assert "the warehouse is closed" in table
        assert "no dead letters" in nothing
        shown, whole = await asyncio.gather(
            run("dead-letters", "show", letter["id"]), run("dead-letters", "show", letter["id"], "--json")
        )
        for said in ("pack of acting", failing, "the warehouse is closed", f"retry {letter['id']}"):
            assert said in shown
        assert [row["outcome"] for row in orjson.loads(whole)["runs"]] == ["retry", "retry", "dead"]

        assert "is pending again" in await run("dead-letters", "retry", letter["id"])
        await shop.has_started(id_of(failing), times=4)
        await shop.becomes("dead", id_of(failing))
        assert [attempt for attempt, _ in await shop.outcomes(id_of(failing))] == [1, 2, 3, 1, 2, 3]
    assert await run("dead-letters", "purge", "--trigger", "pack") == "1 dead letters are cancelled\n"
    assert (await shop.delivery(id_of(failing))).state == "cancelled"
    assert (await shop.delivery(id_of(waits))).state == "pending"


def id_of(text: str) -> UUID:
    return UUID(text.split()[0])


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["status"], {}, "DATABASE_URL is not set"),
        (["worker", "--app", APP], {}, "DATABASE_URL is not set"),
        (["status"], {"DATABASE_URL": "nonsense"}, "DATABASE_URL cannot be parsed"),
        (["gateway"], {"DATABASE_URL": "nonsense"}, "DATABASE_URL cannot be parsed"),
        (["gateway"], {"REFLEX_PORT": "http"}, "REFLEX_PORT is 'http'"),
        (["gateway", "--host", "nowhere.invalid"], {"DATABASE_URL": NO_SERVER}, "REFLEX_HOST is 'nowhere.invalid'"),
        (["gateway", "--host", "0.0.0.0"], {"DATABASE_URL": NO_SERVER}, "REFLEX_ACCESS=keys (`reflex keys create`"),
        (["dev"], {"REFLEX_HOST": "::", "REFLEX_ACCESS": "open"}, "REFLEX_ACCESS=open-to-all to let in everybody"),
        (["worker", "--concurrency", "0"], {}, "REFLEX_CONCURRENCY is 0"),
        (["worker"], {"REFLEX_KEEP": "30"}, "REFLEX_KEEP is '30': write a length of time such as 12h or 30d"),
        (["worker"], {"DATABASE_URL": NO_SERVER}, "REFLEX_APP is not set"),
        (["worker", "--app", "nothing.here"], {"DATABASE_URL": NO_SERVER}, "there is no module 'nothing.here'"),
        (["worker", "--app", "nothing.here", "--processes", "2"], {"DATABASE_URL": NO_SERVER}, "no module"),
        (["register", "--app", "broken"], {"DATABASE_URL": NO_SERVER}, "broken.py:1"),
    ],
)
async def test_a_wrong_setting_is_one_sentence_and_exit_code_2(
    tmp_path: Path, arguments: list[str], env: dict[str, str], said: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    done = await reflex(*arguments, folder=tmp_path, **env)
    assert (done.code, done.output) == (2, "")
    assert said in done.error
    assert all(line.startswith("reflex: ") for line in done.error.splitlines())
    assert "s3cret" not in done.error


@pytest.mark.parametrize("command", [["status"], ["register", "--app", APP], ["dead-letters", "list"], ["migrate"]])
async def test_a_database_that_is_not_there_is_said_in_a_sentence_without_its_password(
    tmp_path: Path, command: list[str]
) -> None:
    shutil.copy(ACTING, tmp_path)
    done = await reflex(*command, folder=tmp_path, url=NO_SERVER)
    assert (done.code, done.output) == (1, "")
    assert "cannot reach PostgreSQL at 127.0.0.1:1/shop" in done.error
    assert "Traceback" not in done.error
    assert "s3cret" not in done.error


async def test_a_database_without_the_schema_leads_to_migrate(empty_database_url: str, tmp_path: Path) -> None:
    shutil.copy(ACTING, tmp_path)
    for command in (["status"], ["register", "--app", APP], ["dead-letters", "list"], ["worker", "--app", APP]):
        done = await reflex(*command, folder=tmp_path, url=empty_database_url)
        assert (done.code, done.output) == (2, ""), done
        assert "run `reflex migrate`" in done.error
        assert "Traceback" not in done.error
    assert "is at revision" in (await reflex("migrate", folder=tmp_path, url=empty_database_url)).output
    assert (await reflex("status", folder=tmp_path, url=empty_database_url)).code == 0


async def test_what_is_no_dead_letter_is_said_to_be_none(database_url: str, tmp_path: Path) -> None:
    nothing = f"1-{new_id()}"
    for arguments, said in (
        (["show", nothing], "there is no dead letter"),
        (["retry", nothing], "there is no dead letter"),
        (["purge", "x"], "is not a delivery id"),
        (["retry"], "no filter is given"),
        (["purge"], "no filter is given"),
        (["list", "--since", "soon"], "is not a moment"),
    ):
        done = await reflex("dead-letters", *arguments, folder=tmp_path, url=database_url)
        assert (done.code, done.output) == (1, "")
        assert said in done.error
    done = await reflex("dead-letters", "purge", "--all", folder=tmp_path, url=database_url)
    assert done.output == "0 dead letters are cancelled\n"


async def test_help_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    """Fails with: an import at the top of a module of the command line that belongs into a function."""
    slow = ("pydantic_ai", "logfire", "sqlalchemy", "alembic", "pydantic_settings", "psycopg", "starlette")
    program = (
        "import sys\nfrom reflex.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print([name for name in {slow!r} if name in sys.modules], file=sys.stderr)"
    )
    for arguments in (
        ["--help"],
        ["worker", "--help"],
        ["dead-letters", "--help"],
        ["dead-letters", "list", "--help"],
        ["replay", "--help"],
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *arguments, cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, error = await process.communicate()
        assert b"Usage:" in output
        assert error.decode().strip() == "[]", arguments


async def test_a_delivery_that_waits_is_listed_and_cancelled(shop: Shop) -> None:
    from reflex.core.log import append
    from reflex.core.queue import exchange
    from reflex.core.settlement import Outcome
    from reflex.core.waiting import Wait, WaitKind
    from tests.queue_fixtures import claim, enlisted, new_event, settled
    from tests.queue_fixtures import shop as registered_shop

    registered = await registered_shop(shop.conn)
    worker_id = await enlisted(shop.conn, registered)
    await append(shop.conn, [new_event(key="A1")])
    (lease,) = await claim(shop.conn, worker_id, list(registered.trigger_ids.values()))
    wait = Wait(WaitKind.EVENT, "waits for the payment")
    settlement = settled(lease)._replace(outcome=Outcome.WAITING, retry_in=wait.at_most, wait=wait)
    await exchange(shop.conn, worker_id=worker_id, settlements=[settlement], trigger_ids=[], limit=0)

    async def run(*arguments: str) -> Done:
        return await reflex(*arguments, folder=shop.folder, url=shop.database_url)

    listed = await run("waiting", "list", "--json")
    (row,) = listed.json["waiting"]
    assert (row["id"], row["kind"], row["key"]) == (str(lease.delivery_id), "event", "A1")
    table = (await run("waiting", "list")).output
    assert "waits for the payment" in table
    assert "waiting    1  (reflex waiting list)" in (await run("status")).output
    cancelled = await run("cancel", row["id"], "--reason", "by mistake")
    assert (cancelled.code, cancelled.output) == (0, f"{row['id']} is cancelled\n")
    again = await run("cancel", row["id"])
    assert (again.code, "has ended: cancelled" in again.error) == (1, True)
    assert (await run("cancel", "nonsense")).code == 1
    assert "no delivery waits" in (await run("waiting", "list")).output
