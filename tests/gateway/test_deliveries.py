"""Deliveries over HTTP: which wait, and ending one."""

from datetime import timedelta
from typing import Any

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.ids import DeliveryId, new_id
from reflex.core.queue import exchange, own_leases
from reflex.core.settlement import Outcome
from reflex.core.waiting import Wait, WaitKind
from tests.gateway.gateways import problem_of
from tests.gateway.stories import Story, tell
from tests.queue_fixtures import settled

APPROVAL = Wait(WaitKind.APPROVAL, "somebody has to approve it", timedelta(hours=1))


@pytest.fixture
async def story(db: AsyncConnection[Any]) -> Story:
    return await tell(db)


async def deliveries(client: httpx2.AsyncClient, story: Story) -> dict[str, dict[str, Any]]:
    found = (await client.get(f"/events/{story.event_id}")).json()["deliveries"]
    return {delivery["trigger"]: delivery for delivery in found}


async def waits(db: AsyncConnection[Any], story: Story) -> DeliveryId:
    """The delivery that runs in the story waits."""
    (lease,) = await own_leases(db, worker_id=story.worker_id)
    settlement = settled(lease)._replace(outcome=Outcome.WAITING, retry_in=APPROVAL.at_most, wait=APPROVAL)
    await exchange(db, worker_id=story.worker_id, settlements=[settlement], trigger_ids=[], limit=0)
    return lease.delivery_id


async def test_what_does_not_run_is_cancelled_at_once(client: httpx2.AsyncClient, story: Story) -> None:
    retried = (await deliveries(client, story))["retry"]["id"]
    for id in (retried, str(story.dead)):
        answer = await client.post(f"/deliveries/{id}/cancel", params={"reason": "by mistake"})
        assert answer.status_code == 200
        assert answer.json() == {"id": id, "event_id": str(story.event_id), "state": "cancelled"}
    after = await deliveries(client, story)
    assert [(after[name]["state"], after[name]["runs"][-1]["outcome"]) for name in ("retry", "die")] == [
        ("cancelled", "cancelled"),
        ("cancelled", "cancelled"),
    ]
    assert after["retry"]["runs"][-1]["error"] == "cancelled by a person: by mistake"


async def test_one_that_runs_is_asked_to_end(
    client: httpx2.AsyncClient, story: Story, db: AsyncConnection[Any]
) -> None:
    id = (await deliveries(client, story))["run"]["id"]
    answer = await client.post(f"/deliveries/{id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["state"] == "cancelling"
    again = await client.post(f"/deliveries/{id}/cancel")
    assert again.status_code == 409
    assert problem_of(again)["code"] == "not_cancellable"
    assert "already" in problem_of(again)["detail"]


async def test_what_has_ended_is_a_conflict_and_what_never_was_is_not_found(
    client: httpx2.AsyncClient, story: Story
) -> None:
    id = (await deliveries(client, story))["succeed"]["id"]
    ended = await client.post(f"/deliveries/{id}/cancel")
    assert ended.status_code == 409
    assert "has ended: succeeded" in problem_of(ended)["detail"]
    for unknown in (
        f"1-{new_id()}",
        f"99-{story.event_id}",
        "nonsense",
        f"01-{story.event_id}",
        "9" * 30 + f"-{story.event_id}",
    ):
        answer = await client.post(f"/deliveries/{unknown}/cancel")
        assert answer.status_code == 404, unknown
        assert problem_of(answer)["code"] == "not_found"


@pytest.mark.parametrize("query", ["reason=", "reason=a&reason=b", "why=x", "reason=%00", f"reason={'x' * 1001}"])
async def test_a_reason_that_makes_no_sense_is_refused(client: httpx2.AsyncClient, story: Story, query: str) -> None:
    refused = await client.post(f"/deliveries/{story.dead}/cancel?{query}")
    assert refused.status_code == 400
    assert problem_of(refused)["errors"][0]["field"] in ("reason", "why")
    assert (await deliveries(client, story))["die"]["state"] == "dead"


async def test_a_page_of_another_site_cancels_nothing(client: httpx2.AsyncClient, story: Story) -> None:
    refused = await client.post(f"/deliveries/{story.dead}/cancel", headers={"sec-fetch-site": "cross-site"})
    assert refused.status_code == 403
    assert (await deliveries(client, story))["die"]["state"] == "dead"


async def test_what_waits_is_listed_counted_and_can_be_cancelled(
    client: httpx2.AsyncClient, story: Story, db: AsyncConnection[Any]
) -> None:
    """Fails if a delivery that waits is counted as one that is put off."""
    delivery_id = await waits(db, story)
    (row,) = (await client.get("/waiting", params={"limit": 5})).json()["waiting"]
    assert {name: row[name] for name in ("id", "trigger", "app", "key", "kind", "reason", "type")} == {
        "id": str(delivery_id), "trigger": "run", "app": "shop", "key": "A1", "kind": "approval",
        "reason": APPROVAL.reason, "type": "order.created",
    }  # fmt: skip
    assert row["since"] < row["until"]
    queue = (await client.get("/health/detailed")).json()["queue"]
    assert (queue["waiting"], queue["scheduled"], queue["pending"]) == (1, 1, 0)
    triggers = {row["name"]: row for row in (await client.get("/triggers")).json()["triggers"]}
    assert (triggers["run"]["waiting"], triggers["run"]["scheduled"]) == (1, 0)
    assert (triggers["retry"]["waiting"], triggers["retry"]["scheduled"]) == (0, 1)
    assert (await client.post(f"/deliveries/{delivery_id}/cancel")).status_code == 200
    assert (await client.get("/waiting")).json() == {"waiting": []}
    assert (await client.get("/waiting", params={"limit": 0})).status_code == 400
