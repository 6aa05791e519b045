"""Reading JSON strictly: what is taken comes back as it was, everything else is refused with its place."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex.core.errors import EventRejected
from reflex.core.strict_json import MalformedJson, parse, pointer

MAX_NESTING = 10


def refused(body: bytes, *, max_nesting: int = MAX_NESTING) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        parse(body, max_nesting=max_nesting)
    return caught.value


TAKEN: list[tuple[bytes, Any]] = [
    (b'{"a": [1, -2.5, "x", true, false, null, {}]}', {"a": [1, -2.5, "x", True, False, None, {}]}),
    (b" \t\r\n[]\n ", []),
    (b'"\\ud83d\\ude00 \xf0\x9f\x98\x80 \\u00e9"', "\U0001f600 \U0001f600 \xe9"),
    (b"18446744073709551615", 2**64 - 1),
    (b"-9223372036854775808", -(2**63)),
    (b"1.7976931348623157e308", 1.7976931348623157e308),
    (b"1e-400", 0.0),
    (b"0." + b"0" * 330 + b"1e331", 1.0),
    (b'"a \\\\u0000 that is six characters"', "a \\u0000 that is six characters"),
    (b'"12345678901234567890123 and 1e999 in a string"', "12345678901234567890123 and 1e999 in a string"),
    (b'{"": 1}', {"": 1}),
    (b"[" * MAX_NESTING + b"]" * MAX_NESTING, [[[[[[[[[[]]]]]]]]]]),
    (b'"' + b"[" * 40 + b'"', "[" * 40),
    (b"[" + b"{}," * 40 + b"{}]", [{}] * 41),
]


@pytest.mark.parametrize(("body", "value"), TAKEN)
def test_what_json_allows_and_postgres_can_hold_is_taken(body: bytes, value: object) -> None:
    assert parse(body, max_nesting=MAX_NESTING) == value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"a": 1', "line 1 column 7"),
        (b'{"a": 1}\n}', "trailing characters at line 2 column 1"),
        (b'{"a": 1, "a": 1}', 'duplicate key "a"'),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', 'duplicate key "b"'),
        (b"[NaN]", "no NaN and no Infinity"),
        (b"[-Infinity]", "no NaN and no Infinity"),
        (b'"\\ud800"', "surrogates come in pairs"),
        (b'"\\ud800\\u0041"', "surrogates come in pairs"),
        (b'"\\udc00"', "surrogates come in pairs"),
        (b'"\xff"', "send UTF-8"),
        (b'"\xed\xa0\x80"', "send UTF-8"),
        (b'"\xc0\x80"', "send UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a": 1}'.encode("utf-32"), "UTF-16 or UTF-32"),
        (b'"a\x00b"', "control character"),
    ],
)
def test_what_is_not_json_is_malformed_and_the_reason_says_what_to_change(body: bytes, said: str) -> None:
    error = refused(body)
    assert isinstance(error, MalformedJson)
    assert said in error.reason


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (b'{"a": ["x", "a\\u0000"]}', "/a/1", "NUL"),
        (b'{"a": {"k\\u0000": 1}}', "/a", "NUL"),
        (b'{"a/b": {"~": 18446744073709551616}}', "/a~1b/~0", "send it as a string"),
        (b"[-9223372036854775809]", "/0", "send it as a string"),
        (b"[" + b"1" * 5000 + b"]", "", "send it as a string"),
        (b"[1e400]", "/0", "send it as a string"),
        (b"[-1E+400]", "/0", "send it as a string"),
        (b"[1" + b"0" * 309 + b".5]", "/0", "send it as a string"),
        (b"[1" + b"0" * 300 + b"e99]", "/0", "send it as a string"),
        (b"[" * 11 + b"]" * 11, "", "more than 10 levels"),
        (b'[{"a": ' * 6 + b"1" + b"}]" * 6, "", "more than 10 levels"),
        (b"[" * 100_000, "", "more than 10 levels"),
    ],
)
def test_json_that_cannot_be_stored_as_it_is_is_refused_with_its_place(body: bytes, field: str, said: str) -> None:
    error = refused(body)
    assert not isinstance(error, MalformedJson)
    assert error.field == field
    assert said in error.reason


def test_a_long_key_is_not_echoed() -> None:
    long = b"k" * 10_000
    for body in (b'{"%b": 1, "%b": 2}' % (long, long), b'{"%b": 1e999}' % long, b'{"%b\\u0000": 1}' % long):
        assert len(str(refused(body))) < 400


def test_a_pointer_names_its_member() -> None:
    assert pointer("/a", 3) == "/a/3"
    assert pointer("", "x/y~z") == "/x~1y~0z"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs", "Cc"])), inner),
    max_leaves=20,
)


@given(JSON)
def test_whatever_is_taken_is_what_was_sent(value: Any) -> None:
    assert parse(orjson.dumps(value), max_nesting=100) == value


@given(st.binary(max_size=60) | st.text('[]{}",:0123456789eE+-.\\u \n\tntfabcdx').map(str.encode))
def test_no_bytes_whatever_break_it(body: bytes) -> None:
    with contextlib.suppress(EventRejected):
        value = parse(body, max_nesting=MAX_NESTING)
        assert orjson.loads(orjson.dumps(value)) == value
