"""Reads of the log and the registry, for the gateway and the command line: events, their deliveries, types, triggers.

Statements run unprepared, so that the planner sees the values of the optional filters.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final, TypeVar
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from reflex.core.errors import NotFound
from reflex.core.events import check_type_pattern, pattern_bounds
from reflex.core.ids import DeliveryId, first_id_at
from reflex.core.pages import (
    DEFAULT_LIMIT,
    Page,
    QueryRejected,
    check_limit,
    cut,
    decode_cursor,
    encode_cursor,
)
from reflex.core.restriction import UNRESTRICTED, Restriction, common_types
from reflex.core.rows import (
    DeliveryRow,
    DeliveryState,
    EventDetail,
    EventRow,
    EventTypeRow,
    FollowUp,
    Registration,
    RunRow,
    TriggerRow,
    WorkerRef,
    stored_json,
)
from reflex.core.statements import statement

__all__ = [
    "COUNT_LIMIT",
    "fetch",
    "get_event",
    "has_open_deliveries",
    "list_event_types",
    "list_events",
    "list_triggers",
    "read_runs",
    "type_bounds",
]

COUNT_LIMIT: Final = 10_000
COUNTED: Final = ("pending", "scheduled", "running", "dead", "waiting")
UNROUTED_COUNT_LIMIT: Final = 1_000
RUN_LIMIT: Final = 100
FOLLOW_UP_LIMIT: Final = 100
LISTED_PAYLOAD_BYTES: Final = 16 * 1024
FIRST_ID: Final = UUID(int=0)
LAST_ID: Final = UUID(int=2**128 - 1)
NOBODY: Final = UUID(int=0)

FINAL_STATES: Final[dict[str, DeliveryState]] = {
    "succeeded": "succeeded",
    "skipped": "skipped",
    "cancelled": "cancelled",
    "dead": "dead",
}

Row = TypeVar("Row")


async def fetch(conn: AsyncConnection[Any], name: str, parameters: Mapping[str, Any]) -> list[DictRow]:
    """All rows of a named statement, as dictionaries whatever the connection's own row factory is."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement(name), parameters, prepare=False)
        return await cursor.fetchall()


def type_bounds(type: str | None) -> tuple[str | None, str | None]:
    """The least and greatest type that a filter such as `order.created`, `order.*` or `*` means; None: any."""
    if type is None or type == "*":
        return None, None
    try:
        return pattern_bounds(check_type_pattern(type))
    except TypeError as error:
        raise QueryRejected(str(error), field="type") from None


async def list_events(
    conn: AsyncConnection[Any],
    *,
    type: str | None = None,
    source: str | None = None,
    key: str | None = None,
    correlation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    within: Restriction = UNRESTRICTED,
) -> Page[EventRow]:
    """A page of the log, newest first.

    Args:
        type: A type, a prefix such as `order.*`, or None.
        since: Accepted then or later. What counts is the moment in the event's id, which is also the order of the
            log; not `time`, which is the sender's word.
        until: Accepted before then.
        within: Events of others do not exist.

    Raises:
        QueryRejected: A cursor, pattern or limit that makes no sense.
    """
    check_limit(limit)
    seen = common_types([] if type in (None, "*") else [type], within.types)
    # With one type to look for its index gives the order, whoever named it.
    low, high = type_bounds(seen[0] if len(seen) == 1 else type)
    before = [first_id_at(until) if until else LAST_ID]
    if cursor:
        before.append(UUID(bytes=decode_cursor(cursor, size=16)))
    exact_type = low is not None and low == high
    rows = await fetch(
        conn,
        "list_events",
        {
            **within.parameters(),
            "type_low": low,
            "type_high": high,
            "source": source,
            "key": key,
            "correlation_id": correlation_id,
            "from_id": first_id_at(since) if since else FIRST_ID,
            "before_id": min(before),
            "led_by": "correlation_id" if correlation_id else "key" if key else "type" if exact_type else "",
            "payload_limit": LISTED_PAYLOAD_BYTES,
            "limit": limit + 1,
        },
    )
    events, last = cut([EventRow(**{**row, "payload": stored_json(row["payload"])}) for row in rows], limit)
    return Page(events, encode_cursor(last.id.bytes) if last else None)


async def get_event(conn: AsyncConnection[Any], event_id: UUID, *, within: Restriction = UNRESTRICTED) -> EventDetail:
    """An event with its deliveries, their runs, and the events that these published.

    Raises:
        NotFound: The log has no such event, or none within these.
    """
    found = await fetch(conn, "get_event", {"event_id": event_id})
    if not found or not within.allows(found[0]["type"], found[0]["source"]):
        raise NotFound(f"there is no event {event_id}")
    follow_ups = await fetch(conn, "event_follow_ups", {"event_id": event_id, "limit": FOLLOW_UP_LIMIT})
    return EventDetail(
        **{**found[0], "payload": stored_json(found[0]["payload"])},
        deliveries=await read_deliveries(conn, event_id),
        follow_ups=[FollowUp(**row) for row in follow_ups if within.allows(row["type"], row["source"])],
    )


