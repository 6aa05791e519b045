"""The health of a gateway, with a database that is well, far away, and gone."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest
from psycopg import AsyncConnection
from starlette.requests import Request

from reflex.core.overview import FailingModel, Overview, QueueNumbers, UnservedTrigger, WorkerRow, describe_problems
from reflex.gateway import health
from reflex.gateway.app import create_app
from reflex.gateway.health import judge
from tests.faults import FaultProxy
from tests.gateway.gateways import in_process, settings_for
from tests.gateway.stories import tell

NOW = datetime(2026, 1, 31, tzinfo=UTC)
QUIET = QueueNumbers(0, 0, 0, 0, 0, 0, None, [])
WORKER = WorkerRow(UUID(int=7), "shop", "host", 1, 10, 2, NOW, NOW, 1.0, True)


async def test_an_idle_system_without_workers_is_well(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/health/detailed")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["status"], found["problems"], found["workers"]) == ("ok", [], [])
    assert 0 < found["database"]["latency_ms"] < 5000
    assert found["queue"] == {
        "pending": 0, "scheduled": 0, "running": 0, "dead": 0, "unrouted": 0, "orphaned": 0,
        "oldest_pending_s": None, "estimated": [], "held_keys": 0, "waiting": 0,
    }  # fmt: skip


async def test_the_numbers_are_those_of_the_queue(client: httpx2.AsyncClient, db: AsyncConnection[Any]) -> None:
    story = await tell(db)
    found = (await client.get("/health/detailed")).json()
    queue = found["queue"]
    assert (queue["scheduled"], queue["running"], queue["dead"], queue["unrouted"]) == (1, 1, 1, 2)
    assert [worker["id"] for worker in found["workers"]] == [str(story.worker_id)]
    assert found["status"] == "ok"


async def test_work_that_nobody_takes_is_a_problem_that_names_the_app(
    client: httpx2.AsyncClient, db: AsyncConnection[Any]
) -> None:
    """Fails if the lease timeout is not handed on: the worker that stopped beating would count."""
    story = await tell(db)
    await db.execute("INSERT INTO reflex.delivery SELECT trigger_id, event_id FROM reflex.scheduled")
    await db.execute("UPDATE reflex.worker SET heartbeat_at = now() - interval '1 minute'")
    answer = await client.get("/health/detailed")
    assert answer.status_code == 200
    found = answer.json()
    assert found["status"] == "degraded"
    assert any("app 'shop' has due deliveries and no live worker" in problem for problem in found["problems"])
    assert any(str(story.worker_id) in problem for problem in found["problems"])


def problems_of(**given: Any) -> str:
    overview: dict[str, Any] = {"queue": QUIET, "workers": [WORKER], "unserved": [], "failing_models": [], **given}
    return " / ".join(describe_problems(Overview(**overview)))


def test_each_problem_has_its_sentence() -> None:
    """Fails with any one of them removed."""
    assert problems_of() == ""
    assert "no live worker" in problems_of(unserved=[UnservedTrigger("pack", "shop", retired=False, app_is_live=False)])
    retired = problems_of(unserved=[UnservedTrigger("pack", "shop", retired=True, app_is_live=True)])
    assert "trigger 'pack'" in retired
    assert "deploy it again" in retired
    unknown = problems_of(unserved=[UnservedTrigger("pack", "shop", retired=False, app_is_live=True)])
    assert "start a worker with the code that has it" in unknown
    assert "waited 61 s" in problems_of(queue=QueueNumbers(5, 0, 0, 0, 0, 0, 61.0, []))
    assert problems_of(queue=QueueNumbers(5, 0, 0, 0, 0, 0, 59.0, [])) == ""
    assert "3 running deliveries belong" in problems_of(queue=QueueNumbers(0, 0, 3, 0, 0, 3, None, []))
    silent = WorkerRow(UUID(int=7), "shop", "host", 1, 10, 2, NOW, NOW, 30.0, False)
    assert "no heartbeat for 30 s and holds 2 deliveries" in problems_of(workers=[silent])
    failing = problems_of(failing_models=[FailingModel("openai:gpt", "503 overloaded", 5, NOW)])
    assert "'openai:gpt' has failed 5 times in a row" in failing
    assert "503 overloaded" in failing
    assert problems_of(queue=QueueNumbers(0, 0, 0, 9, 9, 0, None, [])) == ""


def test_a_slow_database_is_a_problem() -> None:
    overview = Overview(QUIET, [WORKER], [], [])
    assert judge(overview, 0.1).status == "ok"
    slow = judge(overview, 0.9)
    assert slow.status == "degraded"
    assert "900 ms" in slow.problems[0]


async def test_the_process_is_alive_without_a_database(database_url: str) -> None:
    """Fails if /health asks the database: an outage would make the supervisor restart every gateway."""
    settings = settings_for(database_url.rpartition("/")[0] + "/there_is_no_such_database")
    async with in_process(create_app(settings)) as client:
        began = time.monotonic()
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert time.monotonic() - began < 1
        unready = await client.get("/health/ready")
        assert (unready.status_code, unready.json()) == (503, {"ready": False})
        down = await client.get("/health/detailed")
        assert down.status_code == 503
        assert down.json()["status"] == "down"
        assert "no event can be stored" in down.json()["problems"][0]
        assert (down.json()["queue"], down.json()["workers"]) == (None, [])


async def test_a_gateway_is_ready_once_the_database_is_migrated(
    client: httpx2.AsyncClient, empty_database_url: str
) -> None:
    """Fails if any answer of the database counts: events would be refused until somebody migrates."""
    ready = await client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    async with in_process(create_app(settings_for(empty_database_url))) as early:
        assert (await early.get("/health/ready")).status_code == 503


async def test_a_black_hole_is_answered_in_time_and_looked_into_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is up and nothing comes back. Fails with asyncio.wait_for around the query: the cancellation goes
    the same dead way and takes far longer. Fails, too, if each request starts a look of its own: they would take all
    connections."""
    looks = 0
    measure = health.measure

    async def counted(request: Request) -> Any:
        nonlocal looks
        looks += 1
        return await measure(request)

    monkeypatch.setattr(health, "measure", counted)
    async with FaultProxy(database_url) as proxy:
        settings = settings_for(proxy.url)
        async with in_process(create_app(settings)) as client:
            assert (await client.get("/health/detailed")).json()["status"] == "ok"
            await proxy.blackhole()
            looks = 0
            began = time.monotonic()
            answers = await asyncio.gather(*(client.get("/health/detailed") for _ in range(8)))
            assert time.monotonic() - began < 4
            assert {answer.status_code for answer in answers} == {503}
            assert "did not answer within 2 s" in answers[0].json()["problems"][0]
            assert looks == 1
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/health/ready")).json() == {"ready": False}
            await proxy.pass_through()
            async with asyncio.timeout(40):
                while (await client.get("/health/detailed")).json()["status"] != "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)


async def test_it_is_well_again_once_the_database_is_back(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy, in_process(create_app(settings_for(proxy.url))) as client:
        await proxy.refuse()
        assert (await client.get("/health/detailed")).status_code == 503
        await proxy.pass_through()
        async with asyncio.timeout(60):
            while (await client.get("/health/detailed")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_a_database_without_the_schema_is_down_and_says_what_to_do(empty_database_url: str) -> None:
    async with in_process(create_app(settings_for(empty_database_url))) as client:
        answer = await client.get("/health/detailed")
        assert answer.status_code == 503
        assert "run `reflex migrate`" in answer.json()["problems"][0]
