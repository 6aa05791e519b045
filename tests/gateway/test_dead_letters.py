"""Dead letters over HTTP."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from psycopg import AsyncConnection

from tests.gateway.gateways import problem_of
from tests.gateway.stories import Story, tell
from tests.queue_fixtures import count

# Each of them means the letter of the story.
EVERY_FILTER = {"trigger": "die", "app": "shop", "type": "order.*", "reason": "failed", "key": "A1", "since": "1h"}


@pytest.fixture
async def story(db: AsyncConnection[Any]) -> Story:
    return await tell(db)


async def state_of(client: httpx2.AsyncClient, story: Story) -> str:
    deliveries = (await client.get(f"/events/{story.event_id}")).json()["deliveries"]
    return next(delivery["state"] for delivery in deliveries if delivery["trigger"] == "die")


async def test_a_dead_letter_is_listed_and_shown_with_its_history(client: httpx2.AsyncClient, story: Story) -> None:
    page = (await client.get("/dead-letters")).json()
    (letter,) = page["dead_letters"]
    assert (letter["id"], letter["trigger"], letter["app"], letter["reason"], letter["error"]) == (
        str(story.dead), "die", "shop", "failed", "boom",
    )  # fmt: skip
    assert letter["event"]["id"] == str(story.event_id)
    assert page["next_cursor"] is None
    shown = (await client.get(f"/dead-letters/{story.dead}")).json()
    assert shown["payload"] == {"order_id": "A1"}
    assert [run["outcome"] for run in shown["runs"]] == ["dead"]


async def test_every_filter_of_the_list_arrives(client: httpx2.AsyncClient, story: Story) -> None:
    """Fails if the route forgets one: each of them excludes the only letter."""
    matching = {**EVERY_FILTER, "limit": "5"}
    assert len((await client.get("/dead-letters", params=matching)).json()["dead_letters"]) == 1
    others = {
        "trigger": "x",
        "app": "x",
        "type": "user.*",
        "reason": "x",
        "key": "x",
        "since": "2999-01-01T00:00:00Z",
        "until": "1h",
    }
    for name, value in others.items():
        assert (await client.get("/dead-letters", params={**matching, name: value})).json()["dead_letters"] == []


async def test_a_retry_says_that_it_is_pending_and_a_second_one_that_it_is_gone(
    client: httpx2.AsyncClient, story: Story
) -> None:
    answer = await client.post(f"/dead-letters/{story.dead}/retry")
    assert answer.status_code == 200
    assert answer.json() == {"id": str(story.dead), "event_id": str(story.event_id), "state": "pending"}
    assert await state_of(client, story) == "pending"
    again = await client.post(f"/dead-letters/{story.dead}/retry")
    assert again.status_code == 404
    assert "retried or purged meanwhile" in problem_of(again)["detail"]


async def test_of_many_who_retry_the_same_letter_exactly_one_does(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], story: Story
) -> None:
    answers = await asyncio.gather(*(client.post(f"/dead-letters/{story.dead}/retry") for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 5
    assert await count(db, "delivery") == 1


async def test_a_purge_leaves_the_delivery_cancelled(client: httpx2.AsyncClient, story: Story) -> None:
    answer = await client.delete(f"/dead-letters/{story.dead}")
    assert answer.json() == {"id": str(story.dead), "event_id": str(story.event_id), "state": "cancelled"}
    assert await state_of(client, story) == "cancelled"
    assert (await client.delete(f"/dead-letters/{story.dead}")).status_code == 404


async def test_a_filter_retries_what_it_means_and_nothing_else(client: httpx2.AsyncClient, story: Story) -> None:
    none = await client.post("/dead-letters/retry", json={"trigger": "another"})
    assert none.json() == {"retried": 0, "limit_reached": False}
    assert await state_of(client, story) == "dead"
    matching = {**EVERY_FILTER, "limit": 1}
    done = await client.post("/dead-letters/retry", json=matching)
    assert done.json() == {"retried": 1, "limit_reached": True}
    assert await state_of(client, story) == "pending"


async def test_a_filter_purges_what_it_means(client: httpx2.AsyncClient, story: Story) -> None:
    assert (await client.delete("/dead-letters?reason=other")).json() == {"purged": 0, "limit_reached": False}
    assert (await client.delete("/dead-letters?reason=failed")).json() == {"purged": 1, "limit_reached": False}
    assert await state_of(client, story) == "cancelled"


async def test_everything_is_touched_only_when_that_is_said(client: httpx2.AsyncClient, story: Story) -> None:
    """Fails if an empty filter means all."""
    for answer in (
        await client.post("/dead-letters/retry", json={}),
        await client.post("/dead-letters/retry", json={"all": False, "limit": 5}),
        await client.delete("/dead-letters"),
        await client.delete("/dead-letters?all=false"),
    ):
        assert answer.status_code == 400
        assert problem_of(answer)["errors"][0]["field"] == "all"
    assert await state_of(client, story) == "dead"
    assert (await client.post("/dead-letters/retry", json={"all": True})).json()["retried"] == 1


BAD_FILTERS = [
    (b'{"triger": "die"}', "triger"),
    (b'{"trigger": 3}', "trigger"),
    (b'{"trigger": null}', "trigger"),
    (b'{"trigger": ""}', "trigger"),
    (b'{"trigger": "a\\u0000b"}', "/trigger"),
    (b'{"trigger": "a", "trigger": "b"}', ""),
    (b'{"all": "yes"}', "all"),
    (b'{"all": true, "limit": 0}', "limit"),
    (b'{"all": true, "limit": 10001}', "limit"),
    (b'{"all": true, "limit": true}', "limit"),
    (b'{"all": true, "limit": 1.5}', "limit"),
    (b'{"since": "yesterday"}', "since"),
    (b'["die"]', "body"),
    (b"", ""),
    (b"{", ""),
]


async def test_a_bad_filter_is_refused_by_name_and_touches_nothing(client: httpx2.AsyncClient, story: Story) -> None:
    """Fails with any one check of the values removed; `true` is a number in Python."""
    for body, field in BAD_FILTERS:
        answer = await client.post("/dead-letters/retry", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, body
        assert problem_of(answer)["errors"][0]["field"] == field, body
    assert await state_of(client, story) == "dead"


async def test_an_id_that_no_dead_letter_has_is_a_404(client: httpx2.AsyncClient) -> None:
    for id in ("nonsense", "retry", f"3-{uuid4()}", f"03-{uuid4()}", f"99999999999-{uuid4()}", "3", "-1"):
        for answer in (
            await client.get(f"/dead-letters/{id}"),
            await client.delete(f"/dead-letters/{id}"),
            await client.post(f"/dead-letters/{id}/retry"),
        ):
            assert (answer.status_code, problem_of(answer)["code"]) == (404, "not_found"), id


async def test_a_page_of_another_site_cannot_change_anything(client: httpx2.AsyncClient, story: Story) -> None:
    """Fails without the look at Sec-Fetch-Site: a form of any page could post there through a visitor's browser."""
    headers = {"sec-fetch-site": "cross-site"}
    for answer in (
        await client.post(f"/dead-letters/{story.dead}/retry", headers=headers),
        await client.delete(f"/dead-letters/{story.dead}", headers=headers),
        await client.delete("/dead-letters?all=true", headers=headers),
        await client.post("/dead-letters/retry", json={"all": True}, headers=headers),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "cross_site")
    assert await state_of(client, story) == "dead"
    own = await client.post(f"/dead-letters/{story.dead}/retry", headers={"sec-fetch-site": "same-origin"})
    assert own.status_code == 200


async def test_a_filter_has_to_be_sent_as_json(client: httpx2.AsyncClient, story: Story) -> None:
    """Fails if any content type is taken: a form of another page can send text/plain."""
    answer = await client.post("/dead-letters/retry", content=b'{"all": true}', headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert await state_of(client, story) == "dead"
