"""Large texts in the results of steps: cut out and put back, character by character."""

import json
from typing import Any

import pytest

from reflex.agent.step_texts import LARGE, blobs_in, cut, whole
from reflex.core.journal import Step, StepKind

LONG = "x" * LARGE


def put_back(result: str) -> str:
    rest, texts = cut(result)
    return whole(rest, {digest.hex(): text for digest, text in texts.items()})


@pytest.mark.parametrize(
    "value",
    [
        LONG,
        [LONG, LONG + "y", LONG],
        {"a": {"b": [1, LONG, '"', LONG + '\\"\\'], LONG: None}, "n": 10**400},
        LONG + '\\" \x00\x07 é \u2028 \U0001f600',
        '\\" { "cut": ' + LONG,
        ["short", "x" * (LARGE - 1)],
        [f"{number}" for number in range(LARGE)],
    ],
)
def test_what_was_cut_is_put_back(value: Any) -> None:
    """Fails if a quote inside of a text ends it, if a place is counted in bytes, or if numbers are read as numbers."""
    for text in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        f'{{"run":"/1","messages":{json.dumps(value)}}}',
    ):
        assert put_back(text) == text


def test_large_texts_are_cut_out_and_equal_ones_have_one_digest() -> None:
    """Fails if nothing is cut, or small texts are. What is left is JSON: PostgreSQL takes it."""
    rest, texts = cut(json.dumps([LONG, "small", LONG, LONG + '"']))
    assert sorted(texts.values()) == [LONG, LONG + '\\"']
    assert json.loads(rest)["rest"] == ["", "small", "", ""]
    assert cut(json.dumps(["small"] * LARGE))[1] == {}


def test_without_one_of_its_texts_a_result_stays_as_it_is() -> None:
    """So its reader says that it cannot be read. Fails if a text is left out, or if an error ends the run."""
    rest, texts = cut(json.dumps([LONG, LONG + "y"]))
    digest, text = next(iter(texts.items()))
    assert whole(rest, blobs_in([Step(StepKind.BLOB, digest, 0, 0, json.dumps(text))])) == rest
