"""Effects over HTTP: what is unknown is listed, and a person's word on it lets the delivery go on."""

import json
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.queue import exchange
from reflex.core.settlement import Claimed, Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.gateway.gateways import problem_of
from tests.queue_fixtures import claim, count, enlisted, publish, settled, shop

DOCUMENT = {"tool": "charge", "arguments": {"order": "A"}, "key": "k1", "call": "00", "why": "the line was cut"}


@pytest.fixture
async def lease(db: AsyncConnection[Any]) -> Claimed:
    """A delivery that runs, with an intent as its step 2."""
    registered = await shop(db)
    await publish(db)
    worker_id = await enlisted(db, registered)
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    await journal_step(db, lease.delivery_id, 1, Step(StepKind.MODEL_REQUEST, b"m", 0, 1, "[]"))
    await journal_step(db, lease.delivery_id, 1, Step(StepKind.INTENT, b"x", 0, 2, json.dumps(DOCUMENT)))
    return lease


async def parked(db: AsyncConnection[Any], lease: Claimed) -> str:
    """It waits; the effect's id."""
    wait = Wait(WaitKind.EFFECT, "who knows", timedelta(days=1))
    waiting = settled(lease)._replace(outcome=Outcome.WAITING, retry_in=wait.at_most, wait=wait)
    await exchange(db, worker_id=lease.event_id, settlements=[waiting], trigger_ids=[], limit=0)
    return f"{lease.delivery_id}.2"


async def test_what_is_unknown_is_listed_with_all_that_a_person_needs(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], lease: Claimed
) -> None:
    """Fails if an intent counts as unknown while its own run is at it."""
    (running,) = (await client.get("/effects")).json()["effects"]
    assert running["state"] == "running"
    assert (await client.get("/effects?state=unknown")).json() == {"effects": [], "next_cursor": None}
    id = await parked(db, lease)
    (effect,) = (await client.get("/effects?state=unknown&trigger=pack&limit=5")).json()["effects"]
    assert effect.pop("begun_at")
    assert effect == {
        "id": id, "delivery_id": str(lease.delivery_id), "step": 2, "state": "unknown", "trigger": "pack",
        "app": "shop", "event_id": str(lease.event_id), "type": "order.created", "event_key": None, "tool": "charge",
        "arguments": {"order": "A"}, "key": "k1", "reason": "the line was cut", "waits": True,
    }  # fmt: skip
    assert (await client.get("/effects?state=running")).json()["effects"] == []
    assert (await client.get("/effects?trigger=other")).json()["effects"] == []


async def test_a_page_continues_where_the_one_before_ended(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], lease: Claimed
) -> None:
    """Fails if the cursor forgets the step: two effects of one delivery."""
    await journal_step(db, lease.delivery_id, 1, Step(StepKind.INTENT, b"y", 0, 3, json.dumps(DOCUMENT)))
    first = (await client.get("/effects?limit=1")).json()
    rest = (await client.get(f"/effects?limit=1&cursor={first['next_cursor']}")).json()
    assert [page["effects"][0]["step"] for page in (first, rest)] == [3, 2]
    assert rest["next_cursor"] is None
    for query, field in (("state=done", "state"), ("cursor=abc", "cursor"), ("limit=0", "limit"), ("x=1", "x")):
        answer = await client.get(f"/effects?{query}")
        assert (answer.status_code, problem_of(answer)["errors"][0]["field"]) == (400, field)


async def test_a_verdict_makes_the_delivery_due_and_is_kept(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], lease: Claimed
) -> None:
    id = await parked(db, lease)
    answer = await client.post(f"/effects/{id}/resolve", json={"done": True, "result": {"receipt": "17"}})
    assert (answer.status_code, answer.json()) == (200, {"id": id, "done": True, "due": True})
    cursor = await db.execute("SELECT kind, result::text FROM reflex.step WHERE position = 2")
    (row,) = await cursor.fetchall()
    assert (row[0], json.loads(row[1])) == ("effect", {**DOCUMENT, "verdict": {"value": {"receipt": "17"}}})
    assert (await count(db, "delivery"), await count(db, "waiting")) == (1, 0)
    again = await client.post(f"/effects/{id}/resolve", json={"done": False})
    assert (again.status_code, "resolved meanwhile" in problem_of(again)["detail"]) == (404, True)


async def test_not_done_leaves_the_other_steps(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], lease: Claimed
) -> None:
    id = await parked(db, lease)
    answer = await client.post(f"/effects/{id}/resolve", json={"done": False})
    assert (answer.status_code, answer.json()["due"], await count(db, "step")) == (200, True, 1)


async def test_of_a_delivery_that_runs_nothing_is_changed(client: httpx2.AsyncClient, lease: Claimed) -> None:
    answer = await client.post(f"/effects/{lease.delivery_id}.2/resolve", json={"done": False})
    assert (answer.status_code, problem_of(answer)["code"]) == (409, "delivery_running")
    assert len((await client.get("/effects")).json()["effects"]) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "done"),
        ({"done": "yes"}, "done"),
        ({"done": False, "result": 1}, "result"),
        ({"done": True, "results": 1}, "results"),
        ([], "body"),
    ],
)
async def test_a_verdict_that_makes_no_sense_names_the_field(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], lease: Claimed, body: Any, field: str
) -> None:
    id = await parked(db, lease)
    answer = await client.post(f"/effects/{id}/resolve", json=body)
    assert (answer.status_code, problem_of(answer)["errors"][0]["field"]) == (400, field)
    assert await count(db, "waiting") == 1


@pytest.mark.parametrize(
    "id", ["x", "3-0198a1b2-0000-7000-8000-000000000000", "1-0198a1b2-0000-7000-8000-000000000000.1"]
)
async def test_what_is_no_effect_is_not_found(client: httpx2.AsyncClient, id: str) -> None:
    assert (await client.post(f"/effects/{id}/resolve", json={"done": False})).status_code == 404


async def test_a_page_of_another_site_resolves_nothing(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], lease: Claimed
) -> None:
    id = await parked(db, lease)
    headers = {"sec-fetch-site": "cross-site"}
    answer = await client.post(f"/effects/{id}/resolve", json={"done": False}, headers=headers)
    assert (answer.status_code, await count(db, "waiting")) == (403, 1)
