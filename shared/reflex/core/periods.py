"""How long what is kept: events, runs and dead letters each have a period of their own, or stay for good."""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

__all__ = ["DAY", "EPOCH", "Periods", "boundary_after", "partition_width"]

DAY: Final = timedelta(days=1)
# So many partitions make up a period: what is kept is kept at most so much longer than asked. More of them would cost
# each look-up by id a little; from some thirty on it shows in a claim.
PARTITIONS_A_PERIOD: Final = 8
# Of tables that keep everything: they are few, and there is something to drop should that change.
WIDTH_FOR_GOOD: Final = 90 * DAY
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Periods(NamedTuple):
    """None keeps for good; runs without a period of their own go with their event."""

    events: timedelta | None = None
    runs: timedelta | None = None
    dead_letters: timedelta | None = None

    def of(self, table: str) -> timedelta | None:
        """How long the rows of `event` or `run` are kept."""
        return self.runs or self.events if table == "run" else self.events

    @property
    def exact(self) -> bool:
        """Whether events go one by one when their time is over, rather than by the partition: a short period has few
        events, and a day more would be much of it."""
        return self.events is not None and self.events < PARTITIONS_A_PERIOD * DAY


def partition_width(period: timedelta | None) -> timedelta:
    """How much time a partition holds of a table whose rows are kept for so long: whole days, at least one."""
    if period is None:
        return WIDTH_FOR_GOOD
    return max(DAY, (period // PARTITIONS_A_PERIOD) // DAY * DAY)


def boundary_after(moment: datetime, width: timedelta) -> datetime:
    """The first multiple of `width` since 1970 that is later: where a partition ends, whoever makes it."""
    return EPOCH + ((moment - EPOCH) // width + 1) * width
