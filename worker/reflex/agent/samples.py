"""A value for a JSON Schema: from what is known where a name matches, else the plainest that is allowed. Always the
same for the same schema and knowledge."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any, Final, cast

import orjson

from reflex.agent.pattern_text import text_for
from reflex.agent.schema_fit import EXAMPLES, PLAIN_TEXT, Schema, fits, joined, resolved, type_of

__all__ = ["NoSample", "sample"]

# Enough for any schema that a person wrote; those that allow nothing end here.
MAX_DEPTH: Final = 40
MAX_STEPS: Final = 5_000
MAX_TRIES: Final = 200


class NoSample(Exception):
    """Nothing was found for the schema."""


def sample(schema: Schema, known: Mapping[str, Any]) -> Any:
    """A JSON value that the schema allows.

    Args:
        known: Values by name, such as an event's payload; those inside it count too, the outer ones first.

    Raises:
        NoSample: Nothing was found, or the schema allows nothing.
    """
    return Sampler(schema).value(schema, flattened(known))


def flattened(known: Mapping[str, Any]) -> dict[str, Any]:
    """The values by name; of two with one name the outer or, side by side, the first."""
    names: dict[str, Any] = {}
    waiting: deque[Any] = deque([known])
    while waiting:
        value = waiting.popleft()
        if isinstance(value, Mapping):
            for name, inner in cast("Mapping[str, Any]", value).items():
                names.setdefault(name, inner)
                waiting.append(inner)
        elif isinstance(value, list):
            waiting.extend(cast("list[Any]", value))
    return names


class Sampler:
    """Makes values for the parts of one schema, which `root` holds together."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.steps = 0
        self.open: list[str | None] = [root.get("$ref", "#")]

    def value(self, schema: Any, known: Mapping[str, Any], *, name: str = "", nth: int = 0, depth: int = 0) -> Any:
        """A value for a part of the schema; another `nth` gives another one, where there is a choice."""
        schema = resolved(schema, self.root)
        self.steps += 1
        if depth > MAX_DEPTH or self.steps > MAX_STEPS or schema.get("not") == {}:
            raise NoSample(f"nothing fits {name or 'the schema'}")
        if nth == 0 and name in known and fits(known[name], schema, self.root):
            # 250.0 counts as an integer in JSON; a strict reader wants to see it.
            return int(known[name]) if schema.get("type") == "integer" else known[name]
        if isinstance(inner := known.get(name), dict):
            known = {**known, **flattened(cast("dict[str, Any]", inner))}
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][nth % len(schema["enum"])]
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.first_of(schema, union, known, name=name, nth=nth, depth=depth)
        match type_of(schema):
            case list():
                options = [{"type": type} for type in schema["type"]]
                return self.first_of({**schema, "anyOf": options}, "anyOf", known, name=name, nth=nth, depth=depth)
            case "object":
                return self.object(schema, known, nth=nth, depth=depth)
            case "array":
                return self.array(schema, known, nth=nth, depth=depth)
            case "string" | None:
                return self.text(schema, known, nth=nth, depth=depth)
            case "integer" | "number":
                return number(schema, nth)
            case "boolean":
                return nth % 2 == 1
            case _:
                return None

    def first_of(self, schema: Schema, union: str, known: Mapping[str, Any], *, name: str, nth: int, depth: int) -> Any:
        """A value for the first option that has one; null comes last, since it says nothing."""
        rest = {keyword: value for keyword, value in schema.items() if keyword not in (union, "discriminator", "type")}
        tag = schema.get("discriminator", {}).get("propertyName")
        options: list[Any] = sorted(schema[union], key=self.rank)
        if nth and depth < MAX_DEPTH - 2:
            options = [options[nth % len(options)], *options]
        for option in options:
            whole = joined(rest, resolved(option, self.root))
            # pydantic does not call the tag of a union required where it has a default.
            whole = joined(whole, {"required": [tag]}) if tag else whole
            self.open.append(ref_of(option))
            try:
                value = self.value(whole, known, name=name, nth=nth, depth=depth + 1)
            except NoSample:
                continue
            finally:
                self.open.pop()
            if fits(value, {union: schema[union]}, self.root):
                return value
        raise NoSample(f"no option of {name or 'the schema'} has a value")

    def rank(self, option: Any) -> int:
        """Null says nothing, so it comes late; what we are inside of already would never end."""
        if (ref := ref_of(option)) is not None:
            return 2 if ref in self.open else 0
        return 1 if option == {"type": "null"} else 0

    def object(self, schema: Schema, known: Mapping[str, Any], *, nth: int, depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required: list[str] = schema.get("required", [])
        others = schema.get("additionalProperties", True)
        value = {
            name: self.value(properties.get(name, others), known, name=name, nth=nth, depth=depth + 1)
            for name in required
        }
        for name, part in properties.items():
            room = len(value) < schema.get("maxProperties", math.inf)
            if room and name not in value and name in known and fits(known[name], part, self.root):
                value[name] = known[name]
        for key in self.keys(schema):
            if len(value) >= schema.get("minProperties", 0):
                break
            if key not in value:
                part = next(iter(schema.get("patternProperties", {}).values()), properties.get(key, others))
                value[key] = self.value(part, known, nth=nth, depth=depth + 1)
        return value

    def keys(self, schema: Schema) -> Iterator[str]:
        """Names for an object that needs more of them."""
        yield from schema.get("properties", {})
        names = resolved(schema.get("propertyNames", True), self.root)
        for pattern in schema.get("patternProperties", {}):
            names = {**names, "pattern": pattern}
        for nth in range(MAX_TRIES):
            yield str(self.value({"type": "string", **names}, {}, nth=nth))

    def array(self, schema: Schema, known: Mapping[str, Any], *, nth: int, depth: int) -> list[Any]:
        first: list[Any] = schema.get("prefixItems", [])
        least: int = schema.get("minItems", 0)
        parts = [*first[: max(least, 0)], *[schema.get("items", True)] * (least - len(first))]
        values: list[Any] = []
        for part in parts:
            for other in range(MAX_TRIES):
                value = self.value(part, known, nth=nth + other, depth=depth + 1)
                if not schema.get("uniqueItems") or fits([*values, value], {"uniqueItems": True}, self.root):
                    values.append(value)
                    break
            else:
                raise NoSample(f"there are no {least} different values of {part!r}")
        return values

    def text(self, schema: Schema, known: Mapping[str, Any], *, nth: int, depth: int) -> str:
        least: int = schema.get("minLength", 0)
        most: int | None = schema.get("maxLength")
        if schema.get("contentMediaType") == "application/json":
            return orjson.dumps(self.value(schema.get("contentSchema", True), known, nth=nth, depth=depth + 1)).decode()
        if "pattern" in schema:
            text = text_for(schema["pattern"], min_length=least, max_length=most, nth=nth)
            if text is None:
                raise NoSample(f"no text was found for the pattern {schema['pattern']!r}")
            return text
        if text := text_of_format(schema.get("format"), nth):
            return text
        mark = str(nth) if nth else ""
        stem = PLAIN_TEXT + "e" * (least - len(PLAIN_TEXT) - len(mark))
        return stem[: None if most is None else max(most - len(mark), 0)] + mark[: most if most is not None else None]


def ref_of(schema: Any) -> str | None:
    return cast("Schema", schema).get("$ref") if isinstance(schema, Mapping) else None


def text_of_format(format: str | None, nth: int) -> str | None:
    day = (date(2026, 1, 1) + timedelta(days=nth)).isoformat()
    match format:
        case "date":
            return day
        case "date-time":
            return f"{day}T00:00:00Z"
        case "uuid" | "uuid4":
            return f"00000000-0000-4000-8000-{nth:012x}"
        case _:
            return EXAMPLES.get(format or "")


def number(schema: Schema, nth: int) -> int | float:
    """The number closest to zero that the bounds allow, or the `nth` next one."""
    whole = schema.get("type") == "integer"
    step: float = schema.get("multipleOf") or 1
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    start = max(math.ceil(low / step), 0) if low > -math.inf else min(math.floor(high / step), 0) if high < 0 else 0
    start = min(start, math.floor(high / step)) if high < math.inf else start
    for count in range(MAX_TRIES + nth):
        for at in (start + count, start - count):
            value = at * step
            # As a float, large neighbours are one and the same.
            if fits(value if whole else float(value), {**schema, "type": "number"}, schema):
                if nth == 0:
                    return int(value) if whole else value
                nth -= 1
                break
    if not whole and low < high:
        # Between two neighbours of the grid, as in 0 < x < 0.5, or where the grid is finer than floats are.
        between = low + (high - low) / (nth + 2) if math.isfinite(high - low) else math.nextafter(low, high)
        value = between if math.isfinite(between) else math.nextafter(high, low)
        if fits(value, schema, schema):
            return value
    raise NoSample(f"no number fits {dict(schema)!r}")
