"""The words of the WebSocket, without one."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex.gateway.live.frames import CLIENT_FRAMES, SERVER_FRAMES
from reflex.gateway.live.protocol import (
    FrameRejected,
    Line,
    Operation,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
    frame,
    read_frame,
)


def read(text: str) -> Operation | None:
    return read_frame(text, max_nesting=64)


def refused(frame: str | dict[str, Any]) -> FrameRejected:
    with pytest.raises(FrameRejected) as caught:
        read(frame if isinstance(frame, str) else json.dumps(frame))
    return caught.value


@pytest.mark.parametrize("text", ["", " ", "\n", "\t \r\n", "\u00a0"])
def test_an_empty_line_is_nothing(text: str) -> None:
    """Fails when read_line makes a Line of an empty string."""
    assert read(text) is None


@pytest.mark.parametrize("text", ["hello", "[1, 2]", '"{}"', "7", "null", "hi {name}", "’{"])
def test_what_does_not_begin_with_a_brace_is_a_line(text: str) -> None:
    """Fails when anything that parses as JSON is taken for an operation."""
    assert read(f" {text}\n") == Line(text)


def test_each_operation_is_read_from_its_example() -> None:
    """Fails when the table names an operation or a field that the reader does not know."""
    assert [read(json.dumps(each.example)) for each in CLIENT_FRAMES] == [
        Publish("7", {"type": "order.created", "payload": {"order_id": "A1"}}),
        Subscribe("orders", types=("order.*",), key="A1"),
        Unsubscribe("orders"),
        Ping("8"),
    ]


def test_all_that_a_subscription_may_say() -> None:
    said: dict[str, Any] = {
        "id": "s", "types": ["a", "b.*", "*", "reflex.*"], "sources": ["shop"], "key": "k", "correlation_id": "c",
        "tail": 10, "include": ["progress"],
    }  # fmt: skip
    expected = Subscribe("s", ("a", "b.*", "*", "reflex.*"), ("shop",), "k", "c", None, 10, ("progress",))
    assert read(json.dumps({"op": "subscribe", **said})) == expected
    nothing = {name: None for name in said if name != "id"}
    assert read(json.dumps({"op": "subscribe", "id": "s", **nothing})) == Subscribe("s")


@pytest.mark.parametrize(
    ("said", "field", "reason", "id"),
    [
        ('{"op":"ping","id":"1"', "", "is not valid JSON", None),
        ("{", "", "is not valid JSON", None),
        ('{"op":"ping","op":"ping"}', "", "op", None),
        ('{"op":"publish","id":"1","event":{"payload":{"a":"\\u0000"}}}', "/event/payload/a", "NUL character", "1"),
        ('{"op":"publish","id":"1","event":{"payload":{"a":1e999}}}', "/event/payload/a", "range of a double", None),
        ('{"op":"publish","id":"1","event":' + "[" * 70 + "]" * 70 + "}", "", "more than 65 levels", "1"),
        ({}, "/op", "is missing; it is one of 'publish', 'subscribe', 'unsubscribe', 'ping'", None),
        ({"op": "subscripe", "id": "1"}, "/op", "'subscripe' is no operation; there are 'publish'", "1"),
        ({"op": ["ping"], "id": "1"}, "/op", "that is no operation", "1"),
        ({"op": {}, "id": 7}, "/op", "that is no operation", None),
        ({"op": "ping", "id": 7}, "/id", "must be a string", None),
        ({"op": "ping", "id": ""}, "/id", "must not be empty", None),
        ({"op": "ping", "id": "x" * 201}, "/id", "longer than 200", None),
        ({"op": "ping", "id": "1", "cursor": "x"}, "", "unknown in 'ping': 'cursor'; it has id", "1"),
        ({"op": "publish", "id": "1"}, "/event", "is missing", "1"),
        ({"op": "publish", "id": "1", "type": "a"}, "", "unknown in 'publish': 'type'; it has id, event", "1"),
        ({"op": "subscribe"}, "/id", "is missing", None),
        ({"op": "subscribe", "id": "1", "types": "a"}, "/types", "must be an array", "1"),
        ({"op": "subscribe", "id": "1", "types": []}, "/types", "must have 1 to 100 members", "1"),
        ({"op": "subscribe", "id": "1", "types": ["a"] * 101}, "/types", "must have 1 to 100 members", "1"),
        ({"op": "subscribe", "id": "1", "types": ["a", "b*"]}, "/types/1", "'b*' is not of the form of", "1"),
        ({"op": "subscribe", "id": "1", "types": ["a", 7]}, "/types/1", "must be a string", "1"),
        ({"op": "subscribe", "id": "1", "types": ["a", None]}, "/types/1", "must be a string", "1"),
        ({"op": "subscribe", "id": "1", "sources": [""]}, "/sources/0", "must not be empty", "1"),
        ({"op": "subscribe", "id": "1", "key": 7}, "/key", "must be a string", "1"),
        ({"op": "subscribe", "id": "1", "tail": 0}, "/tail", "must be from 1 to 1000", "1"),
        ({"op": "subscribe", "id": "1", "tail": True}, "/tail", "must be a whole number", "1"),
        ({"op": "subscribe", "id": "1", "tail": 1.5}, "/tail", "must be a whole number", "1"),
        ({"op": "subscribe", "id": "1", "tail": 1, "after": "x"}, "/tail", "cannot be combined with after", "1"),
        ({"op": "subscribe", "id": "1", "include": ["runs"]}, "/include/0", "'runs' is none of 'progress'", "1"),
        ({"op": "unsubscribe"}, "/id", "is missing", None),
        ("hello \0", "", "NUL character", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_field_and_the_clients_id(
    said: str | dict[str, Any], field: str, reason: str, id: str | None
) -> None:
    """Fails when a check is dropped, or an error loses the id that tells the client which request it was."""
    error = refused(said)
    assert (error.field, error.id) == (field, id)
    assert reason in error.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({field.name for each in CLIENT_FRAMES for field in each.fields})
FRAMES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4).flatmap(
    lambda fields: (st.sampled_from([each.op for each in CLIENT_FRAMES]) | JSON).map(lambda op: {**fields, "op": op})
)


@given(FRAMES | st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_any_object_is_an_operation_or_an_error_that_names_a_field_of_it(value: dict[str, Any]) -> None:
    """Fails when a value of an unforeseen type gets through to code that cannot take it."""
    error = None
    try:
        read(json.dumps(value))
    except FrameRejected as raised:
        error = raised
    if error is None:
        assert value["op"] in {each.op for each in CLIENT_FRAMES}
    else:
        assert error.reason
        member = error.field.partition("/")[2].partition("/")[0].replace("~1", "/").replace("~0", "~")
        assert not error.field or member == "op" or member in value or error.reason == "is missing"


@given(st.text())
def test_any_text_is_nothing_a_line_an_operation_or_an_error(text: str) -> None:
    """Fails when some text makes the reader raise anything else."""
    try:
        found = read(text)
    except FrameRejected:
        return
    if not text.strip().startswith("{"):
        assert found == (Line(text.strip()) if text.strip() else None)


def test_a_frame_is_one_line_and_leaves_out_an_id_that_was_not_given() -> None:
    """Fails when the id is sent as null, which a typed client would have to expect."""
    assert orjson.loads(frame("pong", cursor="x")) == {"op": "pong", "cursor": "x"}
    assert frame("error", "7", problem={"detail": "a\nb"}) == '{"op":"error","id":"7","problem":{"detail":"a\\nb"}}'


def test_every_example_has_the_fields_of_its_frame() -> None:
    """Fails when a field is renamed in one place only."""
    for each in (*CLIENT_FRAMES, *SERVER_FRAMES):
        names = {field.name for field in each.fields}
        required = {field.name for field in each.fields if field.required}
        assert each.example["op"] == each.op
        assert required <= each.example.keys() - {"op"} <= names, each.op
    ops = {each.op for each in SERVER_FRAMES}
    assert {answer for each in CLIENT_FRAMES for answer in each.answers} <= ops
