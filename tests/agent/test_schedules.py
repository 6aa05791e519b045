"""Schedules as authors write them: what belongs to an app, and what is said to arguments that are wrong."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import orjson
import pytest

from reflex.agent.schedules import Schedule, every, schedule
from reflex.core.events import BaseEvent, UntypedEvent
from reflex.core.schedules import Missed, Overlap, ScheduleDefinition

HOUR = timedelta(hours=1)


class Report(BaseEvent):
    type: Literal["report.due"] = "report.due"
    region: str = "north"
    pages: int = 3


def wrong(make: Callable[[], Schedule]) -> str:
    """The one sentence that it raises."""
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_schedule_is_defined_by_what_its_author_wrote() -> None:
    made = schedule(
        "daily",
        cron="0 9 * * 1-5",
        tz="Europe/Stockholm",
        event=Report(pages=4),
        key="R1",
        missed="skip",
        overlap="skip",
    )
    assert made.definition() == ScheduleDefinition(
        "daily",
        {"cron": "0 9 * * 1-5", "tz": "Europe/Stockholm"},
        "At 09:00 on Monday through Friday",
        Missed.SKIP,
        Overlap.SKIP,
        "report.due",
        '{"region":"north","pages":4}',
        "R1",
    )


def test_an_interval_is_named_after_its_events_type_unless_it_is_named() -> None:
    made = every(HOUR, event="stock.check", payload={"shelf": 3})
    assert (made.name, made.event_type, orjson.loads(made.payload)) == ("stock.check", "stock.check", {"shelf": 3})
    assert every(HOUR, event=Report()).name == "report.due"
    assert every(
        HOUR, event=UntypedEvent(type="a.b", payload={"x": 1}), name="mine"
    ).definition() == ScheduleDefinition(
        "mine", {"every_s": 3600.0}, "every hour", Missed.ONCE, Overlap.ALLOW, "a.b", '{"x":1}', None
    )


FORM = "write five fields (minute, hour, day of month, month, day of week) such as '0 9 * * 1-5', or @hourly"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cron": "0 0 9 * * *"}, "cron '0 0 9 * * *' has six fields, and there are no seconds in a schedule; " + FORM),
        ({"cron": "0 9 * *"}, FORM),
        ({"cron": ""}, FORM),
        ({"cron": None}, "cron is None; " + FORM),
        ({"cron": "61 * * * *"}, "cron '61 * * * *' has a bad minute"),
        ({"cron": "0 0 31 2 *"}, "has a bad day-of-month, or a day that never comes"),
        ({"cron": "0 9 * * FRI-MON"}, "has a bad day-of-week"),
        ({"cron": "@dayly"}, FORM),
        ({"cron": "0 9 * * " + "1," * 200 + "1"}, FORM),
        ({"cron": "9" * 5000 + " * * * *"}, FORM),
        (
            {"tz": "Europe/Stokholm"},
            "tz is 'Europe/Stokholm', which is no time zone; write one such as 'Europe/Stockholm'",
        ),
        ({"tz": "Europe"}, "no time zone"),
        ({"tz": "/etc/passwd"}, "no time zone"),
        ({"tz": "../UTC"}, "no time zone"),
        ({"tz": ""}, "no time zone"),
        ({"tz": None}, "write the name of a time zone, such as tz='Europe/Stockholm'"),
        ({"missed": "never"}, "missed is 'never'; write 'once' or 'skip' or 'all'"),
        ({"overlap": None}, "overlap is None; write 'allow' or 'skip'"),
        ({"missed": "all", "overlap": "skip"}, "leave one of them out"),
        ({"event": Report}, "which is no event object; write it with its fields, as in DailyReport()"),
        ({"event": None}, "which is no event object"),
        ({"payload": {}}, "an event object brings its own payload"),
        ({"event": "no type"}, "'no type' is no event type"),
        ({"event": "reflex.reply"}, "are Reflex's own"),
        ({"event": "a", "payload": [1]}, "/payload: must be a JSON object, not an array"),
        ({"event": "a", "payload": {"x": object()}}, "cannot be written as JSON"),
        ({"event": "a", "payload": {"x": "y" * 70_000}}, "the limit is 65536"),
        ({"event": "a", "payload": {"x": "\0"}}, "the event cannot be appended"),
        ({"event": "a", "key": 7}, '/key: must be a string, not a number; write it as "7"'),
    ],
)
def test_a_wrong_argument_is_told_with_what_to_write(arguments: dict[str, Any], said: str) -> None:
    """Fails for each check that is left out."""
    given: dict[str, Any] = {"name": "daily", "cron": "0 9 * * *", "event": Report(), **arguments}
    sentence = wrong(lambda: schedule(**given))
    assert sentence.startswith("schedule 'daily': ")
    assert said in sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"interval": 300}, "the interval is 300; write a timedelta, such as timedelta(minutes=5)"),
        ({"interval": timedelta(seconds=0.5)}, "is 0:00:00.500000; write one between 1 second and 3660 days"),
        ({"interval": -HOUR}, "write one between 1 second"),
        ({"interval": timedelta(days=10_000)}, "write one between 1 second and 3660 days"),
    ],
)
def test_a_wrong_interval_is_told_with_what_to_write(arguments: dict[str, Any], said: str) -> None:
    sentence = wrong(lambda: every(event=Report(), **arguments))
    assert sentence.startswith("schedule 'report.due': ")
    assert said in sentence


def test_a_name_has_the_form_of_a_triggers() -> None:
    assert "'a b' cannot be the name of a schedule" in wrong(lambda: schedule("a b", cron="@daily", event=Report()))
    assert "a schedule's name is a string" in wrong(lambda: schedule(7, cron="@daily", event=Report()))  # type: ignore[arg-type]
    assert "cannot be the name of a schedule" in wrong(lambda: every(HOUR, event="_private"))
