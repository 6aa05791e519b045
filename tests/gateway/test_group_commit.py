"""Group commit: requests share statements, but not each other's fate; nothing is lost and nobody waits for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core import log as event_log
from reflex.core.errors import DatabaseUnavailable, EventRejected, Saturated
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.gateway import group_commit
from reflex.gateway.app import create_app
from reflex.gateway.group_commit import GroupCommit
from tests.faults import FaultProxy
from tests.gateway.gateways import in_process, post, problem_of, settings_for
from tests.processes import eventually


def event(type: str = "a", **fields: Any) -> NewEvent:
    return NewEvent(new_id(), type, "test", None, None, fields.pop("payload", "{}"), **fields)


async def stored_types(conn: AsyncConnection[DictRow]) -> list[str]:
    cursor = await conn.execute("SELECT type FROM reflex.event ORDER BY type, event_id")
    return [row["type"] for row in await cursor.fetchall()]


class GatedAppend:
    """`log.append`, which waits at a gate first and remembers how large each statement was."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.sizes: list[int] = []
        self.waiting = 0

    async def __call__(self, conn: AsyncConnection[Any], events: Sequence[NewEvent]) -> dict[UUID, UUID]:
        self.sizes.append(len(events))
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return await event_log.append(conn, events)


@pytest.fixture
async def gated() -> GatedAppend:
    return GatedAppend()


@pytest.fixture
async def commits(database_url: str, gated: GatedAppend) -> AsyncIterator[GroupCommit]:
    async with GroupCommit(database_url, max_buffered_events=5000, append=gated) as commits:
        yield commits
        gated.gate.set()


async def both_flushers_busy(commits: GroupCommit, gated: GatedAppend) -> list[asyncio.Task[Any]]:
    """Two requests at the gate: whatever comes now waits for the next flush."""
    tasks: list[asyncio.Task[Any]] = []
    for busy in (1, 2):
        tasks.append(asyncio.create_task(commits.append([event("first")])))
        await eventually(lambda busy=busy: gated.waiting == busy, what="a flusher at the gate")
    return tasks


async def test_what_arrives_during_a_commit_is_the_next_one(
    commits: GroupCommit, gated: GatedAppend, conn: AsyncConnection[DictRow]
) -> None:
    """Seen to fail with a `_take` that takes one group."""
    tasks = await both_flushers_busy(commits, gated)
    tasks += [asyncio.create_task(commits.append([event(), event()])) for _ in range(100)]
    await eventually(lambda: commits.buffered_events == 202)
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert gated.sizes == [1, 1, 200]
    assert len(await stored_types(conn)) == 202
    assert commits.buffered_events == 0


async def test_the_second_commit_begins_when_it_is_as_large_as_the_first(
    commits: GroupCommit, gated: GatedAppend
) -> None:
    """Seen to fail with a second flusher that takes what it finds: under load each commit held a few events only."""
    tasks = [asyncio.create_task(commits.append([event() for _ in range(10)]))]
    await eventually(lambda: gated.waiting == 1)
    for _ in range(10):
        assert gated.sizes == [10]
        tasks.append(asyncio.create_task(commits.append([event()])))
        await asyncio.sleep(0.001)
    await eventually(lambda: gated.sizes == [10, 10])
    gated.gate.set()
    await asyncio.gather(*tasks)


async def test_a_large_commit_that_hangs_holds_up_no_single_event(commits: GroupCommit, gated: GatedAppend) -> None:
    """Seen to fail without the look of `_expire`: the event waited until the large commit was given up."""
    tasks = [asyncio.create_task(commits.append([event() for _ in range(10)]))]
    await eventually(lambda: gated.waiting == 1)
    tasks.append(asyncio.create_task(commits.append([event()])))
    await eventually(lambda: gated.sizes == [10, 1], timeout_s=2)
    gated.gate.set()
    await asyncio.gather(*tasks)


async def test_a_flush_has_a_size_and_splits_no_request(
    commits: GroupCommit, gated: GatedAppend, conn: AsyncConnection[DictRow]
) -> None:
    """Seen to fail without the limits of `_take`, and with one that cuts a request in two."""
    tasks = await both_flushers_busy(commits, gated)
    for count in (600, 300, 200, 1500, 10):
        tasks.append(asyncio.create_task(commits.append([event() for _ in range(count)])))
    large = "x" * (5 * 1024 * 1024)
    tasks += [asyncio.create_task(commits.append([event(payload=f'"{large}"')])) for _ in range(2)]
    await eventually(lambda: commits.buffered_events == 2614)
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert sorted(gated.sizes) == sorted([1, 1, 900, 200, 1500, 11, 1])


