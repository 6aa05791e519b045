"""What is declared wrongly is said when the app is loaded, not when a card is charged."""

from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent

from reflex.agent.app import load_app
from reflex.agent.effects import Effect, EffectKind, checked_effects, effect_in, idempotent, once, pure, transactional
from reflex.agent.filters import any_event
from reflex.agent.triggers import Trigger
from reflex.core.errors import AppError


async def probe(ctx: Any, arguments: dict[str, Any], key: str) -> Any: ...


def not_async(ctx: Any, arguments: dict[str, Any], key: str) -> Any: ...


async def too_few(ctx: Any) -> Any: ...


@pytest.mark.parametrize(
    ("given", "said"),
    [(not_async, "async"), (too_few, "the arguments and the key"), ("was_charged", "async function"), (Agent, "async")],
)
def test_a_probe_that_cannot_be_asked_is_refused(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        once(probe=given)


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ("charge", "pass a dict"),
        ({"charge": "once"}, "write pure"),
        ({"charge": once}, r"write once\(\)"),
        ({"charge": {"other": 1}}, "write pure"),
        ({"charge": {"reflex.effect": "once"}}, "'reflex.effect' is 'once'"),
        ({3: once()}, "a string"),
    ],
)
def test_effects_that_are_none_are_refused_with_the_triggers_name(effects: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said) as caught:
        Trigger("pack", any_event(), probe_agent, effects=effects)
    assert "pack" in str(caught.value)


async def probe_agent(ctx: Any) -> None: ...


def test_a_declaration_lives_beside_what_else_the_metadata_says() -> None:
    """Fails if the declaration is the whole of the metadata: pydantic-ai merges it with the toolset's."""
    assert effect_in("t", {**once(probe=probe), "team": "billing"}) == Effect(EffectKind.ONCE, probe)
    assert effect_in("t", {"team": "billing"}) is None
    assert effect_in("t", None) is None
    kinds = [
        effect.kind for effect in checked_effects("t", {"a": pure(), "b": idempotent(), "c": transactional()}).values()
    ]
    assert kinds == [EffectKind.PURE, EffectKind.IDEMPOTENT, EffectKind.TRANSACTIONAL]


APP = """
from pydantic_ai import Agent
from reflex.agent.effects import once, transactional
from reflex.agent.filters import any_event
from reflex.agent.triggers import Trigger

agent = Agent("test")
Trigger("pack", any_event(), agent{options})


@agent.tool_plain(metadata={metadata})
{kind} charge(order: str) -> str: ...
"""


@pytest.mark.parametrize(
    ("kind", "metadata", "options", "said"),
    [
        ("def", "transactional()", "", "async def charge"),
        ("async def", "once", "", "write once()"),
        ("def", "None", ", effects={'charge': transactional()}", "async def charge"),
        ("def", "None", ", effects={'chrage': once()}", "no such tool; it has 'charge'"),
    ],
)
def test_an_app_does_not_load_with_a_tool_that_cannot_keep_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, metadata: str, options: str, said: str
) -> None:
    """The agent gets its tool after its trigger was made. Fails if the tools are looked at by the Trigger."""
    name = f"effects_{abs(hash((kind, metadata, options)))}"
    (tmp_path / f"{name}.py").write_text(APP.format(kind=kind, metadata=metadata, options=options))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AppError, match=r"\.py:8") as caught:
        load_app(name)
    assert said in str(caught.value)
