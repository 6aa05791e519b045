"""Schedules: events that the clock appends. Calling `schedule` or `every` registers one with the app being loaded.

schedule("daily-report", cron="0 9 * * 1-5", tz="Europe/Stockholm", event=DailyReport())
every(timedelta(minutes=5), event=StockCheck(), name="stock-check")
"""

from datetime import timedelta
from typing import Any, ClassVar, Final, Literal, TypeVar

import orjson
from pydantic import ValidationError

from reflex.agent.declarations import Declaration, checked_name
from reflex.agent.publishing import PublishError, check_reads_back, payload_text
from reflex.agent.timing import Cron, Interval, Timing
from reflex.core import envelope, strict_json
from reflex.core.errors import EventRejected
from reflex.core.events import BaseEvent, EventRegistry
from reflex.core.schedules import Missed, Overlap, ScheduleDefinition

__all__ = ["Schedule", "every", "schedule"]

# Smaller than what a client may send: a hundred of them can be made up for at once.
MAX_PAYLOAD_BYTES: Final = 64 * 1024
MAX_NESTING: Final = 64

Policy = TypeVar("Policy", Missed, Overlap)


class Schedule(Declaration):
    """Appends `event` whenever `timing` says so, once in the fleet. The event's source is `timer:<name>`, its `time`
    the planned one."""

    __slots__ = ("event_type", "key", "missed", "overlap", "payload", "timing")
    kind: ClassVar = "schedule"

    def __init__(
        self,
        name: str,
        timing: Timing,
        event: BaseEvent | str,
        payload: dict[str, Any] | None,
        *,
        key: str | None,
        missed: str,
        overlap: str,
    ) -> None:
        self.timing = timing
        self.event_type, self.payload = checked_event(name, event, payload, key)
        self.key = key
        self.missed = checked_policy(name, "missed", Missed, missed)
        self.overlap = checked_policy(name, "overlap", Overlap, overlap)
        if self.missed is Missed.ALL and self.overlap is Overlap.SKIP:
            raise ValueError(
                f"schedule {name!r}: missed='all' makes several events at once, and overlap='skip' wants one after the "
                "other; leave one of them out"
            )
        super().__init__(name)

    def definition(self) -> ScheduleDefinition:
        """What the database is told."""
        return ScheduleDefinition(
            self.name,
            self.timing.spec(),
            self.timing.describe(),
            self.missed,
            self.overlap,
            self.event_type,
            self.payload,
            self.key,
        )

    def __repr__(self) -> str:
        return f"Schedule({self.name!r}, {self.timing.describe()}: {self.event_type})"


def schedule(
    name: str,
    *,
    cron: str,
    event: BaseEvent | str,
    payload: dict[str, Any] | None = None,
    tz: str = "UTC",
    key: str | None = None,
    missed: Literal["once", "skip", "all"] = "once",
    overlap: Literal["allow", "skip"] = "allow",
) -> Schedule:
    """Append an event by a cron expression.

    Args:
        name: Unique among the app's schedules. It identifies the schedule across deployments.
        cron: Five fields, or @hourly, @daily, @weekly, @monthly, @yearly.
        event: An event object, or a type whose payload is `payload`. It is made once, when the app is loaded.
        tz: Whose wall clock counts, as in the IANA database.
        key: What the event is about.
        missed: What becomes of fires while no worker ran: `once` makes up for all of them by one event, `skip` by none,
            `all` by one each, up to the latest hundred.
        overlap: `skip` fires only if no delivery of the last event is pending, scheduled or running.

    Raises:
        TypeError, ValueError: An argument is wrong; the sentence names the schedule and says what to write.
    """
    checked_name(Schedule.kind, name)
    try:
        timing = Cron.parse(cron, tz)
    except (TypeError, ValueError) as error:
        raise type(error)(f"schedule {name!r}: {error}") from None
    return Schedule(name, timing, event, payload, key=key, missed=missed, overlap=overlap)


def every(
    interval: timedelta,
    *,
    event: BaseEvent | str,
    payload: dict[str, Any] | None = None,
    name: str | None = None,
    key: str | None = None,
    missed: Literal["once", "skip", "all"] = "once",
    overlap: Literal["allow", "skip"] = "allow",
) -> Schedule:
    """Append an event every so often, counted from when the schedule was first registered, or its interval changed.

    Args:
        interval: At least one second.
        name: By default the event's type. The other arguments are those of `schedule`.
    """
    given = name if name is not None else event.type if isinstance(event, BaseEvent) else event
    name = checked_name(Schedule.kind, given)
    try:
        timing = Interval.parse(interval)
    except (TypeError, ValueError) as error:
        raise type(error)(f"schedule {name!r}: {error}") from None
    return Schedule(name, timing, event, payload, key=key, missed=missed, overlap=overlap)


def checked_event(
    name: str, event: BaseEvent | str, payload: dict[str, Any] | None, key: str | None
) -> tuple[str, str]:
    """Type and payload, by the gateway's own rules: what is wrong shows here and not each time it fires."""
    if not isinstance(event, BaseEvent | str):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "write it with its fields, as in DailyReport(), or pass a type and its payload="
        raise TypeError(f"schedule {name!r}: event is {event!r}, which is no event object; {hint}")
    if isinstance(event, BaseEvent) and payload is not None:
        raise TypeError(
            f"schedule {name!r}: an event object brings its own payload; leave payload= out, or pass a type"
        )
    type = event.type if isinstance(event, BaseEvent) else event
    try:
        written = orjson.Fragment(payload_text(event, payload))
        text = orjson.dumps({"type": type, "source": f"timer:{name}", "key": key, "payload": written})
        data = strict_json.parse(text, max_nesting=MAX_NESTING)
        new, decoded = envelope.read(data, max_payload_bytes=MAX_PAYLOAD_BYTES)
        if isinstance(event, BaseEvent):
            check_reads_back(event, decoded)
        elif event_class := EventRegistry.classes.get(type):
            event_class.model_validate({**decoded, "type": type})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = "/".join(str(part) for part in first["loc"])
        raise ValueError(
            f"schedule {name!r}: the class of {type!r} refuses payload=: {field}: {first['msg']}"
        ) from None
    except (EventRejected, PublishError, TypeError) as error:
        raise ValueError(f"schedule {name!r}: the event cannot be appended: {error}") from None
    return new.type, new.payload


def checked_policy(name: str, argument: str, policies: type[Policy], given: str) -> Policy:
    try:
        return policies(given)
    except ValueError:
        known = " or ".join(f"'{policy}'" for policy in policies)
        raise ValueError(f"schedule {name!r}: {argument} is {given!r}; write {known}") from None
