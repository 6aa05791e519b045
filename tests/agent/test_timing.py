"""When schedules fire: what cron means where clocks change, and what a look at a schedule decides. No clock is read."""

from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex.agent.timing import LOOK_BACK, MOST_AT_ONCE, ON_TIME, Cron, Due, Interval, Timing, due, read_timing
from reflex.core.schedules import Missed

STOCKHOLM = "Europe/Stockholm"
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def fires(expression: str, tz: str, start: str, number: int) -> list[str]:
    """The first planned times after a moment, one look at a time, as local time with its offset."""
    found: list[datetime] = [at(start)]
    for _ in range(number):
        found.append(Cron.parse(expression, tz).first(found[-1]))
    return [planned.astimezone(ZoneInfo(tz)).isoformat(timespec="minutes") for planned in found[1:]]


def test_a_time_that_the_spring_skips_comes_right_after_the_gap() -> None:
    """02:30 does not exist on 29 March. Fails with a cron that leaves the day out, or comes twice."""
    assert fires("30 2 * * *", STOCKHOLM, "2026-03-28T00:00Z", 3) == [
        "2026-03-28T02:30+01:00",
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]


def test_a_time_that_the_autumn_repeats_comes_once() -> None:
    """02:30 comes twice on 25 October. Fails with a cron that fires at both."""
    assert fires("30 2 * * *", STOCKHOLM, "2026-10-24T12:00Z", 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]


def test_a_look_in_the_repeated_hour_does_not_go_back_to_its_first_round() -> None:
    """01:15Z is 02:15 for the second time. Fails without `planned > last` in Cron.after, or if local times are
    compared there: a time in the past comes out, and fires a second time."""
    assert fires("30 2 * * *", STOCKHOLM, "2026-10-25T01:15Z", 1) == ["2026-10-26T02:30+01:00"]
    assert fires("10,30 2 * * *", STOCKHOLM, "2026-10-25T01:15Z", 1) == ["2026-10-26T02:10+01:00"]


def test_the_wall_clock_counts_when_the_offset_changes_between_two_fires() -> None:
    """Fails if a day is taken to be 24 hours."""
    assert fires("0 9 * * *", STOCKHOLM, "2026-03-28T00:00Z", 2) == ["2026-03-28T09:00+01:00", "2026-03-29T09:00+02:00"]
    assert fires("0 9 * * *", STOCKHOLM, "2026-10-24T00:00Z", 2) == ["2026-10-24T09:00+02:00", "2026-10-25T09:00+01:00"]


def test_a_zone_without_changes_stays_where_it_is() -> None:
    assert fires("0 9 * * *", "Asia/Tokyo", "2026-03-28T12:00Z", 2) == [
        "2026-03-29T09:00+09:00",
        "2026-03-30T09:00+09:00",
    ]


@pytest.mark.parametrize("day", ["2026-03-28T22:00Z", "2026-10-24T22:00Z"])
def test_every_half_hour_is_half_an_hour_also_when_clocks_change(day: str) -> None:
    """Fails with local times that are added up: an hour without a fire in autumn, two at once in spring."""
    planned = list(islice(Cron.parse("*/30 * * * *", STOCKHOLM).after(at(day)), 20))
    assert planned == [at(day) + n * 30 * MINUTE for n in range(1, 21)]


def test_macros_are_the_five_fields_that_they_stand_for() -> None:
    assert Cron.parse("@daily", STOCKHOLM) == Cron.parse(" 0 0  * * * ", STOCKHOLM)
    assert fires("@hourly", "UTC", "2026-01-01T00:00Z", 1) == ["2026-01-01T01:00+00:00"]
    assert fires("@weekly", "UTC", "2026-01-01T00:00Z", 1) == ["2026-01-04T00:00+00:00"]
    assert fires("@monthly", "UTC", "2026-01-01T00:00Z", 1) == ["2026-02-01T00:00+00:00"]
    assert fires("@Yearly", "UTC", "2026-01-01T00:00Z", 1) == ["2027-01-01T00:00+00:00"]


