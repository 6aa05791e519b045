"""API keys: made, found, listed, revoked. Only the digest of a secret is stored; the secret itself is shown once.

A secret is `rfx_<8 characters: the key's id>_<32 random characters>`, letters and digits.
"""

import hashlib
import re
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.envelope import MAX_LENGTH
from reflex.core.errors import NotFound
from reflex.core.events import check_type_pattern
from reflex.core.limits import UNLIMITED, Limits, parse_quota, parse_rate
from reflex.core.pages import QueryRejected
from reflex.core.reads import fetch
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.statements import statement

__all__ = [
    "ApiKey",
    "KeyScope",
    "NewKey",
    "StoredKey",
    "create_api_key",
    "find_api_keys",
    "key_id_of",
    "list_api_keys",
    "mark_api_keys_used",
    "revoke_api_key",
]

LETTERS: Final = string.digits + string.ascii_letters
ID_LENGTH: Final = 8
RANDOM_LENGTH: Final = 32
MAX_NAME_LENGTH: Final = 200
# Types, or sources, of one key: each event is compared with them.
MAX_BOUND: Final = 100
# PostgreSQL cannot add just any duration to a moment.
MAX_LASTS: Final = timedelta(days=36_500)
SECRET: Final = re.compile(rf"rfx_([0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{{RANDOM_LENGTH}}}")
ID: Final = re.compile(rf"[0-9A-Za-z]{{{ID_LENGTH}}}")


class KeyScope(StrEnum):
    """What a key may do. Stored: never renamed."""

    PUBLISH = "publish"  # append events, and get the replies to them
    READ = "read"  # see events and what became of them
    OPERATE = "operate"  # retry and purge dead letters


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its owner sees it. `state` is `valid`, `expired` or `revoked`. Without `types` or `sources` it is bound
    to none."""

    id: str
    name: str
    scopes: tuple[KeyScope, ...]
    state: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    rate: float | None = None
    quota: int | None = None

    @property
    def limits(self) -> Limits:
        return Limits(self.rate, self.quota)


class NewKey(NamedTuple):
    """A key that was just made, and its secret, which cannot be had again."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"NewKey({self.key!r})"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a gateway has to know of a key. `valid_s`: for how much longer it is valid; None is for ever."""

    id: str
    digest: bytes = field(repr=False)
    scopes: frozenset[KeyScope]
    valid_s: float | None
    restriction: Restriction = UNRESTRICTED
    limits: Limits = UNLIMITED

    def is_of(self, secret: bytes) -> bool:
        """Whether the secret is that of the key, in a time that does not say how much of it is right."""
        return compare_digest(hashlib.sha256(secret).digest(), self.digest)


def key_id_of(secret: str) -> str | None:
    """The id in a secret; None if it has not the form of one."""
    found = SECRET.fullmatch(secret)
    return found[1] if found else None


