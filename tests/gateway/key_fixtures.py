"""API keys for tests, and secrets that are none."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection

from reflex.core.api_keys import create_api_key, revoke_api_key

__all__ = ["LONG_AGO", "bad_secrets", "bearer", "new_key"]

LONG_AGO = timedelta(microseconds=1)


async def new_key(conn: AsyncConnection[Any], *scopes: str, lasts: timedelta | None = None, **bounds: Any) -> str:
    """The secret of a new key; `bounds` are the types, sources and limits that it is bound to."""
    return (await create_api_key(conn, name="test", scopes=scopes, lasts=lasts, **bounds)).secret


async def bad_secrets(conn: AsyncConnection[Any], scopes: Collection[str]) -> dict[str, str | None]:
    """What must not let anybody in, though the scopes would be right."""
    right, revoked = await new_key(conn, *scopes), await new_key(conn, *scopes)
    await revoke_api_key(conn, revoked)
    return {
        "none": None,
        "unknown": f"rfx_00000000_{right[13:]}",
        "expired": await new_key(conn, *scopes, lasts=LONG_AGO),
        "revoked": revoked,
        "right id, wrong secret": right[:13] + right[:12:-1],
        "of another key": right[:13] + (await new_key(conn, *scopes))[13:],
        "cut short": right[:-1],
        "too long": right + "x",
        "another prefix": "RFX" + right[3:],
        "not base62": right[:-1] + "é",
        "nothing": "",
    }


def bearer(secret: str | None) -> dict[str, str]:
    """The header that shows it."""
    return {} if secret is None else {"authorization": f"Bearer {secret}"}