def test_timings_say_themselves_in_words() -> None:
    assert Cron.parse("0 9 * * 1-5", STOCKHOLM).describe() == "At 09:00 on Monday through Friday"
    spoken = {
        timedelta(minutes=5): "every 5 minutes",
        timedelta(hours=1): "every hour",
        timedelta(days=2): "every 2 days",
        timedelta(seconds=90): "every 90 seconds",
        timedelta(seconds=1.5): "every 1.5 seconds",
    }
    assert {interval: Interval.parse(interval).describe() for interval in spoken} == spoken


@pytest.mark.parametrize("timing", [Cron.parse("@daily", STOCKHOLM), Interval.parse(timedelta(seconds=1.000001))])
def test_a_spec_reads_back(timing: Timing) -> None:
    assert read_timing(timing.spec()) == timing


@pytest.mark.parametrize(
    "spec", [{}, {"moon": "full"}, {"cron": "@daily", "tz": "Mars/Base"}, {"cron": "x", "tz": "UTC"}]
)
def test_a_spec_of_code_that_is_not_there_yet_is_a_value_error(spec: dict[str, str]) -> None:
    """The loop leaves such a schedule to other workers. Fails with any other exception: it would end the loop."""
    with pytest.raises(ValueError, match=r"known here|no time zone|five fields"):
        read_timing(spec)


EXPRESSIONS = (
    "30 2 * * *", "15,45 2 * * *", "0 2,3 * * *", "*/30 * * * *", "*/30 2 * * *", "0 * * * *", "0 */2 * * *",
    "5 0 * * 0", "0 0 * * *", "0 9 * * 1-5", "0 3 * * 0", "@monthly", "@yearly", "* 1-3 * * *",
)  # fmt: skip
ZONES = (
    "UTC",
    STOCKHOLM,
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Asia/Tokyo",
    "America/Havana",
)
# Where clocks change, in one of the zones at least.
STARTS = (
    "2026-03-28T00:00Z", "2026-10-24T00:00Z", "2026-04-04T00:00Z", "2026-09-05T12:00Z", "2026-03-07T18:00Z",
    "2026-11-01T00:00Z",
)  # fmt: skip

timings: st.SearchStrategy[Timing] = st.one_of(
    st.builds(Cron.parse, st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES)),
    st.integers(20, 4 * 3600).map(lambda seconds: Interval.parse(timedelta(seconds=seconds))),
)
moments = st.builds(
    lambda day, seconds: at(day) + timedelta(seconds=seconds), st.sampled_from(STARTS), st.integers(0, 86_400)
)
gaps = st.lists(
    st.one_of(
        st.timedeltas(timedelta(0), 2 * MINUTE), st.timedeltas(timedelta(0), timedelta(hours=3)),
        st.timedeltas(timedelta(0), timedelta(days=2)),
    ),
    max_size=12,
)  # fmt: skip


