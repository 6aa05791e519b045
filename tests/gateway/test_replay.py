"""Replay over HTTP: so many a request, and the answer says how to go on."""

from typing import Any

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.cursors import Cursor
from reflex.core.log import append
from reflex.core.log_reading import drop_log
from tests.core.log_fixtures import place_all
from tests.gateway.gateways import problem_of
from tests.queue_fixtures import count, new_event, publish, shop

BEGINNING = str(Cursor(0, 0))


@pytest.fixture
async def filled(db: AsyncConnection[Any]) -> AsyncConnection[Any]:
    """Seven events in three appends, and a trigger that came later."""
    await shop(db, {"log": "*"}, app="other")
    await publish(db, 4)
    await append(db, [new_event("order.paid", source="web", key="A1"), new_event(key="A1")])
    await publish(db, 1, "weather.changed")
    await place_all(db)
    await shop(db, {"pack": "order.*"})
    return db


async def ask(client: httpx2.AsyncClient, body: object, *, name: str = "pack", **headers: str) -> httpx2.Response:
    return await client.post(f"/triggers/{name}/replay", json=body, headers=headers)


async def test_a_client_goes_on_until_it_is_finished(client: httpx2.AsyncClient, filled: AsyncConnection[Any]) -> None:
    """In portions that end in the middle of appends, while events come in. Fails if an edge is done twice or left out,
    or if the end moves on with the log."""
    done = (await ask(client, {"since": "1h", "limit": 3})).json()
    assert done == {
        "cursor": str(Cursor(1, 3)), "up_to": str(Cursor(3, 1)), "looked_at": 3, "replayed": 3, "left_alone": 0,
        "finished": False,
    }  # fmt: skip
    await filled.execute("DELETE FROM reflex.delivery")  # as if they had run: what is pending is left alone
    await publish(filled)
    await place_all(filled)
    counts: list[int] = []
    while not done["finished"]:
        done = (await ask(client, {"after": done["cursor"], "up_to": done["up_to"], "limit": 2})).json()
        counts.append(done["replayed"])
    assert (counts, done["cursor"]) == ([2, 1], str(Cursor(3, 1)))
    assert await count(filled, "replayed") == 6


@pytest.mark.parametrize(
    ("filter", "replayed"),
    [({"type": "order.paid,weather.*"}, 1), ({"source": "web"}, 1), ({"key": "A1"}, 2), ({"app": "shop"}, 6)],
)
async def test_a_dry_run_counts_what_the_filter_means_and_changes_nothing(
    client: httpx2.AsyncClient, filled: AsyncConnection[Any], filter: dict[str, str], replayed: int
) -> None:
    done = (await ask(client, {"after": BEGINNING, "dry_run": True, **filter})).json()
    assert (done["looked_at"], done["replayed"], done["finished"]) == (7, replayed, True)
    assert await count(filled, "replayed") == 0
    assert (await ask(client, {"after": BEGINNING, **filter})).json()["replayed"] == replayed
    assert (await ask(client, {"after": BEGINNING, **filter})).json()["left_alone"] == replayed


async def test_the_event_says_that_its_delivery_was_replayed(
    client: httpx2.AsyncClient, filled: AsyncConnection[Any]
) -> None:
    """Before it has run again, too."""
    await ask(client, {"since": "1h", "key": "A1"})
    (event, *_) = (await client.get("/events", params={"key": "A1"})).json()["events"]
    deliveries = (await client.get(f"/events/{event['id']}")).json()["deliveries"]
    assert {delivery["trigger"]: delivery["replayed_at"] is not None for delivery in deliveries} == {
        "log": False, "pack": True,
    }  # fmt: skip


async def test_what_makes_no_sense_is_refused(client: httpx2.AsyncClient, filled: AsyncConnection[Any]) -> None:
    """Fails if a mistake replays anything."""
    ahead = str(Cursor(9, 1))
    for body, status, code, field in (
        ({}, 400, "query_rejected", "since"),
        ({"since": "1h", "after": BEGINNING}, 400, "query_rejected", "since"),
        ({"since": "1h", "until": "2h"}, 400, "query_rejected", "until"),
        ({"since": "noon"}, 400, "query_rejected", "since"),
        ({"after": "x"}, 400, "cursor_rejected", "after"),
        ({"after": ahead}, 400, "cursor_rejected", "after"),
        ({"after": BEGINNING, "up_to": ahead}, 400, "cursor_rejected", "up_to"),
        ({"since": "1h", "type": "order.*,*.x"}, 400, "query_rejected", "type"),
        ({"since": "1h", "limit": 0}, 400, "query_rejected", "limit"),
        ({"since": "1h", "rate": "1/s"}, 400, "query_rejected", "rate"),
        ([], 400, "query_rejected", "body"),
    ):
        problem = problem_of(await ask(client, body))
        assert (problem["status"], problem["code"], problem["errors"][0]["field"]) == (status, code, field), body
    assert problem_of(await ask(client, {"since": "1h"}, name="wrap"))["code"] == "not_found"
    cross = await ask(client, {"since": "1h"}, **{"sec-fetch-site": "cross-site"})
    assert problem_of(cross)["code"] == "cross_site"
    await shop(filled, {"pack": "order.*"}, app="annex")
    assert "annex, shop" in problem_of(await ask(client, {"since": "1h"}))["detail"]
    await drop_log(filled, until=Cursor(1, 2))
    gone = problem_of(await ask(client, {"after": BEGINNING, "app": "shop"}))
    assert (gone["status"], gone["code"]) == (410, "cursor_expired")
    assert await count(filled, "replayed") == 0
