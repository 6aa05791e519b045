"""POST /events in its three forms: what is stored, what is answered, and in which order the two happen."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import orjson
import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.settings import Settings
from reflex.gateway.app import create_app
from tests.gateway.gateways import in_process, post, problem_of, register_app, settings_for
from tests.processes import eventually

ORDER = {"type": "order.created", "payload": {"order_id": "A1"}}


# Not pg_stat_activity: within one transaction that shows the same picture each time.
WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'reflex.event'::regclass"


async def found(conn: AsyncConnection[DictRow], query: str) -> bool:
    return await (await conn.execute(query.encode())).fetchone() is not None


async def rows(conn: AsyncConnection[DictRow], table: str = "event") -> list[DictRow]:
    order = "event_id" if table != "idempotency" else "key"
    cursor = await conn.execute(f"SELECT * FROM reflex.{table} ORDER BY {order}".encode())
    return await cursor.fetchall()


async def test_an_event_is_stored_with_its_delivery_and_its_id_is_answered(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], database_url: str
) -> None:
    await register_app(database_url, {}, triggers={"all-orders": "order.*", "other": "user.*"})
    response = await post(
        client,
        {
            "type": "order.created",
            "source": "shop",
            "key": "A1",
            "time": "2026-01-31T12:00:00Z",
            "payload": {"order_id": "A1", "amount": 2.5, "note": "ünï \U0001f600"},
            "correlation_id": "chk-9",
        },
    )
    assert (response.status_code, response.headers["content-type"]) == (202, "application/json")
    assert response.json().keys() == {"id"}
    [event] = await rows(conn)
    assert event["event_id"] == UUID(response.json()["id"])
    assert abs(event["created_at"] - datetime.now(UTC)) < timedelta(minutes=1)
    del event["event_id"], event["created_at"]
    assert event == {
        "type": "order.created",
        "source": "shop",
        "key": "A1",
        "time": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "payload": {"order_id": "A1", "amount": 2.5, "note": "ünï \U0001f600"},
        "correlation_id": "chk-9",
        "causation_id": None,
        "depth": 0,
        "trace_context": None,
        "reply_to": None,
        "available_at": None,
    }
    [delivery] = await rows(conn, "delivery")
    assert str(delivery["event_id"]) == response.json()["id"]
    assert await rows(conn, "unrouted") == []


async def test_the_line_of_the_readme_works_without_any_app(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    response = await post(client, b'{"type": "http", "payload": {"message": "Hello, Reflex!"}}')
    assert response.status_code == 202
    [event] = await rows(conn)
    assert (event["source"], event["payload"]) == ("http", {"message": "Hello, Reflex!"})
    assert [str(row["event_id"]) for row in await rows(conn, "unrouted")] == [response.json()["id"]]


async def test_a_delayed_event_is_stored_now_and_delivered_later(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], database_url: str
) -> None:
    await register_app(database_url, {}, triggers={"all": "*"})
    for delay in ({"delay": 3600}, {"delay": "PT1H"}, {"available_at": "2999-01-01T00:00:00Z"}, {"delay": 0}):
        assert (await post(client, {"type": "a", **delay})).status_code == 202
    assert len(await rows(conn, "scheduled")) == 3
    assert len(await rows(conn, "delivery")) == 1


async def test_an_array_is_stored_as_a_whole_and_answered_with_ids_in_its_order(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    response = await post(client, [{"type": "a", "key": str(n)} for n in range(50)])
    assert response.status_code == 202
    answer = response.json()
    assert answer.keys() == {"ids", "duplicates"}
    assert answer["duplicates"] == []
    keys = {str(row["event_id"]): row["key"] for row in await rows(conn)}
    assert [keys[id] for id in answer["ids"]] == [str(n) for n in range(50)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_the_lines_of_an_ndjson_body_are_a_batch_and_blank_ones_are_none(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], end: bytes
) -> None:
    lines = [
        b'{"type": "a", "key": "0"}',
        b"",
        b'  {"type": "b", "key": "1"} ',
        b"  ",
        b'{"type": "c", "key": "2"}',
        b"",
    ]
    response = await post(client, end.join(lines), content_type="application/x-ndjson; charset=UTF-8")
    assert response.status_code == 202, response.text
    keys = {str(row["event_id"]): row["key"] for row in await rows(conn)}
    assert [keys[id] for id in response.json()["ids"]] == ["0", "1", "2"]


async def test_an_array_of_one_is_a_batch(client: httpx2.AsyncClient) -> None:
    assert len((await post(client, [ORDER])).json()["ids"]) == 1


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_one_bad_event_keeps_its_whole_batch_out_and_every_bad_one_is_named(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], form: str
) -> None:
    events = [{"type": "a"}, {"type": "a", "time": "yesterday"}, {"type": "a"}, {"type": "reflex.x"}]
    if form == "array":
        response = await post(client, events)
    else:
        body = b"\n\n".join(orjson.dumps(event) for event in events)
        response = await post(client, body, content_type="application/x-ndjson")
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (422, "event_rejected")
    assert [error["field"] for error in problem["errors"]] == ["/1/time", "/3/type"]
    if form == "ndjson":
        assert [error["reason"].partition(":")[0] for error in problem["errors"]] == ["line 3", "line 7"]
    assert await rows(conn) == []


async def test_a_line_that_is_not_json_is_named_by_its_number(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    response = await post(client, b'{"type": "a"}\n\n{"type": "a"\n', content_type="application/x-ndjson")
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (400, "malformed_json")
    assert problem["errors"][0]["field"] == "/1"
    assert problem["errors"][0]["reason"].startswith("line 3: is not valid JSON")
    assert await rows(conn) == []


async def test_a_batch_of_bad_events_is_answered_with_the_first_of_them(client: httpx2.AsyncClient) -> None:
    problem = problem_of(await post(client, [{"type": ""}] * 1000))
    assert len(problem["errors"]) == 20


@pytest.mark.parametrize(("body", "kind"), [(b"[]", "application/json"), (b"\n \n", "application/x-ndjson")])
async def test_an_empty_batch_is_refused(client: httpx2.AsyncClient, body: bytes, kind: str) -> None:
    problem = problem_of(await post(client, body, content_type=kind))
    assert (problem["status"], "empty" in problem["detail"]) == (422, True)


async def test_a_batch_beyond_the_limit_is_refused(database_url: str, conn: AsyncConnection[DictRow]) -> None:
    async with in_process(create_app(settings_for(database_url, max_batch=3))) as client:
        assert (await post(client, [{"type": "a"}] * 3)).status_code == 202
        for response in (
            await post(client, [{"type": "a"}] * 4),
            await post(client, b'{"type": "a"}\n' * 4, content_type="application/x-ndjson"),
            await post(client, b'{"type": "a"}\n' + b"\n" * 100, content_type="application/x-ndjson"),
        ):
            problem = problem_of(response)
            assert (problem["status"], problem["code"]) == (413, "batch_too_large")
            assert "REFLEX_MAX_BATCH" in problem["detail"]
    assert len(await rows(conn)) == 3


async def test_the_same_id_again_is_answered_with_the_first_event_and_nothing_is_stored(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    first = (await post(client, {**ORDER, "id": "req-1"})).json()
    again = (await post(client, {**ORDER, "id": "req-1"})).json()
    by_header = (await post(client, ORDER, idempotency_key='"req-1"')).json()
    elsewhere = (await post(client, {**ORDER, "id": "req-1", "source": "other"})).json()
    assert again == by_header == {"id": first["id"], "duplicate": True}
    assert elsewhere.keys() == {"id"}
    assert len(await rows(conn)) == 2


async def test_a_batch_says_which_of_its_events_were_there_already(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    first = (await post(client, {"type": "a", "id": "1"})).json()["id"]
    answer = (await post(client, [{"type": "a", "id": id} for id in ("0", "1", "2", "2")])).json()
    assert answer["duplicates"] == [1, 3]
    assert answer["ids"][1] == first
    assert answer["ids"][3] == answer["ids"][2]
    assert len(await rows(conn)) == 3


async def test_an_idempotency_header_is_refused_for_a_batch(client: httpx2.AsyncClient) -> None:
    problem = problem_of(await post(client, [ORDER], idempotency_key="k"))
    assert (problem["status"], "give each an `id`" in problem["detail"]) == (422, True)


async def test_fifty_posts_of_one_id_to_two_gateways_at_once_store_one_event(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    """Seen to fail without `ON CONFLICT DO NOTHING` (500s) and without the look-up of the first id (KeyError)."""
    settings = settings_for(database_url)
    async with in_process(create_app(settings)) as one, in_process(create_app(settings)) as other:
        body = {**ORDER, "id": "the one"}
        responses = await asyncio.gather(*(post(gateway, body) for _ in range(25) for gateway in (one, other)))
    assert {response.status_code for response in responses} == {202}
    answers = [response.json() for response in responses]
    assert len({answer["id"] for answer in answers}) == 1
    assert sum("duplicate" not in answer for answer in answers) == 1
    assert [str(row["event_id"]) for row in await rows(conn)] == [answers[0]["id"]]


async def test_two_batches_with_the_same_ids_in_opposite_orders_do_not_deadlock(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    ids = [str(n) for n in range(200)]
    forward, backward = ([{"type": "a", "id": id} for id in order] for order in (ids, ids[::-1]))
    settings = settings_for(database_url)
    async with in_process(create_app(settings)) as one, in_process(create_app(settings)) as other:
        for _ in range(3):
            responses = await asyncio.gather(
                *(post(gateway, body) for gateway in (one, other) for body in (forward, backward))
            )
            assert {response.status_code for response in responses} == {202}
    assert len(await rows(conn)) == 200


async def test_no_answer_before_the_commit(client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]) -> None:
    """Seen to fail with a store that answers at once and appends in the background."""
    async with conn.transaction():
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        asked = asyncio.create_task(post(client, ORDER))
        await eventually(lambda: found(conn, WAITING), what="the append's wait for the lock")
        assert not asked.done()
        assert await rows(conn) == []
    assert (await asked).status_code == 202
    assert len(await rows(conn)) == 1


async def test_a_connection_killed_before_the_commit_is_answered_with_503_and_stores_nothing(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow], database_url: str
) -> None:
    async with conn.transaction():
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        asked = asyncio.create_task(post(client, ORDER))
        kill = f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting"
        await eventually(lambda: found(conn, kill), what="the append's wait for the lock")
        response = await asked
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (503, "database_unavailable")
    assert "not known whether the event was stored" in problem["detail"]
    assert int(response.headers["retry-after"]) >= 1
    assert (await post(client, ORDER)).status_code == 202, "the next flush has a new connection"
    assert len(await rows(conn)) == 1


async def test_a_valid_traceparent_is_stored_and_a_bad_one_ignored(
    client: httpx2.AsyncClient, conn: AsyncConnection[DictRow]
) -> None:
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for header in (good, "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "nonsense", "\xff"):
        response = await client.post("/events", json=ORDER, headers={"traceparent": header.encode("latin-1")})  # pyright: ignore[reportArgumentType]
        assert response.status_code == 202
    assert [row["trace_context"] for row in await rows(conn)] == [good, None, None, None]


async def test_a_store_that_is_given_takes_the_place_of_the_database(settings: Settings) -> None:
    taken: list[Any] = []

    class Nowhere:
        async def append(self, events: Any) -> dict[UUID, UUID]:
            taken.extend(events)
            return {event.event_id: event.event_id for event in events}

    async with in_process(create_app(settings.model_copy(update={"database_url": None}), store=Nowhere())) as client:
        response = await post(client, ORDER)
    assert response.json() == {"id": str(taken[0].event_id)}


async def test_the_answer_to_a_wrong_method_names_all_that_are_allowed(client: httpx2.AsyncClient) -> None:
    response = await client.request("PATCH", "/events")
    assert problem_of(response)["status"] == 405
    assert response.headers["allow"] == "GET, HEAD, POST"


async def test_the_answer_to_a_wrong_path_is_a_problem_document(client: httpx2.AsyncClient) -> None:
    problem = problem_of(await client.get("/nowhere"))
    assert (problem["status"], "/nowhere" in problem["detail"]) == (404, True)


async def test_an_unexpected_error_is_answered_without_its_internals(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        async def append(self, events: Any) -> dict[UUID, UUID]:
            raise RuntimeError("the password is hunter2")

    async with in_process(create_app(settings_for(database_url), store=Broken())) as client:
        problem = problem_of(await post(client, ORDER))
    assert (problem["status"], problem["code"]) == (500, "internal_error")
    assert "hunter2" not in str(problem)
    assert "RuntimeError" in capsys.readouterr().out


async def test_a_database_without_the_tables_is_answered_with_503_and_the_command_to_run(
    empty_database_url: str,
) -> None:
    async with in_process(create_app(settings_for(empty_database_url))) as client:
        problem = problem_of(await post(client, ORDER))
        assert (problem["status"], problem["code"]) == (503, "database_unavailable")
        assert (await client.get("/health")).status_code == 200
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT to_regnamespace('reflex')").fetchone() == (None,)
