"""POST /events?wait: the answer is the outcome of every delivery. The worker is played by the test."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import orjson
import pytest
from psycopg import AsyncConnection

from reflex.core.log_reading import log_bounds
from reflex.core.queue import dead_settlement, exchange, promote_scheduled
from reflex.core.replies import reply_event
from reflex.core.settlement import Claimed, Outcome
from reflex.gateway import app as app_module
from reflex.gateway import connections
from reflex.gateway.live import follower as follower_module
from reflex.gateway.live import hub as hub_module
from reflex.gateway.live import waiting
from reflex.gateway.live.hub import Hub
from tests.faults import FaultProxy
from tests.gateway.gateways import problem_of, served, settings_for
from tests.gateway.live.readers import Gate
from tests.gateway.live.streams import base_url
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, publish, settled, shop

ORDER = {"type": "order.created", "payload": {"n": 1}}
HUBS: list[Hub] = []


class WatchedHub(Hub):
    """The hub of the gateway under test, which keeps it to itself."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        HUBS[:] = [self]


class Worker:
    """Claims deliveries and settles them when a test says so."""

    def __init__(self, conn: AsyncConnection[Any], worker_id: Any, triggers: dict[str, int]) -> None:
        self.conn = conn
        self.worker_id = worker_id
        self.triggers = triggers
        self.names = {id: name for name, id in triggers.items()}

    async def claims(self, number: int) -> dict[str, list[Claimed]]:
        """So many leases, by trigger."""
        found: list[Claimed] = []

        async def look() -> bool:
            found.extend(await claim(self.conn, self.worker_id, list(self.triggers.values()), number - len(found)))
            return len(found) == number

        await eventually(look, what=f"{number} deliveries")
        return {name: [each for each in found if each.trigger_id == id] for name, id in self.triggers.items()}

    async def settles(self, lease: Claimed, outcome: Outcome = Outcome.SUCCEEDED, output: Any = None) -> None:
        """As a real worker does: what ended well answers whoever waits."""
        name = self.names[lease.trigger_id]
        match outcome:
            case Outcome.DEAD:
                settlement = dead_settlement(lease, trigger=name, reason="failed", error="boom")
            case Outcome.RETRY:
                settlement = settled(lease, outcome, error="not yet", retry_in=timedelta(0))
            case _:
                text = None if output is None else orjson.dumps(output).decode()
                reply = reply_event(lease, trigger=name, outcome=outcome, output_json=text)
                settlement = settled(lease, outcome, output=text, published=(reply,) if reply else ())
        await exchange(self.conn, worker_id=self.worker_id, settlements=[settlement], trigger_ids=[], limit=0)

    async def succeeds(self, output: Any = None) -> None:
        """The next delivery."""
        for leases in (await self.claims(1)).values():
            for lease in leases:
                await self.settles(lease, output=output)


