"""When a schedule fires: by a cron expression in a time zone, or every so often. Pure: the clock is the caller's.

Planned times are in UTC. They do not depend on when somebody looks: from any moment on they are the same.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from reflex.core.schedules import Missed

__all__ = ["MOST_AT_ONCE", "ON_TIME", "Cron", "Due", "Interval", "Timing", "due", "read_timing"]

# A fire that is later than this was missed. Starting a worker takes seconds, a poll two.
ON_TIME: Final = timedelta(minutes=1)
MOST_AT_ONCE: Final = 100
# How far back planned times are looked for one by one: every minute of it takes cronsim a third of a second.
LOOK_BACK: Final = timedelta(days=30)

FORM: Final = "write five fields (minute, hour, day of month, month, day of week) such as '0 9 * * 1-5', or {macros}"
MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
MAX_CRON_LENGTH: Final = 200
ANY_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
SHORTEST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(days=3660)
UNITS: Final = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


class Passed(NamedTuple):
    """Planned times that have come: the latest hundred of them, oldest first, how many they are, and the next one."""

    latest: list[datetime]
    number: int
    next_at: datetime


class Timing(Protocol):
    """When to fire."""

    def spec(self) -> dict[str, Any]:
        """As `read_timing` reads it. JSON."""
        ...

    def describe(self) -> str:
        """For people."""
        ...

    def first(self, start: datetime) -> datetime:
        """The first planned time after the schedule was started."""
        ...

    def passed(self, first: datetime, now: datetime) -> Passed:
        """What is planned between the two, both of them included. `first` is a planned time that is not after `now`."""
        ...


@dataclass(frozen=True, slots=True)
class Cron:
    """By the wall clock of a time zone. `expression` has five fields; `tz` is a name of the IANA database.

    As with cron on a server: a time that the spring skips comes right after the gap, one that the autumn repeats comes
    the first time only; but what begins with `*` in its minutes or hours goes by how much time has passed.
    """

    expression: str
    tz: str

    @classmethod
    def parse(cls, text: object, tz: object) -> "Cron":
        """Read what an author wrote.

        Raises:
            TypeError: One of them is no string.
            ValueError: It is no cron expression, never comes, or the zone is not known; with what to write instead.
        """
        form = FORM.format(macros=", ".join(MACROS))
        if not isinstance(text, str):
            raise TypeError(f"cron is {text!r}; {form}")
        if not isinstance(tz, str):
            raise TypeError(f"tz is {tz!r}; write the name of a time zone, such as tz='Europe/Stockholm'")
        try:
            ZoneInfo(tz)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"tz is {tz!r}, which is no time zone; write one such as 'Europe/Stockholm'") from None
        fields = MACROS.get(text.strip().lower(), text).split()
        if len(fields) == 6:
            raise ValueError(f"cron {text!r} has six fields, and there are no seconds in a schedule; {form}")
        if len(fields) != 5 or len(text) > MAX_CRON_LENGTH:
            raise ValueError(f"cron is {text[:MAX_CRON_LENGTH]!r}; {form}")
        cron = cls(" ".join(fields), tz)
        try:
            cron.first(ANY_DAY)
        except CronSimError as error:
            wrong = str(error)[:1].lower() + str(error)[1:]
            raise ValueError(f"cron {text!r} has a {wrong}, or a day that never comes; {form}") from None
        except StopIteration:
            raise ValueError(f"cron {text!r} does not come within 50 years; {form}") from None
        return cron

    def spec(self) -> dict[str, Any]:
        return {"cron": self.expression, "tz": self.tz}

    def describe(self) -> str:
        return CronSim(self.expression, ANY_DAY).explain()

    def first(self, start: datetime) -> datetime:
        return next(self.after(start))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The planned times after that moment, without end."""
        # Compared in UTC: two moments of one zone are compared by their wall times, also where these repeat. A walk
        # that starts in the repeated hour begins with times of the hour's first round, which are over.
        last = moment.astimezone(UTC)
        walk = CronSim(self.expression, moment.astimezone(ZoneInfo(self.tz)))
        return (planned for local in walk if (planned := local.astimezone(UTC)) > last)

    def passed(self, first: datetime, now: datetime) -> Passed:
        """After a long outage the number is that of the last 30 days, or of as many as it takes to find one."""
        look_back = LOOK_BACK
        while True:
            start = now - look_back
            planned = chain([first], self.after(first)) if start <= first else self.after(start)
            latest: deque[datetime] = deque(maxlen=MOST_AT_ONCE)
            for number, at in enumerate(planned):
                if at > now:
                    if latest:
                        return Passed(list(latest), number, at)
                    break
                latest.append(at)
            look_back *= 4


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so often, counted from a planned time, so that being late once does not put off what follows."""

    every: timedelta

    @classmethod
    def parse(cls, interval: object) -> "Interval":
        """Read what an author wrote.

        Raises:
            TypeError: It is no timedelta.
            ValueError: It is too short or too long.
        """
        if not isinstance(interval, timedelta):
            raise TypeError(f"the interval is {interval!r}; write a timedelta, such as timedelta(minutes=5)")
        if not SHORTEST <= interval <= LONGEST:
            raise ValueError(f"the interval is {interval}; write one between 1 second and {LONGEST.days} days")
        return cls(interval)

    def spec(self) -> dict[str, Any]:
        return {"every_s": self.every.total_seconds()}

    def describe(self) -> str:
        seconds = self.every.total_seconds()
        unit, size = next(((unit, size) for unit, size in UNITS.items() if seconds % size == 0), ("second", 1))
        count = seconds / size
        return f"every {unit}" if count == 1 else f"every {count:g} {unit}s"

    def first(self, start: datetime) -> datetime:
        return start + self.every

    def passed(self, first: datetime, now: datetime) -> Passed:
        number = (now - first) // self.every + 1
        latest = [first + at * self.every for at in range(max(0, number - MOST_AT_ONCE), number)]
        return Passed(latest, number, first + number * self.every)


class Due(NamedTuple):
    """What a look at a schedule decides: the planned times that get an event, how many get none, and when to look
    again."""

    times: list[datetime]
    skipped: int
    next_at: datetime


def due(timing: Timing, missed: Missed, next_at: datetime, now: datetime) -> Due:
    """Decide what a schedule has to do by now. Pure.

    Each planned time is decided once, since the new `next_at` is after all of them. The latest is on time within
    ON_TIME; those before it were missed, and after a longer outage it was, too.

    Args:
        missed: `once` gives one event for all, with the latest of their times; `skip` one only if it is on time; `all`
            one for each of the latest hundred.
        next_at: The first planned time that was not decided yet.
    """
    if next_at > now:
        return Due([], 0, next_at)
    passed = timing.passed(next_at, now)
    match missed:
        case Missed.ALL:
            times = passed.latest
        case Missed.SKIP if now - passed.latest[-1] > ON_TIME:
            times = []
        case Missed.ONCE | Missed.SKIP:
            times = passed.latest[-1:]
    return Due(times, passed.number - len(times), passed.next_at)


def read_timing(spec: Mapping[str, Any]) -> Timing:
    """The timing that a `spec` describes.

    Raises:
        ValueError: It is of a kind, or a time zone, that this version of the code does not know.
    """
    match spec:
        case {"cron": str(expression), "tz": str(tz)}:
            return Cron.parse(expression, tz)
        case {"every_s": int() | float() as seconds}:
            return Interval.parse(timedelta(seconds=seconds))
        case _:
            raise ValueError(f"no timing that is known here: {spec!r}")
