"""Ids: UUIDv7 made by the process that creates the row, so that a batch needs no round trip to learn them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["DeliveryId", "first_id_at", "new_id", "time_of"]


def new_id() -> UUID:
    """A new time-ordered id, strictly increasing within the process."""
    return uuid7()


def first_id_at(moment: datetime) -> UUID:
    """The least id that could have been made at that moment: ids are UUIDv7 and begin with their milliseconds."""
    milliseconds = int(moment.timestamp() * 1000)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)


def time_of(event_id: UUID) -> datetime:
    """When an id was made, by the clock of whoever made it.

    Raises:
        ValueError, OverflowError: Beyond the year 9999: it is no UUIDv7.
    """
    return datetime.fromtimestamp((event_id.int >> 80) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class DeliveryId:
    """One event for one trigger. Written `<trigger_id>-<event_id>` in logs, addresses and on the command line."""

    trigger_id: int
    event_id: UUID

    def __str__(self) -> str:
        return f"{self.trigger_id}-{self.event_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str()`.

        Raises:
            ValueError: `text` is not of that form; the sentence shows what was expected.
        """
        trigger_id, dash, event_id = text.partition("-")
        # 9 digits keep it below the largest int of PostgreSQL; isdecimal() alone admits other scripts' digits.
        if not (dash and trigger_id.isascii() and trigger_id.isdecimal() and len(trigger_id) <= 9):
            raise ValueError(f"{text!r} is not a delivery id (expected <trigger_id>-<event_id>)")
        try:
            return cls(int(trigger_id), UUID(event_id))
        except ValueError:
            raise ValueError(f"{text!r} is not a delivery id (expected <trigger_id>-<event_id>)") from None
