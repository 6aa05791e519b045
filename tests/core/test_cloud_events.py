"""CloudEvents against the standard's own implementation: each reads what the other writes."""

import base64
import string
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent as Theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex.core import envelope
from reflex.core.cloud_event_fields import from_log, to_fields, wrongly_named
from reflex.core.cloud_events import NO_DATA, CloudEvent, from_headers, from_json, to_json
from reflex.core.errors import EventRejected
from reflex.core.strict_json import parse

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}
RESERVED = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"}
# Known to differ: whether a CR or a tab is a character of a text (it is none), and how a time is written.
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Cn"])
TEXT = st.text(CHARACTERS, min_size=1, max_size=40)
WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
EXTENSION_NAME = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20).filter(
    lambda name: name not in RESERVED
)
JSON = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def attributes(draw: st.DrawFn, extension: st.SearchStrategy[Any]) -> dict[str, Any]:
    optional = {"subject": TEXT, "dataschema": st.just("https://shop.example/schema#v1"), "time": TIMES}
    return {
        "specversion": "1.0", "id": draw(TEXT), "type": ".".join(draw(st.lists(WORD, min_size=1, max_size=3))),
        "source": draw(st.sampled_from(["/shop", "https://shop.example/a?b=c#d", "urn:uuid:1", "a%20b", "to:a@b.c"])),
        **{name: draw(values) for name, values in optional.items() if draw(st.booleans())},
        **draw(st.dictionaries(EXTENSION_NAME, extension, max_size=3)),
    }  # fmt: skip


def own(given: dict[str, Any], data: Any) -> CloudEvent:
    """What we should make of the attributes that the SDK was given."""
    given = {name: value for name, value in given.items() if name != "specversion"}
    if "time" in given:
        given["time"] = given["time"].isoformat().replace("+00:00", "Z")
    context = {name: given.pop(name) for name in RESERVED & given.keys()}
    return CloudEvent(**context, extensions=given, data=data)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(attributes(TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1)), OBJECTS | st.binary(min_size=1), TIMES)
def test_what_the_sdk_writes_as_json_is_read_as_it_was_meant(
    attributes: dict[str, Any], data: Any, time: datetime
) -> None:
    attributes.setdefault("time", time)  # else the SDK takes the time of now
    message = to_structured_event(Theirs(dict(attributes), data))
    assert from_json(parse(message.body, max_nesting=64)) == own(attributes, data)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(attributes(TEXT), OBJECTS, TIMES)
def test_what_the_sdk_writes_into_headers_is_read_as_it_was_meant(
    attributes: dict[str, Any], data: dict[str, Any], time: datetime
) -> None:
    """Fails if headers are not percent-decoded, or once too often."""
    attributes |= {"time": attributes.get("time", time), "datacontenttype": "application/json"}
    message = to_binary_event(Theirs(dict(attributes), data))
    headers = [(name.encode(), value.encode()) for name, value in message.headers.items()]
    assert from_headers(headers, message.body, max_nesting=64) == own(attributes, data)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(attributes(TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1)), OBJECTS | st.binary(min_size=1), TIMES)
