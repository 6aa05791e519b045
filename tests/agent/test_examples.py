import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from reflex.agent.app import App, load_app
from reflex.agent.declarations import constructed
from reflex.agent.execution import run_agent
from reflex.agent.failures import classify
from reflex.agent.models import Models, resolve_models
from reflex.agent.signals import Retry
from reflex.agent.triggers import Trigger
from reflex.core.events import Event, EventRegistry
from tests.agent.records import make_context, make_record

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OFFLINE = Models("offline")


@pytest.fixture(autouse=True)
def on_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples define the same event types; each is loaded as if the process were its own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(EventRegistry, "classes", {})
    triggers = list(constructed)
    yield
    constructed[:] = triggers
    for name in [name for name in sys.modules if name.startswith("examples")]:
        del sys.modules[name]


def load(name: str) -> App:
    return load_app(f"examples.{name}.app", default_model="offline")


async def outputs(app: App, record: Event) -> tuple[dict[str, Any], list[Event]]:
    """What each trigger that matches makes of the event, and the events that come of it."""
    found: dict[str, Any] = {}
    published: list[Event] = []
    for trigger in app.triggers:
        if trigger.matches(record):
            ctx = make_context(record, trigger=trigger.name)
            execution = await run_agent(trigger, ctx, OFFLINE)
            found[trigger.name] = orjson.loads(execution.output_json or "null")
            published += [make_record(new.type, orjson.loads(new.payload)) for new in ctx.published]
    return found, published


def test_the_minimal_app_is_the_one_of_the_readme() -> None:
    text = (ROOT / "examples/minimal/app.py").read_text()
    assert text in PYTHON.findall((ROOT / "README.md").read_text())


async def test_the_minimal_app_handles_large_orders_only() -> None:
    app = load("minimal")
    resolve_models(app, "offline")
    manifest = app.manifest()
    assert [event_type.type for event_type in manifest.event_types] == ["order.created"]
    assert [(trigger.name, trigger.patterns) for trigger in manifest.triggers] == [
        ("high-value-orders", ("order.created",))
    ]
    large = make_record(payload={"order_id": "A1", "amount": 250.0})
    assert await outputs(app, large) == ({"high-value-orders": "offline model: order.created received"}, [])
    assert await outputs(app, make_record(payload={"order_id": "A2", "amount": 99.0})) == ({}, [])


async def test_a_large_order_is_reviewed_labelled_and_its_customer_notified() -> None:
    app = load("orders")
    payload = {"order_id": "A1", "amount": 250.0, "customer": "ada"}
    found, (reviewed,) = await outputs(app, make_record(payload=payload))
    assert found == {
        "high-value-orders": {"decision": "approve", "reason": "offline"},
        "shipping-labels": {"order_id": "A1", "label": "LBL-A1", "destination": "home"},
    }
    assert (reviewed.type, reviewed.payload["decision"]) == ("order.reviewed", "approve")
    assert await outputs(app, reviewed) == ({"customer-notices": "Dear ada, your order A1 is on its way."}, [])


async def test_the_order_of_the_design_needs_no_more_than_its_two_fields() -> None:
    found, published = await outputs(load("orders"), make_record(payload={"order_id": "A1", "amount": 250.0}))
    assert set(found) == {"high-value-orders", "shipping-labels"}
    assert len(published) == 1


async def test_a_hello_over_http_runs_an_agent() -> None:
    found, _ = await outputs(load("orders"), make_record("http", {"message": "Hello, Reflex!"}))
    assert found == {"hello": "offline model: http received"}


async def test_an_order_to_nowhere_fails_three_times_and_touches_no_other_trigger() -> None:
    app = load("orders")
    record = make_record(payload={"order_id": "A1", "amount": 250.0, "destination": "nowhere"})
    labels = next(trigger for trigger in app.triggers if trigger.name == "shipping-labels")
    others = App("others", tuple(trigger for trigger in app.triggers if trigger is not labels))
    with pytest.raises(ConnectionError) as e:
        await run_agent(labels, make_context(record), OFFLINE)
    failure = classify(e.value)
    assert failure.kind == "retry"
    assert "examples/orders/app.py" in failure.error_text
    assert labels.retry.wait_after(2, fraction=1) == timedelta(milliseconds=400)
    assert labels.retry.wait_after(3) is None
    assert set((await outputs(others, record))[0]) == {"high-value-orders"}


