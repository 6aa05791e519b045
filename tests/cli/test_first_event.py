"""The event that `reflex dev` tells to send: one that the app's class takes and its trigger gets."""

import json
import shlex
from datetime import timedelta
from typing import Any

import pytest

from reflex.cli.first_event import HELLO, Input, command_line, database_clock, first_event, inputs_of
from reflex.core.database import connect
from reflex.core.registration import EventType, Manifest, TriggerDefinition, register

ORDER = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string"},
        "amount": {"type": "number", "exclusiveMinimum": 0},
        "small": {"type": "integer", "maximum": 3},
        "sort": {"enum": ["new", "old"]},
        "customer_name": {"type": "string"},
        "note": {"type": "string", "default": ""},
        "city": {"type": "string", "examples": ["it's Örebro"]},
    },
    "required": ["order_id", "amount", "small", "sort", "customer_name", "city"],
}
ORDER_SENT = {
    "order_id": "A1", "amount": 250, "small": 0, "sort": "new", "customer_name": "customer name", "city": "it's Örebro",
}  # fmt: skip


def manifest(app: str, *triggers: tuple[str, str]) -> Manifest:
    return Manifest(
        app=app,
        event_types=(EventType("order.created", ORDER), EventType("a.first", {"type": "object"})),
        triggers=tuple(TriggerDefinition(name, (pattern,), 5, {}) for name, pattern in triggers),
    )


async def test_it_is_one_of_the_first_trigger_of_this_app_once_it_has_registered(database_url: str) -> None:
    async with await connect(database_url, name="tests") as conn:
        await register(conn, manifest("another.app", ("hello", "http")))
        await register(conn, manifest("shop.app", ("z", "order.*"), ("a", "a.first")))
        since = await database_clock(database_url)
        assert await inputs_of("shop.app", since=since, url=database_url) == []
        await register(conn, manifest("shop.app", ("z", "order.*"), ("a", "a.first")))
    inputs = await inputs_of("shop.app", since=since, url=database_url)
    assert [(pattern, type) for pattern, type, _ in inputs] == [("order.*", "order.created"), ("a.first", "a.first")]
    assert first_event(inputs) == {"type": "order.created", "payload": ORDER_SENT}
    assert await inputs_of("shop.app", since=since + timedelta(hours=1), url=database_url) == []


async def test_a_database_that_is_away_has_nothing_registered(database_url: str) -> None:
    since = await database_clock(database_url)
    assert await inputs_of("shop.app", since=since, url="postgresql://127.0.0.1:9/nowhere") == []


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        ([("order.created", "order.created", ORDER), ("http", None, None)], HELLO),
        ([("reflex.dead_letter", None, None), ("pinged", None, None)], {"type": "pinged", "payload": HELLO["payload"]}),
        ([("*", None, None)], HELLO),
        ([("*", "reflex.own", {"type": "object"})], HELLO),
        ([("never", "never", {"type": "object", "required": ["x"], "properties": {"x": {"not": {}}}})], HELLO),
    ],
)
def test_what_is_sent(inputs: list[Input], sent: dict[str, Any]) -> None:
    assert first_event(inputs) == sent


def test_a_shell_reads_the_line_as_it_is_meant() -> None:
    event = {"type": "order.created", "payload": ORDER_SENT}
    words = shlex.split(command_line("http://localhost:8000", event))
    assert words[:4] == ["curl", "-X", "POST", "http://localhost:8000/events"]
    assert json.loads(words[-1]) == event
