import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflex.agent.filters import (
    Filter,
    FilterError,
    any_event,
    event_filter,
    key_filter,
    keyword_filter,
    source_filter,
    type_filter,
)
from reflex.core.events import SYSTEM_PREFIX, Event, pattern_matches
from tests.agent.records import make_record

# The machine may be busy; what counts is the answer.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TYPES = ["order.created", "order.eu.created", "order", "ticket.opened", "http", "reflex.dead_letter"]
PATTERNS = [*TYPES, "order.*", "order.eu.*", "ticket.*", "reflex.*", "*"]

events = st.builds(
    make_record,
    type=st.sampled_from(TYPES),
    payload=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 2)),
    source=st.sampled_from(["http", "ws:1"]),
    key=st.sampled_from([None, "k"]),
)
atoms = st.one_of(
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(lambda types: type_filter(*types)),
    st.builds(keyword_filter, st.sampled_from(["a", "b"]), st.integers(0, 2)),
    st.sampled_from([any_event(), source_filter("ws:*"), key_filter("k")]),
)


def composed(filters: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    return st.one_of(
        st.builds(Filter.__and__, filters, filters),
        st.builds(Filter.__or__, filters, filters),
        st.builds(Filter.__invert__, filters),
    )


filters = st.recursive(atoms, composed, max_leaves=8)
# What clients can publish; Reflex's own types go only to filters that name them, so there the laws bend.
ordinary = events.filter(lambda event: not event.type.startswith(SYSTEM_PREFIX))


@patient
@given(filters, events)
def test_an_event_that_matches_has_a_type_that_one_of_the_patterns_means(filter: Filter, event: Event) -> None:
    if filter(event):
        assert any(pattern_matches(pattern, event.type) for pattern in filter.patterns)


@patient
@given(filters, filters, ordinary)
def test_composition_means_what_it_means_in_logic(a: Filter, b: Filter, event: Event) -> None:
    assert (a & b)(event) == (a(event) and b(event))
    assert (a | b)(event) == (a(event) or b(event))
    assert (~a)(event) == (not a(event))
    assert (~(a & b))(event) == (~a | ~b)(event)


@patient
@given(filters)
def test_no_pattern_is_kept_that_another_one_contains(filter: Filter) -> None:
    for pattern in filter.patterns:
        others = filter.patterns - {pattern}
        # A type that the pattern means, and no longer pattern does.
        type = pattern[:-1] + "any" if pattern.endswith("*") else pattern
        assert not any(pattern_matches(other, type) for other in others)


@pytest.mark.parametrize(
    ("filter", "patterns"),
    [
        (type_filter("order.created"), {"order.created"}),
        (type_filter("order.*", "order.created", "http"), {"order.*", "http"}),
        (type_filter("order.*") & type_filter("order.created"), {"order.created"}),
        (type_filter("order.*") & type_filter("order.eu.*", "http"), {"order.eu.*"}),
        (type_filter("order.created") & keyword_filter("a", 1), {"order.created"}),
        (keyword_filter("a", 1) & type_filter("order.created"), {"order.created"}),
        (type_filter("order.created") | type_filter("http"), {"order.created", "http"}),
        (type_filter("order.created") | keyword_filter("a", 1), {"*"}),
        (~type_filter("order.created"), {"*"}),
        (~~type_filter("order.created"), {"order.created"}),
        (type_filter("order.*") & ~type_filter("order.created"), {"order.*"}),
        (type_filter("order") & type_filter("order.*"), set[str]()),
        (type_filter("order.*") & type_filter("order", "orders"), set[str]()),
        (type_filter("a") & type_filter("b"), set[str]()),
        (~any_event(), set[str]()),
        (any_event(), {"*"}),
        (type_filter("reflex.*") & keyword_filter("a", 1), {"reflex.*"}),
        (any_event() | type_filter("reflex.dead_letter"), {"*", "reflex.dead_letter"}),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
def test_the_patterns_are_the_types_that_could_match(filter: Filter, patterns: set[str]) -> None:
    assert filter.patterns == patterns


def test_a_prefix_matches_what_is_below_it_and_not_itself() -> None:
    below_order = type_filter("order.*")
    assert below_order(make_record("order.created"))
    assert below_order(make_record("order.eu.created"))
    assert not below_order(make_record("order"))
    assert not below_order(make_record("orders.created"))


def test_reflexs_own_events_match_only_a_filter_that_names_them() -> None:
    dead = make_record("reflex.dead_letter", {"trigger": "t"})
    about_t = keyword_filter("trigger", "t")
    assert not any_event()(dead)
    assert not about_t(dead)
    assert not (~type_filter("order.created"))(dead)
    assert (type_filter("reflex.dead_letter") & about_t)(dead)
    assert (type_filter("reflex.*") & ~keyword_filter("trigger", "other"))(dead)


def above_100(x: float) -> bool:
    return x > 100


@pytest.mark.parametrize(
    ("path", "value", "matches"),
    [
        ("amount", 250, True),
        ("amount", 251, False),
        ("customer.tier", "gold", True),
        ("customer.tier.x", "gold", False),
        ("lines.1.sku", "B", True),
        ("lines.2.sku", "B", False),
        ("lines.-1.sku", "B", False),
        ("dotted.name", 1, True),
        ("missing", None, False),
        ("nothing", None, True),
        ("paid", True, True),
        ("paid", 1, False),
        ("one", True, False),
        ("amount", above_100, True),
        ("missing", above_100, False),
    ],
)
def test_a_keyword_filter_looks_at_a_field_of_the_payload(path: str, value: Any, matches: bool) -> None:
    payload = {
        "amount": 250,
        "customer": {"tier": "gold"},
        "lines": [{"sku": "A"}, {"sku": "B"}],
        "dotted.name": 1,
        "nothing": None,
        "paid": True,
        "one": 1,
    }
    assert keyword_filter(path, value)(make_record(payload=payload)) is matches


def test_sources_are_matched_whole_or_by_their_beginning() -> None:
    sockets_and_timers = source_filter("ws:*", "timer:nightly")
    assert sockets_and_timers(make_record(source="ws:42"))
    assert sockets_and_timers(make_record(source="timer:nightly"))
    assert not sockets_and_timers(make_record(source="timer:nightly2"))
    assert not source_filter("http")(make_record(source="https"))


def test_an_event_without_a_key_matches_no_key_filter() -> None:
    assert key_filter("k")(make_record(key="k"))
    assert not key_filter("k")(make_record(key=None))
    assert not key_filter(lambda key: True)(make_record(key=None))


def test_a_filter_of_the_whole_event_sees_all_of_it() -> None:
    assert event_filter(lambda event: event.payload["a"] * event.payload["b"] > 5)(
        make_record(payload={"a": 2, "b": 3})
    )


def test_a_predicate_that_raises_is_an_error_that_names_it_and_the_value() -> None:
    important = type_filter("order.created") & keyword_filter("amount", lambda x: x > 100)
    with pytest.raises(FilterError, match=r"keyword_filter\('amount', <lambda in test_filters.py:\d+>\).*'a lot'") as e:
        important(make_record(payload={"amount": "a lot"}))
    assert isinstance(e.value.__cause__, TypeError)
    with pytest.raises(FilterError):
        (~important)(make_record(payload={"amount": "a lot"}))
    assert not important(make_record("http", {"amount": "a lot"})), "the predicate of another type is not asked"


async def later(x: object) -> bool:
    return True


@pytest.mark.parametrize(
    "make",
    [
        lambda: type_filter(),
        lambda: type_filter("order..created"),
        lambda: type_filter("order.*.created"),
        lambda: type_filter(""),
        lambda: type_filter(7),  # pyright: ignore[reportArgumentType]
        lambda: keyword_filter("", 1),
        lambda: keyword_filter(7, 1),  # pyright: ignore[reportArgumentType]
        lambda: keyword_filter("amount", later),
        lambda: source_filter(),
        lambda: key_filter(7),  # pyright: ignore[reportArgumentType]
        lambda: (type_filter("a") & "b", None)[1],  # pyright: ignore[reportOperatorIssue]
        lambda: (type_filter("a") | above_100, None)[1],  # pyright: ignore[reportOperatorIssue]
    ],
)
def test_what_makes_no_filter_is_a_type_error(make: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        make()


def test_and_or_and_not_are_refused_instead_of_dropping_half_of_the_filter() -> None:
    with pytest.raises(TypeError, match="&"):
        _ = type_filter("a") and type_filter("b")
    with pytest.raises(TypeError, match="~"):
        assert not type_filter("a")


def test_a_filter_reads_as_it_was_written() -> None:
    filter = (type_filter("a", "b.*") | source_filter("http")) & ~keyword_filter("x", 1) & keyword_filter("y", len)
    assert repr(filter) == (
        "(type_filter('a', 'b.*') | source_filter('http')) & ~keyword_filter('x', 1) & keyword_filter('y', len)"
    )
    assert re.fullmatch(r"~\(any_event\(\) & key_filter\('k'\)\)", repr(~(any_event() & key_filter("k"))))
