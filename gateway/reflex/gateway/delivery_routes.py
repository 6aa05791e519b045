"""Deliveries over HTTP: which wait, and ending one."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.cancelling import cancel_delivery
from reflex.core.ids import DeliveryId
from reflex.core.waiting_list import WaitingRow, list_waiting
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import change, read
from reflex.gateway.narrowing import within_of
from reflex.gateway.operating import id_of, refuse_cross_site
from reflex.gateway.query import LIMIT, Parameter, read_query

__all__ = ["CANCEL_PARAMETERS", "LIST_PARAMETERS", "CancelledDelivery", "WaitingList", "routes"]

LIST_PARAMETERS: Final = (LIMIT,)
CANCEL_PARAMETERS: Final = (Parameter("reason", "text", "Why; kept with the delivery.", "by mistake"),)

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.gateway.deliveries")


@dataclass(frozen=True, slots=True)
class WaitingList:
    """Deliveries that wait, those that have waited longest first."""

    waiting: list[WaitingRow]


@dataclass(frozen=True, slots=True)
class CancelledDelivery:
    """A delivery that has ended, or that runs and is about to."""

    id: str
    event_id: UUID
    state: Literal["cancelled", "cancelling"]


async def waiting(request: Request) -> Response:
    values = read_query(request, LIST_PARAMETERS)
    within = within_of(request)
    return json_answer(WaitingList(await read(request, lambda conn: list_waiting(conn, **values, within=within))))


async def cancel(request: Request) -> Response:
    refuse_cross_site(request)
    values = read_query(request, CANCEL_PARAMETERS)
    delivery_id = id_of(
        request, DeliveryId.parse, what="delivery", example="3-0198a1b2-0000-7000-8000-000000000000",
        shown="GET /events/{id} shows it",
    )  # fmt: skip
    within = within_of(request)
    state = await change(request, lambda conn: cancel_delivery(conn, delivery_id, **values, within=within))
    log.info("delivery cancelled", delivery_id=str(delivery_id), state=state)
    status = HTTPStatus.ACCEPTED if state == "cancelling" else HTTPStatus.OK
    return json_answer(CancelledDelivery(str(delivery_id), delivery_id.event_id, state), status=status)


routes: list[Route] = [
    Route("/waiting", waiting, methods=["GET"]),
    Route("/deliveries/{id}/cancel", cancel, methods=["POST"]),
]
