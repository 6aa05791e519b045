"""What may be asked for in a query string or a filter: one table for reading it and for describing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.requests import Request

from reflex.core.pages import DEFAULT_LIMIT, MAX_LIMIT, QueryRejected, check_limit, parse_moment

__all__ = ["CURSOR", "LIMIT", "Parameter", "read_query", "read_values"]

MAX_TEXT_LENGTH: Final = 1000
FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One name that a request may give. `most` bounds an integer."""

    name: str
    kind: Literal["text", "moment", "integer", "flag"]
    description: str
    example: str
    most: int = MAX_LIMIT
    default: int | None = None

    def value_of(self, given: object) -> Any:
        """The value as the reads take it.

        Raises:
            QueryRejected: It is not of that kind.
        """
        match self.kind, given:
            case "flag", bool():
                return given
            case "flag", str() if given.lower() in FLAGS:
                return FLAGS[given.lower()]
            case "integer", int() if not isinstance(given, bool):
                return check_limit(given, most=self.most)
            case "integer", str() if given.isascii() and given.isdecimal() and len(given) <= 9:
                return check_limit(int(given), most=self.most)
            case "text" | "moment", str():
                text = self.checked(given)
                return parse_moment(text, field=self.name) if self.kind == "moment" else text
            case _:
                wanted = {
                    "flag": "true or false",
                    "integer": f"a whole number from 1 to {self.most}",
                    "text": "a string",
                    "moment": "a string such as 2026-01-31T09:00:00Z or 2h",
                }[self.kind]
                raise QueryRejected(f"is {str(given)[:80]!r}; it must be {wanted}", field=self.name)

    def checked(self, text: str) -> str:
        if not text:
            raise QueryRejected("is empty; leave it out, or give it a value", field=self.name)
        if len(text) > MAX_TEXT_LENGTH:
            raise QueryRejected(f"is longer than {MAX_TEXT_LENGTH} characters", field=self.name)
        if "\0" in text:
            raise QueryRejected("contains a NUL character", field=self.name)
        return text


CURSOR: Final = Parameter(
    "cursor", "text", "Continue here: `next_cursor` of the page before.", "AZq2b0Z1f5yZ8oK0m2n9Ug"
)
LIMIT: Final = Parameter("limit", "integer", "How many, at most.", "20", default=DEFAULT_LIMIT)


def read_query(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The query string's values by name; those that are not given are left out.

    Raises:
        QueryRejected: An unknown or repeated name, or a value that makes no sense.
    """
    given = request.query_params.multi_items()
    for index, (name, _) in enumerate(given):
        if any(name == earlier for earlier, _ in given[:index]):
            raise QueryRejected("is given more than once", field=name[:80])
    return read_values(dict(given), parameters, noun="query parameter")


def read_values(given: Mapping[str, object], parameters: Sequence[Parameter], *, noun: str) -> dict[str, Any]:
    """The values by name, each checked. Raises QueryRejected as `read_query` does."""
    known = {parameter.name: parameter for parameter in parameters}
    if unknown := [name for name in given if name not in known]:
        shown = ", ".join(repr(name[:80]) for name in unknown[:5])
        allowed = f"known are {', '.join(known)}" if known else "there are none here"
        raise QueryRejected(
            f"unknown {noun}{'s' if len(unknown) > 1 else ''} {shown}; {allowed}", field=unknown[0][:80]
        )
    return {name: known[name].value_of(value) for name, value in given.items()}
