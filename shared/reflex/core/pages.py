"""Pages of a listing: how long they may be, the opaque cursor that continues one, and moments in filters."""

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final, Generic, TypeVar

from reflex.core.durations import parse_duration
from reflex.core.errors import EventRejected

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "Page", "QueryRejected", "check_limit", "parse_moment"]

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 500

Row = TypeVar("Row")


class QueryRejected(EventRejected):
    """A question that cannot be answered as it was asked; `field` names the parameter."""

    code: ClassVar[str] = "query_rejected"


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, newest first. `next_cursor` continues after the last of them; None if there are no more."""

    rows: list[Row]
    next_cursor: str | None


def check_limit(limit: int, *, most: int = MAX_LIMIT) -> int:
    """Raises QueryRejected unless `limit` is between 1 and `most`."""
    if not 1 <= limit <= most:
        raise QueryRejected(f"is {limit}; it must be between 1 and {most}", field="limit")
    return limit


def encode_cursor(position: bytes) -> str:
    return urlsafe_b64encode(position).rstrip(b"=").decode()


def decode_cursor(cursor: str, *, size: int) -> bytes:
    """The position in a cursor.

    Raises:
        QueryRejected: It is not one that a page of this listing gave out.
    """
    try:
        # urlsafe_b64decode skips characters it does not know, so a damaged cursor has to be compared, too.
        position = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (UnicodeEncodeError, binascii.Error):
        position = b""
    if len(position) != size or encode_cursor(position) != cursor:
        raise QueryRejected(
            f"{cursor[:80]!r} is not a cursor of this listing; pass next_cursor of the page before, "
            "or leave it out to start at the newest",
            field="cursor",
        )
    return position


def cut(rows: Sequence[Row], limit: int) -> tuple[list[Row], Row | None]:
    """A page of at most `limit` out of `limit + 1` rows that were asked for, and the row to continue after, if any."""
    page = list(rows[:limit])
    return page, page[-1] if len(rows) > limit else None


def parse_moment(text: str, *, field: str, now: datetime | None = None) -> datetime:
    """A moment as people and programs write it: ISO 8601 with an offset, or how long ago, as in `15m`, `2h`, `7d`.

    Raises:
        QueryRejected: It is neither; the sentence shows what is.
    """
    if (ago := parse_duration(text)) is not None:
        try:
            return (now or datetime.now(UTC)) - ago
        except OverflowError:
            raise QueryRejected(f"{text!r} is before the calendar begins", field=field) from None
    try:
        # In a query string an unescaped '+' arrives as a space; '2026-01-31T00:00:00 01:00' can mean nothing else.
        moment = datetime.fromisoformat(re.sub(r"(?<=:\d\d) (?=\d\d:\d\d$)", "+", text))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise QueryRejected(
            f"{text[:80]!r} is not a moment; write 2026-01-31T09:00:00Z (with Z or an offset), or 15m, 2h, 7d for how "
            "long ago",
            field=field,
        )
    return moment