@pytest.mark.parametrize(
    ("forbid", "said"),
    [
        (["ALTER TABLE reflex.event ADD CONSTRAINT no_bad_events CHECK (type <> 'bad')"], "no_bad_events"),
        (
            [
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'not on a Sunday'; END $$",
                "CREATE TRIGGER refuse BEFORE INSERT ON reflex.event FOR EACH ROW WHEN (NEW.type = 'bad') "
                "EXECUTE FUNCTION refuse()",
            ],
            "not on a Sunday",
        ),
    ],
)
async def test_an_event_that_the_database_refuses_harms_none_of_its_neighbours(
    commits: GroupCommit, gated: GatedAppend, conn: AsyncConnection[DictRow], forbid: list[str], said: str
) -> None:
    """Seen to fail when a refused flush fails all of its requests."""
    for statement in forbid:
        await conn.execute(statement.encode())
    tasks = await both_flushers_busy(commits, gated)
    requests = [[event("good")] for _ in range(60)]
    requests[17] = [event("bad")]
    requests[40] = [event("mate"), event("bad"), event("mate")]
    tasks = [asyncio.create_task(commits.append(events)) for events in requests]
    await eventually(lambda: commits.buffered_events == 64)
    gated.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    refused = {place: answer for place, answer in enumerate(answers) if isinstance(answer, Exception)}
    assert refused.keys() == {17, 40}
    for error in refused.values():
        assert isinstance(error, EventRejected)
        assert said in error.reason
    assert await stored_types(conn) == ["first"] * 2 + ["good"] * 58
    assert 64 not in gated.sizes[3:], "the whole flush must not be tried again"
    assert len(gated.sizes) < 30, "a bad event is found by halving"


