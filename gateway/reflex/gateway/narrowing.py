"""What a key that is bound to some events may see of a listing."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from reflex.core.reads import type_bounds
from reflex.core.restriction import Restriction
from reflex.gateway.access import grant_of
from reflex.gateway.live.filters import read_filter

__all__ = ["within_of"]


def within_of(request: Request, filters: Mapping[str, Any] | None = None) -> Restriction:
    """The events that there are for a request.

    Args:
        filters: What was asked for, of which `type` and `source` count.

    Raises:
        QueryRejected: `type` is no pattern.
        NotAllowed: It asks for others only, and so would never find anything.
    """
    grant = grant_of(request.scope)
    if filters:
        type, source = filters.get("type"), filters.get("source")
        type_bounds(type)
        # `*` is all types in a listing, Reflex's own too.
        types = () if type in (None, "*") else (type,)
        grant.narrowed(read_filter(types=types, sources=(source,) if source else ()))
    return grant.within
