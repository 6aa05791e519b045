"""The publisher of progress: real workers, a real database, and a network that fails."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.database import connect
from reflex.core.progress import PROGRESS_CHANNEL, ask_for_progress
from reflex.worker.progress import ProgressPublisher
from reflex.worker.wakeup import listen
from tests.agent.stub_provider import stream, stub_provider, text, tool_call
from tests.agent.till import till
from tests.faults import FaultProxy
from tests.processes import eventually, worker
from tests.queue_fixtures import count, is_quiet, publish
from tests.watching import kinds, said, watcher


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await connect(database_url, name="t") as conn:
        yield conn


CONNECTIONS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'reflex progress' AND datname = current_database()"
)
AGENT = """
from pydantic_ai import Agent
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger

agent = Agent()

@agent.tool_plain
def stock(sku: str) -> int:
    return 7

Trigger("pack", type_filter("order.created"), agent)
"""


@asynccontextmanager
async def published(url: str, **options: Any) -> AsyncGenerator[ProgressPublisher]:
    publisher = ProgressPublisher(url, **options)
    try:
        yield publisher
    finally:
        await publisher.aclose()


async def listeners(conn: AsyncConnection[Any]) -> int:
    """How many workers listen, and have asked for watchers."""
    cursor = await conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'reflex listener' AND state = 'idle' "
        "AND query ~ 'reflex_who_watches' AND datname = current_database()"
    )
    return len(await cursor.fetchall())


async def connections(conn: AsyncConnection[Any]) -> int:
    return len(await (await conn.execute(CONNECTIONS)).fetchall())


async def test_a_worker_shows_its_runs_to_those_who_ask_and_to_nobody_else(
    database_url: str, conn: AsyncConnection[Any], tmp_path: Path
) -> None:
    """Fails with: progress sent without watchers; a worker that takes a connection of its listener for a watcher; one
    that does not listen for them."""
    (tmp_path / "watched_app.py").write_text(AGENT)
    env = {"DEFAULT_MODEL": "offline", "REFLEX_POLL_INTERVAL_S": "30"}

    async def output() -> Any:
        cursor = await conn.execute("SELECT DISTINCT output FROM reflex.run")
        return await cursor.fetchall()

    async with watcher(database_url) as someone, worker(database_url, tmp_path, app="watched_app", env=env) as process:
        await publish(conn, 3)
        await eventually(lambda: is_quiet(conn))
        assert await count(conn, "run") == 3
        # A notification that is sent later arrives later: nothing is on its way.
        await conn.execute(f"SELECT pg_notify('{PROGRESS_CHANNEL}', '7')".encode())
        await someone.hears(lambda: someone.payloads == ["7"])
        assert await connections(conn) == 0

        await ask_for_progress(conn)
        await publish(conn)  # the worker's listener hears of the watcher first
        await someone.hears_the_end()
        assert kinds(someone.heard)[:3] == ["run_started", "tool_call", "tool_result"]
        assert someone.heard[-1].outcome == "succeeded"
        assert said(someone.heard) == "offline model: order.created received, tools called: stock"
        await eventually(lambda: is_quiet(conn))
        assert await output() == [(said(someone.heard),)]
        assert process.is_running


async def test_a_killed_workers_run_goes_on_in_another_which_pays_for_nothing_again(
    database_url: str, conn: AsyncConnection[Any], tmp_path: Path
) -> None:
    """The first worker is killed in the middle of the second answer. Fails with: watched requests left out of the
    journal (the tool's request is asked again)."""
    (tmp_path / "watched_app.py").write_text(AGENT)
    never = asyncio.Event()
    script = (tool_call("stock", {"sku": "A"}), stream("ship ", never), text("keep it"))
    async with stub_provider(*script) as provider, watcher(database_url) as someone:
        env = {
            "DEFAULT_MODEL": "openai-chat:stub", "OPENAI_API_KEY": "sk-stub", "OPENAI_BASE_URL": provider.base_url,
            "REFLEX_LEASE_TIMEOUT_S": "1",
        }  # fmt: skip

        async def two_listen() -> bool:
            return await listeners(conn) == 2

        async with AsyncExitStack() as stack:
            both = [worker(database_url, tmp_path, app="watched_app", env=env) for _ in range(2)]
            workers = await asyncio.gather(*(stack.enter_async_context(one) for one in both))
            await eventually(two_listen)
            await ask_for_progress(conn)
            await publish(conn)
            await someone.hears(lambda: said(someone.heard) == "ship ")
            cursor = await conn.execute("SELECT pid FROM reflex.worker JOIN reflex.lease USING (worker_id)")
            ((pid,),) = await cursor.fetchall()
            (at_work,) = [one for one in workers if one.pid == pid]
            await at_work.kill()
            await someone.hears(lambda: "run_ended" in kinds(someone.heard), timeout_s=20)
        never.set()
        assert len(provider.requests) == 3
        seen = someone.of_attempt(2)
        assert [each.seq for each in seen] == list(range(1, len(seen) + 1))
        assert said(seen) == "keep it"
        assert kinds(seen)[:3] == ["run_started", "tool_call", "tool_result"]


async def test_a_connection_that_stands_still_holds_up_no_run_and_what_was_dropped_is_counted(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network stalls while runs go on, then heals. Fails with: a run that waits for its progress to be sent; a
    buffer without a limit; a count that is lost."""
    script = [text(f"{number} " + "word " * 200) for number in range(30)]
    async with (
        till(database_url, monkeypatch, *script) as t,
        FaultProxy(database_url) as proxy,
        watcher(database_url) as someone,
        published(proxy.url, max_size=6_000) as publisher,
    ):
        t.audience = publisher
        publisher.watch()
        await t.attempt(_agent(times=1))
        await someone.hears_the_end()
        await proxy.freeze()
        await publish(t.conn)
        async with asyncio.timeout(60):
            settlement = await t.attempt(_agent(times=20))
        assert settlement.output == "20"
        assert publisher.buffer.size <= 6_000
        publisher.watch()
        await proxy.pass_through()
        await someone.hears_the_end(times=2)
        # What was on its way when the publisher gave a connection up is counted, and may arrive all the same, or late.
        mine = sorted(
            (each for each in someone.heard if each.event_id == str(settlement.event_id)), key=lambda each: each.seq
        )
        assert all(before.seq < each.seq <= before.seq + 1 + each.dropped for before, each in pairwise(mine))
        assert mine[0].seq <= 1 + mine[0].dropped
        assert (mine[-1].seq, mine[-1].kind) == (42, "run_ended")
        assert sum(each.dropped for each in mine) > 10


def _agent(*, times: int) -> Any:
    """An agent function that asks the model so often."""
    from pydantic_ai import Agent

    from reflex.agent.context import AgentContext

    async def function(ctx: AgentContext) -> int:
        for _ in range(times):
            await ctx.run_agent(Agent())
        return times

    return function


async def test_an_outage_of_the_database_is_outlived(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for a while, then there again. Fails with: a publisher that ends at a lost connection."""
    async with (
        till(database_url, monkeypatch, text("ship it")) as t,
        FaultProxy(database_url) as proxy,
        watcher(database_url) as someone,
        published(proxy.url) as publisher,
    ):
        t.audience = publisher
        publisher.watch()
        await t.attempt(_agent(times=1))
        await someone.hears_the_end()
        failed: list[str] = []
        monkeypatch.setattr(publisher, "_log", SimpleNamespace(debug=lambda event, **_: failed.append(event)))
        await proxy.refuse()
        await publish(t.conn)
        assert (await t.attempt(_agent(times=1))).output == "1"
        await eventually(lambda: failed, what="a try that failed")
        await proxy.pass_through()
        await publish(t.conn)
        assert (await t.attempt(_agent(times=1))).output == "1"
        await someone.hears_the_end(times=2)
        assert said(someone.heard).endswith("ship it")


async def test_the_connection_is_there_while_somebody_watches_and_a_while_longer(
    database_url: str, conn: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes back with the next watcher. Fails with: linger_s without effect; a publisher that starts once."""
    async with (
        till(database_url, monkeypatch, text("ship it")) as t,
        watcher(database_url) as someone,
        published(database_url, watched_for_s=0.5, linger_s=0.2) as publisher,
    ):
        t.audience = publisher
        for times in (1, 2):
            publisher.watch()
            await t.attempt(_agent(times=1))
            await someone.hears_the_end(times=times)
            await publish(t.conn)
            assert await connections(conn) == 1
            await eventually(lambda: not publisher.watched)

            async def gone() -> bool:
                return await connections(conn) == 0

            await eventually(gone)


async def test_what_waits_is_sent_before_the_process_ends(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: aclose() that only cancels."""
    async with till(database_url, monkeypatch, text("ship it")) as t, watcher(database_url) as someone:
        t.audience = publisher = ProgressPublisher(database_url)
        publisher.watch()
        await t.attempt(_agent(times=1))
        await someone.hears(lambda: someone.heard)
        await publish(t.conn)
        await t.attempt(_agent(times=1))
        await publisher.aclose()
        await someone.hears_the_end(times=2)


async def test_a_listener_that_comes_back_is_no_watcher(database_url: str, conn: AsyncConnection[Any]) -> None:
    """Fails with: a watcher that is assumed after a (re)connect; its channel not listened to."""
    heard: list[str] = []
    channels = {"reflex": lambda: heard.append("wake")}
    listening = asyncio.create_task(listen(database_url, channels, watch=lambda: heard.append("watch")))
    try:
        for times in (1, 2):
            await eventually(lambda times=times: heard.count("wake") >= times)
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'reflex listener' "
                "AND datname = current_database()"
            )
        await eventually(lambda: heard.count("wake") >= 3)
        assert "watch" not in heard
        async with await connect(database_url, name="t") as other:
            await ask_for_progress(other)
        await eventually(lambda: "watch" in heard)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
