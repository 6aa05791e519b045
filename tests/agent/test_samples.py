import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Network
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import pytest
from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, Json, StringConstraints, TypeAdapter

from reflex.agent.pattern_text import text_for
from reflex.agent.samples import NoSample, sample
from reflex.agent.schema_fit import fits


def check_valid(value: Any, schema: dict[str, Any]) -> None:
    """The oracle: another implementation of the standard."""
    oracle: Any = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    oracle.validate(value)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    sku: str = Field(min_length=3, max_length=5)
    quantity: int = Field(gt=0)


class Node(BaseModel):
    name: str
    parent: "Node | None"
    children: "list[Node]"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    order_id: str
    lines: list[Line] = Field(min_length=1)
    color: Color
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    note: str | None = None
    due: date | None


# The machine may be busy; what counts is the answer.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KINDS: list[Any] = [
    bool,
    int,
    float,
    str,
    None,
    Any,
    object,
    Decimal,
    bytes,
    date,
    datetime,
    time,
    timedelta,
    UUID,
    HttpUrl,
    IPv4Address,
    IPv6Network,
    Color,
    Literal["a", 1, None],
    Order,
    Node,
    Cat | Dog,
    Json[list[int]],
    list[Line],
    dict[str, Line],
    tuple[int, str, Color],
    tuple[int, ...],
    set[Literal["a", "b"]],
    Annotated[set[Literal["a", "b", "c"]], Len(3)],
    Annotated[set[int], Len(3)],
    Annotated[set[str], Len(3)],
    Annotated[set[bool], Len(2)],
    Annotated[set[date], Len(2)],
    Annotated[set[tuple[int, str]], Len(2)],
    Annotated[list[Annotated[int, Ge(5)]], Len(2, 3)],
    Annotated[dict[str, int], Len(2)],
    Annotated[dict[Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}\d+$")], int], Len(2)],
    Annotated[int, Ge(3), Lt(4)],
    Annotated[int, Gt(-9), Le(-7)],
    Annotated[int, Ge(10), MultipleOf(7)],
    Annotated[float, Gt(0), Lt(0.001)],
    Annotated[float, Gt(1e18)],
    Annotated[float, Lt(-1e18)],
    Annotated[float, Ge(1.5), MultipleOf(0.5)],
    Annotated[Decimal, Gt(1)],
    Annotated[str, Len(0, 0)],
    Annotated[str, Len(30)],
    Annotated[str, Len(2, 2)],
    Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}-\d{4,6}(x|y)?$", min_length=10)],
    Annotated[str, StringConstraints(pattern=r"\w+@[^.]+\.(com|org)")],
    Annotated[str, StringConstraints(pattern=r"^(?:\+\d{1,3} )?\d{3}[ .-]\d{4}$")],
    int | str | None,
    list[int] | None,
    Annotated[int, Ge(5)] | Annotated[str, Len(9)],
]


KNOWN = {"order_id": "A1", "quantity": 3, "kind": "dog", "due": "2026-05-05"}


@pytest.mark.parametrize("known", [{}, KNOWN], ids=["nothing known", "something known"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_sample_is_valid_and_pydantic_takes_it(kind: Any, known: dict[str, Any]) -> None:
    adapter = TypeAdapter[Any](kind)
    schema = adapter.json_schema()
    value = sample(schema, known)
    check_valid(value, schema)
    adapter.validate_json(orjson.dumps(value))
    assert fits(value, schema, schema), "our own judgement agrees"
    assert sample(schema, known) == value, "and it is always the same"


class Customer(BaseModel):
    name: str
    age: int


class Decision(BaseModel):
    order_id: str
    amount: int
    tier: Literal["gold", "silver"]
    comment: str = ""
    customer: Customer
    due: date


def test_known_values_are_used_where_name_and_schema_match() -> None:
    known = {
        "order_id": 17,  # not a text: cannot be used
        "amount": 250.0,
        "deep": {"tier": "silver", "amount": 1},
        "comment": "leave at the door",
        "customer": {"name": "Ada"},  # incomplete: the rest is made up
        "name": "not this one",
        "due": "tomorrow",
    }
    value = sample(Decision.model_json_schema(), known)
    assert value == {
        "order_id": "offline",
        "amount": 250,
        "tier": "silver",
        "comment": "leave at the door",
        "customer": {"name": "Ada", "age": 0},
        "due": "2026-01-01",
    }
    assert isinstance(value["amount"], int)


def test_a_sample_is_small() -> None:
    assert sample(Node.model_json_schema(), {}) == {"name": "offline", "parent": None, "children": []}
    assert sample({"enum": ["first", "second"]}, {}) == "first"
    assert sample({"type": "string", "maxLength": 4}, {}) == "offl"
    assert sample({"properties": {"a": {"type": "integer"}}}, {}) == {}
    assert sample({"anyOf": [{"type": "null"}, {"type": "integer"}]}, {}) == 0


def test_known_values_do_not_make_an_object_too_large() -> None:
    schema = {"maxProperties": 1, "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    assert sample(schema, {"a": 1, "b": 2}) == {"a": 1}


def test_only_one_option_of_a_one_of_may_fit() -> None:
    schema = {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 0}, {"type": "string"}]}
    assert sample(schema, {}) == "offline"


A = {"$ref": "#/$defs/A"}
ENDLESS = {"type": "object", "required": ["a"], "properties": {"a": A}}
NEVER = {"type": "array", "minItems": 1, "items": A}
ENDLESS_UNION = {"anyOf": [NEVER, NEVER, NEVER]}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3},
        {"type": "array", "uniqueItems": True, "minItems": 3, "items": {"type": "boolean"}},
        {"type": "string", "pattern": r"^(?=.*\d)(?=.*[a-z])$"},
        {"anyOf": [False, {"type": "integer", "minimum": 3, "maximum": 2}]},
        {**A, "$defs": {"A": ENDLESS}},
        {**A, "$defs": {"A": ENDLESS_UNION}},
    ],
    ids=str,
)
def test_a_schema_that_allows_nothing_has_no_sample(schema: Any) -> None:
    whole = {"type": "array", "minItems": 1, "items": schema}
    with pytest.raises(NoSample):
        sample(schema if isinstance(schema, dict) and "$defs" in schema else whole, {})