@pytest.fixture
async def worker(writer: AsyncConnection[Any], request: pytest.FixtureRequest) -> Worker:
    """One trigger on order.created, or those that a test is marked with."""
    registered = await shop(writer, getattr(request, "param", None))
    return Worker(writer, await enlisted(writer, registered), dict(registered.trigger_ids))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of the gateway that is served next can be looked at."""
    HUBS.clear()
    monkeypatch.setattr(app_module, "Hub", WatchedHub)


@pytest.fixture
async def address(database_url: str, watched: None) -> AsyncIterator[tuple[str, int]]:
    async with served(settings_for(database_url)) as address:
        yield address


@pytest.fixture
async def client(address: tuple[str, int]) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(base_url=base_url(address), timeout=30, limits=limits) as client:
        yield client


def asking(client: httpx2.AsyncClient, event: Any = ORDER, wait: object = 20) -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(client.post("/events", params={"wait": str(wait)}, json=event))


async def is_waiting(number: int = 1) -> None:
    await eventually(
        lambda: sum(len(waits) for hub in HUBS for waits in hub._waits.values()) == number,
        what=f"{number} waiting requests",
    )


def is_idle() -> bool:
    hub = HUBS[0]
    return (hub._waits, hub._watchers, hub._subscriptions) == ({}, 0, set())


@pytest.mark.parametrize(
    ("outcome", "output"),
    [(Outcome.SUCCEEDED, {"ok": [1, None]}), (Outcome.SUCCEEDED, None), (Outcome.SKIPPED, None), (Outcome.DEAD, None)],
    ids=["output", "no output", "skipped", "dead"],
)
async def test_a_request_waits_for_the_outcome_whatever_it_is(
    client: httpx2.AsyncClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, output: Any
) -> None:
    """It is told by the log, at once: it does not look again by itself. Fails with: a run without output that says
    nothing; an event that is stored without `reply_to`; a dead letter that wakes nobody; a wait that is entered after
    the look."""
    monkeypatch.setattr(waiting, "LOOK_AGAIN_S", 30)
    asked = asking(client)
    leases = await worker.claims(1)
    await is_waiting()
    await asyncio.wait([asked], timeout=0.05)
    assert not asked.done()
    await worker.settles(leases["pack"][0], outcome, output)
    async with asyncio.timeout(5):
        answer = await asked
    assert answer.status_code == 200
    document = answer.json()
    (delivery,) = document["deliveries"]
    shown = (delivery["trigger"], delivery["app"], delivery["state"], delivery["output"], delivery["error"])
    assert shown == ("pack", "shop", outcome, output, "boom" if outcome is Outcome.DEAD else None)
    assert document["duplicate"] is False
    assert (await client.get(f"/events/{document['id']}")).json()["deliveries"][0]["id"] == delivery["id"]
    await eventually(is_idle)


@pytest.mark.parametrize("worker", [{"pack": "order.created", "thank": "order.*"}], indirect=True)
async def test_every_delivery_is_waited_for_through_its_retries(client: httpx2.AsyncClient, worker: Worker) -> None:
    """Fails with: an answer after the first of two deliveries, or after the first run."""
    asked = asking(client)
    leases = await worker.claims(2)
    await worker.settles(leases["pack"][0], Outcome.DEAD)
    await worker.settles(leases["thank"][0], Outcome.RETRY)
    await promote_scheduled(worker.conn, limit=10)
    again = await worker.claims(1)
    await asyncio.wait([asked], timeout=0.1)
    assert not asked.done()
    await worker.settles(again["thank"][0], output="welcome")
    answer = await asked
    assert answer.status_code == 200
    found = {d["trigger"]: (d["state"], d["output"], d["error"]) for d in answer.json()["deliveries"]}
    assert found == {"pack": ("dead", None, "boom"), "thank": ("succeeded", "welcome", None)}


async def test_an_event_that_no_trigger_wants_is_answered_at_once(client: httpx2.AsyncClient) -> None:
    """Fails with: a first look only after something happened."""
    async with asyncio.timeout(4):
        answer = await client.post("/events?wait=30", json={"type": "nobody.wants"})
    assert (answer.status_code, answer.json()["deliveries"]) == (200, [])


async def test_what_takes_longer_is_answered_with_where_to_look(client: httpx2.AsyncClient, worker: Worker) -> None:
    """Fails with: an error; an event that is given up with its request."""
    answer = await client.post("/events?wait=0.2", json=ORDER)
    assert answer.status_code == 202
    document = answer.json()
    assert document == {"id": document["id"], "see": f"/events/{document['id']}"}
    await worker.succeeds("late")
    seen = (await client.get(document["see"])).json()
    assert [(d["state"], d["runs"][0]["output"]) for d in seen["deliveries"]] == [("succeeded", "late")]
    await eventually(is_idle)


async def test_a_wait_longer_than_the_limit_is_the_limit(database_url: str, worker: Worker) -> None:
    """Fails with: a limit that is not applied."""
    async with (
        served(settings_for(database_url, max_wait_s=0.2)) as address,
        httpx2.AsyncClient(base_url=base_url(address), timeout=10) as client,
    ):
        assert (await client.post("/events?wait=100000", json=ORDER)).status_code == 202


@pytest.mark.parametrize("wait", ["", "0", "0.0", "-1", "ten", "1e3", "inf", "nan", "1s", "1 ", "1_0", "٣", "9" * 7])
async def test_a_wait_that_is_no_number_of_seconds_is_refused(
    client: httpx2.AsyncClient, writer: AsyncConnection[Any], wait: str
) -> None:
    """Fails with: whatever `float()` takes; an event that is stored all the same."""
    answer = await client.post("/events", params={"wait": wait}, json=ORDER)
    document = problem_of(answer)
    assert (answer.status_code, document["errors"][0]["field"]) == (400, "wait")
    assert await count(writer, "event") == 0


async def test_a_batch_is_not_waited_for(client: httpx2.AsyncClient, writer: AsyncConnection[Any]) -> None:
    """Fails with: a batch that is stored and whose wait is ignored."""
    for body, kind in ((b"[%b]", "application/json"), (b"%b\n", "application/x-ndjson")):
        answer = await client.post("/events?wait=1", content=body % orjson.dumps(ORDER), headers={"content-type": kind})
        document = problem_of(answer)
        assert (answer.status_code, document["errors"][0]["field"]) == (400, "wait")
    assert await count(writer, "event") == 0


async def test_an_event_that_was_published_before_without_waiting_is_waited_for(
    client: httpx2.AsyncClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run says nothing when it returns nothing. Fails with: a wait for the id that was not stored; no look now and
    then."""
    monkeypatch.setattr(waiting, "LOOK_AGAIN_S", 0.1)
    event = {**ORDER, "id": "order-1"}
    first = (await client.post("/events", json=event)).json()["id"]
    timed_out = await client.post("/events?wait=0.1", json=event)
    assert (timed_out.status_code, timed_out.json()) == (
        202, {"id": first, "see": f"/events/{first}", "duplicate": True}
    )  # fmt: skip
    asked = asking(client, event)
    await is_waiting()
    await worker.succeeds()
    answer = await asked
    document = answer.json()
    assert (answer.status_code, document["id"], document["duplicate"]) == (200, first, True)
    assert [delivery["state"] for delivery in document["deliveries"]] == ["succeeded"]
    settled_before = await client.post("/events?wait=5", json=event)
    assert settled_before.json() == document


