"""The reads over HTTP: what they answer, and what they say to a question that makes no sense."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from psycopg import AsyncConnection

from reflex.core.settings import Settings
from reflex.gateway import connections
from reflex.gateway.app import create_app
from tests.gateway.gateways import in_process, post, problem_of, settings_for
from tests.gateway.stories import tell


async def test_what_was_posted_is_listed_and_shown(client: httpx2.AsyncClient) -> None:
    event = {"type": "order.created", "source": "shop", "key": "A1", "payload": {"order_id": "A1", "amount": 12.5}}
    event_id = (await post(client, event)).json()["id"]
    (listed,) = (await client.get("/events")).json()["events"]
    assert {name: listed[name] for name in event} == event
    assert (listed["id"], listed["unrouted"]) == (event_id, True)
    shown = (await client.get(f"/events/{event_id}")).json()
    assert {name: shown[name] for name in event} == event
    assert (shown["deliveries"], shown["follow_ups"]) == ([], [])
    (type,) = (await client.get("/event-types")).json()["event_types"]
    assert type == {"type": "order.created", "registrations": [], "unrouted": 1, "unrouted_capped": False}


async def test_an_event_shows_what_became_of_each_delivery(
    client: httpx2.AsyncClient, db: AsyncConnection[Any]
) -> None:
    """Fails if stored JSON is sent as text inside text, or a DeliveryId as an object."""
    story = await tell(db)
    shown = (await client.get(f"/events/{story.event_id}")).json()
    deliveries = {delivery["trigger"]: delivery for delivery in shown["deliveries"]}
    states = {trigger: delivery["state"] for trigger, delivery in deliveries.items()}
    assert states == {"succeed": "succeeded", "retry": "pending", "run": "running", "die": "dead"}
    assert deliveries["succeed"]["runs"][0]["output"] == {"ok": True}
    assert deliveries["run"]["worker"] == {"id": str(story.worker_id), "host": "host", "pid": 1}
    assert deliveries["die"]["id"] == str(story.dead)
    assert [event["id"] for event in shown["follow_ups"]] == [str(story.follow_up_id)]
    assert shown["payload"] == {"order_id": "A1"}
    assert shown["created_at"].endswith("Z")


async def test_pages_follow_one_another_by_their_cursor(client: httpx2.AsyncClient) -> None:
    await post(client, [{"type": "a"}] * 5)
    seen: list[str] = []
    parameters = {"limit": "2"}
    while True:
        page = (await client.get("/events", params=parameters)).json()
        seen += [event["id"] for event in page["events"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == len(seen) == 5


async def test_filters_arrive(client: httpx2.AsyncClient) -> None:
    """Fails if the route forgets one: each of them excludes the one event."""
    await post(client, {"type": "order.created", "source": "shop", "key": "A1", "correlation_id": "c1"})
    matching = {"type": "order.*", "source": "shop", "key": "A1", "correlation_id": "c1", "since": "1h"}
    assert len((await client.get("/events", params=matching)).json()["events"]) == 1
    others = {
        "type": "user.*",
        "source": "x",
        "key": "x",
        "correlation_id": "x",
        "since": "2999-01-01T00:00:00Z",
        "until": "1h",
    }
    for name, value in others.items():
        assert (await client.get("/events", params={**matching, name: value})).json()["events"] == []


NONSENSE = [
    ("/events?typ=a", "typ", "known are type, source, key, correlation_id, since, until, cursor, limit"),
    ("/triggers?app=a", "app", "there are none here"),
    ("/events?type=a&type=b", "type", "more than once"),
    ("/events?type=", "type", "is empty"),
    ("/events?type=a%20b", "type", "not a type pattern"),
    ("/events?key=%00", "key", "NUL"),
    ("/events?key=" + "x" * 1001, "key", "longer than 1000"),
    ("/events?limit=0", "limit", "between 1 and 500"),
    ("/events?limit=501", "limit", "between 1 and 500"),
    ("/events?limit=ten", "limit", "a whole number from 1 to 500"),
    ("/events?limit=%D9%A3", "limit", "a whole number"),
    ("/events?cursor=nonsense", "cursor", "next_cursor"),
    ("/events?since=yesterday", "since", "2026-01-31T09:00:00Z"),
    ("/events?until=2026-01-31T09:00:00", "until", "not a moment"),
    ("/health/detailed?x=1", "x", "there are none here"),
]


async def test_a_question_that_makes_no_sense_is_answered_400_with_the_parameters_name(
    client: httpx2.AsyncClient,
) -> None:
    """Fails with any one check of query.py removed; without the one for NUL it is a 500."""
    for path, field, says in NONSENSE:
        answer = await client.get(path)
        problem = problem_of(answer)
        assert (answer.status_code, problem["code"]) == (400, "query_rejected"), path
        assert problem["errors"][0]["field"] == field, path
        assert says in problem["errors"][0]["reason"], path


async def test_an_id_that_no_event_has_is_a_404(client: httpx2.AsyncClient) -> None:
    """Fails if UUID() alone decides: it takes braces and ids without dashes."""
    there: str = (await post(client, {"type": "a"})).json()["id"]
    for id in (
        "nonsense",
        "0198a1b2",
        f"{{{there}}}",
        there.replace("-", ""),
        f"urn:uuid:{there}",
        "%00",
        str(uuid4()),
    ):
        answer = await client.get(f"/events/{id}")
        assert (answer.status_code, problem_of(answer)["code"]) == (404, "not_found"), id


async def test_triggers_and_types_name_their_apps(client: httpx2.AsyncClient, db: AsyncConnection[Any]) -> None:
    await tell(db)
    triggers = {row["name"]: row for row in (await client.get("/triggers")).json()["triggers"]}
    assert triggers["die"]["definition"] == {"agent": "die"}
    assert (triggers["die"]["dead"], triggers["die"]["live_workers"], triggers["die"]["app"]) == (1, 1, "shop")
    types = {row["type"]: row for row in (await client.get("/event-types")).json()["event_types"]}
    assert types["order.created"]["registrations"][0]["schema"]["properties"] == {"order_id": {"type": "string"}}
    assert types["nobody.knows"]["unrouted"] == 1


async def test_reads_go_on_after_a_restart_of_the_database(settings: Settings, postgres: psycopg.Connection) -> None:
    """Every connection of the pool is cut. Fails without the check of a connection before it is lent."""
    async with in_process(create_app(settings)) as client:
        assert (await client.get("/events")).status_code == 200
        assert settings.database_url is not None
        name = settings.database_url.rpartition("/")[2]
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        for _ in range(6):
            assert (await client.get("/events")).status_code == 200


async def test_without_a_database_a_read_is_answered_503_without_its_address(database_url: str) -> None:
    settings = settings_for(database_url.rpartition("/")[0] + "/there_is_no_such_database")
    async with in_process(create_app(settings)) as client:
        answer = await client.get("/events")
        assert (answer.status_code, problem_of(answer)["code"]) == (503, "database_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert "no_such_database" not in answer.text
        assert "127.0.0.1" not in answer.text


async def test_a_connection_that_breaks_under_a_read_is_answered_503_in_our_words(
    client: httpx2.AsyncClient, db: AsyncConnection[Any]
) -> None:
    """Fails if the error is passed on as it is (500), or its text, which may name the server and the account."""
    async with db.transaction():
        await db.execute("LOCK TABLE reflex.event IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(client.get("/events"))
        async with asyncio.timeout(10):
            while not await waiting_for_locks(db):  # noqa: ASYNC110 - only the database knows
                await asyncio.sleep(0.02)
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        answer = await reading
    assert answer.status_code == 503
    assert problem_of(answer)["detail"] == "the connection to PostgreSQL broke; try again"


async def test_a_database_without_the_schema_is_answered_with_what_to_do(empty_database_url: str) -> None:
    async with in_process(create_app(settings_for(empty_database_url))) as client:
        answer = await client.get("/events")
        assert answer.status_code == 503
        assert "run `reflex migrate`" in problem_of(answer)["detail"]


async def test_a_read_that_takes_too_long_is_stopped_and_says_how_to_narrow_it(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is locked, so every read of it waits. Fails without the statement timeout."""
    monkeypatch.setattr(connections, "STATEMENT_TIMEOUT", "SET LOCAL statement_timeout = '200ms'")
    async with db.transaction():
        await db.execute("LOCK TABLE reflex.event IN ACCESS EXCLUSIVE MODE")
        answer = await asyncio.wait_for(client.get("/events"), 20)
    assert answer.status_code == 503
    assert "narrow it down" in problem_of(answer)["detail"]
    assert (await client.get("/events")).status_code == 200


async def test_reads_that_find_no_free_connection_are_refused_and_the_last_one_stays_for_the_health_check(
    client: httpx2.AsyncClient, db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if reads may take all connections of the pool: the gateway would look down when it is only busy."""
    monkeypatch.setattr(connections, "WAIT_S", 0.3)
    async with db.transaction():
        await db.execute("LOCK TABLE reflex.event_type IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(client.get("/event-types")) for _ in range(3)]
        async with asyncio.timeout(10):
            while await waiting_for_locks(db) < 3:  # noqa: ASYNC110 - only the database knows
                await asyncio.sleep(0.02)
        refused = await client.get("/triggers")
        assert (refused.status_code, problem_of(refused)["code"]) == (503, "saturated")
        assert (await client.get("/health/detailed")).status_code == 200
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3


async def waiting_for_locks(db: AsyncConnection[Any]) -> int:
    row = await (await db.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")).fetchone()
    assert row is not None
    return row[0]
