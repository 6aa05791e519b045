"""A webhook comes in by a gateway and goes out by a worker, each a process of its own, and one dies in between."""

import base64
import hashlib
import hmac
import os
import shutil
import signal
from pathlib import Path
from uuid import UUID

import httpx2
from standardwebhooks import Webhook

from tests.acceptance.shop import Shop
from tests.agent.receiver import Received, receiver
from tests.processes import eventually, gateway, worker

TELLING = Path(__file__).with_name("telling.py")
GITHUB_SECRET = "code-secret-1234567890"
PARTNER_SECRET = "whsec_" + base64.b64encode(b"the secret of the partner").decode()


async def test_what_came_in_signed_goes_out_signed_and_again_under_its_id_if_the_worker_dies(shop: Shop) -> None:
    """The worker is killed when the receiver has the webhook and the database does not know it yet.

    Fails with an id that is made anew for each attempt; with a worker that settles before it is answered; and if a
    secret, a signature or the path of an address comes into a log or a run.
    """
    shutil.copy(TELLING, shop.folder)
    body = b'{"repository": {"full_name": "a/b"}, "forced": false}'
    digest = hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": "72d3162e", "x-github-event": "push"}
    with receiver() as partner:
        env = {
            "PARTNER_URL": partner.url, "PARTNER_SECRET": PARTNER_SECRET, "REFLEX_WEBHOOK_PRIVATE": "true",
            "REFLEX_LEASE_TIMEOUT_S": "1",
        }  # fmt: skip
        hooks = {"REFLEX_WEBHOOK_CODE_SECRET": GITHUB_SECRET}
        async with (
            gateway(shop.database_url, shop.folder, env=hooks) as front,
            worker(shop.database_url, shop.folder, app="telling", env=env) as first,
            httpx2.AsyncClient(base_url=front.url) as client,
        ):

            def kill(_: Received) -> None:
                os.killpg(first.pid, signal.SIGKILL)

            partner.meanwhile = kill
            forged = await client.post("/webhooks/code", content=body + b" ", headers=headers)
            assert forged.status_code == 401
            answers = [await client.post("/webhooks/code", content=body, headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
            event_id = UUID(answers[0].json()["id"])
            assert answers[1].json() == {"id": str(event_id), "duplicate": True}
            await first.exited()
            assert len(partner.received) == 1
            partner.meanwhile = lambda _: None
            partner.script = [(503, {"retry-after": "0"}, b"later"), (204, {}, b"")]
            async with worker(shop.database_url, shop.folder, app="telling", env=env):
                await eventually(lambda: len(partner.received) == 3, what="the third try")
                await shop.becomes("succeeded", event_id)
    ids = {came.headers["webhook-id"] for came in partner.received}
    delivery = await shop.delivery(event_id)
    assert ids == {delivery.id}
    for came in partner.received:
        assert Webhook(PARTNER_SECRET).verify(came.body, came.headers)["data"] == {
            "repository": {"full_name": "a/b"},
            "forced": False,
        }
    assert [run.outcome for run in delivery.runs] == ["lost", "retry", "succeeded"]
    assert delivery.runs[1].error is not None
    assert "answered 503 after" in delivery.runs[1].error
    assert delivery.runs[2].output is not None
    assert delivery.runs[2].output.value["status"] == 204
    assert (await shop.event(event_id)).key == "a/b"
    said = "".join(log.read_text() for log in shop.folder.glob("*.log")) + repr(delivery)
    assert '"check":"mismatch"' in said
    secrets = [GITHUB_SECRET, digest, PARTNER_SECRET, PARTNER_SECRET.removeprefix("whsec_"), "secret-path"]
    secrets += [came.headers["webhook-signature"].removeprefix("v1,") for came in partner.received]
    assert [secret for secret in secrets if secret in said] == []
