"""Dead letters over HTTP: list, show, retry, purge; one, or all that a filter means."""

from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.dead_letters import (
    DeadLetterFilter,
    get_dead_letter,
    list_dead_letters,
    purge_dead_letter,
    purge_dead_letters,
    retry_dead_letter,
    retry_dead_letters,
)
from reflex.core.ids import DeliveryId
from reflex.core.rows import DeadLetterRow
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import change, read
from reflex.gateway.narrowing import within_of
from reflex.gateway.operating import id_of, read_object, refuse_cross_site
from reflex.gateway.query import CURSOR, LIMIT, Parameter, read_query, read_values

__all__ = [
    "CHANGE_PARAMETERS",
    "LIST_PARAMETERS",
    "DeadLetterList",
    "Purged",
    "PurgedLetters",
    "Retried",
    "RetriedLetters",
    "routes",
]

# One request changes at most this many, so that it ends in time; the answer says whether there may be more.
MOST_CHANGED: Final = 10_000
FILTER: Final = '{"trigger": "high-value-orders"}'

FILTERS: Final = (
    Parameter("trigger", "text", "The trigger's name.", "high-value-orders"),
    Parameter("app", "text", "The app's name.", "shop.triggers"),
    Parameter("type", "text", "The event's type, or a prefix such as `order.*`.", "order.created"),
    Parameter("reason", "text", "Why it died, as in the list.", "failed"),
    Parameter("key", "text", "The event's key.", "A1"),
    Parameter(
        "since", "moment", "Died then or later: ISO 8601 with an offset, or how long ago (`15m`, `2h`, `7d`).", "2h"
    ),
    Parameter("until", "moment", "Died before then.", "2026-01-31T09:00:00Z"),
)
LIST_PARAMETERS: Final = (*FILTERS, CURSOR, LIMIT)
CHANGE_PARAMETERS: Final = (
    *FILTERS,
    Parameter("all", "flag", "Must be true if no filter is given.", "true"),
    Parameter("limit", "integer", "How many, at most.", "1000", most=MOST_CHANGED, default=MOST_CHANGED),
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.gateway.dead_letters")


@dataclass(frozen=True, slots=True)
class DeadLetterList:
    """A page of dead letters, the latest first. `next_cursor` continues it; null on the last page."""

    dead_letters: list[DeadLetterRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Retried:
    """A dead letter that is a pending delivery again."""

    id: str
    event_id: UUID
    state: Literal["pending"] = "pending"


@dataclass(frozen=True, slots=True)
class Purged:
    """A dead letter that nobody will try again."""

    id: str
    event_id: UUID
    state: Literal["cancelled"] = "cancelled"


@dataclass(frozen=True, slots=True)
class RetriedLetters:
    """How many were retried. If the limit was reached there may be more: ask again."""

    retried: int
    limit_reached: bool


@dataclass(frozen=True, slots=True)
class PurgedLetters:
    """How many were purged. If the limit was reached there may be more: ask again."""

    purged: int
    limit_reached: bool


async def dead_letters(request: Request) -> Response:
    values = read_query(request, LIST_PARAMETERS)
    paging = {name: values.pop(name) for name in ("cursor", "limit") if name in values}
    which = DeadLetterFilter(**values, within=within_of(request, values))
    page = await read(request, lambda conn: list_dead_letters(conn, which, **paging))
    return json_answer(DeadLetterList(page.rows, page.next_cursor))


async def dead_letter(request: Request) -> Response:
    read_query(request, ())
    delivery_id = letter_id(request)
    within = within_of(request)
    return json_answer(await read(request, lambda conn: get_dead_letter(conn, delivery_id, within=within)))


async def retry_one(request: Request) -> Response:
    refuse_cross_site(request)
    read_query(request, ())
    delivery_id = letter_id(request)
    within = within_of(request)
    await change(request, lambda conn: retry_dead_letter(conn, delivery_id, within=within))
    log.info("dead letter retried", delivery_id=str(delivery_id))
    return json_answer(Retried(str(delivery_id), delivery_id.event_id))


async def purge_one(request: Request) -> Response:
    refuse_cross_site(request)
    read_query(request, ())
    delivery_id = letter_id(request)
    within = within_of(request)
    await change(request, lambda conn: purge_dead_letter(conn, delivery_id, within=within))
    log.info("dead letter purged", delivery_id=str(delivery_id))
    return json_answer(Purged(str(delivery_id), delivery_id.event_id))


async def retry_many(request: Request) -> Response:
    refuse_cross_site(request)
    read_query(request, ())
    values = read_values(await read_object(request, example=FILTER), CHANGE_PARAMETERS, noun="field")
    which, all, limit = split(request, values)
    retried = await change(request, lambda conn: retry_dead_letters(conn, which, all=all, limit=limit))
    log.info("dead letters retried", count=retried, filter=str(which))
    return json_answer(RetriedLetters(retried, retried >= limit))


async def purge_many(request: Request) -> Response:
    refuse_cross_site(request)
    which, all, limit = split(request, read_query(request, CHANGE_PARAMETERS))
    purged = await change(request, lambda conn: purge_dead_letters(conn, which, all=all, limit=limit))
    log.info("dead letters purged", count=purged, filter=str(which))
    return json_answer(PurgedLetters(purged, purged >= limit))


def split(request: Request, values: dict[str, Any]) -> tuple[DeadLetterFilter, bool, int]:
    all, limit = values.pop("all", False), values.pop("limit", MOST_CHANGED)
    return DeadLetterFilter(**values, within=within_of(request, values)), all, limit


def letter_id(request: Request) -> DeliveryId:
    return id_of(
        request, DeliveryId.parse, what="dead letter", example="3-0198a1b2-0000-7000-8000-000000000000",
        shown="GET /dead-letters lists them",
    )  # fmt: skip


routes: list[Route] = [
    Route("/dead-letters", dead_letters, methods=["GET"]),
    Route("/dead-letters", purge_many, methods=["DELETE"]),
    Route("/dead-letters/retry", retry_many, methods=["POST"]),
    Route("/dead-letters/{id}", dead_letter, methods=["GET"]),
    Route("/dead-letters/{id}", purge_one, methods=["DELETE"]),
    Route("/dead-letters/{id}/retry", retry_one, methods=["POST"]),
]
