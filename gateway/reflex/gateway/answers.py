"""Answers in JSON, straight from the rows of the reads."""

from typing import Any

from starlette.responses import Response

from reflex.core.rows import to_json

__all__ = ["json_answer"]


def json_answer(value: Any, *, status: int = 200) -> Response:
    """A row, or anything that is made of rows."""
    return Response(to_json(value), status, {"cache-control": "no-store"}, "application/json")
