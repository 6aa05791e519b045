"""The log and the registry over HTTP: events and what became of them, types, triggers, schedules. Changes nothing."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.cloud_event_reads import get_cloud_event
from reflex.core.errors import NotFound
from reflex.core.reads import get_event, list_event_types, list_events, list_triggers
from reflex.core.rows import EventRow, EventTypeRow, TriggerRow
from reflex.core.schedules import ScheduleRow, list_schedules
from reflex.gateway import cloud_events
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import read
from reflex.gateway.narrowing import within_of
from reflex.gateway.query import CURSOR, LIMIT, Parameter, read_query

__all__ = ["EVENT_PARAMETERS", "EventList", "EventTypeList", "ScheduleList", "TriggerList", "routes"]

EVENT_PARAMETERS: Final = (
    Parameter("type", "text", "A type, or a prefix such as `order.*`.", "order.created"),
    Parameter("source", "text", "Where it came from. Without another filter the whole log is searched.", "shop"),
    Parameter("key", "text", "What it is about.", "A1"),
    Parameter("correlation_id", "text", "The chain of events it belongs to.", "checkout-7"),
    Parameter(
        "since", "moment", "Accepted then or later: ISO 8601 with an offset, or how long ago (`15m`, `2h`, `7d`).", "2h"
    ),
    Parameter("until", "moment", "Accepted before then.", "2026-01-31T09:00:00Z"),
    CURSOR,
    LIMIT,
)


@dataclass(frozen=True, slots=True)
class EventList:
    """A page of the log, newest first. `next_cursor` continues it; null on the last page."""

    events: list[EventRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class EventTypeList:
    """All types, by name."""

    event_types: list[EventTypeRow]


@dataclass(frozen=True, slots=True)
class TriggerList:
    """All triggers, by app and name."""

    triggers: list[TriggerRow]


@dataclass(frozen=True, slots=True)
class ScheduleList:
    """All schedules, by app and name."""

    schedules: list[ScheduleRow]


async def events(request: Request) -> Response:
    filters = read_query(request, EVENT_PARAMETERS)
    within = within_of(request, filters)
    page = await read(request, lambda conn: list_events(conn, **filters, within=within))
    return json_answer(EventList(page.rows, page.next_cursor))


async def event(request: Request) -> Response:
    read_query(request, ())
    event_id = parse_event_id(request.path_params["id"])
    within = within_of(request)
    if cloud_events.is_wanted(request):
        return cloud_events.answer(await read(request, lambda conn: get_cloud_event(conn, event_id, within=within)))
    answer = json_answer(await read(request, lambda conn: get_event(conn, event_id, within=within)))
    answer.headers["vary"] = "accept"
    return answer


async def event_types(request: Request) -> Response:
    read_query(request, ())
    within = within_of(request)
    return json_answer(EventTypeList(await read(request, lambda conn: list_event_types(conn, within=within))))


async def triggers(request: Request) -> Response:
    read_query(request, ())
    lease_timeout = timedelta(seconds=request.app.state.settings.lease_timeout_s)
    rows = await read(request, lambda conn: list_triggers(conn, lease_timeout=lease_timeout))
    return json_answer(TriggerList(rows))


async def schedules(request: Request) -> Response:
    read_query(request, ())
    lease_timeout = timedelta(seconds=request.app.state.settings.lease_timeout_s)
    rows = await read(request, lambda conn: list_schedules(conn, lease_timeout=lease_timeout))
    return json_answer(ScheduleList(rows))


def parse_event_id(text: str) -> UUID:
    """An id as the gateway writes them. UUID() alone takes braces, missing dashes and more: one event, one address."""
    try:
        event_id = UUID(text)
    except ValueError:
        event_id = None
    if event_id is None or str(event_id) != text.lower():
        raise NotFound(
            f"there is no event {text[:80]!r}: an event's id looks like 0198a1b2-0000-7000-8000-000000000000"
        )
    return event_id


routes: list[Route] = [
    Route("/events", events, methods=["GET"]),
    Route("/events/{id}", event, methods=["GET"]),
    Route("/event-types", event_types, methods=["GET"]),
    Route("/triggers", triggers, methods=["GET"]),
    Route("/schedules", schedules, methods=["GET"]),
]
