"""A text that a regular expression accepts: the shortest and plainest that a walk over its parts finds."""

import importlib
import re
import string
from itertools import product
from typing import Any, Final

__all__ = ["text_for"]

# The standard library's own parser of expressions. It is not public, but every tool of this kind stands on it.
PARSER: Final[Any] = importlib.import_module("re._parser")
ALPHABET: Final = string.ascii_lowercase + string.ascii_uppercase + string.digits + "_-. @/:" + string.punctuation
MEMBERS: Final = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_SPACE": " ",
    "CATEGORY_WORD": string.ascii_letters + string.digits + "_",
}
LONGEST_REPEAT: Final = 300


def text_for(pattern: str, *, min_length: int, max_length: int | None, nth: int = 0) -> str | None:
    """A text that `re.search` accepts and that has the length, or None if none was found.

    Args:
        nth: Another number gives another text, where the expression leaves a choice.
    """
    try:
        compiled = re.compile(pattern)
        parts = PARSER.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return None
    # Another choice at every turn helps where a look-around forbids the first one.
    for repeat, turn in product(range(LONGEST_REPEAT), range(3)):
        text = walk(parts, repeat, nth + turn)
        text += "x" * (min_length - len(text) if not pattern.endswith("$") else 0)
        fits = len(text) >= min_length and (max_length is None or len(text) <= max_length)
        if fits and compiled.search(text):
            return text
    return None


def walk(parts: Any, repeat: int, nth: int) -> str:
    """The text for a sequence of parsed parts, in which everything repeats `repeat` times if it may."""
    text = ""
    for kind, value in parts:
        match str(kind):
            case "LITERAL":
                text += chr(value)
            case "NOT_LITERAL" | "ANY" | "IN" | "CATEGORY" as name:
                text += pick(name, value, nth)
            case "BRANCH":
                text += walk(value[1][nth % len(value[1])], repeat, nth)
            case "SUBPATTERN":
                text += walk(value[3], repeat, nth)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = value
                text += walk(inner, repeat, nth) * min(max(least, repeat), int(most))
            case _:
                # Anchors add nothing; look-arounds and references are left to the check of the whole text.
                pass
    return text


def pick(kind: str, value: Any, nth: int) -> str:
    fitting = [char for char in ALPHABET if accepts(kind, value, char)]
    return fitting[nth % len(fitting)] if fitting else ""


def accepts(kind: str, value: Any, char: str) -> bool:
    match kind:
        case "LITERAL":
            return char == chr(value)
        case "NOT_LITERAL":
            return char != chr(value)
        case "RANGE":
            return value[0] <= ord(char) <= value[1]
        case "CATEGORY":
            name = str(value)
            return (char in MEMBERS.get(name.replace("_NOT_", "_"), "")) != ("_NOT_" in name)
        case "IN":
            members = [(str(kind), member) for kind, member in value]
            inside = any(accepts(kind, member, char) for kind, member in members if kind != "NEGATE")
            return inside != (members[0][0] == "NEGATE")
        case _:
            return kind == "ANY"
