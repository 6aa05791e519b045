"""JSON texts, for a place that holds less than JSON."""

import re
from typing import Final

__all__ = ["without_nul"]

ESCAPED_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def without_nul(json_text: str) -> str:
    """The JSON text as PostgreSQL can hold it, with U+FFFD for each NUL."""
    # A backslash before the escape may itself be escaped.
    return ESCAPED_NUL.sub(r"\1\\ufffd", json_text)
