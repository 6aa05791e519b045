"""The parts that a description of the gateway's interface is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal

from reflex.core.api_keys import KeyScope
from reflex.gateway.query import Parameter

__all__ = ["BAD_QUERY", "CROSS_SITE", "OPERATE", "READ", "READS", "UNAVAILABLE", "Answer", "Body", "Operation",
           "needed_key"]  # fmt: skip

# Of a gateway with REFLEX_ACCESS=keys.
NEEDS_KEY: Final[Mapping[int, str]] = {
    401: "Where API keys are wanted: no valid one came with the request.",
    403: "Where API keys are wanted: the key has not the scope, or is bound to other types or sources of events.",
    503: "The database does not answer, so it is not known whether the API key is valid.",
}
# What many operations have in common: when they refuse, and which keys may use them.
BAD_QUERY: Final = {400: "An unknown parameter, or a value that makes no sense."}
UNAVAILABLE: Final = {503: "The database does not answer, or too many reads are under way."}
READS: Final = {**BAD_QUERY, **UNAVAILABLE}
CROSS_SITE: Final = {403: "A browser sent it for a page of another site."}
READ: Final = (KeyScope.READ,)
OPERATE: Final = (KeyScope.OPERATE,)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: what a media type holds. A schema, or the parameters that its members are."""

    description: str
    schemas: Mapping[str, Mapping[str, Any]] | tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no problem document. `row` is a dataclass, or a schema where there is none.

    `others`: schemas of the media types that a client may ask for instead of JSON.
    """

    status: int
    description: str
    row: type | Mapping[str, Any] | Literal["html", "openapi", "event-stream", "metrics"]
    example: Any = None
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `problems` are the statuses it answers with a problem document, and when.

    `scopes`: where API keys are wanted, it needs one that has one of these; without any it is open to everybody.
    `narrowed`: for a key that is bound to some events, others do not exist here. What is not, refuses such a key.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    name: str
    group: str
    summary: str
    scopes: tuple[KeyScope, ...]
    answers: tuple[Answer, ...]
    description: str = ""
    place: Parameter | None = None
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    problems: Mapping[int, str] = field(default_factory=dict[int, str])
    curl: str = ""
    narrowed: bool = False

    @property
    def refusals(self) -> dict[int, str]:
        """`problems`, and those of every operation that needs a key."""
        if not self.scopes:
            return dict(self.problems)
        refusals = {**NEEDS_KEY, **self.problems}
        if HTTPStatus.FORBIDDEN in self.problems:
            refusals[HTTPStatus.FORBIDDEN] += f" Or: {NEEDS_KEY[HTTPStatus.FORBIDDEN]}"
        return refusals


def needed_key(scopes: Sequence[KeyScope]) -> str:
    """Markdown, for people."""
    return f"Where API keys are wanted, the key needs the scope {' or '.join(f'`{scope}`' for scope in scopes)}."
