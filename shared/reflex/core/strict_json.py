"""JSON from outside, read strictly: what PostgreSQL cannot hold, or what would come back changed, is refused here.

Not accepted although some parsers do: duplicate keys, NaN and Infinity, lone surrogates, NUL characters, a byte order
mark, encodings other than UTF-8, numbers that no 64-bit integer or double can hold, and deep nesting.
"""

import re
from typing import Any, Final, cast

import jiter

from reflex.core.errors import EventRejected

__all__ = ["MalformedJson", "parse", "pointer"]

# Digits become "0", exponents "e", the rest blanks: one pass in C tells whether a number could be out of range.
NUMBERS: Final = bytes(
    ord("0") if chr(byte).isdigit() and byte < 128 else ord("e") if byte in b"eE" else ord("+") if byte == 0x2B else 32
    for byte in range(256)
)
LONG_NUMBER: Final = b"0" * 19
EXPONENT: Final = (b"0e000", b"0e+000")
INT_BOUNDS: Final = (-(2**63), 2**64 - 1)
SHOWN_LENGTH: Final = 120
UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
QUOTED: Final = re.compile(r'".*"', re.DOTALL)


class MalformedJson(EventRejected):
    """The body is not JSON at all (HTTP 400), as opposed to JSON that is not wanted (HTTP 422)."""

    code = "malformed_json"


def parse(body: bytes, *, max_nesting: int, at: str = "") -> Any:
    """The value of a JSON text.

    Args:
        max_nesting: How many arrays and objects may be open at once; at most 200.
        at: Where in the request the text was, as a JSON Pointer; errors name their place below it.

    Raises:
        MalformedJson: It is not JSON; the reason gives line and column.
        EventRejected: It is JSON, but holds something that cannot be stored as it is.
    """
    try:
        value: object = jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
    except ValueError as error:
        raise _explain(body, str(error), max_nesting, at) from None
    # Each scan of the bytes costs a tenth of looking at every value, and almost always says that there is no need.
    if body.count(b"{") + body.count(b"[") > max_nesting:
        _check_nesting(value, max_nesting, at)
    digits = body.translate(NUMBERS)
    if b"\\u0000" in body or LONG_NUMBER in digits or EXPONENT[0] in digits or EXPONENT[1] in digits:
        _check_values(value, at)
    return value


def pointer(path: str, key: str | int) -> str:
    """The JSON Pointer of a member of what `path` points to. An overlong key is cut: pointers are for people."""
    shown = key if isinstance(key, int) else _short(key).replace("~", "~0").replace("/", "~1")
    return f"{path}/{shown}"


def _check_nesting(value: object, max_nesting: int, at: str) -> None:
    level = [value]
    depth = 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        if depth > max_nesting:
            raise _too_deep(max_nesting, at)
        level = [
            member
            for part in cast("list[dict[str, object] | list[object]]", level)
            for member in (part.values() if isinstance(part, dict) else part)
        ]


def _check_values(value: object, path: str) -> None:
    match value:
        case dict():
            for key, member in cast("dict[str, object]", value).items():
                if "\0" in key:
                    raise EventRejected(f"the name {_short(key)!r} contains a NUL character", field=path)
                _check_values(member, pointer(path, key))
        case list():
            for index, member in enumerate(cast("list[object]", value)):
                _check_values(member, pointer(path, index))
        case str() if "\0" in value:
            raise EventRejected("contains a NUL character (\\u0000), which PostgreSQL cannot store", field=path)
        case int() if not INT_BOUNDS[0] <= value <= INT_BOUNDS[1]:
            raise EventRejected("is an integer beyond 64 bits; send it as a string", field=path)
        case float() if value - value != 0:  # infinite: the parser is told to refuse the word, not the number
            raise EventRejected("is a number beyond the range of a double; send it as a string", field=path)
        case _:
            pass


def _explain(body: bytes, reason: str, max_nesting: int, at: str) -> EventRejected:
    """The parser's complaint in words that say what to change."""
    if not body.strip():
        return MalformedJson("is empty; expected a JSON object", field=at)
    if body.startswith(b"\xef\xbb\xbf"):
        return MalformedJson("begins with a byte order mark; send UTF-8 without one", field=at)
    if body.startswith(UTF16_MARKS) or 0 in body[:2]:
        return MalformedJson("looks like UTF-16 or UTF-32; send UTF-8", field=at)
    if "ecursion limit" in reason:
        return _too_deep(max_nesting, at)
    if reason.startswith("number out of range"):
        return EventRejected(f"{reason}: an integer beyond 64 bits; send it as a string", field=at)
    if reason.startswith("invalid unicode"):
        reason += "; send UTF-8"
    elif "surrogate" in reason or "hex escape" in reason:
        reason += "; \\u escapes of surrogates come in pairs"
    elif b"NaN" in body or b"Infinity" in body:
        reason += "; JSON has no NaN and no Infinity"
    return MalformedJson(f"is not valid JSON: {QUOTED.sub(_short_match, reason)}", field=at)


def _too_deep(max_nesting: int, at: str) -> EventRejected:
    return EventRejected(f"is nested more than {max_nesting} levels deep", field=at)


def _short_match(match: re.Match[str]) -> str:
    return _short(match[0])


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