def test_the_sdk_reads_what_is_written_here(attributes: dict[str, Any], data: Any, time: datetime) -> None:
    attributes.setdefault("time", time)
    body = orjson.dumps(to_json(own(attributes, data)))
    theirs = from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, body))
    assert theirs.get_attributes() == attributes
    assert theirs.get_data() == data


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    attributes(TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1)),
    JSON | st.binary() | st.just({"cloudevents": {"data": "base64"}}) | st.just({"data": 1}) | st.just({}),
    st.sampled_from(["application/json", "text/plain", "image/png", "application/vnd.shop+json"]),
    st.sampled_from(["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "none", None]),
)
def test_what_came_in_comes_out_of_the_log_again(
    attributes: dict[str, Any], data: Any, content_type: str, trace: str | None
) -> None:
    """Fails if the envelope forgets an attribute, or if wrapped data cannot be told from data that look like it."""
    attributes |= {"time": datetime(2026, 1, 31, 9, tzinfo=UTC), "datacontenttype": content_type}
    attributes |= {"traceparent": trace} if trace else {}
    attributes |= {"correlationid": "checkout-7"} if content_type == "image/png" else {}
    event = own(attributes, data)
    fields, trace_context = to_fields(event)
    assert fields["payload"].keys() <= {"data", "data_base64", "cloudevents"} or isinstance(data, dict)
    stored, payload = envelope.read(fields, max_payload_bytes=10**6, trace_context=trace_context)
    row = {**stored._asdict(), "id": uuid4(), "time": stored.time}
    assert from_log(row, payload, stored.idempotency_key) == event


def test_an_event_without_an_id_or_anything_of_a_cloud_event_is_one_all_the_same() -> None:
    event_id, cause = uuid4(), uuid4()
    row: dict[str, Any] = {
        "id": event_id, "source": "my shop: 50%", "type": "order.created", "key": None, "correlation_id": "c",
        "causation_id": cause, "trace_context": None, "time": datetime(2026, 1, 31, 9, tzinfo=UTC),
    }  # fmt: skip
    for their_own in (
        {"Foo": "x"},
        {"n": 2**40},
        {"n": 1.5},
        {"dataschema": 1},
        {"data": "base64"},
        {"data": 1},
        {},
        [],
    ):
        payload = {"amount": 1, "cloudevents": their_own}
        assert from_log(row, payload, None).data == payload
    written = to_json(from_log(row, {"amount": 1, "cloudevents": "an author's own"}, None))
    assert written == {
        "specversion": "1.0", "id": str(event_id), "source": "my%20shop:%2050%25", "type": "order.created",
        "time": "2026-01-31T09:00:00Z", "datacontenttype": "application/json", "correlationid": "c",
        "causationid": str(cause), "data": {"amount": 1, "cloudevents": "an author's own"},
    }  # fmt: skip
    assert from_json(written).source == "my%20shop:%2050%25"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "0.3"}, "/specversion"), ({"specversion": None}, "/specversion"), ({"id": None}, "/id"),
        ({"specversion": 1.0}, "/specversion"), ({"id": ""}, "/id"), ({"id": 7}, "/id"), ({"source": ""}, "/source"),
        ({"source": "my shop"}, "/source"), ({"source": "å"}, "/source"), ({"source": "a%2"}, "/source"),
        ({"type": "a\tb"}, "/type"), ({"type": None}, "/type"), ({"subject": ""}, "/subject"),
        ({"subject": "a\ufffe"}, "/subject"), ({"dataschema": "schema.json"}, "/dataschema"),
        ({"dataschema": "a:b c"}, "/dataschema"), ({"datacontenttype": "json"}, "/datacontenttype"),
        ({"Extension": "x"}, "/Extension"), ({"my_key": "x"}, "/my_key"), ({"payload": {}}, "/payload"),
        ({"count": 2**31}, "/count"), ({"count": 1.5}, "/count"), ({"list": []}, "/list"), ({"a": "\x7f"}, "/a"),
        ({"data_base64": "a"}, "/data_base64"), ({"data_base64": 1}, "/data_base64"),
        ({"data_base64": "YQ==\n"}, "/data_base64"), ({"data_base64": "YQ==", "data": 1}, "/data_base64"),
    ],
)  # fmt: skip
def test_what_is_no_cloud_event_is_refused_by_the_name_of_its_attribute(change: dict[str, Any], field: str) -> None:
    with pytest.raises(EventRejected) as refused:
        from_json({**MINIMAL, **change}, at="/3")
    assert refused.value.field == f"/3{field}"


