"""What a key is bound to: pure."""

import pytest

from reflex.core.log_filter import LogFilter
from reflex.core.restriction import (
    UNRESTRICTED,
    Restriction,
    SourceNotAllowed,
    TypeNotAllowed,
    common_types,
)
from tests.queue_fixtures import new_event

ASKED = [
    ((), ("order.*",), ("order.*",)),
    (("order.created",), (), ("order.created",)),
    (("order.*",), ("order.*",), ("order.*",)),
    (("order.created",), ("order.*",), ("order.created",)),
    (("order.*",), ("order.created", "order.paid.*", "user.*"), ("order.created", "order.paid.*")),
    (("*",), ("order.*",), ("order.*",)),
    (("order.*", "reflex.reply"), ("*",), ("order.*",)),
    (("reflex.*",), ("reflex.reply",), ("reflex.reply",)),
    (("order",), ("order.*",), ()),
    (("orders.*",), ("order.*",), ()),
    (("reflex.*",), ("*",), ()),
    (("*",), ("reflex.*",), ()),
]
TYPES = ["order", "order.created", "order.paid", "order.paid.late", "orders.x", "user.x", "reflex.reply", "reflexes"]


@pytest.mark.parametrize(("asked", "allowed", "both"), ASKED)
def test_what_two_sets_of_patterns_mean_together(
    asked: tuple[str, ...], allowed: tuple[str, ...], both: tuple[str, ...]
) -> None:
    """Fails when a prefix is taken for a type or the other way round, and when `*` takes in Reflex's own types."""
    assert common_types(asked, allowed) == both
    if asked and allowed:
        for type in TYPES:
            event = new_event(type)
            wanted = LogFilter(types=asked).matches(event) and Restriction(types=allowed).allows(type, "test")
            assert (bool(both) and LogFilter(types=both).matches(event)) == wanted, type


def test_a_key_may_publish_within_its_types_and_sources_only() -> None:
    """Fails when one of the two is not looked at; the error names the key, the value, and where it was."""
    bound = Restriction(("order.*", "http"), ("shop", "till"))
    bound.check("order.created", "till", key_id="k")
    bound.check("http", "shop", key_id="k")
    with pytest.raises(
        TypeNotAllowed, match=r"API key k .* 'invoice\.paid'; it is bound to 'order\.\*', 'http'"
    ) as refused:
        bound.check("invoice.paid", "shop", key_id="k", at="/3")
    assert refused.value.field == "/3/type"
    with pytest.raises(SourceNotAllowed, match=r"API key k .* 'web'; it is bound to the source") as wrong:
        bound.check("order.created", "web", key_id="k")
    assert wrong.value.field == "/source"
    UNRESTRICTED.check("anything", "anywhere", key_id="k")


def test_a_reader_is_narrowed_and_told_when_nothing_is_left() -> None:
    """Fails when an empty result is handed on, which would mean everything."""
    bound = Restriction(("order.*",), ("shop", "till"))
    assert bound.narrow(key_id="k") == (("order.*",), ("shop", "till"))
    assert bound.narrow(types=["order.a"], sources=["web", "till"], key_id="k") == (("order.a",), ("till",))
    with pytest.raises(TypeNotAllowed, match="type: the API key k"):
        bound.narrow(types=["user.*"], key_id="k")
    with pytest.raises(SourceNotAllowed, match="source: the API key k"):
        bound.narrow(sources=["web"], key_id="k")
