"""`cancel_on` as authors write it: the trigger beside a trigger, and what makes no sense."""

import re
from typing import Any

import pytest

from reflex.agent.cancel_on import Canceller
from reflex.agent.context import AgentContext
from reflex.agent.declarations import constructed
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from tests.agent.records import make_context
from tests.agent.test_app import Write, load, names, write

__all__ = ["write"]

CREATED, CANCELLED = type_filter("order.created"), type_filter("order.cancelled")


async def act(ctx: AgentContext) -> None: ...


def test_it_is_a_trigger_of_its_own_beside_the_other(write: Write) -> None:
    """Fails if the canceller is not declared, is given other types than those of cancel_on, or the trigger's own path
    for keys is not its."""
    write("""
        Trigger("pack", type_filter("order.created"), act, cancel_on=type_filter("order.cancelled", "shop.closed"))
        Trigger("send", type_filter("order.packed"), act, key="payload.order", cancel_on=type_filter("order.cancelled"))
        Trigger("say", any_event(), act)
    """)
    app = load()
    assert names(app) == ["pack", "pack.cancel", "send", "send.cancel", "say"]
    pack, canceller, send, other, _ = app.triggers
    assert canceller.patterns == ("order.cancelled", "shop.closed")
    assert isinstance(canceller.agent, Canceller)
    assert (canceller.agent.trigger, canceller.agent.key_path) == ("pack", "key")
    assert isinstance(other.agent, Canceller)
    assert (other.agent.trigger, other.agent.key_path, send.ordered) == ("send", "payload.order", False)
    assert pack.definition()["cancel_on"] == "type_filter('order.cancelled', 'shop.closed')"
    assert canceller.definition()["agent"] == {"kind": "function", "name": "Canceller"}
    assert "cancel_on" not in app.triggers[-1].definition()


def test_another_trigger_of_that_name_is_told_where_it_comes_from(write: Write) -> None:
    write("""
        Trigger("pack", type_filter("order.created"), act, cancel_on=type_filter("order.cancelled"))
        Trigger("pack.cancel", any_event(), act)
    """)
    said = r"two triggers named 'pack.cancel', at shop_app.py:8 \(cancel_on of 'pack'\) and shop_app.py:9; rename one"
    with pytest.raises(Exception, match=said):
        load()


@pytest.mark.parametrize(
    ("name", "cancel_on", "said"),
    [
        ("pack", "order.cancelled", "trigger 'pack': cancel_on is 'order.cancelled'; make a filter with"),
        ("pack", CREATED & CANCELLED, "trigger 'pack': cancel_on=.* can match no event"),
        ("p" * 94, CANCELLED, "at most 100 characters; choose one of at most 93"),
    ],
)
def test_what_makes_no_sense_is_said(name: str, cancel_on: Any, said: str) -> None:
    before = list(constructed)
    with pytest.raises((TypeError, ValueError), match=said):
        Trigger(name, CREATED, act, cancel_on=cancel_on)
    assert constructed == before


def test_a_key_is_for_something(write: Write) -> None:
    """Fails if a trigger with nothing that has keys may name one."""
    with pytest.raises(ValueError, match=re.escape("key says how deliveries are ordered")):
        Trigger("pack", CREATED, act, key="payload.order")


async def test_outside_a_worker_there_is_nothing_to_cancel() -> None:
    with pytest.raises(Exception, match="outside a worker there is none"):
        await Canceller("pack", "key")(make_context())
