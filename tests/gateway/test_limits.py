"""The rate and the quota of a key across gateways: what is counted, what a client hears, and what a kill costs."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from psycopg import AsyncConnection

from reflex.core.errors import DatabaseUnavailable, Saturated
from reflex.core.events import NewEvent
from reflex.core.limits import Limits, Portion, take_allowance
from reflex.core.settings import Settings
from reflex.gateway.allowances import Allowances
from reflex.gateway.app import create_app
from reflex.gateway.group_commit import GroupCommit
from tests.gateway.gateways import in_process, problem_of, served, settings_for
from tests.gateway.key_fixtures import bearer, new_key
from tests.gateway.live.clients import connected
from tests.processes import gateway

Conn = AsyncConnection[Any]
EVENT = {"type": "a"}


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(database_url, access="keys")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with in_process(create_app(settings)) as client:
        yield client


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Portion]:
    """What gateways have asked the database for."""
    asked: list[Portion] = []

    async def noted(*args: Any, **named: Any) -> Portion:
        asked.append(await take_allowance(*args, **named))
        return asked[-1]

    monkeypatch.setattr("reflex.gateway.allowances.take_allowance", noted)
    return asked


async def publish(client: httpx2.AsyncClient, secret: str, count: int = 1) -> httpx2.Response:
    if count == 1:
        return await client.post("/events", json=EVENT, headers=bearer(secret))
    lines = "\n".join([json.dumps(EVENT)] * count)
    kind = {"content-type": "application/x-ndjson"}
    return await client.post("/events", content=lines, headers=kind | bearer(secret))


async def stored(db: Conn) -> int:
    row = await (await db.execute("SELECT count(*)::int FROM reflex.event")).fetchone()
    assert row
    return int(row[0])


async def test_two_gateways_keep_one_quota_and_portions_save_queries(
    client: httpx2.AsyncClient, settings: Settings, db: Conn, taken: list[Portion]
) -> None:
    """Fails if each counts by itself, if a batch counts as one, or if each request is a query."""
    secret = await new_key(db, "publish", quota="1000/d")
    async with in_process(create_app(settings)) as second:
        for front in (client, second):
            assert (await publish(front, secret, 300)).status_code == 202
        before = len(taken)
        answers = await asyncio.gather(*[publish(front, secret) for front in (client, second) for _ in range(220)])
        assert sum(answer.status_code == 202 for answer in answers) == await stored(db) - 600
        while (await publish(client, secret)).is_success or (await publish(second, secret)).is_success:
            pass
        assert await stored(db) == 1000
        assert len(taken) - before < 150
        before = len(taken)
        for front in (client, second):
            answer = await publish(front, secret)
            said = problem_of(answer)
            assert (said["status"], said["code"]) == (429, "quota_reached")
            assert 1 <= int(answer.headers["retry-after"]) == said["retry_after_s"] <= 86_400
            for word in (f"API key {secret[4:12]}", "1000 events a day", "00:00 UTC"):
                assert word in said["detail"]
        assert len(taken) == before, "a refusal that is known costs no query"
    assert (await publish(client, await new_key(db, "publish"))).status_code == 202
    assert len(taken) == before, "nor does a key without limits"


async def test_a_batch_above_the_quota_is_never_taken(client: httpx2.AsyncClient, db: Conn) -> None:
    secret = await new_key(db, "publish", quota="5/d")
    said = problem_of(await publish(client, secret, 6))
    assert (said["status"], said["code"]) == (413, "batch_over_quota")
    assert (await publish(client, secret, 5)).status_code == 202
    assert (await publish(client, secret)).status_code == 429
    assert await stored(db) == 5


async def test_a_batch_above_the_rate_passes_once_and_the_rest_hears_when(
    client: httpx2.AsyncClient, db: Conn, taken: list[Portion]
) -> None:
    """Fails if a batch is refused for ever, leaves no debt, or if the waiting time is not that of the bucket."""
    secret = await new_key(db, "publish", rate="2/s")
    assert (await publish(client, secret, 100)).status_code == 202
    asked = len(taken)
    answer = await publish(client, secret)
    said = problem_of(answer)
    assert (said["status"], said["code"]) == (429, "rate_reached")
    assert 40 <= int(answer.headers["retry-after"]) <= 50, "98 events of debt, and one, at 2 a second"
    assert f"API key {secret[4:12]} may publish 2/s" in said["detail"]
    assert len(taken) == asked
    row = await (await db.execute("SELECT tokens FROM reflex.allowance")).fetchone()
    assert row == (-98,)


async def test_what_is_not_stored_is_not_counted(
    client: httpx2.AsyncClient, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without giving back, and if what was refused before is counted at all."""
    secret = await new_key(db, "publish", rate="3/s", quota="3/d")

    async def full(*_: object) -> Any:
        raise Saturated("the buffer")

    with monkeypatch.context() as patched:
        patched.setattr(GroupCommit, "append", full)
        for _ in range(5):
            assert (await publish(client, secret, 3)).status_code == 503
    for _ in range(5):
        assert (await client.post("/events", json={"type": ""}, headers=bearer(secret))).status_code == 422
    assert (await publish(client, secret, 3)).status_code == 202
    assert (await publish(client, secret)).status_code == 429


