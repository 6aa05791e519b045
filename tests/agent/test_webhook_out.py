"""Webhooks out, to a real server that checks them with the library of the standard."""

import base64
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from reflex.agent import webhook_post
from reflex.agent.context import AgentContext
from reflex.agent.failures import classify
from reflex.agent.filters import any_event
from reflex.agent.public_addresses import is_public
from reflex.agent.publishing import RunLimits
from reflex.agent.signals import Reject, Retry
from reflex.agent.triggers import Trigger
from reflex.agent.webhook_out import WebhookFailed, WebhookOut, send_webhook, wait_of
from reflex.core.webhook_signatures import SecretUnusable
from tests.agent.receiver import Receiver, receiver
from tests.agent.records import make_context, make_record

SECRET = "whsec_" + base64.b64encode(b"the secret of the partner").decode()
NEXT = "whsec_" + base64.b64encode(b"the one that comes after it").decode()


@pytest.fixture
def partner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("PARTNER_SECRET", SECRET)
    with receiver() as found:
        yield found


def ctx(*, private: bool = True) -> AgentContext:
    record = make_record("order.created", {"order_id": "A1", "note": "ünï"})
    return make_context(record, limits=RunLimits(private_webhooks=private))


async def test_the_event_is_sent_signed_under_the_id_of_its_delivery(partner: Receiver) -> None:
    """Fails if the body is not what was signed, or if the id is a new one for each attempt."""
    hook = WebhookOut(f"{partner.url}/hooks/1?a=b", secret_env="PARTNER_SECRET", headers={"X-Shop": "7"})
    run = ctx()
    outputs = [await hook(run) for _ in range(2)]
    for output, came in zip(outputs, partner.received, strict=True):
        sent = Webhook(SECRET).verify(came.body, came.headers)
        assert sent.keys() == {"type", "timestamp", "data"}
        assert (sent["type"], sent["data"]) == ("order.created", {"order_id": "A1", "note": "ünï"})
        assert datetime.fromisoformat(sent["timestamp"]).tzinfo is not None
        assert (came.path, came.headers["x-shop"]) == ("/hooks/1?a=b", "7")
        assert came.headers["host"] == partner.url.removeprefix("http://")
        assert came.headers["content-type"] == "application/json"
        assert output["webhook_id"] == came.headers["webhook-id"] == str(run.delivery_id)
        assert output["status"] == 204
        assert output["duration_ms"] > 0


async def test_an_agent_may_send_what_it_likes_to_whom_it_likes(
    partner: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTNER_SECRET", f"{NEXT} {SECRET}")
    run = ctx()
    hook = WebhookOut(
        lambda ctx: f"{partner.url}/{ctx.event.type}", secret_env="PARTNER_SECRET", payload=lambda ctx: [ctx.attempt]
    )
    await hook(run)
    await send_webhook(
        run, partner.url, {"at": datetime(2026, 1, 31, tzinfo=UTC)}, secret_env="PARTNER_SECRET", id="m-2"
    )
    first, second = partner.received
    for secret in (SECRET, NEXT):
        assert Webhook(secret).verify(first.body, first.headers) == [1]
    assert first.path == "/order.created"
    assert (second.headers["webhook-id"], json.loads(second.body)) == ("m-2", {"at": "2026-01-31T00:00:00Z"})


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        ((429, {"retry-after": "7"}, b""), "retry", "retry"), ((503, {"retry-after": "7"}, b""), "retry", "retry"),
        ((500, {}, b"oops"), "retry", "webhook"), ((502, {}, b""), "retry", "webhook"),
        ((408, {}, b""), "retry", "webhook"), ((425, {}, b""), "retry", "webhook"),
        ((400, {}, b"bad <b>form</b>"), "dead", "rejected"), ((401, {}, b""), "dead", "rejected"),
        ((404, {}, b""), "dead", "rejected"), ((410, {}, b"gone for good"), "dead", "rejected"),
        ((301, {"location": "/else"}, b""), "dead", "rejected"), ((302, {"location": "/"}, b""), "dead", "rejected"),
    ],
)  # fmt: skip
async def test_what_the_receiver_answers_decides(partner: Receiver, reply: Any, kind: str, reason: str) -> None:
    partner.script = [reply]
    hook = WebhookOut(f"{partner.url}/geheim", secret_env="PARTNER_SECRET")
    with pytest.raises((Reject, Retry, WebhookFailed)) as refused:
        await hook(ctx())
    failure = classify(refused.value)
    assert (failure.kind, failure.reason_code) == (kind, reason)
    assert failure.retry_after == (timedelta(seconds=7) if "retry-after" in reply[1] else None)
    said = str(refused.value)
    assert f"answered {reply[0]} after" in said
    assert reply[2].decode() in said
    assert "geheim" not in failure.error_text  # paths of webhooks are often secrets
    assert len(partner.received) == 1  # no redirect was followed