async def read_deliveries(conn: AsyncConnection[Any], event_id: UUID) -> list[DeliveryRow]:
    traces = await fetch(conn, "event_deliveries", {"event_id": event_id, "trigger_id": None, "run_limit": RUN_LIMIT})
    return [
        delivery_row(DeliveryId(trigger_id, event_id), list(group))
        for trigger_id, group in groupby(traces, key=lambda trace: trace["trigger_id"])
    ]


async def read_runs(conn: AsyncConnection[Any], delivery_id: DeliveryId) -> list[RunRow]:
    """The latest runs of one delivery, oldest first."""
    traces = await fetch(
        conn,
        "event_deliveries",
        {"event_id": delivery_id.event_id, "trigger_id": delivery_id.trigger_id, "run_limit": RUN_LIMIT},
    )
    return [run_row(trace) for trace in traces if trace["place"] == "run"]


def delivery_row(delivery_id: DeliveryId, traces: Sequence[DictRow]) -> DeliveryRow:
    """What one delivery's rows say together. Pure.

    Where it is now decides the state. If it is nowhere, its last run ended it; a last run that ended nothing means
    that somebody deleted the row by hand, and it will not run again: cancelled.
    """
    runs = [run_row(trace) for trace in traces if trace["place"] == "run"]
    now = next((trace for trace in traces if trace["place"] != "run"), None)
    latest = now or traces[-1]
    dead = latest if latest["place"] == "dead" else None
    waiting = latest if latest["place"] == "waiting" else None
    return DeliveryRow(
        id=str(delivery_id),
        trigger=latest["trigger"],
        app=latest["app"],
        state=now["place"] if now else FINAL_STATES.get(latest["outcome"], "cancelled"),
        attempt=latest["attempt"],
        available_at=latest["available_at"],
        worker=WorkerRef(now["worker_id"], now["host"], now["pid"]) if now and now["worker_id"] else None,
        reason=latest["reason"] if dead or waiting else None,
        waiting_for=waiting["error"] if waiting else None,
        error=dead["error"] if dead else None,
        died_at=dead["finished_at"] if dead else None,
        replayed_at=latest["replayed_at"],
        runs=runs,
    )


def run_row(trace: DictRow) -> RunRow:
    started_at, finished_at = trace["started_at"], trace["finished_at"]
    return RunRow(
        lease_epoch=trace["lease_epoch"],
        attempt=trace["attempt"],
        outcome=trace["outcome"],
        started_at=started_at,
        finished_at=finished_at,
        duration_ms=round((finished_at - started_at) / timedelta(milliseconds=1), 3),
        error=trace["error"],
        output=stored_json(trace["output"]),
        usage=stored_json(trace["usage"]),
        trace_id=trace["trace_id"],
        worker_id=None if trace["worker_id"] == NOBODY else trace["worker_id"],
        is_replay=trace["is_replay"],
    )


async def has_open_deliveries(conn: AsyncConnection[Any], event_id: UUID) -> bool:
    """Whether a delivery of the event is not settled yet."""
    (row,) = await fetch(conn, "open_deliveries", {"event_id": event_id})
    return row["open"]


async def list_event_types(
    conn: AsyncConnection[Any], *, unrouted_limit: int = 1000, within: Restriction = UNRESTRICTED
) -> list[EventTypeRow]:
    """Every type that an app registered or of which events wait for a trigger, by name."""
    registered: dict[str, list[Registration]] = {}
    for row in await fetch(conn, "list_event_types", {}):
        registration = Registration(row["app"], stored_json(row["schema"]), row["registered_at"])
        registered.setdefault(row["type"], []).append(registration)
    parameters = {"limit": unrouted_limit, "count_limit": UNROUTED_COUNT_LIMIT}
    waiting = await fetch(conn, "count_unrouted_types", parameters)
    unrouted: dict[str, int] = {row["type"]: row["unrouted"] for row in waiting}
    return [
        EventTypeRow(
            type=type,
            registrations=registered.get(type, []),
            unrouted=unrouted.get(type, 0),
            unrouted_capped=unrouted.get(type, 0) >= UNROUTED_COUNT_LIMIT,
        )
        for type in sorted(registered.keys() | unrouted.keys())
        if within.allows_type(type)
    ]


async def list_triggers(
    conn: AsyncConnection[Any], *, lease_timeout: timedelta, now: datetime | None = None
) -> list[TriggerRow]:
    """Every trigger, retired ones too, by app and name.

    Args:
        lease_timeout: A worker whose heartbeat is older than this does not count as live.
    """
    parameters = {"count_limit": COUNT_LIMIT, "lease_timeout": lease_timeout, "now": now}
    return [
        TriggerRow(
            **{**row, "definition": stored_json(row["definition"])},
            capped=[
                state for state in ("pending", "scheduled", "running", "dead", "waiting") if row[state] >= COUNT_LIMIT
            ],
        )
        for row in await fetch(conn, "list_triggers", parameters)
    ]


def counted_of(row: DictRow, state: str) -> int:
    """How many rows were counted for a state: what waits is taken off from where its rows are."""
    return row[state] + (row["waiting"] if state in ("pending", "scheduled") else 0)
