"""POST /events?wait with a real gateway and real workers."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx2

from tests.processes import ReflexProcess, eventually, gateway, worker

APP = Path(__file__).with_name("answering.py")


async def test_a_request_gets_what_its_triggers_made_of_it(database_url: str, tmp_path: Path) -> None:
    """With an output, without one, skipped by a filter, after a retry, dead; and of an event nobody wants.

    Fails with: a worker that answers only if there is an output; a reply that is stored without what it answers.
    """
    shutil.copy(APP, tmp_path)
    async with (
        gateway(database_url, tmp_path) as front,
        worker(database_url, tmp_path, app=APP.stem),
        httpx2.AsyncClient(base_url=front.url, timeout=30) as client,
    ):
        for payload, summed in (
            ({"terms": [1, 2]}, ("succeeded", {"sum": 3, "attempt": 1}, None)),
            ({"terms": [3], "fails": 1}, ("succeeded", {"sum": 3, "attempt": 2}, None)),
            ({"terms": [3], "fails": 2}, ("dead", None, "RuntimeError: told to fail")),
        ):
            answer = await ask(client, "sum.asked", payload)
            assert outcomes(answer) == {
                "add": summed, "note": ("succeeded", None, None), "large": ("skipped", None, None)
            }  # fmt: skip
        assert outcomes(await ask(client, "sum.noted", {})) == {"note": ("succeeded", None, None)}
        assert outcomes(await ask(client, "sum.forgotten", {})) == {}


async def test_a_request_outlives_the_worker_that_was_killed_while_it_waits(database_url: str, tmp_path: Path) -> None:
    """Another one takes the delivery over. Fails with: an answer of what was lost; a wait for its run only."""
    shutil.copy(APP, tmp_path)
    env = {"REFLEX_LEASE_TIMEOUT_S": "1", "REFLEX_POLL_INTERVAL_S": "0.2"}
    async with gateway(database_url, tmp_path) as front, httpx2.AsyncClient(base_url=front.url, timeout=60) as client:
        async with worker(database_url, tmp_path, app=APP.stem, env=env) as lost:
            asked = asyncio.create_task(ask(client, "sum.asked", {"terms": [1], "sleep_s": 60}))
            await runs(client, lost)
            await lost.kill()
        async with worker(database_url, tmp_path, app=APP.stem, env=env):
            found = outcomes(await asked)
    assert found["add"] == ("succeeded", {"sum": 1, "attempt": 2}, None)


async def runs(client: httpx2.AsyncClient, process: ReflexProcess) -> None:
    """Wait until the worker has only the slow delivery left."""

    wanted = {"add": "running", "note": "succeeded", "large": "skipped"}

    async def look() -> bool:
        events = (await client.get("/events", params={"type": "sum.asked"})).json()["events"]
        if not events:
            return False
        deliveries = (await client.get(f"/events/{events[0]['id']}")).json()["deliveries"]
        return {each["trigger"]: each["state"] for each in deliveries} == wanted

    await eventually(look, what=f"a run of {process}")


async def ask(client: httpx2.AsyncClient, type: str, payload: Any) -> dict[str, Any]:
    answer = await client.post("/events?wait=40", json={"type": type, "payload": payload})
    assert answer.status_code == 200, answer.text
    return answer.json()


def outcomes(answer: dict[str, Any]) -> dict[str, tuple[str, Any, str | None]]:
    """State, output and the first line of the error, by trigger."""
    return {
        each["trigger"]: (each["state"], each["output"], each["error"] and each["error"].splitlines()[0])
        for each in answer["deliveries"]
    }