async def create_api_key(
    conn: AsyncConnection[Any],
    *,
    name: str,
    scopes: Collection[str],
    lasts: timedelta | None = None,
    types: Collection[str] = (),
    sources: Collection[str] = (),
    rate: str | None = None,
    quota: str | None = None,
    now: datetime | None = None,
) -> NewKey:
    """Make a key.

    Args:
        name: Whose it is, for people.
        scopes: One or more of KeyScope.
        lasts: How long it is valid; None is until it is revoked.
        types: Patterns of the types that it is bound to; none is all.
        sources: The sources that it is bound to; none is all.
        rate, quota: How much it may publish, as in `50/s` and `100000/d`; None is no limit.

    Raises:
        QueryRejected: The name, a scope, the duration, a pattern, a source or a limit makes no sense.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise QueryRejected(f"must be 1 to {MAX_NAME_LENGTH} printable characters, and say whose it is", field="name")
    chosen = check_scopes(scopes)
    if lasts is not None and not timedelta() < lasts <= MAX_LASTS:
        raise QueryRejected(f"must be more than 0 and at most {MAX_LASTS.days}d, as in 90d", field="expires")
    for field_name, limit in (("rate", rate), ("quota", quota)):
        if limit is not None and KeyScope.PUBLISH not in chosen:
            raise QueryRejected("limits what a key publishes, and this one has not the scope publish", field=field_name)
    key_id, random = random_text(ID_LENGTH), random_text(RANDOM_LENGTH)
    secret = f"rfx_{key_id}_{random}"
    parameters = {
        "key_id": key_id,
        "digest": hashlib.sha256(secret.encode()).digest(),
        "name": name,
        "scopes": [scope.value for scope in chosen],
        "lasts": lasts,
        "types": check_types(types) or None,
        "sources": check_sources(sources) or None,
        "rate": None if rate is None else parse_rate(rate),
        "quota": None if quota is None else parse_quota(quota),
        "now": now,
    }
    (row,) = await fetch(conn, "create_api_key", parameters)
    return NewKey(key_row(row), secret)


async def find_api_keys(
    conn: AsyncConnection[Any], key_ids: Sequence[str], *, now: datetime | None = None
) -> dict[str, StoredKey]:
    """Those of the keys that exist, be they valid or not, by their ids."""
    rows = await fetch(conn, "find_api_keys", {"key_ids": list(key_ids), "now": now})
    return {
        row["key_id"]: StoredKey(
            id=row["key_id"],
            digest=row["digest"],
            scopes=frozenset(known_scopes(row["scopes"])),
            valid_s=row["valid_s"],
            restriction=Restriction(tuple(row["types"] or ()), tuple(row["sources"] or ())),
            limits=Limits(row["rate"], row["quota"]),
        )
        for row in rows
    }


async def list_api_keys(conn: AsyncConnection[Any], *, now: datetime | None = None) -> list[ApiKey]:
    """All keys, the newest first."""
    return [key_row(row) for row in await fetch(conn, "list_api_keys", {"now": now})]


async def revoke_api_key(conn: AsyncConnection[Any], key_id: str, *, now: datetime | None = None) -> ApiKey:
    """End a key for good; gateways notice within seconds. Revoking it again changes nothing.

    Args:
        key_id: Its id, or the whole secret, which is what a person has at hand when it leaked.

    Raises:
        NotFound: There is no such key.
    """
    key_id = key_id_of(key_id) or key_id
    # What is no id may be a part of a secret, so it is not repeated.
    if not ID.fullmatch(key_id):
        raise NotFound(
            f"that is no id of an API key: one has {ID_LENGTH} letters and digits, as `reflex keys list` shows them"
        )
    rows = await fetch(conn, "revoke_api_key", {"key_id": key_id, "now": now})
    if not rows:
        raise NotFound(f"there is no API key {key_id!r}; `reflex keys list` shows all")
    return key_row(rows[0])


async def mark_api_keys_used(
    conn: AsyncConnection[Any], key_ids: Collection[str], *, now: datetime | None = None
) -> None:
    """Note that the keys were used; at most once a minute each."""
    await conn.execute(statement("mark_api_keys_used"), {"key_ids": list(key_ids), "now": now})


def check_scopes(scopes: Collection[str]) -> list[KeyScope]:
    """In the order of KeyScope, each once. Raises QueryRejected."""
    allowed = ", ".join(KeyScope)
    if not scopes:
        raise QueryRejected(f"is missing; give one or more of {allowed}", field="scope")
    if unknown := [scope for scope in scopes if scope not in set(KeyScope)]:
        raise QueryRejected(f"{unknown[0][:60]!r} is none; there are {allowed}", field="scope")
    return [scope for scope in KeyScope if scope in scopes]


def check_types(patterns: Collection[str]) -> list[str]:
    """In order, each once. Raises QueryRejected."""
    check_count(patterns, field="type")
    for pattern in patterns:
        try:
            check_type_pattern(pattern)
        except TypeError as reason:
            raise QueryRejected(str(reason), field="type") from None
    return sorted(set(patterns))


def check_sources(sources: Collection[str]) -> list[str]:
    """In order, each once. Raises QueryRejected."""
    check_count(sources, field="source")
    for source in sources:
        if not 0 < len(source) <= MAX_LENGTH["source"] or not source.isprintable():
            raise QueryRejected(
                f"{source[:60]!r} is none: one has 1 to {MAX_LENGTH['source']} printable characters", field="source"
            )
    return sorted(set(sources))


def check_count(values: Collection[str], *, field: str) -> None:
    if len(values) > MAX_BOUND:
        raise QueryRejected(f"has {len(values)} values; the limit is {MAX_BOUND}", field=field)


def known_scopes(stored: Sequence[str]) -> list[KeyScope]:
    """Without those that a newer version has stored."""
    return [scope for scope in KeyScope if scope in stored]


def random_text(length: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(length))


def key_row(row: DictRow) -> ApiKey:
    return ApiKey(
        id=row["key_id"],
        name=row["name"],
        scopes=tuple(known_scopes(row["scopes"])),
        state=row["state"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
        types=tuple(row["types"] or ()),
        sources=tuple(row["sources"] or ()),
        rate=row["rate"],
        quota=row["quota"],
    )