def offline(timing: Timing, start: datetime, end: datetime) -> list[datetime]:
    """What is planned after one moment and until the other, in one walk that nobody interrupts."""
    if isinstance(timing, Interval):
        return [start + n * timing.every for n in range(1, (end - start) // timing.every + 1)]
    assert isinstance(timing, Cron)
    walk = CronSim(timing.expression, start.astimezone(ZoneInfo(timing.tz)))
    planned = (local.astimezone(UTC) for local in walk)
    return [moment for moment in takewhile(lambda moment: moment <= end, planned) if moment > start]


@settings(max_examples=150, deadline=None)
@given(timing=timings, missed=st.sampled_from(Missed), start=moments, gaps=gaps)
def test_each_planned_time_is_decided_once_whenever_somebody_looks(
    timing: Timing, missed: Missed, start: datetime, gaps: list[timedelta]
) -> None:
    """Fails with: no comparison in Cron.after; a next_at that is not after `now`; a number of passed
    times that is one off; a policy that takes the first of the missed times instead of the latest."""
    looks = [start + gap for gap in accumulate(gaps, initial=timedelta(0))]
    everything = offline(timing, start, looks[-1])
    next_at = timing.first(start)
    fired: list[datetime] = []
    skipped = 0
    for before, now in pairwise([start, *looks]):
        planned = [moment for moment in everything if before < moment <= now]
        decision = due(timing, missed, next_at, now)
        assert (decision.next_at > next_at) == bool(planned)
        assert decision.next_at > now
        match missed:
            case Missed.ALL:
                assert decision.times == planned[-MOST_AT_ONCE:]
            case Missed.ONCE:
                assert decision.times == planned[-1:]
            case Missed.SKIP:
                assert decision.times == [moment for moment in planned[-1:] if now - moment <= ON_TIME]
        next_at = decision.next_at
        fired += decision.times
        skipped += decision.skipped
    assert fired == sorted(set(fired))
    assert len(fired) + skipped == len(everything)


def test_what_is_not_due_is_left_alone() -> None:
    next_at = at("2026-01-01T00:00Z")
    assert due(Interval(MINUTE), Missed.ONCE, next_at, next_at - timedelta(microseconds=1)) == Due([], 0, next_at)
    assert due(Interval(MINUTE), Missed.ONCE, next_at, next_at) == Due([next_at], 0, next_at + MINUTE)


@pytest.mark.parametrize(
    ("late", "times"),
    [
        (timedelta(0), {"once": [4], "skip": [4], "all": [0, 1, 2, 3, 4]}),
        (ON_TIME, {"once": [4], "skip": [4], "all": [0, 1, 2, 3, 4]}),
        (ON_TIME + timedelta(seconds=1), {"once": [4], "skip": [], "all": [0, 1, 2, 3, 4]}),
    ],
)
def test_what_was_missed_is_made_up_for_as_the_policy_says(late: timedelta, times: dict[str, list[int]]) -> None:
    """Five planned times have passed. Fails if `skip` asks whether the first of them is late, and not the latest."""
    first, hour = at("2026-01-01T00:00Z"), timedelta(hours=1)
    for policy, expected in times.items():
        decision = due(Interval(hour), Missed(policy), first, first + 4 * hour + late)
        assert decision == Due([first + n * hour for n in expected], 5 - len(expected), first + 5 * hour)


@pytest.mark.parametrize(
    ("expression", "latest"),
    [("* * * * *", "2026-06-01T12:00Z"), ("* * * 1 *", "2026-01-31T23:59Z"), ("@yearly", "2026-01-01T00:00Z")],
)
def test_after_years_of_standing_still_the_latest_time_is_found_without_a_walk_through_all(
    expression: str, latest: str
) -> None:
    """Fails with a look back that stops after 30 days (a yearly one is never found), or without one (half a million
    steps of cronsim a year, in the loop that also settles runs)."""
    decision = due(Cron.parse(expression, "UTC"), Missed.ONCE, at("2016-01-01T00:00Z"), at("2026-06-01T12:00Z"))
    assert decision.times == [at(latest)]
    assert decision.next_at > at("2026-06-01T12:00Z")
    assert decision.skipped < 16 * LOOK_BACK / MINUTE


fields = st.tuples(
    st.one_of(st.none(), st.sets(st.integers(0, 59), min_size=1, max_size=4)),
    st.one_of(st.none(), st.sets(st.integers(0, 23), min_size=1, max_size=4)),
    st.one_of(st.none(), st.sets(st.integers(0, 6), min_size=1, max_size=3)),
)


@settings(max_examples=30, deadline=None)
@given(fields=fields, start=moments)
def test_cron_is_what_reading_the_clock_every_minute_gives(
    fields: tuple[set[int] | None, ...], start: datetime
) -> None:
    """Against a reading of the five fields of our own, where no clock changes."""
    expression = "{} {} * * {}".format(*(",".join(map(str, field)) if field else "*" for field in fields))
    minute, hour, weekday = fields
    first = start.replace(second=0) + MINUTE
    expected = [
        moment
        for moment in (first + n * MINUTE for n in range(3 * 24 * 60))
        if (minute is None or moment.minute in minute)
        and (hour is None or moment.hour in hour)
        and (weekday is None or moment.isoweekday() % 7 in weekday)
    ]
    last = first + 3 * 24 * 60 * MINUTE
    assert list(takewhile(lambda planned: planned < last, Cron.parse(expression, "UTC").after(start))) == expected
    assert Cron.parse(expression, "UTC").describe()
