"""API keys in the database: what is stored of them, and until when they are valid."""

import asyncio
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.api_keys import (
    KeyScope,
    create_api_key,
    find_api_keys,
    key_id_of,
    list_api_keys,
    mark_api_keys_used,
    revoke_api_key,
)
from reflex.core.database import connect
from reflex.core.errors import NotFound
from reflex.core.pages import QueryRejected

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)
Conn = AsyncConnection[DictRow]


async def test_a_secret_is_shown_once_and_only_its_digest_is_stored(conn: Conn) -> None:
    """Fails when the secret, or its random part, is stored as it is; or when its id is not in it."""
    key, secret = new = await create_api_key(conn, name=" shop ", scopes=["read", "publish"])
    assert re.fullmatch(r"rfx_[0-9A-Za-z]{8}_[0-9A-Za-z]{32}", secret)
    assert (key.id, key_id_of(secret)) == (secret[4:12], key.id)
    assert (key.name, key.scopes, key.state) == ("shop", (KeyScope.PUBLISH, KeyScope.READ), "valid")
    row = await (await conn.execute("SELECT * FROM reflex.api_key")).fetchone()
    assert row is not None
    assert row["digest"] == hashlib.sha256(secret.encode()).digest()
    assert secret[13:] not in str(row)
    found = (await find_api_keys(conn, [key.id, "00000000"]))[key.id]
    assert found.is_of(secret.encode())
    for wrong in (secret[:-1], secret[:-1] + ("a" if secret[-1] != "a" else "b"), key.id, ""):
        assert not found.is_of(wrong.encode())
    for shown in (repr(new), str(new), repr(found), repr(await list_api_keys(conn))):
        assert secret[13:] not in shown
        assert repr(found.digest)[2:20] not in shown


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "name", "whose it is"),
    ({"name": " \t"}, "name", "whose it is"),
    ({"name": "a\nb"}, "name", "printable"),
    ({"name": "a\0b"}, "name", "printable"),
    ({"name": "x" * 201}, "name", "200"),
    ({"scopes": []}, "scope", "publish, read, operate"),
    ({"scopes": ["read", "write"]}, "scope", "'write' is none; there are publish, read, operate"),
    ({"lasts": timedelta()}, "expires", "more than 0"),
    ({"lasts": timedelta(days=-1)}, "expires", "more than 0"),
    ({"lasts": timedelta(days=36_501)}, "expires", "at most 36500d"),
]


async def test_what_no_key_can_be_is_refused_by_name(conn: Conn) -> None:
    """Fails without each of the checks."""
    for wrong, field, said in REFUSED:
        given: dict[str, Any] = {"name": "shop", "scopes": ["read"], **wrong}
        with pytest.raises(QueryRejected, match=said) as refused:
            await create_api_key(conn, **given)
        assert refused.value.field == field
    assert await list_api_keys(conn) == []


async def test_a_key_is_valid_until_it_expires_or_is_revoked(conn: Conn) -> None:
    """Fails when expiry is compared the wrong way round, or a revoked key counts as valid until it expires."""
    forever, _ = await create_api_key(conn, name="forever", scopes=["read"], now=NOW)
    hour, _ = await create_api_key(conn, name="hour", scopes=["read"], lasts=timedelta(hours=1), now=NOW)
    ids = [forever.id, hour.id]

    async def valid_s(now: datetime) -> list[float | None]:
        found = await find_api_keys(conn, ids, now=now)
        return [found[id].valid_s for id in ids]

    async def states(now: datetime) -> set[tuple[str, str]]:
        return {(key.name, key.state) for key in await list_api_keys(conn, now=now)}

    assert hour.expires_at == NOW + timedelta(hours=1)
    assert await valid_s(NOW + timedelta(minutes=20)) == [None, 2400]
    assert await valid_s(NOW + timedelta(hours=1)) == [None, 0]
    assert await states(NOW + timedelta(hours=1)) == {("forever", "valid"), ("hour", "expired")}
    for id in ids:
        await revoke_api_key(conn, id, now=NOW)
    assert await valid_s(NOW) == [0, 0]
    assert await states(NOW) == {("forever", "revoked"), ("hour", "revoked")}


async def test_a_revoked_key_stays_revoked_since_the_first_time(conn: Conn) -> None:
    """Fails when the second time overwrites the first, or a secret that leaked is not taken for its key."""
    key, secret = await create_api_key(conn, name="shop", scopes=["read"])
    assert (await revoke_api_key(conn, key.id, now=NOW)).revoked_at == NOW
    assert (await revoke_api_key(conn, secret, now=NOW + timedelta(hours=1))).revoked_at == NOW
    with pytest.raises(NotFound, match="no API key 'abcdEFGH'"):
        await revoke_api_key(conn, "abcdEFGH")
    with pytest.raises(NotFound, match="that is no id") as refused:
        await revoke_api_key(conn, secret[:-1])
    assert secret[13:20] not in str(refused.value)


async def test_a_use_is_noted_once_a_minute_and_waits_for_nobody(conn: Conn, database_url: str) -> None:
    """Fails without the condition on last_used_at, and without SKIP LOCKED (it waits for the other gateway)."""
    one, two = [(await create_api_key(conn, name=name, scopes=["read"])).key.id for name in ("one", "two")]

    async def used() -> dict[str, datetime | None]:
        return {key.id: key.last_used_at for key in await list_api_keys(conn)}

    await mark_api_keys_used(conn, [one], now=NOW)
    await mark_api_keys_used(conn, [one], now=NOW + timedelta(seconds=59))
    assert await used() == {one: NOW, two: None}
    later = NOW + timedelta(seconds=60)
    async with await connect(database_url, name="other") as other, other.transaction():
        await mark_api_keys_used(other, [one], now=later)
        async with asyncio.timeout(5):
            await mark_api_keys_used(conn, [two, one], now=later + timedelta(seconds=1))
    assert await used() == {one: later, two: later + timedelta(seconds=1)}


async def test_a_scope_of_a_newer_version_is_passed_over(conn: Conn) -> None:
    """Fails when an old gateway breaks beside a new one."""
    await conn.execute("ALTER TABLE reflex.api_key DROP CONSTRAINT ck_api_key_scopes")
    key, _ = await create_api_key(conn, name="shop", scopes=["read"])
    await conn.execute("UPDATE reflex.api_key SET scopes = '{read,administer}'")
    assert (await find_api_keys(conn, [key.id]))[key.id].scopes == {KeyScope.READ}
    assert (await list_api_keys(conn))[0].scopes == (KeyScope.READ,)
