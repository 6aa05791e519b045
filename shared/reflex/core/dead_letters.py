"""Dead letters: look at them, give them a new set of attempts, or give up on them for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.errors import NotFound
from reflex.core.ids import DeliveryId
from reflex.core.pages import DEFAULT_LIMIT, Page, QueryRejected, check_limit, cut, decode_cursor, encode_cursor
from reflex.core.reads import fetch, read_runs, type_bounds
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.rows import DeadLetterDetail, DeadLetterRow, EventRef, stored_json
from reflex.core.statements import statement

__all__ = [
    "DeadLetterFilter",
    "get_dead_letter",
    "list_dead_letters",
    "purge_dead_letter",
    "purge_dead_letters",
    "retry_dead_letter",
    "retry_dead_letters",
]

# How many one statement takes: its locks are held, and a worker's NOTIFY waits, until it commits.
PORTION: Final = 500
RETRY: Final = "retry_dead_letters"
PURGE: Final = "purge_dead_letters"
LISTED_ERROR_LENGTH: Final = 2_000
WHOLE_ERROR: Final = 2**31 - 1
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters. What is None does not count; `type` may be a prefix such as `order.*`.

    `since` and `until` bound the moment of death: from `since` on, before `until`. Of events that are not
    `within` there are none; it is no filter.
    """

    trigger: str | None = None
    app: str | None = None
    type: str | None = None
    reason: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    within: Restriction = UNRESTRICTED

    def is_empty(self) -> bool:
        return self == DeadLetterFilter(within=self.within)

    def parameters(self) -> dict[str, Any]:
        low, high = type_bounds(self.type)
        return {
            **self.within.parameters(),
            "trigger": self.trigger,
            "app": self.app,
            "type_low": low,
            "type_high": high,
            "reason": self.reason,
            "key": self.key,
            "since": self.since,
            "until": self.until,
        }


