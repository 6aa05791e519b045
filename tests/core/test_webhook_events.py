"""What becomes of the body of a webhook: nothing is lost, whatever was sent."""

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex.core import strict_json
from reflex.core.events import TYPE_NAME
from reflex.core.webhook_events import Payload, checked_path, checked_template, event_of, read_body
from reflex.core.webhook_signatures import SCHEMES, Scheme
from reflex.core.webhooks import WebhookDefinition, definition, secret_variable, secrets_in

FORM = "application/x-www-form-urlencoded"
GITHUB, STANDARD, SLACK = SCHEMES["github"], SCHEMES["standard"], SCHEMES["slack"]


def read(body: bytes | str, content_type: str = "application/json") -> Payload:
    payload = read_body(body.encode() if isinstance(body, str) else body, content_type, max_nesting=8)
    assert json.loads(payload.text) == payload.value or "." in payload.text
    return payload


def test_an_object_is_the_payload_to_the_last_digit() -> None:
    """Fails if the payload is written anew from what was parsed."""
    text = '{ "amount": 0.12345678901234567890, "n": 1.10 }'
    assert read(text).text == text


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        ("[1, 2]", "application/json", {"body": [1, 2]}), ('"x"', "text/plain", {"body": "x"}),
        ("null", "application/json", {"body": None}), ("", "", {"body_text": ""}),
        ("hello", "text/plain", {"body_text": "hello"}), ("{", "application/json", {"body_text": "{"}),
        ('{"a": "\\u0000"}', "application/json", {"body_text": '{"a": "\\u0000"}'}),
        ('{"a": 1, "a": 2}', "application/json", {"body_text": '{"a": 1, "a": 2}'}),
        ('{"a": 1e999}', "application/json", {"body_text": '{"a": 1e999}'}),
        ("[" * 9 + "]" * 9, "application/json", {"body_text": "[" * 9 + "]" * 9}),
        ("command=%2Fdeploy&text=&user=a+b", FORM, {"command": "/deploy", "text": "", "user": "a b"}),
        ("a=1&a=2", FORM, {"body_text": "a=1&a=2"}), ("a", FORM, {"body_text": "a"}),
        ("a=%00", FORM, {"body_text": "a=%00"}), ("a=%ff", FORM, {"body_text": "a=%ff"}),
        (urlencode({"payload": '{"a": [1]}'}), f"{FORM}; charset=utf-8", {"a": [1]}),
        (urlencode({"payload": "{"}), FORM, {"body_text": "payload=%7B"}),
    ],
)  # fmt: skip
def test_other_bodies_are_kept_whole(body: str, content_type: str, value: dict[str, Any]) -> None:
    assert read(body, content_type).value == value


@pytest.mark.parametrize("body", [b"\xff", b"a\x00b", b"\x00", b'{"a": "\x00"}', b"\x1f\x8b\x08"])
def test_bytes_come_back_as_they_were(body: bytes) -> None:
    assert base64.b64decode(read(body).value["body_base64"]) == body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["type", "id"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text("a=&%0f+", max_size=12).map(str.encode),
    st.sampled_from(["application/json", FORM, "", "text/plain"]),
    st.sampled_from([*SCHEMES.values()]),
    st.dictionaries(st.sampled_from(["x-github-event", "x-github-delivery", "webhook-id"]), st.text()),
)
def test_whatever_is_sent_becomes_an_event_that_can_be_stored(
    body: bytes, content_type: str, scheme: Scheme, headers: dict[str, str]
) -> None:
    """Fails with any error, and with a text, a type, a key or an id that PostgreSQL would refuse."""
    payload = read_body(body, content_type, max_nesting=8)
    read_back = strict_json.parse(payload.text.encode(), max_nesting=8)
    assert read_back == payload.value
    made = event_of("n", scheme, "a.{event}.{payload.type}", "payload.id", payload=payload, headers=headers, body=body)
    assert TYPE_NAME.fullmatch(made.type)
    assert len(made.type) <= 200
    assert 0 < len(made.idempotency_key or "") <= 200
    assert "\0" not in f"{made.idempotency_key}{made.key}"
    made.payload.encode()
    (made.key or "").encode()


def event(
    scheme: Scheme = GITHUB, template: str = "github.{event}", key: str | None = None, body: str = "{}", **headers: str
) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return event_of("hook", scheme, template, key, payload=read(body), headers=named, body=body.encode())


