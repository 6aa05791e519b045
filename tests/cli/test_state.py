"""`reflex state` as people type it."""

import json
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from reflex.core.queue import exchange
from reflex.core.states import StateChange
from tests.cli.test_commands import reflex
from tests.queue_fixtures import claim, count, enlisted, publish, settled, shop


async def test_what_a_trigger_remembers_is_shown_and_forgotten(
    database_url: str, db: AsyncConnection[Any], tmp_path: Path
) -> None:
    """Fails if numbers of a state are rounded on their way, or forgetting leaves the row."""
    registered = await shop(db)
    await publish(db)
    worker_id = await enlisted(db, registered)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    change = StateChange(
        "pack", "A 1", 0, 2, '{"n": 123456789012345678901}', '[{"kind": "request"}]', '{"requests": 3}'
    )
    await exchange(db, worker_id=worker_id, settlements=[settled(lease, state=change)], trigger_ids=[], limit=0)

    async def run(*arguments: str, code: int = 0) -> str:
        done = await reflex("state", *arguments, folder=tmp_path, url=database_url)
        assert done.code == code, done
        return done.output + done.error

    shown = await run("show", "pack", "A 1")
    assert "pack of shop, key A 1: version 1, changed " in shown
    assert "state, version 2 of its class:" in shown
    assert "123456789012345678901" in shown
    assert "1 messages (--json shows them); used up: requests 3" in shown
    document = json.loads(await run("show", "pack", "A 1", "--json"))
    assert document["state"] == {"n": 123456789012345678901}
    assert (document["messages"], document["usage"]) == ([{"kind": "request"}], {"requests": 3})
    assert "remembers nothing of the key 'B'" in await run("show", "pack", "B", code=1)
    assert "there is no trigger 'pick'" in await run("show", "pick", "A 1", code=1)
    assert "remembers nothing of the key 'A 1' any more" in await run("forget", "pack", "A 1")
    assert await count(db, "state") == 0
    assert "remembers nothing of the key 'A 1'" in await run("forget", "pack", "A 1", code=1)