async def test_nobody_there_no_answer_in_time_and_half_an_answer_are_tried_again(partner: Receiver) -> None:
    done = threading.Event()
    run, secret = ctx(), "PARTNER_SECRET"
    partner.script = [(500, {"content-length": "1000"}, b"half")]
    with pytest.raises(WebhookFailed, match="broke off"):
        await WebhookOut(partner.url, secret_env=secret)(run)
    with receiver() as gone:
        pass
    with pytest.raises(WebhookFailed, match="cannot be reached"):
        await WebhookOut(gone.url, secret_env=secret)(run)
    for nobody in ("nobody.invalid", "a" * 64 + ".invalid"):
        with pytest.raises(WebhookFailed, match="has no address"):
            await WebhookOut(f"http://{nobody}", secret_env=secret)(run)
    partner.meanwhile = lambda _: done.wait(30)
    try:
        with pytest.raises(WebhookFailed, match=r"did not answer within 0\.2 s"):
            await WebhookOut(partner.url, timeout=timedelta(seconds=0.2), secret_env=secret)(run)
    finally:
        done.set()


async def test_of_a_long_answer_no_more_is_read_than_is_shown(partner: Receiver) -> None:
    """Fails if the whole of it is read: the server breaks off long before it has sent as much as it said."""
    partner.script = [(400, {"content-length": str(2**40)}, b"x" * 40_000)]
    with pytest.raises(Reject) as refused:
        await WebhookOut(partner.url, secret_env="PARTNER_SECRET", timeout=timedelta(seconds=20))(ctx())
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "169.254.169.254"],
)
async def test_addresses_of_our_own_network_are_not_sent_to(partner: Receiver, host: str) -> None:
    """Fails if the name is looked at instead of what it resolves to."""
    port = partner.url.rpartition(":")[2]
    with pytest.raises(Reject, match="no public address"):
        await WebhookOut(f"http://{host}:{port}", secret_env="PARTNER_SECRET")(ctx(private=False))
    assert partner.received == []


