"""The model of a tested app: what it says, and what it is asked."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, ToolOutput

from reflex.agent.context import AgentContext
from reflex.agent.filters import any_event, type_filter
from reflex.agent.triggers import Trigger
from reflex.testing.model import NoAnswer, call, rate_limited
from reflex.testing.plugin import MakeAppTest


class Verdict(BaseModel):
    verdict: str


@dataclass
class Doubt:
    question: str


async def test_without_a_script_it_is_the_offline_model(reflex_app: MakeAppTest) -> None:
    async with reflex_app([Trigger("hello", any_event(), Agent())]) as t:
        await t.publish("http", {"message": "hi"})
        await t.run()
        assert t.runs[0].output == "offline model: http received"


async def test_it_says_what_it_is_told_to_one_after_the_other(reflex_app: MakeAppTest) -> None:
    """A text, several calls in one response, a value of the output's type, a function of what was asked.

    Fails with: answers popped from the end; a list of calls taken for several answers; the output's tool not found by
    the name of the value's class.
    """
    agent: Agent[Any, Any] = Agent(output_type=[Verdict, Doubt], instructions="Judge.")

    @agent.tool_plain
    def price(item: str) -> float:  # pyright: ignore[reportUnusedFunction]
        return {"mug": 8.0, "jug": 20.0}[item]

    async with reflex_app([Trigger("judge", any_event(), agent)]) as t:
        t.model.answers(
            [
                [call("price", item="mug"), call("price", item="jug")],
                Doubt("which jug?"),
                lambda asked: Verdict(verdict=f"asked about {asked.prompt.count('jug')} jug"),
            ]
        )
        await t.publish("order", {"item": "jug"})
        await t.run()
        await t.publish("order", {"item": "jug"})
        await t.run()
        assert [run.output for run in t.runs] == [{"question": "which jug?"}, {"verdict": "asked about 1 jug"}]
        first, second, _ = t.model.requests
        assert (first.trigger, first.instructions, first.tool_results) == ("judge", "Judge.", {})
        assert '"item":"jug"' in first.prompt
        assert second.tool_results == {"price": 20.0}
        assert t.model.unused == 0


async def test_native_output_is_written_as_json(reflex_app: MakeAppTest) -> None:
    agent = Agent(output_type=NativeOutput(Verdict))
    async with reflex_app([Trigger("judge", any_event(), agent)]) as t:
        t.model.answers([{"verdict": "good"}])
        await t.publish("order")
        await t.run()
        assert t.runs[0].output == {"verdict": "good"}


@pytest.mark.parametrize(
    "output_type",
    [
        [ToolOutput(Verdict, name="judge"), ToolOutput(Doubt, name="ask")],
        NativeOutput([Verdict, Doubt]),
        PromptedOutput([Verdict, Doubt]),
    ],
    ids=["named tools", "native", "prompted"],
)
@pytest.mark.parametrize("answer", [Doubt("which jug?"), {"question": "which jug?"}], ids=["object", "dict"])
async def test_a_value_of_one_of_several_types_is_that(reflex_app: MakeAppTest, output_type: Any, answer: Any) -> None:
    """Fails if the first of the types gets any value, or JSON that does not say which of them it is."""
    agent: Agent[Any, Any] = Agent(output_type=output_type)
    async with reflex_app([Trigger("judge", any_event(), agent)]) as t:
        t.model.answers([answer])
        await t.publish("order")
        await t.run()
        assert t.runs[0].output == {"question": "which jug?"}


async def test_a_model_that_keeps_failing_is_not_asked_for_a_while(reflex_app: MakeAppTest) -> None:
    """As in production. Fails without circuits: the fifth failure would make a dead letter."""
    async with reflex_app([Trigger("judge", type_filter("order"), Agent())]) as t:
        t.model.answers([*[rate_limited()] * 5, "done"])
        await t.publish("order")
        await t.run()
        await t.clock.advance(timedelta(minutes=5))
        assert t.runs.outcomes == [*["retry"] * 4, "waiting", "succeeded"]


async def test_rules_answer_first_and_as_often_as_they_hold(reflex_app: MakeAppTest) -> None:
    """Fails with: the list before the rules."""
    app = [Trigger("a", type_filter("a"), Agent()), Trigger("b", type_filter("b"), Agent())]
    async with reflex_app(app) as t:
        t.model.answers(["from the list"])
        t.model.on('"type":"a"', "by the text")
        t.model.on(lambda asked: asked.trigger == "b" and "special" in asked.prompt, "by the function")
        for type, payload in (("a", {}), ("b", {}), ("a", {}), ("b", {"special": 1})):
            await t.publish(type, payload)
            await t.run()
        assert [run.output for run in t.runs] == ["by the text", "from the list", "by the text", "by the function"]


@pytest.mark.parametrize(
    ("agent", "answers", "sentence"),
    [
        (Agent(), ["one"], r"asked once more than it has answers \(1\): <asked by again"),
        (Agent(), ["one", Verdict(verdict="good")], "the agent's output is a text"),
        (Agent(), ["one", 42], "42 is no answer of a model"),
    ],
)
async def test_a_script_that_does_not_fit_fails_the_test(
    reflex_app: MakeAppTest, agent: Agent, answers: list[Any], sentence: str
) -> None:
    """Fails if it only fails the run, which would be tried again and perhaps end well."""

    async def again(ctx: AgentContext) -> str:
        await ctx.run_agent(agent)
        return (await ctx.run_agent(agent, "once more")).output

    async with reflex_app([Trigger("again", any_event(), again)]) as t:
        t.model.answers(answers)
        await t.publish("order")
        with pytest.raises(NoAnswer, match=sentence):
            await t.run()
        with pytest.raises(TypeError, match="takes a list"):
            t.model.answers("one")


async def test_answers_can_be_streamed(reflex_app: MakeAppTest) -> None:
    """Fails without a stream function."""
    texts: list[str] = []
    agent = Agent()

    async def streamed(ctx: AgentContext) -> str:
        async def handler(_: Any, events: Any) -> None:
            async for event in events:
                texts.append(type(event).__name__)

        return (await ctx.run_agent(agent, event_stream_handler=handler)).output

    async with reflex_app([Trigger("streamed", any_event(), streamed)]) as t:
        t.model.answers(["word by word"])
        await t.publish("order")
        await t.run()
        assert t.runs[0].output == "word by word"
        assert texts.count("PartDeltaEvent") == 2


async def test_a_tool_that_asks_again_is_answered_again(reflex_app: MakeAppTest) -> None:
    agent = Agent()

    @agent.tool_plain
    def find(name: str) -> str:  # pyright: ignore[reportUnusedFunction]
        if name == "?":
            raise ModelRetry("say a name")
        return name

    async with reflex_app([Trigger("find", any_event(), agent)]) as t:
        t.model.answers([call("find", name="?"), call("find", name="ada"), "found"])
        await t.publish("order")
        await t.run()
        assert [done.arguments for done in t.tool_calls] == ['{"name":"?"}', '{"name":"ada"}']
        assert [done.recorded for done in t.tool_calls] == [True, True]
