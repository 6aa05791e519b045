"""The arguments of a tool call as data that is the same in every attempt and on every worker.

A tool is given what was validated: a field that a model has made up meanwhile, such as an id or the time, differs from
attempt to attempt, and a set comes in another order in each process.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast, get_origin

from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

__all__ = ["SORTED", "jsonable", "lasting"]

SORTED: Final = json.JSONEncoder(sort_keys=True).encode
# What makes the same default each time.
EMPTY: Final[tuple[Any, ...]] = (None, list, dict, set, frozenset, tuple, str, int, float, bool)


def lasting(value: Any) -> Any:
    """The value as JSON-able data. What is no data counts as its class.

    Raises:
        ValueError: Something in it cannot be written as JSON.
    """
    return settled(value, jsonable(value))


def jsonable(value: Any) -> Any:
    """The value as JSON-able data, as it is. Bytes as base64: not all of them are text.

    Raises:
        ValueError: Something in it cannot be written as JSON.
    """
    return to_jsonable_python(value, bytes_mode="base64", fallback=lambda odd: type(odd).__qualname__)


def settled(value: Any, plain: Any) -> Any:
    """`plain`, which was made of the value, with sets in an order and without what models have made up."""
    if not isinstance(plain, list | dict):
        return plain
    if isinstance(value, RootModel):
        return settled(cast("RootModel[Any]", value).root, plain)
    if isinstance(plain, dict):
        return settled_fields(value, cast("dict[str, Any]", plain))
    parts = cast("list[Any]", plain)
    if not isinstance(value, Sequence | AbstractSet) or len(cast("Sequence[Any]", value)) != len(parts):
        return parts
    parts = [*map(settled, cast("Sequence[Any]", value), parts)]
    return sorted(parts, key=SORTED) if isinstance(value, AbstractSet) else parts


def settled_fields(value: Any, plain: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        fields = {field.serialization_alias or name: (name, field) for name, field in type(value).model_fields.items()}
        made_up = {
            shown
            for shown, (name, field) in fields.items()
            if origin_of(field.default_factory) not in EMPTY and name not in value.model_fields_set
        }
        return {
            shown: settled(getattr(value, fields[shown][0], None), part) if shown in fields else part
            for shown, part in plain.items()
            if shown not in made_up
        }
    if isinstance(value, Mapping):
        mapped = cast("Mapping[Any, Any]", value)
        if len(mapped) != len(plain):
            return plain
        return {name: settled(part, plain[name]) for part, name in zip(mapped.values(), plain, strict=True)}
    if dataclasses.is_dataclass(value):
        return {name: settled(getattr(value, name, None), part) for name, part in plain.items()}
    return plain


def origin_of(factory: Any) -> Any:
    """`set` of `set[str]`."""
    return get_origin(factory) or factory
