"""Event classes, type names and patterns."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reflex.core.events import (
    BaseEvent,
    EventRegistry,
    UntypedEvent,
    candidate_patterns,
    check_type_name,
    pattern_bounds,
    pattern_matches,
)

part = st.text("abzAZ09_-", min_size=1, max_size=3)
type_name = st.lists(part, min_size=1, max_size=4).map(".".join)
pattern = st.one_of(type_name, type_name.map(lambda t: t + ".*"), st.just("*"))


@given(type_name, pattern)
def test_bounds_and_patterns_agree(type: str, pattern: str) -> None:
    """Routing at ingest goes by patterns, routing of unrouted events by bounds: they must mean the same types.

    Fails if pattern_bounds() of 'a.*' starts at 'a'.
    """
    low, high = pattern_bounds(pattern)
    assert pattern_matches(pattern, type) == (low <= type <= high)


def test_star_does_not_match_system_types() -> None:
    assert candidate_patterns("reflex.dead_letter") == ("reflex.dead_letter", "reflex.*")
    assert "*" in candidate_patterns("order.created")


@pytest.mark.parametrize("bad", ["", ".", "a.", ".a", "a..b", "a b", "ä", "a\n", "a.*", "x" * 201, "a\x00"])
def test_what_is_no_type_is_refused(bad: str) -> None:
    with pytest.raises(TypeError, match="is not an event type"):
        check_type_name(bad)


def test_a_class_needs_a_default_type_and_a_type_has_one_class() -> None:
    class Nameless(BaseEvent):
        type: Literal["a.b"]

    with pytest.raises(TypeError, match="needs a default"):
        EventRegistry.register(Nameless)

    class Reserved(BaseEvent):
        type: str = "reflex.mine"

    with pytest.raises(TypeError, match="Reflex's own"):
        EventRegistry.register(Reserved)

    class First(BaseEvent):
        type: str = "test.twice"

    class Second(BaseEvent):
        type: str = "test.twice"

    EventRegistry.register(First)
    try:
        assert EventRegistry.register(First) is First
        with pytest.raises(TypeError, match="both register"):
            EventRegistry.register(Second)
    finally:
        del EventRegistry.classes["test.twice"]


def test_the_payload_is_the_class_without_its_type() -> None:
    class Paid(BaseEvent):
        type: Literal["test.paid"] = "test.paid"
        amount: float
        note: str | None = None

    EventRegistry.register(Paid)
    try:
        schema = EventRegistry.payload_schema("test.paid")
        assert set(schema["properties"]) == {"amount", "note"}
        assert schema["required"] == ["amount"]
        assert Paid(amount=1).payload_json() == '{"amount":1.0,"note":null}'
        with pytest.raises(ValidationError):
            Paid(amount="much")  # pyright: ignore[reportArgumentType]
    finally:
        del EventRegistry.classes["test.paid"]
    assert UntypedEvent(type="x", payload={"a": [1]}).payload_json() == '{"a":[1]}'
