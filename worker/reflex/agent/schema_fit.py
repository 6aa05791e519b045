"""Whether a value fits a JSON Schema: the part of the vocabulary that pydantic writes. Texts of a format that it does
not know it refuses, but for the one example: it decides what the offline model takes over from an event."""

import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final, cast
from uuid import UUID

import orjson

__all__ = ["EXAMPLES", "PLAIN_TEXT", "Schema", "fits", "joined", "resolved", "type_of"]

Schema = Mapping[str, Any]
MAX_DEPTH: Final = 60
PLAIN_TEXT: Final = "offline"
EXAMPLES: Final = {
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "offline@example.com",
    "name-email": "Offline <offline@example.com>",
    "uri": "https://example.com/",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "ipvanynetwork": "192.0.2.0/24",
    "base64": "b2ZmbGluZQ==",
    "base64url": "b2ZmbGluZQ==",
    "json-string": "{}",
}
KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def resolved(schema: Any, root: Schema) -> Schema:
    """The schema with `$ref` and `allOf` put in place; true and false as the schemas they stand for."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    for _ in range(MAX_DEPTH):
        if "$ref" in schema:
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = joined(pointed(schema["$ref"], root), rest)
        elif schema.get("allOf"):
            rest = {name: value for name, value in schema.items() if name != "allOf"}
            for part in schema["allOf"]:
                rest = joined(rest, resolved(part, root))
            schema = rest
        else:
            return schema
    raise ValueError(f"the schema {schema!r} refers to itself")


def pointed(ref: str, root: Schema) -> Schema:
    value: Any = root
    for part in ref.removeprefix("#").split("/")[1:]:
        value = value[part.replace("~1", "/").replace("~0", "~")]
    return resolved(value, root) if isinstance(value, bool) else value


def joined(one: Schema, other: Schema) -> dict[str, Any]:
    """Both schemas' demands, as far as one of them does not overrule the other's."""
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return both


def type_of(schema: Schema) -> Any:
    """The declared type, or the one that the other keywords speak of; None if nothing tells."""
    if "type" in schema:
        return schema["type"]
    for type, keywords in {
        "object": ("properties", "required", "additionalProperties", "minProperties"),
        "array": ("items", "prefixItems", "minItems"),
        "string": ("minLength", "maxLength", "pattern", "format"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }.items():
        if any(keyword in schema for keyword in keywords):
            return type
    return None


def fits(value: Any, schema: Any, root: Schema) -> bool:
    """Whether the value is one that the schema allows."""
    schema = resolved(schema, root)
    if "const" in schema and not same(value, schema["const"]):
        return False
    if "enum" in schema and not any(same(value, member) for member in schema["enum"]):
        return False
    if "anyOf" in schema and not any(fits(value, option, root) for option in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(fits(value, option, root) for option in schema["oneOf"]) != 1:
        return False
    if "not" in schema and fits(value, schema["not"], root):
        return False
    types = schema.get("type", [])
    if types and not any(is_type(value, type) for type in ([types] if isinstance(types, str) else types)):
        return False
    match value:
        case bool() | None:
            return True
        case str():
            return text_fits(value, schema, root)
        case int() | float():
            return number_fits(value, schema)
        case list():
            return array_fits(cast("list[Any]", value), schema, root)
        case dict():
            return object_fits(cast("dict[str, Any]", value), schema, root)
        case _:
            return False


def is_type(value: Any, type: str) -> bool:
    if type == "integer":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == math.floor(value)
    if type == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type in KINDS and isinstance(value, KINDS[type])


def same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def text_fits(value: str, schema: Schema, root: Schema) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        return False
    try:
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return False
        match schema.get("format"):
            case None:
                return "contentMediaType" not in schema or fits(
                    orjson.loads(value), schema.get("contentSchema", True), root
                )
            case "date":
                return date.fromisoformat(value).isoformat() == value
            case "date-time":
                return datetime.fromisoformat(value).tzinfo is not None and "T" in value
            case "uuid":
                return str(UUID(value)) == value.lower()
            case "email":
                return bool(re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", value, re.ASCII))
            case "uri":
                return bool(re.fullmatch(r"https?://[\w.-]+(/[\w./?=&%-]*)?", value, re.ASCII))
            case other:
                return value == EXAMPLES[other] if other in EXAMPLES else value.startswith(PLAIN_TEXT)
    except (ValueError, re.error):
        return False


def number_fits(value: float, schema: Schema) -> bool:
    step = schema.get("multipleOf")
    return (
        schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        and (not step or value / step == math.floor(value / step))
    )


def array_fits(value: list[Any], schema: Schema, root: Schema) -> bool:
    first = schema.get("prefixItems", [])
    return (
        schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        and all(fits(member, part, root) for member, part in zip(value, first, strict=False))
        and all(fits(member, schema.get("items", True), root) for member in value[len(first) :])
        and not (schema.get("uniqueItems") and has_twins(value))
    )


def has_twins(value: list[Any]) -> bool:
    return any(same(one, other) for at, one in enumerate(value) for other in value[:at])


def object_fits(value: dict[str, Any], schema: Schema, root: Schema) -> bool:
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        return False
    if not all(name in value for name in schema.get("required", [])):
        return False
    for name, member in value.items():
        if not fits(name, schema.get("propertyNames", True), root):
            return False
        parts = [part for pattern, part in patterns.items() if re.search(pattern, name)]
        if name in properties:
            parts.append(properties[name])
        if not all(fits(member, part, root) for part in parts or [schema.get("additionalProperties", True)]):
            return False
    return True
