"""Effects over HTTP: what is not known of tools that must not be repeated, and a person's word on it."""

import json
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.effects import EffectId, EffectRow, Resolved, list_effects, resolve_effect
from reflex.core.pages import QueryRejected
from reflex.core.rows import StoredJson
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import change, read
from reflex.gateway.narrowing import within_of
from reflex.gateway.operating import id_of, read_object, refuse_cross_site
from reflex.gateway.query import CURSOR, LIMIT, Parameter, read_query

__all__ = ["LIST_PARAMETERS", "VERDICT", "EffectList", "routes"]

LIST_PARAMETERS: Final = (
    Parameter("state", "text", "`unknown` or `running`; both without it.", "unknown"),
    Parameter("trigger", "text", "The trigger's name.", "high-value-orders"),
    CURSOR,
    LIMIT,
)
VERDICT: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["done"],
    "properties": {
        "done": {"type": "boolean", "description": "Whether the tool did its work. If not, it is called."},
        "result": {"description": "What it would have returned, any JSON; only if it is done."},
    },
}

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.gateway.effects")


@dataclass(frozen=True, slots=True)
class EffectList:
    """A page of effects, those of the latest event first. `next_cursor` continues it; null on the last page."""

    effects: list[EffectRow]
    next_cursor: str | None


async def effects(request: Request) -> Response:
    values = read_query(request, LIST_PARAMETERS)
    within = within_of(request)
    page = await read(request, lambda conn: list_effects(conn, **values, within=within))
    return json_answer(EffectList(page.rows, page.next_cursor))


async def resolve(request: Request) -> Response:
    refuse_cross_site(request)
    read_query(request, ())
    effect_id = id_of(
        request, EffectId.parse, what="effect", example="3-0198a1b2-0000-7000-8000-000000000000.2",
        shown="GET /effects lists them",
    )  # fmt: skip
    done = verdict(await read_object(request, example='{"done": false}'))
    within = within_of(request)
    resolved: Resolved = await change(request, lambda conn: resolve_effect(conn, effect_id, done=done, within=within))
    log.info("effect resolved", effect=str(effect_id), done=resolved.done, due=resolved.due)
    return json_answer(resolved)


def verdict(given: dict[str, Any]) -> StoredJson | None:
    """What the tool would have returned; None if it did not do its work.

    Raises:
        QueryRejected: A member is missing, unknown, or of the wrong kind.
    """
    if unknown := sorted(given.keys() - {"done", "result"}):
        raise QueryRejected("unknown field; known are done and result", field=unknown[0][:80])
    if not isinstance(done := given.get("done"), bool):
        raise QueryRejected("must be true or false: whether the tool did its work", field="done")
    if not done and "result" in given:
        raise QueryRejected("is there although the tool did not do its work; leave it out", field="result")
    return StoredJson(json.dumps(given.get("result"))) if done else None


routes: list[Route] = [
    Route("/effects", effects, methods=["GET"]),
    Route("/effects/{id}/resolve", resolve, methods=["POST"]),
]