async def list_dead_letters(
    conn: AsyncConnection[Any],
    which: DeadLetterFilter = DeadLetterFilter(),
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[DeadLetterRow]:
    """A page of dead letters, the latest first.

    Raises:
        QueryRejected: A cursor, pattern or limit that makes no sense.
    """
    check_limit(limit)
    after = decode_position(cursor) if cursor else (None, None, None)
    rows = await fetch(
        conn,
        "list_dead_letters",
        {
            **which.parameters(),
            **dict(zip(("after_died_at", "after_trigger_id", "after_event_id"), after, strict=True)),
            "trigger_id": None,
            "event_id": None,
            "with_payload": False,
            "error_limit": LISTED_ERROR_LENGTH,
            "limit": limit + 1,
        },
    )
    page, last = cut(rows, limit)
    return Page([dead_letter_row(row) for row in page], encode_position(last) if last else None)


async def get_dead_letter(
    conn: AsyncConnection[Any], delivery_id: DeliveryId, *, within: Restriction = UNRESTRICTED
) -> DeadLetterDetail:
    """A dead letter with its event's payload, its whole error and its runs.

    Raises:
        NotFound: It is none, or none any more.
    """
    rows = await fetch(
        conn,
        "list_dead_letters",
        {
            **DeadLetterFilter(within=within).parameters(),
            "after_died_at": None,
            "after_trigger_id": None,
            "after_event_id": None,
            "trigger_id": delivery_id.trigger_id,
            "event_id": delivery_id.event_id,
            "with_payload": True,
            "error_limit": WHOLE_ERROR,
            "limit": 1,
        },
    )
    if not rows:
        raise not_dead(delivery_id)
    row = dead_letter_row(rows[0])
    return DeadLetterDetail(
        id=row.id,
        trigger=row.trigger,
        app=row.app,
        event=row.event,
        reason=row.reason,
        error=row.error,
        attempt=row.attempt,
        died_at=row.died_at,
        payload=stored_json(rows[0]["payload"]),
        runs=await read_runs(conn, delivery_id),
    )


async def retry_dead_letter(
    conn: AsyncConnection[Any], delivery_id: DeliveryId, *, within: Restriction = UNRESTRICTED
) -> None:
    """Give one dead letter a new set of attempts and wake a worker. Of two at once exactly one succeeds.

    Raises:
        NotFound: It is none, or somebody else retried or purged it.
    """
    if not await within.shows(conn, delivery_id.event_id) or not await execute(conn, RETRY, [delivery_id]):
        raise not_dead(delivery_id)


async def purge_dead_letter(
    conn: AsyncConnection[Any],
    delivery_id: DeliveryId,
    *,
    because: str | None = None,
    within: Restriction = UNRESTRICTED,
) -> None:
    """Give up on one dead letter; its event shows it as cancelled, with `because` instead of "purged by a person".

    Raises:
        NotFound: It is none, or somebody else retried or purged it.
    """
    if not await within.shows(conn, delivery_id.event_id) or not await execute(
        conn, PURGE, [delivery_id], because=because
    ):
        raise not_dead(delivery_id)


async def retry_dead_letters(
    conn: AsyncConnection[Any], which: DeadLetterFilter, *, all: bool = False, limit: int | None = None
) -> int:
    """Retry those that the filter means and that are dead when this begins. Returns how many.

    Args:
        conn: Autocommit: the work is done in portions, each of which is a commit.
        all: Must be true if the filter is empty.
        limit: How many at most; None for all of them.

    Raises:
        QueryRejected: No filter, and not `all`.
    """
    return await in_portions(conn, RETRY, which, all=all, limit=limit)


async def purge_dead_letters(
    conn: AsyncConnection[Any],
    which: DeadLetterFilter,
    *,
    all: bool = False,
    limit: int | None = None,
    because: str | None = None,
) -> int:
    """Purge those that the filter means and that are dead when this begins. Returns how many; as retry_dead_letters.
    `because` is what their events say of it."""
    return await in_portions(conn, PURGE, which, all=all, limit=limit, because=because)


async def in_portions(
    conn: AsyncConnection[Any],
    change: LiteralString,
    which: DeadLetterFilter,
    *,
    all: bool,
    limit: int | None,
    because: str | None = None,
) -> int:
    if which.is_empty() and not all:
        raise QueryRejected("no filter is given; to mean every dead letter, say so with all", field="all")
    # Letters that die later do not count: a retried one that fails at once would be found again, for ever.
    began: datetime = (await fetch(conn, "clock", {}))[0]["now"]
    parameters = {**which.parameters(), "until": min(which.until or began, began)}
    last = DeliveryId(0, UUID(int=0))
    changed = 0
    while limit is None or changed < limit:
        portion = PORTION if limit is None else min(PORTION, limit - changed)
        position = {"after_trigger_id": last.trigger_id, "after_event_id": last.event_id}
        found = await fetch(conn, "find_dead_letters", {**parameters, **position, "limit": portion})
        if not found:
            break
        ids = [DeliveryId(row["trigger_id"], row["event_id"]) for row in found]
        changed += await execute(conn, change, ids, because=because)
        last = ids[-1]
    return changed


async def execute(
    conn: AsyncConnection[Any], change: LiteralString, ids: Sequence[DeliveryId], *, because: str | None = None
) -> int:
    """Retry or purge those of `ids` that are still dead letters. Returns how many. `because` says who purged them."""
    parameters = {
        "trigger_id": [id.trigger_id for id in ids],
        "event_id": [id.event_id for id in ids],
        "because": because,
    }
    async with conn.cursor() as cursor:
        await cursor.execute(statement(change), parameters)
        return cursor.rowcount


def not_dead(delivery_id: DeliveryId) -> NotFound:
    return NotFound(
        f"there is no dead letter {delivery_id}; if there was one, it was retried or purged meanwhile "
        f"(GET /events/{delivery_id.event_id} says what became of it)"
    )


def dead_letter_row(row: dict[str, Any]) -> DeadLetterRow:
    return DeadLetterRow(
        id=str(DeliveryId(row["trigger_id"], row["event_id"])),
        trigger=row["trigger"],
        app=row["app"],
        event=EventRef(row["event_id"], row["type"], row["source"], row["key"], row["time"], row["correlation_id"]),
        reason=row["reason"],
        error=row["error"],
        attempt=row["attempt"],
        died_at=row["died_at"],
    )


def encode_position(row: dict[str, Any]) -> str:
    microseconds = (row["died_at"] - EPOCH) // timedelta(microseconds=1)
    return encode_cursor(microseconds.to_bytes(8, "big") + row["trigger_id"].to_bytes(4, "big") + row["event_id"].bytes)


def decode_position(cursor: str) -> tuple[datetime, int, UUID]:
    position = decode_cursor(cursor, size=28)
    trigger_id, event_id = int.from_bytes(position[8:12], "big"), UUID(bytes=position[12:])
    try:
        died_at = EPOCH + timedelta(microseconds=int.from_bytes(position[:8], "big"))
        if trigger_id >= 2**31:
            raise OverflowError
    except OverflowError:
        raise QueryRejected(f"{cursor!r} is not a cursor of this listing", field="cursor") from None
    return died_at, trigger_id, event_id
