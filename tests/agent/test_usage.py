"""What a run has used up, with its price."""

import json
from collections import Counter
from typing import Any

import orjson
import pytest

from reflex.core.settlement import Outcome
from reflex.worker.metrics import WorkerMetrics
from tests.agent.stub_provider import Answer, raw, text, tool_call
from tests.agent.test_journal import failing_once, stock_agent
from tests.agent.till import till


def priced(answer: Answer) -> Answer:
    """The same answer of a model whose price is known."""

    async def of_a_known_model() -> Any:
        body = json.loads(bytes((await answer()).body))
        return await raw(json.dumps(body | {"model": "gpt-4o"}))()

    return of_a_known_model


async def test_the_price_of_what_is_replayed_is_named_beside_the_sum(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run has paid for it: the sum over runs takes it off. Fails if what is replayed is not kept with its
    usage, and if its price is read before there is one."""
    counted: Counter[str] = Counter()
    script = (priced(tool_call("stock", {"sku": "A"})), priced(text("ship it")))
    async with till(database_url, monkeypatch, *script) as t:
        function = failing_once(stock_agent(counted), RuntimeError("a bug"))
        first, second = await t.attempt(function), await t.attempt(function)
        assert second.outcome is Outcome.SUCCEEDED
        paid, again = orjson.loads(first.usage or ""), orjson.loads(second.usage or "")
        assert paid["cost_usd"] > 0
        assert "replayed_cost_usd" not in paid
        assert again["replayed_cost_usd"] == again["cost_usd"] == paid["cost_usd"]


async def test_what_a_model_took_is_metered_once_by_the_model_and_not_when_it_is_replayed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the journal's answers are metered as well: they took nothing."""
    counted: Counter[str] = Counter()
    metrics = WorkerMetrics("shop")
    script = (priced(tool_call("stock", {"sku": "A"})), priced(text("ship it")))
    async with till(database_url, monkeypatch, *script) as t:
        t.models.meter = metrics.answered
        function = failing_once(stock_agent(counted), RuntimeError("a bug"))
        first, second = await t.attempt(function), await t.attempt(function)
        assert second.outcome is Outcome.SUCCEEDED
        paid = orjson.loads(first.usage or "")
    found = {(name, labels[2:]): value for name, labels, value in metrics.read() if "model" in name}
    (model,) = {labels[0] for _, labels in found}
    assert found == {
        ("reflex_model_requests_total", (model,)): 2,
        ("reflex_model_tokens_total", (model, "input")): paid["input_tokens"],
        ("reflex_model_tokens_total", (model, "output")): paid["output_tokens"],
        ("reflex_model_cost_usd_total", (model,)): pytest.approx(paid["cost_usd"]),
    }
    assert model == "openai:stub"
