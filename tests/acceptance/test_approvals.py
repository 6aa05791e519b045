"""Approvals with real processes: workers are killed while a run waits, and while an approved tool works."""

import asyncio
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2

from tests.acceptance.shop import Shop
from tests.agent.stub_provider import StubProvider, text, tool_call
from tests.cli.test_commands import reflex
from tests.processes import eventually, gateway, worker

APP = Path(__file__).with_name("approving.py")
GUIDE = Path(__file__).parents[2] / "docs/guides/approvals.md"


def asking(shop: Shop) -> AbstractAsyncContextManager[tuple[StubProvider, Any]]:
    """With a worker of one slot: a run that waits must not take it."""
    return shop.asking(APP, tool_call("refund", {"order": "A1"}), text("done"), REFLEX_CONCURRENCY="1")


async def state_of(shop: Shop, event_id: UUID, trigger: str) -> str | None:
    deliveries = (await shop.event(event_id)).deliveries
    return next((delivery.state for delivery in deliveries if delivery.trigger == trigger), None)


async def test_a_run_waits_for_its_approval_without_a_slot_and_without_its_worker(shop: Shop) -> None:
    """The worker's one slot is free meanwhile: it runs what tells somebody of the question. Then it is killed. Another
    one goes on with the decision that was made on the command line, and pays for no request again.

    Fails with: the wait held in memory; the journal not read; Approving left out.
    """
    async with asking(shop) as (provider, start):
        async with start() as first:
            (event_id,) = await shop.publish({"order": "A1"}, type="order.broken")
            await shop.becomes("waiting", event_id)
            cursor = await shop.conn.execute("SELECT event_id FROM reflex.event WHERE type = 'approval.requested'")
            ((question,),) = await cursor.fetchall()
            told = await shop.becomes("succeeded", question)
            await first.kill()
        listed = await reflex("approvals", "list", "--json", folder=shop.folder, url=shop.database_url)
        (row,) = listed.json["approvals"]
        assert (row["tool"], row["arguments"], row["state"]) == ("refund", {"order": "A1"}, "pending")
        assert told.runs[-1].output
        assert told.runs[-1].output.value == f"please look at refund {row['id']}"
        done = await reflex(
            "approvals", "approve", row["id"], "--digest", row["digest"], "--by", "ann",
            folder=shop.folder, url=shop.database_url,
        )  # fmt: skip
        assert (done.code, done.error) == (0, "")
        assert done.output == f"{row['id']} is approved: refund of trigger refunds\n"
        async with start():
            await shop.becomes("succeeded", event_id, timeout_s=30)
        assert await shop.outcomes(event_id) == [(1, "waiting"), (1, "succeeded")]
        assert len(provider.requests) == 2
        assert shop.lines("tool.txt") == ["begun A1 1", "done A1 1"]


async def test_a_worker_killed_in_an_approved_tool_does_not_ask_again(shop: Shop) -> None:
    """The gateway takes the decision, and wakes the worker that sleeps. Killed in the tool, the call is made again by
    the next one, under the approval that there is.

    Fails with: end_waits left out of the decision (it would sleep a week); an approval that counts once.
    """
    (shop.folder / "closed").touch()
    async with asking(shop) as (provider, start):
        async with gateway(shop.database_url, shop.folder) as front, start() as first:
            (event_id,) = await shop.publish({"order": "A1"}, type="order.broken")
            await shop.becomes("waiting", event_id)
            async with httpx2.AsyncClient(base_url=front.url, timeout=20) as client:
                (row,) = (await client.get("/approvals?state=pending")).json()["approvals"]
                decision = {"decision": "approve", "digest": row["digest"], "by": "ann"}
                assert (await client.post(f"/approvals/{row['id']}", json=decision)).status_code == 200
                await eventually(lambda: shop.lines("tool.txt") == ["begun A1 1"], what="the tool at work")
                await first.kill()
                (shop.folder / "closed").unlink()
                async with start():
                    await shop.becomes("succeeded", event_id, timeout_s=30)
                assert (await client.get("/approvals?state=pending")).json()["approvals"] == []
        assert await shop.outcomes(event_id) == [(1, "waiting"), (1, "lost"), (2, "succeeded")]
        assert shop.lines("tool.txt") == ["begun A1 1", "begun A1 2", "done A1 2"]
        assert len(provider.requests) == 2
        assert await shop.count("FROM reflex.approval") == 1
        assert await shop.count("FROM reflex.event WHERE type = 'approval.decided'") == 1


async def test_the_guides_app_and_its_lines_work(shop: Shop) -> None:
    """The program and the lines to paste, as they stand there. Fails if either is not what the product does."""
    text = GUIDE.read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines, _ = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (shop.folder / "guide_app.py").write_text(program)
    env = {"DEFAULT_MODEL": "offline"}
    async with (
        gateway(shop.database_url, shop.folder) as front,
        worker(shop.database_url, shop.folder, app="guide_app", env=env),
    ):
        (event_id,) = await shop.publish({"order_id": "A1", "cents": 9900}, type="order.broken")
        await shop.becomes("waiting", event_id)
        async with httpx2.AsyncClient(base_url=front.url, timeout=20) as client:
            rows = (await client.get("/approvals?state=pending")).json()["approvals"]
            assert sorted((row["tool"], row["edits_allowed"]) for row in rows) == [
                ("refund", True),
                ("send_voucher", True),
            ]
            for row in rows:
                script = "set -e\n" + lines.replace("http://localhost:8000", front.url).replace("curl", "curl -sSf")
                shell = await asyncio.create_subprocess_exec(
                    "sh", "-c", script, env={"PATH": "/usr/bin:/bin", "ID": row["id"], "DIGEST": row["digest"]},
                    stdout=asyncio.subprocess.PIPE,
                )  # fmt: skip
                out, _ = await shell.communicate()
                assert shell.returncode == 0
                assert b'"decided_by":"ann"' in out
            delivery = await shop.becomes("succeeded", event_id, timeout_s=30)
        assert [run.outcome for run in delivery.runs][-1] == "succeeded"
