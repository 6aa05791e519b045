"""`reflex effects` as people type it."""

import json
from datetime import timedelta
from pathlib import Path

from reflex.core.database import connect
from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.queue import exchange
from reflex.core.settlement import Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.cli.test_commands import reflex
from tests.queue_fixtures import claim, count, enlisted, publish, settled, shop

RECEIPT = '{"receipt": 17.50}'


async def test_what_is_unknown_is_listed_and_resolved(database_url: str, tmp_path: Path) -> None:
    """Fails if the result is not kept as it was typed; if a delivery is made due for a bad verdict."""
    async with await connect(database_url, name="t") as db:
        registered = await shop(db)
        await publish(db, 2)
        worker_id = await enlisted(db, registered)
        for lease in await claim(db, worker_id, list(registered.trigger_ids.values())):
            document = {"tool": "charge", "arguments": {"order": 10**30}, "key": "k1", "call": "00"}
            await journal_step(db, lease.delivery_id, 1, Step(StepKind.INTENT, b"x", 0, 4, json.dumps(document)))
            wait = Wait(WaitKind.EFFECT, "who knows", timedelta(days=1))
            waiting = settled(lease)._replace(outcome=Outcome.WAITING, retry_in=wait.at_most, wait=wait)
            await exchange(db, worker_id=worker_id, settlements=[waiting], trigger_ids=[], limit=0)

        listed = await reflex("effects", "list", "--json", folder=tmp_path, url=database_url)
        first, second = json.loads(listed.output)["effects"]
        assert first["arguments"] == {"order": 10**30}
        table = await reflex("effects", "list", folder=tmp_path, url=database_url)
        assert (first["delivery_id"] in table.output, "charge" in table.output, "k1" in table.output) == (True,) * 3

        resolve = ("effects", "resolve", first["delivery_id"], "4")
        for arguments in ((), ("--done", "1", "--not-done"), ("--done", "receipt"), ("--done", "NaN")):
            bad = await reflex(*resolve, *arguments, folder=tmp_path, url=database_url)
            assert (bad.code, bad.error.startswith("reflex: done: ")) == (1, True), bad
        assert await count(db, "waiting") == 2
        done = await reflex(*resolve, "--done", RECEIPT, folder=tmp_path, url=database_url)
        assert (done.code, "goes on" in done.output) == (0, True), done
        row = await (await db.execute("SELECT result::text FROM reflex.step WHERE kind = 'effect'")).fetchone()
        assert row is not None
        assert f'"value":{RECEIPT}' in row[0]
        other = ("effects", "resolve", second["delivery_id"], "4", "--not-done", "--json")
        assert json.loads((await reflex(*other, folder=tmp_path, url=database_url)).output)["due"]
        nothing = await reflex("effects", "list", folder=tmp_path, url=database_url)
        assert nothing.output == "nothing is unknown\n"
        gone = await reflex(*other, folder=tmp_path, url=database_url)
        assert (gone.code, "resolved meanwhile" in gone.error) == (1, True)