async def test_one_private_address_of_several_is_enough_to_be_refused_and_the_name_is_asked_once(
    partner: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the connection resolves the name again: by then it may say something else."""
    asked: list[str] = []

    async def addresses_of(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.215.14", "127.0.0.1"] if len(asked) == 1 else ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(webhook_post, "addresses_of", addresses_of)
    port = partner.url.rpartition(":")[2]
    hook = WebhookOut(f"http://partner.example:{port}/x", secret_env="PARTNER_SECRET")
    with pytest.raises(Reject, match=r"partner.example:\d+ is 127.0.0.1, which is no public address"):
        await hook(ctx(private=False))
    # The first address of the next answer is nobody's.
    monkeypatch.setattr(webhook_post, "CONNECT_S", 2.0)
    await hook(ctx())
    assert asked == ["partner.example"] * 2
    assert partner.received[0].headers["host"] == f"partner.example:{port}"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:21f:cb07::1", True), ("64:ff9b::5db8:d70e", True),
        ("::ffff:93.184.215.14", True), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("100.64.0.1", False), ("169.254.169.254", False), ("127.8.8.8", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("240.0.0.1", False), ("192.0.2.1", False), ("::", False),
        ("::1", False), ("fe80::1%eth0", False), ("fc00::1", False), ("fd00:ec2::254", False), ("ff02::1", False),
        ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:a00:1::", False), ("2001:db8::1", False),
        ("64:ff9b:1::1", False), ("::7f00:1", False), ("198.18.0.1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_a_secret_that_is_missing_or_none_is_named_and_not_shown(
    partner: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = WebhookOut(partner.url, secret_env="PARTNER_SECRET")
    monkeypatch.setenv("PARTNER_SECRET", "not base64!")
    with pytest.raises(SecretUnusable) as unusable:
        await hook(ctx())
    assert "base64!" not in str(unusable.value)
    monkeypatch.delenv("PARTNER_SECRET")
    with pytest.raises(WebhookFailed, match="PARTNER_SECRET is not set"):
        await hook(ctx())
    assert partner.received == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": "ftp://a.example"}, "has to be one such as https"), ({"url": "https://"}, "has to be one such as"),
        ({"url": "https://a.example/ b"}, "has to be one"), ({"url": "https://a.example:99999"}, "has to be one"),
        ({"url": "https://user:geheim@a.example"}, "user or a password"), ({"url": 3}, "pass an address, or a"),
        ({"secret_env": SECRET}, "and not the secret itself"), ({"payload": {}}, "pass a function of the context"),
        ({"headers": {"Webhook-Id": "1"}}, "webhook-id, which Reflex sets"), ({"timeout": 3}, "pass a timedelta"),
        ({"timeout": timedelta(hours=1)}, "five minutes at most"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_when_the_app_is_loaded(given: dict[str, Any], sentence: str) -> None:
    arguments: dict[str, Any] = {"url": "https://a.example", "secret_env": "A", **given}
    with pytest.raises((TypeError, ValueError)) as wrong:
        WebhookOut(**arguments)
    assert sentence in str(wrong.value)
    assert "geheim" not in str(wrong.value)
    assert SECRET not in str(wrong.value)


async def test_an_address_that_a_function_gives_is_looked_at_when_it_is_used(partner: Receiver) -> None:
    with pytest.raises(Reject, match="has to be one such as"):
        await WebhookOut(lambda _: "file:///etc/passwd", secret_env="PARTNER_SECRET")(ctx())


def test_it_is_a_triggers_agent() -> None:
    trigger = Trigger("tell", any_event(), WebhookOut("https://a.example/geheim", secret_env="A"))
    assert trigger.definition()["agent"] == {"kind": "function", "name": "WebhookOut"}
    assert repr(trigger.agent) == "WebhookOut('https://a.example')"


def test_how_long_a_receiver_may_ask_for() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    asked = wait_of(soon)
    assert asked is not None
    assert timedelta(minutes=55) < asked <= timedelta(hours=1)
    assert wait_of("9" * 30) == timedelta(days=1)
    assert wait_of("Wed, 21 Oct 2015 07:28:00 GMT") == timedelta(0)
    assert [wait_of(text) for text in (None, "", "soon", "-1", "1.5")] == [None] * 5


async def test_the_certificate_is_that_of_the_name_and_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if TLS is asked for the address that was looked at, or is not looked at at all."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    files = {"-keyout": tmp_path / "key.pem", "-out": tmp_path / "cert.pem"}
    subprocess.run(  # noqa: ASYNC221 - nothing else goes on
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=partner.example", "-addext", "subjectAltName=DNS:partner.example",
         *[str(part) for option in files.items() for part in option]],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files["-out"], files["-keyout"])
    client = ssl.create_default_context(cafile=str(files["-out"]))
    monkeypatch.setattr(webhook_post, "tls", lambda: client)
    monkeypatch.setenv("PARTNER_SECRET", SECRET)

    async def addresses_of(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(webhook_post, "addresses_of", addresses_of)
    with receiver(server) as partner:
        port = partner.url.rpartition(":")[2]
        await WebhookOut(f"https://partner.example:{port}", secret_env="PARTNER_SECRET")(ctx())
        with pytest.raises(WebhookFailed, match=r"(?i)cannot be reached.*certificate"):
            await WebhookOut(f"https://other.example:{port}", secret_env="PARTNER_SECRET")(ctx())
    assert len(partner.received) == 1