async def test_a_client_that_goes_away_leaves_nothing_behind_and_its_event_runs(
    client: httpx2.AsyncClient, address: tuple[str, int], worker: Worker
) -> None:
    """Fails with: a wait that goes on without its client."""
    body = orjson.dumps(ORDER)
    head = f"POST /events?wait=30 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection(address) as gone:
        gone.sendall(head.encode() + b"\r\n\r\n" + body)
        await is_waiting()
    await eventually(is_idle)
    await worker.succeeds("anyway")
    assert (await client.get("/health")).status_code == 200


async def test_a_stopping_gateway_answers_those_who_wait_with_where_to_look(
    database_url: str, worker: Worker, watched: None
) -> None:
    """Fails with: a stop that waits for them until the grace is over."""
    async with httpx2.AsyncClient(timeout=30) as client:
        async with served(settings_for(database_url), grace_s=20) as address:
            url = f"{base_url(address)}/events?wait=30"
            asked = [asyncio.create_task(client.post(url, json=ORDER)) for _ in range(3)]
            await is_waiting(3)
            began = time.monotonic()
        assert time.monotonic() - began < 10
        for answer in await asyncio.gather(*asked):
            assert (answer.status_code, answer.json()["see"]) == (202, f"/events/{answer.json()['id']}")
    assert HUBS[0]._waits == {}
    await worker.claims(3)


async def test_fifty_requests_wait_at_once_and_each_gets_its_own_answer(
    client: httpx2.AsyncClient, worker: Worker
) -> None:
    """Fails with: answers that are mixed up; one that was told before it looked."""
    asked = [asking(client, {**ORDER, "payload": {"n": number}}) for number in range(50)]
    leases = (await worker.claims(50))["pack"]
    for lease in leases:
        await worker.settles(lease, output=lease.payload["n"])
    for number, answer in enumerate(await asyncio.gather(*asked)):
        assert (answer.status_code, answer.json()["deliveries"][0]["output"]) == (200, number)
    await eventually(is_idle)


async def test_waiting_does_not_ask_the_database(
    client: httpx2.AsyncClient, worker: Worker, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty requests, two seconds, and other events all the while; then one look for each that was answered.

    Fails with: polling; a wait that is told of what happens to other events.
    """
    lent = 0
    lend = connections.lend

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal lent
        lent += 1
        return lend(*arguments, **named)

    monkeypatch.setattr(connections, "lend", counted)
    asked = [asking(client) for _ in range(20)]
    leases = (await worker.claims(20))["pack"]
    await is_waiting(20)
    await eventually(lambda: lent == 20)
    ends_at = time.monotonic() + 2
    while time.monotonic() < ends_at:
        await publish(writer, 2, "other.type")
        await asyncio.sleep(0.05)
    assert lent == 20
    for lease in leases[:10]:
        await worker.settles(lease)
    await eventually(lambda: sum(task.done() for task in asked) == 10)
    assert lent == 30
    for lease in leases[10:]:
        await worker.settles(lease)
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * 20


async def test_if_the_log_cannot_be_read_nothing_is_stored(
    client: httpx2.AsyncClient, writer: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits would not be told. Fails with: an event that is stored first."""
    monkeypatch.setattr(hub_module, "READY_S", 0.3)
    looking = Gate(log_bounds)
    looking.close()
    monkeypatch.setattr(follower_module, "log_bounds", looking)
    answer = await client.post("/events?wait=5", json=ORDER)
    assert (answer.status_code, problem_of(answer)["code"]) == (503, "database_unavailable")
    assert await count(writer, "event") == 0
    looking.open()


async def test_a_database_that_goes_away_meanwhile_makes_it_a_202(
    database_url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch, watched: None
) -> None:
    """The event is stored, so it is no failure. Fails with: a 503, after which it would be sent again."""
    monkeypatch.setattr(waiting, "LOOK_AGAIN_S", 0.3)
    async with (
        FaultProxy(database_url) as proxy,
        served(settings_for(proxy.url)) as address,
        httpx2.AsyncClient(base_url=base_url(address), timeout=30) as client,
    ):
        asked = asking(client)
        await is_waiting()
        await worker.claims(1)
        monkeypatch.setattr(hub_module, "READY_S", 0.5)
        await proxy.refuse()
        answer = await asked
        assert (answer.status_code, "see" in answer.json()) == (202, True)


async def test_a_cancelled_delivery_answers_whoever_waits_for_it(client: httpx2.AsyncClient, worker: Worker) -> None:
    """Fails without the reply of a cancellation: the request would wait until it looks by itself."""
    asked = asking(client)
    await is_waiting()
    (lease,) = (await worker.claims(1))["pack"]
    await worker.settles(lease, Outcome.RETRY)
    began = time.monotonic()
    assert (await client.post(f"/deliveries/{lease.delivery_id}/cancel", params={"reason": "no"})).status_code == 200
    answer = (await asked).json()
    assert time.monotonic() - began < 3
    assert [(each["state"], each["error"]) for each in answer["deliveries"]] == [
        ("cancelled", "cancelled by a person: no")
    ]