def test_what_is_null_was_not_given() -> None:
    nothing = dict.fromkeys(["subject", "time", "dataschema", "myextension", "data", "data_base64"])
    assert from_json({**MINIMAL, **nothing}) == from_json(MINIMAL)
    assert from_json(MINIMAL).data is NO_DATA


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from([*MINIMAL, "subject", "time", "data", "data_base64", "datacontenttype", "traceparent"]) | TEXT,
        st.none() | JSON | st.just("1.0"), max_size=8,
    ),
    st.lists(st.tuples(st.sampled_from([b"ce-id", b"ce-type", b"ce-x", b"content-type"]), st.binary(max_size=20))),
    st.binary(max_size=20),
)  # fmt: skip
def test_whatever_is_sent_is_an_event_or_refused(
    value: dict[str, Any], headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Fails with any other error, which would be a 500."""
    with suppress(EventRejected):
        to_fields(from_json(MINIMAL | value))
    with suppress(EventRejected):
        to_fields(from_headers([*HEADERS[:1], *headers], body, max_nesting=8))


HEADERS = [(f"ce-{name}".encode(), value.encode()) for name, value in MINIMAL.items()]


@pytest.mark.parametrize(
    ("content_type", "body", "data", "kept_type"),
    [
        (b"application/json", b"[1, 2]", [1, 2], "application/json"),
        (b'application/json; charset="UTF-8"', b'"x"', "x", "application/json"),
        (b"application/vnd.shop+json", b"{}", {}, "application/vnd.shop+json"),
        (b"application/json", b"null", NO_DATA, "application/json"),
        (b"text/plain", "ünï".encode(), "ünï", "text/plain"),
        (b"text/plain", b"\xff\x00", b"\xff\x00", "text/plain"),
        (b"text/plain; charset=latin-1", b"caf\xe9", b"caf\xe9", "text/plain; charset=latin-1"),
        (b"application/xml", b"<a/>", "<a/>", "application/xml"),
        (b"image/png", b"\x89PNG", b"\x89PNG", "image/png"),
        (b"image/png", b"abc", b"abc", "image/png"),
        (None, b'{"a": 1}', {"a": 1}, None),
        (None, b"\x00", b"\x00", "application/octet-stream"),
        (b"application/json", b"", NO_DATA, "application/json"),
    ],
)
def test_a_body_is_data_as_its_type_says(content_type: bytes | None, body: bytes, data: Any, kept_type: Any) -> None:
    headers = [*HEADERS, (b"content-type", content_type)] if content_type else HEADERS
    event = from_headers(headers, body, max_nesting=64)
    assert (event.data, event.datacontenttype) == (data, kept_type)
    if isinstance(data, bytes):
        assert base64.b64decode(to_json(event)["data_base64"]) == body


def test_a_header_may_be_quoted_as_older_versions_had_it() -> None:
    headers = [*HEADERS, (b"ce-subject", rb'"a \"b\" %C3%A9 \\ %2525"'), (b"ce-other", "é".encode())]
    event = from_headers(headers, b"", max_nesting=64)
    assert (event.subject, event.extensions) == ('a "b" é \\ %25', {"other": "é"})


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ((b"ce-id", b"2"), "ce-id"), ((b"ce-subject", b"%ff"), "ce-subject"), ((b"ce-subject", b"\xff"), "ce-subject"),
        ((b"ce-a_b", b"x"), "ce-a_b"), ((b"ce-subject", b"a%00"), "ce-subject"), ((b"ce-data", b"x"), ""),
        ((b"content-type", b"json"), "content-type"),
    ],
)  # fmt: skip
def test_a_wrong_header_is_named(header: tuple[bytes, bytes], field: str) -> None:
    with pytest.raises(EventRejected) as refused:
        from_headers([*HEADERS, header], b"", max_nesting=64)
    assert wrongly_named(refused.value, "", in_headers=True).field == field


@pytest.mark.parametrize(
    ("field", "in_json", "in_headers"),
    [
        ("/key", "/subject", "ce-subject"), ("/correlation_id", "/correlationid", "ce-correlationid"),
        ("/payload/amount/0", "/data/amount/0", "/amount/0"), ("/payload", "/data", ""),
        ("/payload/data/1", "/data/1", "/1"), ("/payload/data_base64", "/data_base64", ""),
        ("/payload/cloudevents/sequence", "/sequence", "ce-sequence"), ("/type", "/type", "ce-type"),
    ],
)  # fmt: skip
def test_what_the_envelope_refuses_has_the_name_that_the_sender_knows(
    field: str, in_json: str, in_headers: str
) -> None:
    assert wrongly_named(EventRejected("no", field=f"/2{field}"), "/2").field == f"/2{in_json}"
    assert wrongly_named(EventRejected("no", field=field), "", in_headers=True).field == in_headers