def support_desk(monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("DEFAULT_MODEL", "offline")
    return load("support_chat")


@pytest.mark.parametrize(
    ("line", "decision", "reply"),
    [
        ("Hello", "answer", "Hello! Ask me about an order"),
        ("where is order a17?", "answer", "Order A17: two blue mugs"),
        ("Where is A99?", "answer", "There is no order A99."),
        ("How do I return something?", "answer", "You can return anything within 30 days."),
        ("The teapot of order A18 is broken", "escalate", "I see your order here: a teapot, delivered on Monday."),
        ("Can I talk to a human?", "escalate", "I am passing this on to a colleague."),
        ("Which clay do you use?", "escalate", "I have no good answer to that"),
    ],
)
async def test_the_support_desk_answers_or_escalates_without_a_provider(
    monkeypatch: pytest.MonkeyPatch, line: str, decision: str, reply: str
) -> None:
    """Fails with: a decision that does not wait for the tool; an escalation that publishes nothing."""
    app = support_desk(monkeypatch)
    found, published = await outputs(app, make_record("ws.message", {"content": line}, key="conversation"))
    assert found["support"]["decision"] == decision
    assert reply in found["support"]["reply"]
    assert [event.payload for event in published] == ([{"question": line}] if decision == "escalate" else [])


def test_the_support_desk_answers_a_conversation_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: a trigger that is not ordered, or ordered by something else than the conversation."""
    triggers = {trigger.name: trigger for trigger in support_desk(monkeypatch).triggers}
    assert (triggers["support"].ordered, triggers["support"].key) == (True, "key")


async def test_a_ticket_keeps_its_number_when_it_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: a random number, or one that counts."""
    escalated = make_record("support.escalated", {"question": "Why?"})
    app = support_desk(monkeypatch)
    first, second = [(await outputs(app, escalated))[0]["tickets"] for _ in range(2)]
    assert re.fullmatch(r"T-\d{6}", first["ticket"])
    assert first == second


async def test_the_guide_is_a_program_that_runs() -> None:
    blocks = PYTHON.findall((ROOT / "docs/guides/writing-an-app.md").read_text())
    assert blocks[0] == (ROOT / "examples/minimal/app.py").read_text()
    before = len(constructed)
    exec(compile("\n".join(blocks), "writing-an-app.md", "exec"), {"__name__": "guide"})
    order = make_record(payload={"order_id": "A1", "amount": 250.0}, key="A1")
    booked = make_record("order.booked", {"order_id": "A1"})
    triggers = [declaration for declaration in constructed[before:] if isinstance(declaration, Trigger)]
    app = App("guide", tuple(trigger for trigger in triggers if trigger.name != "carrier"))
    found, published = await outputs(app, order)
    assert found == {
        "high-value-orders": "offline model: order.created received",
        "bookings": {"booking": "B-A1"},
        "fraud-check": {"risk": "low", "reason": "offline"},
        "reminders": None,
    }
    assert [event.type for event in published] == ["order.booked", "fraud.alarm", "order.booked"]
    (carrier,) = [trigger for trigger in triggers if trigger.matches(booked)]
    with pytest.raises(Retry):
        await run_agent(carrier, make_context(booked), OFFLINE)
    await run_agent(carrier, make_context(booked, attempt=2), OFFLINE)


async def test_the_guide_to_timers_is_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = PYTHON.findall((ROOT / "docs/guides/timers.md").read_text())
    (tmp_path / "examples_of_timers.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    app = load_app("examples_of_timers")
    daily, stock = app.manifest().schedules
    assert (daily.name, daily.description, daily.key) == ("daily-report", "At 09:00 on Monday through Friday", "north")
    assert (stock.name, stock.description, stock.overlap) == ("stock.check", "every 5 minutes", "skip")
    record = make_record(daily.type, orjson.loads(daily.payload))
    found, _ = await outputs(app, record)
    assert found == {"reports": f"north: report of {record.time:%d %B}"}
