"""How much an API key may publish: events a second, and events of a day in UTC, across all gateways together.

What is left of both is a row of the database. A gateway takes portions of it and hands them out by itself.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from math import ceil
from typing import Any, ClassVar, Final, NamedTuple

from psycopg import AsyncConnection

from reflex.core.errors import ReflexError
from reflex.core.pages import QueryRejected
from reflex.core.reads import fetch
from reflex.core.statements import statement

__all__ = [
    "UNLIMITED",
    "BatchOverQuota",
    "LimitReached",
    "Limits",
    "Portion",
    "QuotaReached",
    "RateReached",
    "parse_quota",
    "parse_rate",
    "return_allowance",
    "take_allowance",
]

RATE: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)/s", re.ASCII)
QUOTA: Final = re.compile(r"([0-9]{1,12})/d", re.ASCII)


class Limits(NamedTuple):
    """Of one key. `rate` is events a second, `quota` events of a day in UTC; None is as many as there are."""

    rate: float | None = None
    quota: int | None = None

    @property
    def burst(self) -> float:
        """How much of the rate gathers at most: that of a second, and one event in any case."""
        return max(self.rate or 0, 1)

    def __str__(self) -> str:
        rate = f"{self.rate:.3f}".rstrip("0").rstrip(".") + "/s" if self.rate else ""
        return " ".join(filter(None, [rate, f"{self.quota}/d" if self.quota else ""]))


UNLIMITED: Final = Limits()


class LimitReached(ReflexError):
    """The key has published as much as it may for now. Nothing was stored."""

    def __init__(self, said: str, *, opens_in_s: float) -> None:
        self.retry_after_s = max(1, ceil(opens_in_s))
        super().__init__(f"{said}; nothing was stored, try again in {self.retry_after_s} s")


class RateReached(LimitReached):
    code: ClassVar[str] = "rate_reached"


class QuotaReached(LimitReached):
    code: ClassVar[str] = "quota_reached"


class BatchOverQuota(ReflexError):
    """More events at once than the key may publish in a day: waiting does not help. Nothing was stored."""

    code: ClassVar[str] = "batch_over_quota"


class Portion(NamedTuple):
    """What a gateway got, or why not.

    Attributes:
        granted: Whether it got what was needed; else it got nothing.
        rated: So many events of the rate. 0 without a rate.
        counted: So many events of the day's quota. 0 without a quota.
        available: What the bucket held before; below zero it is in debt.
        quota_left: What was left of the day's quota before; None without one.
        day_ends_s: Until the next day in UTC, by the clock of the database.
    """

    granted: bool
    rated: float
    counted: int
    available: float
    quota_left: int | None
    day_ends_s: float


def parse_rate(text: str) -> float:
    """Events a second, from `50/s` or `0.5/s`. Raises QueryRejected."""
    found = RATE.fullmatch(text)
    if not found or not float(found[1]):
        raise QueryRejected(f"{text[:60]!r} is none; write events a second, as in 50/s or 0.5/s", field="rate")
    return float(found[1])


def parse_quota(text: str) -> int:
    """Events of a day, from `100000/d`. Raises QueryRejected."""
    found = QUOTA.fullmatch(text)
    if not found or not int(found[1]):
        raise QueryRejected(f"{text[:60]!r} is none; write events of a day, as in 100000/d", field="quota")
    return int(found[1])


async def take_allowance(
    conn: AsyncConnection[Any],
    key_id: str,
    *,
    rated: float,
    counted: int,
    portion: float = 0,
    now: datetime | None = None,
) -> Portion:
    """Take what is needed of a key's rate and quota, and some more for later; or nothing.

    Args:
        rated, counted: Events that are needed of the rate, and of the quota.
        portion: Events of the rate that are wanted, if as many are there.

    Raises:
        LookupError: There is no such key, or it has no limits.
    """
    parameters = {"key_id": key_id, "rated": rated, "counted": counted, "portion": portion, "now": now}
    rows = await fetch(conn, "take_allowance", parameters)
    if not rows:
        raise LookupError(f"the API key {key_id} has no allowance")
    return Portion(**rows[0])


async def return_allowance(
    conn: AsyncConnection[Any], left: Mapping[str, tuple[float, int]], *, now: datetime | None = None
) -> None:
    """Give back what was not handed out: by key, of its rate and of the quota of today."""
    rated, counted = [rated for rated, _ in left.values()], [counted for _, counted in left.values()]
    parameters = {"key_ids": list(left), "rated": rated, "counted": counted, "now": now}
    await conn.execute(statement("return_allowance"), parameters)
