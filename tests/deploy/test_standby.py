"""A primary that dies and a standby that takes its place, as docs/guides/deploying.md says. `make deploy-test` keeps
the load up for longer."""

import asyncio
import os
import shutil
from pathlib import Path

import psycopg

from reflex.cli.embedded_postgres import EmbeddedPostgres
from reflex.core.database import connect
from reflex.core.migrate import upgrade
from tests.customers import Customers
from tests.deploy.kept import APP, KEEPING, kept, order
from tests.processes import eventually, gateway, worker
from tests.standbys import commits_wait, either_of, is_synchronous, kill, promote, standby_of

LOAD_S = float(os.environ.get("DEPLOY_SECONDS", "0"))
ORDERS = 60


async def placed(customers: Customers, count: int) -> None:
    before = len(customers.accepted)
    await eventually(lambda: len(customers.accepted) >= before + count, timeout_s=60, what=f"{count} accepted orders")


async def test_a_promoted_standby_has_everything_that_was_accepted_and_all_go_on_by_themselves(tmp_path: Path) -> None:
    """The primary is killed under load and never comes back. No process is started anew.

    Fails with: an event that is accepted before the standby has it (`synchronous_standby_names` left empty); a
    connection that is made to the first host only; a migration that knows only one host.
    """
    shutil.copy(KEEPING, tmp_path)
    with (
        EmbeddedPostgres(tmp_path / "first" / "postgres", durable=False) as primary,
        standby_of(primary, tmp_path / "second" / "postgres") as standby,
    ):
        url = either_of(standby, primary)  # the one that refuses comes first
        upgrade(url)
        with psycopg.connect(primary.url, autocommit=True) as writing:
            commits_wait(writing)
            await eventually(lambda: is_synchronous(writing), what="a synchronous standby")
        env = {"REFLEX_LEASE_TIMEOUT_S": "2"}
        async with (
            gateway(url, tmp_path) as front,
            worker(url, tmp_path, app=APP, env=env, registry_url=primary.url) as serving,
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
