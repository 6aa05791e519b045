"""The parts that a description of the gateway's interface is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reflex.gateway.query import Parameter

__all__ = ["Answer", "Body", "Operation"]


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: what a media type holds. A schema, or the parameters that its members are."""

    description: str
    schemas: Mapping[str, Mapping[str, Any]] | tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no problem document. `row` is a dataclass, or a schema where there is none."""

    status: int
    description: str
    row: type | Mapping[str, Any] | Literal["html", "openapi", "event-stream"]
    example: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `problems` are the statuses it answers with a problem document, and when."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    name: str
    group: str
    summary: str
    answers: tuple[Answer, ...]
    description: str = ""
    place: Parameter | None = None
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    problems: Mapping[int, str] = field(default_factory=dict[int, str])
    curl: str = ""
