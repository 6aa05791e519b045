"""A primary that dies and a standby that takes its place, as docs/guides/deploying.md says. `make deploy-test` keeps
the load up for longer."""

import asyncio
import os
import shutil
from pathlib import Path

import psycopg
import pytest

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.database import connect
from reflex.core.errors import DatabaseUnavailable
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.migrate import upgrade
from reflex.gateway.group_commit import GroupCommit
from tests.customers import Customers
from tests.deploy.kept import APP, KEEPING, kept, order
from tests.processes import eventually, gateway, worker
from tests.standbys import commits_wait, either_of, is_synchronous, kill, promote, standby_of

LOAD_S = float(os.environ.get("DEPLOY_SECONDS", "0"))
ORDERS = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(KEEPING, tmp_path)
    return tmp_path


async def placed(customers: Customers, count: int) -> None:
    before = len(customers.accepted)
    await eventually(lambda: len(customers.accepted) >= before + count, timeout_s=60, what=f"{count} accepted orders")


async def test_a_promoted_standby_has_everything_that_was_accepted_and_all_go_on_by_themselves(folder: Path) -> None:
    """The primary is killed under load and never comes back. No process is started anew.

    Fails with: an event that is accepted before the standby has it (`synchronous_standby_names` left empty); a
    connection that is made to the first host only; a migration that knows only one host.
    """
    with (
        EmbeddedPostgres(folder / "first" / "postgres", durable=False) as primary,
        standby_of(primary, folder / "second" / "postgres") as standby,
    ):
        url = either_of(standby, primary)  # the one that refuses comes first
        upgrade(url)
        await wait_for_each_other(primary)
        env = {"REFLEX_LEASE_TIMEOUT_S": "2"}
        async with (
            gateway(url, folder) as front,
            worker(url, folder, app=APP, env=env, registry_url=primary.url) as serving,
        ):
            async with Customers([front.url], order, repeat_every=5) as customers:
                await placed(customers, ORDERS)
                await asyncio.sleep(LOAD_S)
                kill(primary)
                await eventually(lambda: customers.answers[503] > 0, what="a customer who is told")
                promote(standby)
                await placed(customers, ORDERS)
                await asyncio.sleep(LOAD_S)
            async with await connect(standby.url, name="test") as conn:
                await kept(conn, customers)
            assert front.is_running
            assert serving.is_running
            assert "declared dead" not in serving.log, "a worker is not reaped for an outage of the database"


@pytest.mark.skipif(not LOAD_S, reason="a gateway waits ten seconds for a commit: make deploy-test")
async def test_while_the_standby_is_gone_nothing_is_accepted_until_somebody_says_so(folder: Path) -> None:
    """What was said to wait for two waits for two. Fails if a gateway accepts what only the primary has, or if it, or a
    worker, does not go on after a commit that took so long."""
    with EmbeddedPostgres(folder / "first" / "postgres", durable=False) as primary:
        upgrade(primary.url)
        with standby_of(primary, folder / "second" / "postgres") as standby:
            await wait_for_each_other(primary)
            async with (
                gateway(primary.url, folder) as front,
                worker(primary.url, folder, app=APP) as serving,
                Customers([front.url], order, repeat_every=5) as customers,
            ):
                await placed(customers, ORDERS)
                kill(standby)
                refused = customers.answers[503]
                await eventually(lambda: customers.answers[503] > refused, timeout_s=30, what="a customer who is told")
                accepted = len(customers.accepted)
                await asyncio.sleep(LOAD_S)
                assert len(customers.accepted) == accepted
                with psycopg.connect(primary.url, autocommit=True) as conn:
                    conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
                    conn.execute("SELECT pg_reload_conf()")
                await placed(customers, ORDERS)
                await customers.close()
                async with await connect(primary.url, name="test") as conn:
                    await kept(conn, customers)
                assert front.is_running
                assert serving.is_running


async def test_a_duplicate_of_what_only_the_primary_has_is_not_accepted_either(tmp_path: Path) -> None:
    """The commit that took too long was cancelled: PostgreSQL then keeps it, and shows it, without the standby.

    Fails if a duplicate is answered with what can be read.
    """
    event = NewEvent(new_id(), "order.placed", "shop", None, None, "{}", idempotency_key="order-1")
    again = event._replace(event_id=new_id())
    with EmbeddedPostgres(tmp_path / "first" / "postgres", durable=False) as primary:
        upgrade(primary.url)
        with standby_of(primary, tmp_path / "second" / "postgres") as standby:
            await wait_for_each_other(primary)
            async with GroupCommit(primary.url, max_buffered_events=100, commit_timeout_s=1) as commits:
                assert await commits.append([event]) == {event.event_id: event.event_id}
                assert (await commits.append([again]))[again.event_id] == event.event_id
                kill(standby)
                late = event._replace(event_id=new_id(), idempotency_key="order-2")
                for duplicate in (again, late, late._replace(event_id=new_id())):
                    with pytest.raises(DatabaseUnavailable, match="not known whether the event was stored"):
                        await commits.append([duplicate])
                with psycopg.connect(primary.url, autocommit=True) as conn:
                    conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
                    conn.execute("SELECT pg_reload_conf()")
                assert (await commits.append([again]))[again.event_id] == event.event_id
                assert (await commits.append([late]))[late.event_id] == late.event_id


async def wait_for_each_other(primary: EmbeddedPostgres) -> None:
    with psycopg.connect(primary.url, autocommit=True) as conn:
        commits_wait(conn)

        def synchronous() -> bool:
            return is_synchronous(conn)

        await eventually(synchronous, what="a synchronous standby")