async def test_who_comes_later_does_not_overtake_those_who_wait(db: Conn) -> None:
    """One comes when the portion has just come, and one when the first of those who waited goes on. Fails if either is
    handed its share before the others have heard of theirs."""
    key, limits = (await new_key(db, "publish", quota="1000/d"))[4:12], Limits(quota=1000)

    async def query(work: Callable[[Conn], Awaitable[Any]]) -> Any:
        portion = await work(db)
        later.append(asyncio.create_task(spend(3)))
        return portion

    allowances = Allowances(query)
    order: list[int] = []
    later: list[asyncio.Task[None]] = []

    async def spend(number: int) -> None:
        await allowances.spend(key, limits, 1)
        order.append(number)
        if number == 0:
            later.append(asyncio.create_task(spend(4)))

    await asyncio.gather(*[spend(number) for number in range(3)])
    await asyncio.gather(*later)
    assert order == [0, 1, 2, 3, 4]


async def test_who_gives_up_in_the_wait_or_as_it_ends_is_not_counted(db: Conn) -> None:
    """Of four, one goes while the portion is asked for, and one when it has its share and has not heard so. Fails if
    either's is lost: clients that give up would use up the quota."""
    key, limits = (await new_key(db, "publish", quota="1000/d"))[4:12], Limits(quota=1000)

    async def query(work: Callable[[Conn], Awaitable[Any]]) -> Any:
        portion = await work(db)
        if not tasks[1].done():
            tasks[1].cancel()
            asyncio.get_running_loop().call_soon(tasks[2].cancel)
        return portion

    allowances = Allowances(query)
    tasks = [asyncio.create_task(allowances.spend(key, limits, 1)) for _ in range(4)]
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in ended] == [False, True, True, False]
    await allowances.give_back()
    row = await (await db.execute("SELECT used::int FROM reflex.allowance WHERE key_id = %s", [key])).fetchone()
    assert row == (2,)


async def test_who_waits_hears_at_once_that_the_database_is_away(db: Conn) -> None:
    """One after the other would be asked for again, each for as long as a query may take. Fails if they are, and if
    those who come later are not asked for at all."""
    key, limits = (await new_key(db, "publish", quota="1000/d"))[4:12], Limits(quota=1000)
    asked: list[int] = []

    async def query(work: Callable[[Conn], Awaitable[Any]]) -> Any:
        asked.append(len(asked))
        if asked == [0]:
            await asyncio.sleep(0)
            raise DatabaseUnavailable("no answer")
        return await work(db)

    allowances = Allowances(query)
    ended = await asyncio.gather(*[allowances.spend(key, limits, 1) for _ in range(5)], return_exceptions=True)
    assert [type(each) for each in ended] == [DatabaseUnavailable] * 5
    await allowances.spend(key, limits, 1)
    assert asked == [0, 1]


async def test_on_a_websocket_it_is_a_frame_and_the_connection_stays(
    settings: Settings, db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the WebSocket publishes without asking, or if the order of its events is lost in the wait."""
    secret = await new_key(db, "publish", quota="20/d")
    appended: list[int] = []
    append = GroupCommit.append

    async def noted(self: GroupCommit, events: Sequence[NewEvent]) -> Any:
        appended.extend(json.loads(event.payload)["n"] for event in events)
        return await append(self, events)

    monkeypatch.setattr(GroupCommit, "append", noted)
    async with (
        served(settings) as address,
        connected(address, additional_headers=bearer(secret)) as client,
    ):
        for number in range(21):
            event = {"type": "a", "payload": {"n": number}}
            await client.say("publish", id=str(number), event=event)
        heard = {frame["id"]: frame for frame in [await client.hear() for _ in range(21)]}
        assert [heard[str(number)]["op"] for number in range(20)] == ["published"] * 20
        refused = heard["20"]
        assert refused["op"] == "refused"
        assert (refused["problem"]["status"], refused["problem"]["code"]) == (429, "quota_reached")
        assert 1 <= refused["problem"]["retry_after_s"] <= 86_400
        await client.type("a line is an event too")
        assert (await client.hear("refused"))["problem"]["code"] == "quota_reached"
        await client.say("ping")
        await client.hear("pong")
    assert appended == list(range(20))
    assert await stored(db) == 20


async def test_a_gateway_that_stops_gives_back_and_one_that_is_killed_loses_a_portion(
    database_url: str, db: Conn, tmp_path: Path
) -> None:
    """Two processes. Fails if a stop keeps what was not handed out, or if what was lost may be published after all."""
    env = {"REFLEX_ACCESS": "keys"}
    stops, kills = [await new_key(db, "publish", quota="1000/d") for _ in range(2)]

    async def used(secret: str) -> int:
        row = await (
            await db.execute("SELECT used::int FROM reflex.allowance WHERE key_id = %s", [secret[4:12]])
        ).fetchone()
        assert row
        return int(row[0])

    async with (
        gateway(database_url, tmp_path, env=env) as first,
        gateway(database_url, tmp_path, env=env) as second,
        httpx2.AsyncClient(base_url=first.url) as one,
        httpx2.AsyncClient(base_url=second.url) as other,
    ):
        assert (await publish(one, stops)).status_code == 202
        assert (await publish(other, kills)).status_code == 202
        assert [await used(secret) for secret in (stops, kills)] == [10, 10]
        first.terminate()
        assert await first.exited() == 0
        second.send(signal.SIGKILL)
        await second.exited()
    assert [await used(secret) for secret in (stops, kills)] == [1, 10]
    async with gateway(database_url, tmp_path, env=env) as third, httpx2.AsyncClient(base_url=third.url) as client:
        for secret, left in ((stops, 999), (kills, 990)):
            assert (await publish(client, secret, left)).status_code == 202
            assert (await publish(client, secret)).status_code == 429
