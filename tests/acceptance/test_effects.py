"""Tools of every kind under crashes: real workers, killed at every write of the journal; a provider that counts; what
the tools do is noted outside of it."""

import asyncio
import json
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reflex.core.database import connect
from reflex.core.effects import DeliveryRunning, EffectId, list_effects, resolve_effect
from reflex.core.errors import NotFound
from reflex.core.rows import StoredJson
from tests.acceptance.shop import Shop
from tests.agent.stub_provider import completion, stub_provider
from tests.processes import ReflexProcess, eventually

SPENDING = Path(__file__).with_name("spending.py")
# What the model asks for, response by response; the last one says that it is done.
TURNS = (
    ("once_0", "idempotent_0", "transactional_0"),
    ("once_1", "once_2", "pure_0", "transactional_1"),
    ("once_3", "idempotent_1", "pure_1"),
)
ONCE, TOOLS = 4, 10
WORKERS = 3


def response(turn: int) -> Any:
    if turn == len(TURNS):
        return completion({"role": "assistant", "content": "spent"}, "stop")
    calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for at, name in enumerate(TURNS[turn])
    ]
    return completion({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")


@pytest.mark.timeout(300)
async def test_nothing_is_spent_twice_although_a_worker_is_killed_at_every_write(shop: Shop) -> None:
    """Fails if the intent is written after the tool, if a call without an end is simply made again (once_0 to once_3
    twice), if an unknown effect without a probe is not listed (the delivery never ends), if the writes of a
    transactional tool are committed before its record, or if a response is not journaled (more requests than kills
    allow)."""
    shutil.copy(SPENDING, shop.folder)
    await shop.conn.execute("CREATE TABLE spent (tool text)")
    async with stub_provider() as provider:

        async def answer() -> Any:
            messages = provider.requests[-1]["messages"]
            return await response(sum(message["role"] == "assistant" for message in messages))()

        provider.script = [answer]
        env = {
            "DEFAULT_MODEL": "openai-chat:stub",
            "OPENAI_BASE_URL": provider.base_url,
            "OPENAI_API_KEY": "sk-stub-1234567890",
            "REFLEX_LEASE_TIMEOUT_S": "1",
        }

        async def kept_running(number: int) -> None:
            """A worker, and another one whenever it is dead."""
            while True:
                process = ReflexProcess(
                    "worker", "--app", SPENDING.stem, folder=shop.folder, env=env, name=f"worker-{number}",
                    database_url=shop.database_url,
                )  # fmt: skip
                try:
                    while process.is_running:  # noqa: ASYNC110 (a process has no event)
                        await asyncio.sleep(0.02)
                finally:
                    await process.kill()

        running = [asyncio.create_task(kept_running(number)) for number in range(WORKERS)]
        by_hand = asyncio.create_task(resolve_by_hand(shop))
        try:
            await eventually(lambda: shop.count("FROM reflex.trigger"), timeout_s=60, what="the trigger")
            (event_id,) = await shop.publish({"order": 1})
            await shop.becomes("succeeded", event_id, timeout_s=240)
        finally:
            for task in (*running, by_hand):
                task.cancel()
            results = await asyncio.gather(*running, by_hand, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
    kills = shop.lines("crashes.txt")
    assert Counter(kill.split()[0] for kill in kills) == {
        "model_request": len(TURNS) + 1, "intent": ONCE, "effect": ONCE, "tool_call": TOOLS - ONCE,
    }  # fmt: skip
    spent = Counter(shop.lines("spent.txt"))
    once = {line: count for line, count in spent.items() if line.startswith("once_")}
    assert (len(once), set(once.values())) == (ONCE, {1})
    assert len({line for line in spent if line.startswith("idempotent_")}) == 2, "repeated, under the same key"
    cursor = await shop.conn.execute("SELECT tool, count(*) FROM spent GROUP BY tool ORDER BY tool")
    assert await cursor.fetchall() == [("transactional_0", 1), ("transactional_1", 1)]
    assert len(provider.requests) <= len(TURNS) + 1 + len(kills)
    assert (await list_effects(shop.conn)).rows == []
    assert await shop.count("FROM reflex.step") == 0


async def resolve_by_hand(shop: Shop) -> None:
    """Somebody who looks for what is unknown, finds out from the key, and says so."""
    async with await connect(shop.database_url, name="by hand") as conn:
        while True:
            for effect in (await list_effects(conn, state="unknown")).rows:
                if effect.tool == "once_3" and effect.waits:
                    done = any(line.endswith(f" {effect.key}") for line in shop.lines("spent.txt"))
                    with suppress(DeliveryRunning, NotFound):  # it runs again: then it is still listed, or known
                        said = StoredJson(json.dumps("done")) if done else None
                        await resolve_effect(conn, EffectId.parse(effect.id), done=said)
            await asyncio.sleep(0.05)
