"""Digests of conversations: the same as what is told, and made of each part once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import BinaryContent
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    RetryInfo,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from reflex.agent.fingerprints import class_name, parts_told
from reflex.agent.message_digests import MessageDigests


class Stock(BaseModel):
    sku: str
    left: list[int]


def conversation(**said: Any) -> list[ModelMessage]:
    """Each call gives another one, told at another time, with other ids where those are made up."""
    now = datetime.now(UTC)
    prompt = UserPromptPart(said.get("prompt", "hello"), timestamp=now)
    return [
        ModelRequest([prompt], instructions=said.get("instructions")),
        ModelResponse([TextPart("let me see"), ToolCallPart("stock", said.get("args", {"sku": "A"}), "call-1")]),
        ModelRequest([ToolReturnPart("stock", said.get("stock", Stock(sku="A", left=[7])), "call-1", timestamp=now)]),
    ]


def digest(messages: list[ModelMessage]) -> bytes:
    return MessageDigests().of(messages)


def test_equal_conversations_have_equal_digests() -> None:
    """Fails if a part's identity or its timestamp is in the digest."""
    same = MessageDigests()
    assert same.of(conversation()) == same.of(conversation()) == digest(conversation())


@pytest.mark.parametrize(
    "other",
    [
        conversation(prompt="hi"),
        conversation(prompt=["hello", BinaryContent(b"a picture", media_type="image/png")]),
        conversation(instructions="be brief"),
        conversation(args={"sku": "B"}),
        conversation(stock=Stock(sku="A", left=[8])),
        conversation()[:2],
        [*conversation()[:2], ModelRequest(parts=[]), conversation()[2]],
        [ModelRequest([*conversation()[0].parts, *conversation()[2].parts]), conversation()[1]],  # pyright: ignore[reportArgumentType, reportCallIssue]
    ],
)
def test_whatever_the_model_is_told_is_in_the_digest(other: list[ModelMessage]) -> None:
    """Fails if instructions are left out."""
    assert digest(other) != digest(conversation())


def test_a_message_that_was_changed_in_place_is_another_one() -> None:
    """Fails without the look at the fields: the digest of before would be given for all of these."""
    digests, messages = MessageDigests(), conversation(args={"sku": ["A"]})
    seen = {digests.of(messages)}
    prompt, (_, call), answer = messages[0].parts[0], messages[1].parts, messages[2].parts[0]
    assert isinstance(prompt, UserPromptPart)
    assert isinstance(call, ToolCallPart)
    assert isinstance(answer, ToolReturnPart)
    args: Any = call.args
    stock: Any = answer.content

    def with_more(part: Any) -> None:
        part.content = "hello again"

    for change in (
        lambda: with_more(prompt),
        lambda: args["sku"].append("B"),
        lambda: stock.left.append(1),
        lambda: setattr(messages[0], "instructions", "be brief"),
        lambda: messages[0].parts.append(UserPromptPart("and more")),  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    ):
        change()
        assert digests.of(messages) == digest(messages)
        seen.add(digests.of(messages))
    assert len(seen) == 6
    prompt.timestamp += timedelta(hours=1)
    assert digests.of(messages) in seen


def test_a_part_that_took_the_place_of_an_equal_one_is_looked_at() -> None:
    """Fails if only the part of before is."""
    digests, messages = MessageDigests(), conversation()
    digests.of(messages)
    other: Any = replace(messages[1].parts[1])
    messages[1].parts = [messages[1].parts[0], other]  # pyright: ignore[reportAttributeAccessIssue]
    assert digests.of(messages) == digest(messages)
    other.args = {"sku": "B"}
    assert digests.of(messages) == digest(messages)