@pytest.mark.parametrize(
    ("scheme", "template", "body", "headers", "type"),
    [
        (GITHUB, "github.{event}", "{}", {"x_github_event": "pull_request"}, "github.pull_request"),
        (GITHUB, "gh.{event}.{payload.act}", '{"act": "opened"}', {"x_github_event": "issues"}, "gh.issues.opened"),
        (GITHUB, "github.{event}", "{}", {}, "github.unknown"),
        (GITHUB, "github.push", "{}", {"x_github_event": "issues"}, "github.push"),
        (SCHEMES["stripe"], "stripe.{event}", '{"type": "charge.refunded"}', {}, "stripe.charge.refunded"),
        (SLACK, "slack.{event}", '{"type": "event_callback", "event": {"type": "message"}}', {}, "slack.message"),
        (SLACK, "slack.{event}", '{"type": "block_actions"}', {}, "slack.block_actions"),
        (STANDARD, "in.{event}", '{"type": "../å reflex.dead_letter/"}', {}, "in.reflex.dead_letter"),
        (STANDARD, "in.{event}", '{"type": {"a": 1}}', {}, "in.unknown"),
        (STANDARD, "in.{event}", json.dumps({"type": "x" * 500}), {}, "in." + "x" * 197),
        (STANDARD, "in.{payload.a.1}", '{"a": [0, true]}', {}, "in.true"),
    ],
)  # fmt: skip
def test_the_type_is_the_senders_word_in_our_grammar(
    scheme: Scheme, template: str, body: str, headers: dict[str, str], type: str
) -> None:
    made = event(scheme, template, body=body, **headers)
    assert made.type == type
    assert TYPE_NAME.fullmatch(made.type)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"repo": {"name": "a/b"}}', "a/b"), ('{"repo": {"name": 7}}', "7"), ('{"repo": {"name": null}}', None),
        ('{"repo": {"name": []}}', None), ("{}", None), ("[]", None), ('{"repo": {"name": ""}}', None), ("x", None),
    ],
)  # fmt: skip
def test_the_key_is_where_its_path_says(body: str, key: str | None) -> None:
    assert event(key="payload.repo.name", body=body).key == key


def test_long_keys_and_ids_are_told_apart_where_they_are_cut() -> None:
    one, other = [event(key="payload.k", body=json.dumps({"k": "x" * 600 + end}), x_github_delivery="d" * 300 + end)
                  for end in "ab"]  # fmt: skip
    assert one.key != other.key
    assert one.idempotency_key != other.idempotency_key
    assert max(len(one.key), len(one.idempotency_key)) <= 200


def test_a_delivery_is_known_by_its_senders_id_and_else_by_its_body() -> None:
    assert event(x_github_delivery="72d3162e").idempotency_key == "72d3162e"
    assert event(STANDARD, webhook_id="msg_1").idempotency_key == "msg_1"
    assert event(SCHEMES["stripe"], body='{"id": "evt_1"}').idempotency_key == "evt_1"
    assert event(SLACK, body='{"event_id": "Ev1"}').idempotency_key == "Ev1"
    by_body = [event(body=body).idempotency_key for body in ("{}", "{}", "[]")]
    assert by_body[0] == by_body[1] != by_body[2]
    assert event().source == "webhook:hook"


@pytest.mark.parametrize(
    "template", ["", "{event}", "a b", "a.{}", "a.{key}", "reflex.{event}", "a.{payload}", "a{event"]
)
def test_a_template_that_makes_no_type_or_anybodys_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"write|begin"):
        checked_template(template)


@pytest.mark.parametrize("path", ["", "key", "payload", "payload.", "payload..a", "payload.a\0"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        checked_path(path)


@pytest.mark.parametrize(
    "scheme", [*SCHEMES.values(), Scheme("hmac", "x", "p", "sha1", "base64", "t", "i", ("a", "b"), "e", (("c",),))]
)
def test_a_definition_is_read_as_it_was_written(scheme: Scheme) -> None:
    given = WebhookDefinition("n", scheme, "a.{event}", "payload.k", 30)
    assert definition("n", json.loads(given.to_json())) == given


def test_a_secret_is_in_a_variable_of_the_webhooks_name_and_there_may_be_two() -> None:
    assert secret_variable("my.shop-2") == "REFLEX_WEBHOOK_MY_SHOP_2_SECRET"
    assert secrets_in({"A": " one, two\nthree ,"}, "A") == ["one", "two", "three"]
    assert secrets_in({"A": " , "}, "A") == secrets_in({}, "A") == []
