"""Replay over HTTP: a trigger gets events again that are in the log, so many a request. The client goes on, at its own
pace."""

import time
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.cursors import Cursor
from reflex.core.events import check_type_pattern
from reflex.core.log_filter import LogFilter
from reflex.core.pages import QueryRejected
from reflex.core.replaying import Replay, find_trigger, replay_span
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import Connection, change
from reflex.gateway.operating import read_object, refuse_cross_site
from reflex.gateway.query import Parameter, read_query, read_values

__all__ = ["PARAMETERS", "ReplayProgress", "routes"]

MOST_REPLAYED: Final = 10_000
DEFAULT_LIMIT: Final = 500
# A request that looks at much and finds little ends all the same; the portion after this time is its last.
REQUEST_S: Final = 5.0
ASKED: Final = '{"since": "2h", "type": "order.*"}'

PARAMETERS: Final = (
    Parameter(
        "since", "moment", "Events stored then or later: ISO 8601 with an offset, or how long ago (`15m`, `2h`, `7d`).",
        "2h",
    ),
    Parameter("until", "moment", "Events stored before then.", "2026-01-31T09:00:00Z"),
    Parameter("after", "text", "Instead of `since`: behind this cursor, to go on.", "AQAAAAAAAAABAAE"),
    Parameter("up_to", "text", "Instead of `until`: with the event of this cursor.", "AQAAAAAAAAABAAE"),
    Parameter("type", "text", "The event's type, or a prefix such as `order.*`; several with commas.", "order.*"),
    Parameter("source", "text", "Where it came from.", "shop"),
    Parameter("key", "text", "What it is about.", "A1"),
    Parameter("app", "text", "The trigger's app, if several have one of that name.", "shop.triggers"),
    Parameter("dry_run", "flag", "Only count.", "true"),
    Parameter(
        "limit", "integer", "How many deliveries to make in this request, at most.", "50", most=MOST_REPLAYED,
        default=DEFAULT_LIMIT,
    ),
)  # fmt: skip

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.gateway.replay")


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """What one request has done. Unless it is `finished`, ask again with `after` set to `cursor` and with this `up_to`.

    `left_alone` are events of which the trigger's delivery is pending, running or dead. `up_to` is where the log ended
    when the first request came: what the replay itself brings about is no part of it.
    """

    cursor: str
    up_to: str
    looked_at: int
    replayed: int
    left_alone: int
    finished: bool


async def replay_trigger(request: Request) -> Response:
    refuse_cross_site(request)
    read_query(request, ())
    asked = read_values(await read_object(request, example=ASKED), PARAMETERS, noun="field")
    name, dry_run = request.path_params["name"], asked.get("dry_run", False)
    filter = filter_of(asked)
    places: dict[str, Any] = {field: asked[field] for field in ("since", "until") if field in asked} | {
        field: Cursor.parse(asked[field], field=field) for field in ("after", "up_to") if field in asked
    }
    limit = asked.get("limit", DEFAULT_LIMIT)

    async def work(conn: Connection) -> ReplayProgress:
        span = await replay_span(conn, **places)
        trigger = await find_trigger(conn, name, app=asked.get("app"))
        replay = Replay(conn, trigger, span, filter=filter, dry_run=dry_run)
        ends = time.monotonic() + REQUEST_S
        while not replay.is_finished and replay.done.replayed < limit and time.monotonic() < ends:
            await replay.portion(most=limit - replay.done.replayed)
        done = replay.done
        return ReplayProgress(
            str(done.cursor), str(span.up_to), done.looked_at, done.replayed, done.left_alone, replay.is_finished
        )

    progress = await change(request, work)
    if not dry_run:
        log.info(
            "events replayed", trigger=name, count=progress.replayed, cursor=progress.cursor, finished=progress.finished
        )
    return json_answer(progress)


def filter_of(asked: dict[str, Any]) -> LogFilter:
    types = tuple(asked["type"].split(",")) if "type" in asked else ()
    for pattern in types:
        try:
            check_type_pattern(pattern)
        except TypeError as error:
            raise QueryRejected(str(error), field="type") from None
    return LogFilter(types, (asked["source"],) if "source" in asked else (), asked.get("key"))


routes: list[Route] = [Route("/triggers/{name}/replay", replay_trigger, methods=["POST"])]