# Schemas as models write them: bounds that can be met, references, unions, nesting.
names = st.sampled_from(["a", "b", "c", "amount", "tier"])


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    low = draw(st.integers(-50, 50))
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + draw(st.integers(2, 40))
    elif draw(st.booleans()):
        schema["multipleOf"] = draw(st.integers(1, 9))
    return schema


@st.composite
def texts(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if draw(st.booleans()):
        schema["format"] = draw(st.sampled_from(["date", "date-time", "uuid", "email", "ipv4", "uri", "made-up"]))
        return schema
    least = draw(st.integers(0, 12))
    schema |= draw(
        st.sampled_from([{}, {"minLength": least}, {"minLength": least, "maxLength": least + 3}, {"maxLength": least}])
    )
    return schema


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    others = draw(st.one_of(st.booleans(), inner))
    least = draw(st.integers(0, 3)) if others is not False else 0
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": others,
        "minProperties": least,
    }


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    first = draw(st.lists(inner, max_size=2))
    return {"type": "array", "prefixItems": first, "items": draw(inner), "minItems": draw(st.integers(0, 3))}


@st.composite
def unions(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    return {"anyOf": [*draw(st.lists(inner, min_size=1, max_size=3)), {"type": "null"}]}


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(objects(inner), arrays(inner), unions(inner))


leaves: st.SearchStrategy[Any] = st.one_of(
    numbers(),
    texts(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": "x"}, {}, True, A]),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from(["a", 1, None, True]), min_size=1, max_size=3)}),
)


@st.composite
def roots(draw: st.DrawFn) -> dict[str, Any]:
    a = draw(st.sampled_from([{"type": "integer", "minimum": 4}, {"type": ["array", "null"], "items": A}]))
    return {**draw(st.recursive(objects(leaves), grown, max_leaves=6)), "$defs": {"A": a}}


schemas = roots()
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 300), st.sampled_from([1.5, 250.0, "gold", "", "2026-05-05"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


@patient
@given(schemas, st.dictionaries(names, json_values, max_size=4))
def test_every_sample_is_valid_whatever_is_known(schema: dict[str, Any], known: dict[str, Any]) -> None:
    check_valid(sample(schema, known), schema)


@patient
@given(schemas, json_values)
def test_what_we_say_fits_is_valid(schema: dict[str, Any], value: Any) -> None:
    if fits(value, schema, schema):
        check_valid(value, schema)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[A-Z]{2}\d{3}$",
        r"^\S+$",
        r"^[^a-z]+$",
        r"^(foo|bar)-(?P<n>\d+)$",
        r"^a*b+c?$",
        r"^\W\D\s$",
        r"^.{3,}$",
        r"x",
        "",
        r"^[\w.+-]+@[\w-]+\.[\w.]+$",
        r"^(?!0)\d+$",
        r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    ],
)
def test_a_text_is_found_for_the_patterns_that_people_write(pattern: str) -> None:
    first, other = (text_for(pattern, min_length=0, max_length=None, nth=nth) for nth in (0, 1))
    assert first is not None
    assert other is not None
    assert re.search(pattern, first)
    assert re.search(pattern, other)


def test_a_text_for_a_pattern_keeps_to_the_length() -> None:
    assert text_for("^a+$", min_length=5, max_length=5) == "aaaaa"
    assert len(text_for("x", min_length=5, max_length=None) or "") == 5
    assert text_for("^a{3}$", min_length=5, max_length=None) is None
    assert text_for("(", min_length=0, max_length=None) is None


def test_email_addresses_are_taken_over_if_they_look_like_one() -> None:
    schema = {"type": "object", "required": ["to"], "properties": {"to": {"type": "string", "format": "email"}}}
    assert sample(schema, {"to": "ada@example.org"}) == {"to": "ada@example.org"}
    assert sample(schema, {"to": "ada"}) == {"to": "offline@example.com"}
