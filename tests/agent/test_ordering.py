"""What a trigger says about order: accepted, or refused in one sentence that says what to write."""

from pathlib import Path
from typing import Any

import pytest

from reflex.agent.app import App, load_app
from reflex.agent.context import AgentContext
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.lanes import WhenDead
from tests.agent.test_examples import PYTHON, ROOT


async def act(ctx: AgentContext) -> None: ...


def trigger(**order: Any) -> Trigger:
    return Trigger("answers", type_filter("chat.said"), act, **order)


@pytest.mark.parametrize(
    ("order", "key_path", "when_dead"),
    [
        ({}, None, "continue"),
        ({"ordered": True}, "key", "continue"),
        ({"ordered": True, "key": "source"}, "source", "continue"),
        ({"ordered": True, "key": "payload.chat.0", "when_dead": "hold"}, "payload.chat.0", "hold"),
        ({"ordered": True, "when_dead": WhenDead.HOLD}, "key", "hold"),
    ],
)
def test_what_is_registered(order: dict[str, Any], key_path: str | None, when_dead: str) -> None:
    (definition,) = App("app", (trigger(**order),)).manifest().triggers
    assert (definition.key_path, definition.when_dead) == (key_path, when_dead)
    shown = definition.definition
    assert (shown["ordered"], shown["key"]) == (key_path is not None, key_path)
    assert shown["when_dead"] == (when_dead if key_path else None)


@pytest.mark.parametrize(
    ("order", "error", "sentence"),
    [
        ({"ordered": "yes"}, TypeError, "ordered is 'yes'; pass True or False"),
        ({"ordered": True, "key": 7}, TypeError, "key is 7; pass a path"),
        ({"ordered": True, "key": "chat_id"}, ValueError, "perhaps 'payload.chat_id'"),
        ({"ordered": True, "key": "payload"}, ValueError, "key is 'payload'; write 'key', 'source'"),
        ({"ordered": True, "key": "payload."}, ValueError, "key is 'payload.'"),
        ({"ordered": True, "key": "payload..id"}, ValueError, "key is 'payload..id'"),
        ({"ordered": True, "key": ""}, ValueError, "key is ''"),
        ({"ordered": True, "key": "key.id"}, ValueError, "key is 'key.id'"),
        ({"ordered": True, "key": "payload.a\x00"}, ValueError, "write 'key', 'source'"),
        ({"ordered": True, "when_dead": "stop"}, ValueError, "it is 'continue' or 'hold'"),
        ({"ordered": True, "when_dead": None}, ValueError, "it is 'continue' or 'hold'"),
        ({"ordered": True, "while_running": "wait"}, ValueError, "must be one of 'queue', 'steer', 'interrupt'"),
        ({"ordered": True, "while_running": None}, ValueError, "while_running is None; it must be one of"),
        (
            {"while_running": "steer"},
            ValueError,
            "while_running says what a new event does to the run of its key; pass",
        ),
        ({"key": "payload.id"}, ValueError, "key says how deliveries are ordered; pass ordered=True with it"),
        ({"when_dead": "hold"}, ValueError, "when_dead says how deliveries are ordered; pass ordered=True with it"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(
    order: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match="trigger 'answers': ") as refused:
        trigger(**order)
    assert sentence in str(refused.value)


def test_what_a_new_event_does_is_shown_where_it_is_not_the_default() -> None:
    """Fails if everybody's definition changes, which would register each trigger anew, or if nobody's does."""
    assert "while_running" not in trigger(ordered=True, while_running="queue").definition()
    assert trigger(ordered=True, while_running="drop").definition()["while_running"] == "drop"


def test_the_guide_is_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an example of the guide does not load."""
    (tmp_path / "examples_of_order.py").write_text(
        "".join(PYTHON.findall((ROOT / "docs/guides/ordering.md").read_text()))
    )
    monkeypatch.syspath_prepend(tmp_path)
    triggers = load_app("examples_of_order").triggers
    assert [(each.name, each.while_running) for each in triggers] == [("answers", "queue"), ("research", "steer")]
