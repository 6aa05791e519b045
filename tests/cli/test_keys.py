"""`reflex keys` as people type it, and a gateway process that wants keys; no secret comes out anywhere."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from reflex.core.api_keys import list_api_keys
from reflex.core.database import connect
from reflex.core.errors import ConfigurationError, NotFound, ReflexError
from reflex.core.pages import QueryRejected
from tests.cli.test_commands import reflex
from tests.gateway.key_fixtures import bearer, new_key
from tests.processes import eventually, gateway, reflex_process, sessions

SECRET = re.compile(r"rfx_[0-9A-Za-z]{8}_[0-9A-Za-z]{32}")
Run = Callable[..., tuple[str, str]]


def test_keys_are_made_listed_and_revoked(run: Run) -> None:
    """Fails when words go where the secret goes, or a secret or its digest is listed."""
    create = ("keys", "create", "--name")
    assert "no API keys; `reflex keys create` makes one" in run("keys", "list")[0]
    secret, words = run(*create, "shop backend", "--scope", "publish", "--expires", "90d")
    assert SECRET.fullmatch(secret.strip())
    assert re.search(rf"key {secret[4:12]} \(shop backend\) may publish until 20\d\d-", words)
    assert secret.strip() not in words
    made: dict[str, Any] = orjson.loads(run(*create, "board", "--scope", "operate", "--scope", "read", "--json")[0])
    assert (made["key"]["scopes"], made["key"]["expires_at"]) == (["read", "operate"], None)
    assert SECRET.fullmatch(made["secret"])
    assert run("keys", "revoke", secret[4:12])[0] == f"key {secret[4:12]} (shop backend) is revoked\n"
    table, json = run("keys", "list")[0], run("keys", "list", "--json")[0]
    board, shop = table.splitlines()[1:]
    assert re.split(r"\s{2,}", board.strip())[:4] == [made["key"]["id"], "board", "read, operate", "valid"]
    assert re.split(r"\s{2,}", shop.strip())[:4] == [secret[4:12], "shop backend", "publish", "revoked"]
    assert [key["state"] for key in orjson.loads(json)["keys"]] == ["valid", "revoked"]
    words = run(*create, "partner", "--scope", "publish", "--rate", "50/s", "--quota", "1000/d")[1]
    assert "may publish until it is revoked, at most 50/s 1000/d\n" in words
    assert run("keys", "list")[0].splitlines()[1].split()[-2:] == ["50/s", "1000/d"]
    for shown in (table, json):
        assert "digest" not in shown
        assert not SECRET.search(shown)


def test_what_makes_no_sense_is_one_sentence_without_the_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a key that is none is sent, or repeated in the sentence; or without the check of a duration."""
    create = ("keys", "create", "--name", "x", "--scope")
    wrong: list[tuple[tuple[str, ...], type[ReflexError], str]] = [
        ((*create, "write"), QueryRejected, "scope: 'write' is none; there are publish, read, operate"),
        ((*create, "publish", "--rate", "50"), QueryRejected, "rate: '50' is none; write events a second, as in 50/s"),
        ((*create, "publish", "--quota", "9/h"), QueryRejected, "quota: '9/h' is none; write events of a day, as in"),
        ((*create, "read", "--expires", "soon"), QueryRejected, "expires: 'soon' is no duration; write 12h or 90d"),
        ((*create, "read", "--expires", "999999999d"), QueryRejected, "expires: must be more than 0 and at most"),
        ((*create, "read", "--expires", "9999999999d"), QueryRejected, "expires: '9999999999d' is no duration"),
        (("keys", "revoke", "abcdEFGH"), NotFound, "there is no API key 'abcdEFGH'; `reflex keys list` shows all"),
        (("send", "a", "--url", "http://127.0.0.1:1"), ConfigurationError, "REFLEX_API_KEY is no API key"),
        (("tail", "--url", "http://127.0.0.1:1"), ConfigurationError, "REFLEX_API_KEY is no API key"),
    ]
    monkeypatch.setenv("REFLEX_API_KEY", f"rfx_abcdEFGH_{'s3cret' * 5}x")
    for arguments, kind, said in wrong:
        with pytest.raises(ReflexError) as raised:
            run(*arguments)
        assert type(raised.value) is kind
        assert str(raised.value).startswith(said)
        assert "s3cret" not in str(raised.value)


async def test_send_and_tail_show_their_key_and_no_secret_is_logged(database_url: str, tmp_path: Path) -> None:
    """Fails when `send` or `tail` shows no key, and when a gateway writes down what clients show it."""
    async with await connect(database_url, name="test") as conn:
        writes, reads = await new_key(conn, "publish"), await new_key(conn, "read")
        made_up = f"rfx_{reads[4:12]}_{writes[13:]}"
        env = {"REFLEX_ACCESS": "keys", "REFLEX_LOG_LEVEL": "debug"}
        tail = ("tail", "--json", "--count", "1", "--url")
        async with (
            gateway(database_url, tmp_path, env=env) as front,
            reflex_process(*tail, front.url, folder=tmp_path, env={"REFLEX_API_KEY": reads}, name="tail") as tailing,
            httpx2.AsyncClient(base_url=front.url) as client,
        ):
            following = "-- read_log%"
            await eventually(lambda: sessions(database_url, "reflex gateway: follow", following), what="a reader")
            send = ("send", "--url", front.url, "order.created")
            sent, wrong = await asyncio.gather(
                reflex(*send, folder=tmp_path, REFLEX_API_KEY=f" {writes}\n"),
                reflex(*send, folder=tmp_path, REFLEX_API_KEY=made_up),
            )
            assert sent.code == 0, sent
            assert await tailing.exited() == 0
            assert sent.output.strip() in tailing.log
            assert "the gateway refuses the event (401): this gateway wants a valid API key" in wrong.error
            for secret in (writes, reads, made_up, f"{made_up}!"):
                for method, path in (("POST", "/events"), ("GET", "/triggers"), ("PUT", "/ws"), ("GET", f"/{secret}")):
                    await client.request(method, path, headers=bearer(secret), content=b"{")
                assert await shake_hands(front.url, secret, Origin("http://evil.example")) == 403
                assert await shake_hands(front.url, secret) == (101 if secret in (reads, writes) else 401)
            front.terminate()
            assert await front.exited() == 0
        assert all(key.last_used_at for key in await list_api_keys(conn))
    assert '"access":"keys"' in front.log
    for secret in (writes, reads, made_up):
        assert not [text for text in (front.log, tailing.log, wrong.error) if secret[13:] in text]


async def shake_hands(url: str, secret: str, origin: Origin | None = None) -> int:
    """The status of a handshake that shows the key as a page does."""
    offered = [Subprotocol("reflex"), Subprotocol(f"reflex.key.{secret}")]
    address = f"{url.replace('http', 'ws')}/ws"
    try:
        async with open_socket(address, subprotocols=offered, origin=origin, proxy=None) as connection:
            await connection.recv()
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code