async def test_what_the_database_refuses_is_answered_with_422_and_no_values(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    await conn.execute("ALTER TABLE reflex.event ADD CONSTRAINT no_bad_keys CHECK (key <> 'secret')")
    async with in_process(create_app(settings_for(database_url))) as client:
        problem = problem_of(await post(client, {"type": "a", "key": "secret"}))
    assert (problem["status"], problem["code"]) == (422, "event_rejected")
    assert "no_bad_keys" in problem["detail"]
    assert "secret" not in str(problem)


async def test_an_error_that_nobody_expected_reaches_one_request_only(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    async def append(conn: AsyncConnection[Any], events: Sequence[NewEvent]) -> dict[UUID, UUID]:
        if any(event.type == "odd" for event in events):
            raise RuntimeError("a defect")
        return await event_log.append(conn, events)

    async with GroupCommit(database_url, max_buffered_events=100, append=append) as commits:
        types = ["a", "a", "odd", "a", "a"]
        answers = await asyncio.gather(*(commits.append([event(type)]) for type in types), return_exceptions=True)
    assert [isinstance(answer, RuntimeError) for answer in answers] == [False, False, True, False, False]
    assert await stored_types(conn) == ["a"] * 4


async def test_a_deadlock_is_tried_again_in_halves_and_never_blamed_on_an_event(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    async def append(conn: AsyncConnection[Any], events: Sequence[NewEvent]) -> dict[UUID, UUID]:
        if len(events) > 1 or events[0].type == "always":
            raise psycopg.errors.DeadlockDetected
        return await event_log.append(conn, events)

    async with GroupCommit(database_url, max_buffered_events=100, append=append) as commits:
        types = ["a", "a", "always", "a"]
        answers = await asyncio.gather(*(commits.append([event(type)]) for type in types), return_exceptions=True)
    assert [type(answer) for answer in answers] == [dict, dict, DatabaseUnavailable, dict]
    assert await stored_types(conn) == ["a"] * 3


async def test_a_full_buffer_says_so_and_loses_nothing_of_what_is_in_it(
    database_url: str, gated: GatedAppend, conn: AsyncConnection[DictRow]
) -> None:
    """Seen to fail without the limit, and with one that counts only what waits and not what is in flight."""
    async with GroupCommit(database_url, max_buffered_events=5, append=gated) as commits:
        tasks = [asyncio.create_task(commits.append([event()])) for _ in range(4)]
        await eventually(lambda: commits.buffered_events == 4)
        with pytest.raises(Saturated, match="try again in 1 s"):
            await commits.append([event(), event()])
        tasks.append(asyncio.create_task(commits.append([event()])))
        gated.gate.set()
        await asyncio.gather(*tasks)
        await commits.append([event() for _ in range(20)])  # more than the buffer, but nothing else waits
    assert len(await stored_types(conn)) == 25


async def test_the_buffer_has_a_limit_in_bytes(
    commits: GroupCommit, gated: GatedAppend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MAX_BUFFERED_BYTES", 1000)
    first = asyncio.create_task(commits.append([event(payload=f'"{"x" * 600}"')]))
    await eventually(lambda: commits.buffered_events == 1)
    with pytest.raises(Saturated):
        await commits.append([event(payload=f'"{"x" * 600}"')])
    gated.gate.set()
    await first


async def test_saturation_is_answered_with_503_and_retry_after(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    async with (
        in_process(create_app(settings_for(database_url, max_buffered_events=1))) as client,
        conn.transaction(),
    ):
        await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
        first = asyncio.create_task(post(client, {"type": "a"}))

        async def refused() -> bool:
            second = await asyncio.wait([asyncio.create_task(post(client, {"type": "b"}))], timeout=0.1)
            return any(task.result().status_code == 503 for task in second[0])

        await eventually(refused)
        response = await post(client, {"type": "c"})
        assert (problem_of(response)["code"], response.headers["retry-after"]) == ("saturated", "1")
        await conn.execute("ROLLBACK; BEGIN")
        assert (await first).status_code == 202


async def test_a_request_waits_for_its_commit_no_longer_than_the_limit(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    """Those in flight and those still waiting; the latter are not stored afterwards. Seen to fail without `_expire`."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'reflex.event'::regclass"

    async def at_the_lock(wanted: int) -> bool:
        return len(await (await conn.execute(waiting)).fetchall()) == wanted

    async with GroupCommit(database_url, max_buffered_events=100, commit_timeout_s=2) as commits:
        async with conn.transaction():
            await conn.execute("LOCK TABLE reflex.event IN SHARE MODE")
            began = time.monotonic()
            tasks: list[asyncio.Task[Any]] = []
            for in_flight in (1, 2):
                tasks.append(asyncio.create_task(commits.append([event("in flight")])))
                await eventually(lambda wanted=in_flight: at_the_lock(wanted))
            tasks += [asyncio.create_task(commits.append([event("waiting")])) for _ in range(3)]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - began < 10
            assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 5
            await eventually(lambda: at_the_lock(0), what="the end of the statements that nobody waits for")
        await _until_stored(commits, event("later"))
    assert await stored_types(conn) == ["later"]


async def test_a_black_hole_is_answered_in_time_and_left_behind_when_it_heals(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    async with (
        FaultProxy(database_url) as proxy,
        GroupCommit(proxy.url, max_buffered_events=100, commit_timeout_s=1) as commits,
    ):
        await commits.append([event("before")])
        await proxy.blackhole()
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await commits.append([event("lost")])
        assert time.monotonic() - began < 6
        await proxy.pass_through()
        await _until_stored(commits, event("after"))
    assert await stored_types(conn) == ["after", "before"]


async def _until_stored(commits: GroupCommit, later: NewEvent) -> None:
    async def stored() -> bool:
        try:
            await commits.append([later])
        except DatabaseUnavailable:
            return False
        return True

    await eventually(stored, timeout_s=30)


async def test_cut_connections_are_replaced(database_url: str, conn: AsyncConnection[DictRow]) -> None:
    async with FaultProxy(database_url) as proxy, GroupCommit(proxy.url, max_buffered_events=100) as commits:
        for type in ("a", "b", "c"):
            await _until_stored(commits, event(type))
            await proxy.cut()
    assert await stored_types(conn) == ["a", "b", "c"]


async def test_a_database_that_takes_no_events_at_all_is_no_fault_of_the_events(
    empty_database_url: str, gated: GatedAppend, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was never migrated. One statement a flush, and one line in the log, however many requests there are."""
    async with GroupCommit(empty_database_url, max_buffered_events=100, append=gated) as commits:
        tasks = [asyncio.create_task(commits.append([event()])) for _ in range(20)]
        await eventually(lambda: gated.waiting == 1)
        gated.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 20
    assert "run `reflex migrate`" in str(answers[0])
    assert len(gated.sizes) <= 3
    assert capsys.readouterr().out.count("no event can be stored") == 1


async def test_a_connection_to_what_is_a_standby_by_now_is_replaced(database_url: str) -> None:
    """It works, but takes no writes; the address may lead to the new primary. Seen to fail without `_disconnect`."""
    used: list[AsyncConnection[Any]] = []

    async def append(conn: AsyncConnection[Any], events: Sequence[NewEvent]) -> dict[UUID, UUID]:
        used.append(conn)
        if len(used) == 1:
            raise psycopg.errors.ReadOnlySqlTransaction
        return await event_log.append(conn, events)

    async with GroupCommit(database_url, max_buffered_events=100, append=append) as commits:
        with pytest.raises(DatabaseUnavailable):
            await commits.append([event()])
        await commits.append([event()])
    assert used[0] is not used[1]
    assert used[0].closed


async def test_a_gateway_starts_without_its_database_and_takes_events_once_it_is_there(
    database_url: str, conn: AsyncConnection[DictRow]
) -> None:
    async with FaultProxy(database_url) as proxy:
        await proxy.refuse()
        async with in_process(create_app(settings_for(proxy.url))) as client:
            assert (await client.get("/health")).status_code == 200
            response = await post(client, {"type": "a"})
            assert problem_of(response)["code"] == "database_unavailable"
            assert "nothing was stored" in response.text
            assert response.headers["retry-after"] == "1"
            await proxy.pass_through()

            async def accepted() -> bool:
                return (await post(client, {"type": "b"})).status_code == 202

            await eventually(accepted)
    assert await stored_types(conn) == ["b"]


async def test_stopping_flushes_what_waits_and_takes_nothing_more(
    database_url: str, gated: GatedAppend, conn: AsyncConnection[DictRow]
) -> None:
    """Seen to fail with an `__aexit__` that only cancels."""
    commits = GroupCommit(database_url, max_buffered_events=100, append=gated)
    async with commits:
        tasks = [asyncio.create_task(commits.append([event()])) for _ in range(10)]
        await eventually(lambda: commits.buffered_events == 10)
        asyncio.get_running_loop().call_later(0.2, gated.gate.set)
    await asyncio.gather(*tasks)
    assert len(await stored_types(conn)) == 10
    with pytest.raises(DatabaseUnavailable, match="stopping"):
        await commits.append([event()])


async def test_a_stop_that_cannot_flush_ends_in_time_and_says_so(database_url: str, gated: GatedAppend) -> None:
    began = time.monotonic()
    async with GroupCommit(database_url, max_buffered_events=100, commit_timeout_s=1, append=gated) as commits:
        tasks = [asyncio.create_task(commits.append([event()])) for _ in range(4)]
        await eventually(lambda: gated.waiting > 0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 4
    assert time.monotonic() - began < 5


async def test_clients_that_go_away_free_their_place_in_the_buffer(commits: GroupCommit, gated: GatedAppend) -> None:
    tasks = await both_flushers_busy(commits, gated)
    tasks += [asyncio.create_task(commits.append([event()])) for _ in range(3)]
    await eventually(lambda: commits.buffered_events == 5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert commits.buffered_events == 0
    gated.gate.set()
    await commits.append([event()])
    assert gated.sizes == [1, 1, 1], "nobody waits for the three, so they are not stored"


async def test_a_commit_says_which_events_it_stored_and_in_which_traces(database_url: str) -> None:
    """Fails if nothing is logged: the gateway's log must lead from a client's call to the event and its trace."""
    one = event(trace_context=f"00-{'a' * 32}-{'b' * 16}-01")
    with structlog.testing.capture_logs() as lines:
        async with GroupCommit(database_url, max_buffered_events=10) as commits:
            await commits.append([one])
    (line,) = [line for line in lines if line["event"] == "events stored"]
    assert (line["count"], line["event_ids"], line["trace_ids"]) == (1, [str(one.event_id)], ["a" * 32])