class Odd:
    """Cannot be copied, and cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("never")

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("never")


def test_what_cannot_be_compared_is_written_out_each_time() -> None:
    """Fails if an author's __eq__ or __deepcopy__ ends the run, or if an application's metadata is copied."""
    messages = conversation(stock=Odd())
    digests = MessageDigests()
    assert digests.of(messages) == digests.of(messages) == digest(messages)
    messages = conversation(stock="7 left")
    part = messages[2].parts[0]
    assert isinstance(part, ToolReturnPart)
    part.metadata = Odd()
    digests.of(messages)
    written = digests.written
    assert (digests.of(messages), digests.written) == (digest(messages), written)


def test_each_part_is_written_once_and_those_of_before_are_let_go() -> None:
    """A conversation that grows by two messages a request. Fails if every request writes all of it (60 times as much),
    or if messages that no request has any more are kept."""
    digests, messages = MessageDigests(), conversation(instructions="x" * 1000)
    digests.of(messages)
    begun = digests.written
    for number in range(60):
        messages += conversation(prompt=f"question {number:04}", instructions="x" * 1000)
        digests.of(messages)
    assert digests.written - begun == 60 * (begun - 1002 + len("question 0000") - len("hello"))
    assert digests.of_calls(messages) == digest(messages[:-1])
    for _ in range(2):
        digests.of(messages[-3:])
    held = digests._last, digests._before  # pyright: ignore[reportPrivateUsage]
    assert len({id(message) for told in held for message in told.messages}) == 3


def test_two_conversations_by_turns_are_each_written_once() -> None:
    """What the run holds, and what a history processor shows the model of it. Fails if only one is remembered."""
    digests, whole, shown = MessageDigests(), conversation(), conversation(prompt="hi")
    seen = [digests.of(whole), digests.of(shown)]
    written = digests.written
    assert [digests.of(whole), digests.of(shown), digests.written] == [*seen, written]
    for _ in range(2):
        assert digests.of_calls(whole) == digest(whole[:2])
        assert [digests.of(shown), digests.written] == [seen[1], written]


def test_calls_belong_to_what_the_model_was_asked() -> None:
    """A message that is changed in place after the request is another one for the next request only. Fails if each
    call looks through the whole conversation once more."""
    digests, messages = MessageDigests(), conversation()
    asked = digests.of(messages[:2])
    prompt = messages[0].parts[0]
    assert isinstance(prompt, UserPromptPart)
    prompt.content = "hello again"
    assert digests.of_calls(messages) == asked
    assert digests.of(messages[:2]) != asked


def test_what_is_changed_in_place_by_turns_is_another_one() -> None:
    """Of two conversations by turns, one is changed while the other is shown. Fails if it is taken as it was, before
    its next request or its calls."""
    for asked in (MessageDigests.of, MessageDigests.of_calls):
        digests, whole, shown = MessageDigests(), conversation()[:2], conversation(prompt="hi")
        digests.of(whole)
        digests.of(shown)
        prompt = whole[0].parts[0]
        assert isinstance(prompt, UserPromptPart)
        prompt.content = "hello again"
        assert asked(digests, whole) == digest(whole)


def test_a_window_of_the_conversation_is_not_written_once_more() -> None:
    """A history processor shows the model the last messages only, so that no conversation is the beginning of the next
    one. Fails if they are written for each."""
    digests, whole = MessageDigests(), conversation()
    for number in range(5):
        whole += conversation(prompt=f"question {number}")
        digests.of_calls(whole)
        written = digests.written
        assert digests.of(whole[-4:]) == digest(whole[-4:])
        assert digests.written - written == len_of(whole[-1:])


def len_of(messages: list[ModelMessage]) -> int:
    digests = MessageDigests()
    digests.of(messages)
    return digests.written


@pytest.mark.parametrize(
    "part",
    [
        UserPromptPart("hellö"),
        UserPromptPart(["hello", BinaryContent(b"a picture", media_type="image/png")]),
        ToolReturnPart("stock", "7 left", "call-1", metadata=object(), outcome="failed"),
        ToolReturnPart("stock", {"left": float("nan")}, "pyd_ai_made_up"),
        ToolReturnPart("stock", "again", "call-1", retry=RetryInfo("model_retry")),
        TextPart("done", id="x", provider_name="p"),
        TextPart("done", provider_name="p", provider_details={"at": datetime.now(UTC)}),
        ToolCallPart("stock", '{"sku": "A"}', "call-1"),
        ToolCallPart("stock", {"sku": "A", "at": 1, "all": True, "of": None}),
        ToolCallPart("stock", {"least": float("inf"), "skus": ["A"]}),
        ToolCallPart("stock", "{}", provider_name="p", provider_details={"at": datetime.now(UTC)}),
    ],
)
def test_a_part_is_told_as_pydantic_ai_writes_it(part: Any) -> None:
    """Whether or not it was asked to. Fails if a field that holds no JSON is taken for plain, or if a field that
    pydantic-ai leaves out is told."""
    message = ModelResponse([part]) if isinstance(part, TextPart | ToolCallPart) else ModelRequest([part])
    vars(part)["otel_metadata"] = None  # as the instrumentation does
    (dumped,) = ModelMessagesTypeAdapter.dump_python([message], mode="json", fallback=class_name)
    untold = {"timestamp", "metadata", "content_file_digests"}
    told = {name: value for name, value in dumped["parts"][0].items() if name not in untold}
    if "tool_call_id" in told and told["tool_call_id"].startswith("pyd_ai_"):
        del told["tool_call_id"]
    assert parts_told(message) == [told]
