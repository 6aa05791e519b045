"""What authors declare of stateful filters and of gathering, what is refused, and the summary of many events."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex.agent.context import AgentContext, read_event
from reflex.agent.filters import Filter, any_event, dedupe_filter, rate_limit_filter, type_filter
from reflex.agent.gathering import error_threshold, every_n
from reflex.agent.run_events import RunEvents, read_events
from reflex.agent.triggers import Trigger
from reflex.core.events import Event
from tests.agent.records import make_context, make_record

MINUTE = timedelta(minutes=1)
RATE = rate_limit_filter(3, per=MINUTE)


async def agent(ctx: AgentContext) -> None:
    pass


def test_a_stateful_filter_composes_with_and() -> None:
    """Its types are those of the rest. Fails if `&` drops what one side asks of other events."""
    both = type_filter("order.created") & RATE & dedupe_filter(within=MINUTE, by="payload.id")
    assert both.patterns == {"order.created"}
    assert [gate.most for gate in both.gates] == [3, 1]
    assert repr(both) == (
        "type_filter('order.created') & rate_limit_filter(3, per=0:01:00, by='key') & "
        "dedupe_filter(within=0:01:00, by='payload.id')"
    )
    assert both(make_record())
    assert not both(make_record("order.paid"))


@pytest.mark.parametrize("compose", [lambda f: f | any_event(), lambda f: any_event() | f, lambda f: ~f])
def test_a_stateful_filter_composes_with_nothing_else(compose: Callable[[Filter], Filter]) -> None:
    with pytest.raises(TypeError, match="depends on what it has let through before; compose it with & only"):
        compose(type_filter("order.created") & RATE)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: rate_limit_filter(0, per=MINUTE), "limit is 0; pass a number of events, at least 1 and at most 10000"),
        (lambda: rate_limit_filter(True, per=MINUTE), "limit is True"),
        (lambda: rate_limit_filter(1, per=60), "per is 60; pass a timedelta"),  # pyright: ignore[reportArgumentType]
        (lambda: dedupe_filter(within=timedelta(0)), "within is 0:00:00; it must be longer than nothing"),
        (lambda: dedupe_filter(within=MINUTE, by=None), "by is None; say what two events have in common"),
        (lambda: dedupe_filter(within=MINUTE, by="user"), "by names 'user'; .* perhaps 'payload.user'"),
        (lambda: dedupe_filter(within=MINUTE, by=3), "by is 3; pass a path"),  # pyright: ignore[reportArgumentType]
        (lambda: every_n(1, max_interval=MINUTE), r"every_n\(\): n is 1; pass a number of events from 2 to 1000"),
        (lambda: error_threshold(5, within=timedelta(days=-1)), r"error_threshold\(\): within is -1 day"),
        (lambda: Trigger("t", any_event(), agent, when=5), "trigger 't': when is 5; make one"),  # pyright: ignore[reportArgumentType]
        (lambda: Trigger("t", any_event(), agent, when=WHEN, ordered=True), "leave out ordered"),
        (lambda: Trigger("t", any_event(), agent, when=WHEN, cancel_on=any_event()), "a delivery stands for many"),
        (lambda: Trigger("t", RATE, agent, ordered=True, while_running="drop"), "depends on other events"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_a_sentence(make: Callable[[], object], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        make()


WHEN = every_n(20, max_interval=MINUTE, by=("payload.service", "source"))


async def test_a_run_does_not_wait_for_what_depends_on_others() -> None:
    with pytest.raises(ValueError, match="asked for by triggers only"):
        await make_context(make_record(key="a")).wait_for(type_filter("x") & RATE)


def test_the_definition_says_what_is_gathered() -> None:
    assert Trigger("t", any_event(), agent, when=WHEN).definition()["when"] == {
        "every_n": 20, "max_interval_s": 60.0, "by": ["payload.service", "source"]
    }  # fmt: skip
    threshold = Trigger("t", any_event(), agent, when=error_threshold(5, within=MINUTE, by=None))
    assert threshold.definition()["when"] == {"error_threshold": 5, "within_s": 60.0, "by": []}
    assert "when" not in Trigger("t", any_event(), agent).definition()


def test_subjects_are_told_apart_by_what_is_at_their_paths() -> None:
    """Fails if a number is a text, if two values run into each other, or if a long one is kept whole or cut."""

    def subject(*values: Any) -> str:
        payload = {str(n): value for n, value in enumerate(values)}
        by = [f"payload.{n}" for n in range(len(values))]
        return every_n(2, max_interval=MINUTE, by=by).gathering(make_record(payload=payload)).subject

    different = [subject(1), subject("1"), subject(None), subject("a", "bc"), subject("ab", "c"), subject(2**70),
                 subject("x" * 500), subject("x" * 501), subject({"b": 1, "a": 2})]  # fmt: skip
    assert len(set(different)) == len(different)
    assert max(map(len, different)) <= 200
    assert subject({"a": 2, "b": 1}) == subject({"b": 1, "a": 2})


def record(n: int, type: str = "log.error", **payload: Any) -> Event:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=10 * n)
    return make_record(type, payload, key="checkout")._replace(time=at)


def test_a_summary_says_what_is_frequent_and_shows_some() -> None:
    events = [record(n, message="refused" if n % 3 else "timeout", request=f"r{n}") for n in range(12)]
    assert read_events([*events, record(12, "log.warning", message="slow")]).summary().splitlines() == [
        "13 events from 2026-01-01 12:00:00 to 2026-01-01 12:02:00 UTC (0:02:00)",
        "types: log.error 12, log.warning 1",
        "sources: shop 13",
        "keys: checkout 13",
        'message: "refused" 8, "timeout" 4, "slow" 1',
        'sample 1: log.error 12:00:00 {"message":"timeout","request":"r0"}',
        'sample 4: log.error 12:00:30 {"message":"timeout","request":"r3"}',
        'sample 7: log.error 12:01:00 {"message":"timeout","request":"r6"}',
        'sample 10: log.error 12:01:30 {"message":"timeout","request":"r9"}',
        'sample 13: log.warning 12:02:00 {"message":"slow"}',
    ]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=400)


@settings(max_examples=40)
@given(
    payloads=st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS), max_size=5), max_size=30),
    max_chars=st.integers(100, 3000),
)
def test_a_summary_is_bounded_and_always_the_same(payloads: list[dict[str, Any]], max_chars: int) -> None:
    """Fails with any line whose length is not counted, and with fields in the order in which they were written."""
    events = [record(n)._replace(payload=payload) for n, payload in enumerate(payloads)]
    text = read_events(events).summary(max_chars=max_chars)
    assert 0 < len(text) <= max_chars
    turned = [each._replace(payload=dict(reversed(each.payload.items()))) for each in events]
    assert read_events(turned).summary(max_chars=max_chars) == text


@pytest.mark.parametrize("family", ["e\u0301", "👩\u200d👩\u200d👧", "👍🏽"])
def test_a_summary_cuts_between_characters_that_belong_together(family: str) -> None:
    """Fails if the cut goes by code points."""
    for length in range(100, 160):
        text = read_events([record(0, message=family * 100)]).summary(max_chars=length)
        assert len(text) <= length
        shown = text.partition(f"{family}")[2]
        assert all(part == "" for part in shown.partition("…")[0].split(family)), text


def test_events_are_a_sequence_and_one_that_its_class_refuses_is_among_them() -> None:
    events = read_events([record(0), record(1, "log.warning")])
    assert isinstance(events[:1], RunEvents)
    assert [event.type for event in events] == ["log.error", "log.warning"]
    assert len(events.of("log.error")) == 1
    assert RunEvents([]).summary() == "no events"
    with pytest.raises(ValueError, match="at least 100"):
        events.summary(max_chars=99)


def test_a_context_without_a_batch_has_its_own_event() -> None:
    ctx = make_context(one := record(0))
    assert list(ctx.events) == [read_event(one)]
