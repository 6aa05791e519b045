"""The examples as their users start them: a gateway, a worker, and requests over HTTP."""

import shutil
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.processes import eventually, gateway, worker

EXAMPLES = Path(__file__).parents[2] / "examples"


class Running:
    """An example, and what stands beside it."""

    def __init__(self, client: httpx2.AsyncClient, folder: Path) -> None:
        self.client = client
        self.folder = folder

    async def send(self, type: str, key: str, **payload: Any) -> str:
        event = {"type": type, "key": key, "payload": payload}
        answer = await self.client.post("/events", json=event)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    async def found(self, path: str, name: str) -> Any:
        """The first of a list, once there is one."""

        async def look() -> Any:
            rows = (await self.client.get(path)).json()[name]
            return rows[0] if rows else None

        return await eventually(look, what=f"a row of {path}")

    async def output(self, event_id: str) -> Any:
        """What the last run of the event's one delivery returned, once it has succeeded."""

        async def look() -> Any:
            (delivery,) = (await self.client.get(f"/events/{event_id}")).json()["deliveries"]
            return delivery["runs"][-1] if delivery["state"] == "succeeded" else None

        return (await eventually(look, what=f"the success of {event_id}"))["output"]

    def recorded(self, file: str, query: str) -> list[Any]:
        """What the system has that stands for somebody else's."""
        connection = sqlite3.connect(self.folder / "data" / file)
        try:
            return [row[0] for row in connection.execute(query)]
        finally:
            connection.close()


@asynccontextmanager
async def running(name: str, url: str, folder: Path, **env: str) -> AsyncGenerator[Running]:
    shutil.copytree(EXAMPLES / name, folder / "examples" / name)
    env |= {"DEFAULT_MODEL": "offline", "REFLEX_DATA_DIR": str(folder / "data")}
    async with (
        gateway(url, folder) as front,
        worker(url, folder, app=f"examples.{name}.app", env=env),
        httpx2.AsyncClient(base_url=front.url, timeout=20) as client,
    ):
        yield Running(client, folder)


async def test_a_large_payment_is_rejected_when_a_person_says_so(database_url: str, tmp_path: Path) -> None:
    """Fails with: sync tools that do not know their key in a thread; a model whose price is not declared."""
    async with running("fraud_review", database_url, tmp_path) as app:
        payment = await app.send("payment.made", "ada", payment_id="P3", card="4000-17", cents=250_000)
        asked = await app.found("/approvals?state=pending", "approvals")
        assert asked["metadata"]["customer"] == "ada"
        decision = {"decision": "approve", "digest": asked["digest"], "by": "ann"}
        assert (await app.client.post(f"/approvals/{asked['id']}", json=decision)).status_code == 200
        assert (await app.output(payment))["decision"] == "reject"
        reviewed = await app.found("/events?type=payment.reviewed", "events")
        assert (reviewed["key"], reviewed["payload"]["payment_id"]) == ("ada", "P3")
        orders = app.recorded("fraud_review.sqlite", "SELECT what FROM bank_order ORDER BY rowid")
        assert orders == ["reject P3", "freeze 4000-17"]
        assert app.recorded("fraud_review.sqlite", "SELECT customer FROM letter") == ["ada"]


async def test_a_call_is_answered_and_the_incident_written_up(database_url: str, tmp_path: Path) -> None:
    """One call, though the run begins three times. Fails with: a pager that is told another key in each run; an answer
    that does not wake the run, whose time to answer are five minutes."""
    async with running("incident_response", database_url, tmp_path) as app:
        alert = await app.send("alert.raised", "checkout", summary="payments fail")
        await app.found("/waiting", "waiting")
        await app.send("incident.acknowledged", "checkout", by="ann")
        await app.send("incident.resolved", "checkout", by="ann", cause="discounts")
        assert await app.output(alert) == "resolved"
        closed = await app.found("/events?type=incident.closed", "events")
        people = app.recorded("incident_response.sqlite", "SELECT person FROM page")
        assert people == closed["payload"]["called"] == ["ann"]
        assert (await app.output(closed["id"]))["cause"] == "discounts"


async def test_errors_of_a_service_are_looked_at_and_a_digest_comes_of_what_there_is(
    database_url: str, tmp_path: Path
) -> None:
    """Fails with: a timer that nobody promotes; a batch whose run is not told its events."""
    async with running("log_anomaly", database_url, tmp_path, DIGEST_EVERY_S="2") as app:
        lines = [await app.send("log.line", "checkout", level="error", message="no answer") for _ in range(5)]
        found = await app.found("/events?type=anomaly.found", "events")
        assert (found["key"], found["payload"]["lines"], found["payload"]["severity"]) == ("checkout", 5, "high")
        assert "payments" in await app.output(found["id"])

        async def digest() -> Any:
            deliveries = (await app.client.get(f"/events/{lines[0]}")).json()["deliveries"]
            return next((each["runs"][-1]["output"] for each in deliveries if each["state"] == "succeeded"), None)

        headline = (await eventually(digest, what="a digest"))["headline"]
        assert headline == "5 lines, 5 of them errors"


async def test_a_user_is_warned_once_for_what_is_said_twice(database_url: str, tmp_path: Path) -> None:
    """Fails with: a duplicate that is let through, and one whose reason nobody sees."""
    async with running("content_moderation", database_url, tmp_path) as app:
        await app.send("post.created", "eve", post_id="P1", text="you idiot")
        warned = await app.found("/events?type=user.warned", "events")
        assert (warned["key"], warned["payload"]["strikes"]) == ("eve", 1)
        again = await app.send("post.created", "eve", post_id="P2", text="you idiot")

        async def skipped() -> Any:
            deliveries = (await app.client.get(f"/events/{again}")).json()["deliveries"]
            judged = next(each for each in deliveries if each["trigger"] == "judge")
            return judged["runs"][-1] if judged["state"] == "skipped" else None

        run = await eventually(skipped, what="a duplicate that is skipped")
        assert run["error"].startswith("duplicate: one like it was let through within 1:00:00 (key 'eve', payload.text")
        assert len((await app.client.get("/events?type=user.warned")).json()["events"]) == 1
