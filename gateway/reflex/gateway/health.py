"""Is it alive, is it ready, is it well. `/health` asks nobody; the others ask the database, and answer in time even if
that does not."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.errors import DatabaseUnavailable
from reflex.core.overview import Overview, QueueNumbers, WorkerRow, describe_problems, read_overview
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import finish_within, limited, pool_of
from reflex.gateway.query import read_query

__all__ = ["Alive", "Health", "Readiness", "routes"]

ANSWER_WITHIN_S: Final = 2.0
SLOW_S: Final = 0.5

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Alive:
    """The process answers. It says nothing about the database."""

    status: Literal["ok"] = "ok"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether an event could be stored now. It tells nothing of what is stored: whoever asks needs no key."""

    ready: bool


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """How long the database took for the numbers below; null if it did not answer."""

    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class Health:
    """`ok`; `degraded`: events are taken, but something needs a look; `down`: no event can be stored.

    `problems` says in sentences what is wrong and what to do. `queue` and `workers` are null and empty when down.
    """

    status: Literal["ok", "degraded", "down"]
    problems: list[str]
    database: DatabaseHealth
    queue: QueueNumbers | None
    workers: list[WorkerRow]


async def health(_: Request) -> Response:
    return json_answer(Alive())


async def detailed_health(request: Request) -> Response:
    read_query(request, ())
    found = await look(request)
    return json_answer(found, status=503 if found.status == "down" else 200)


async def readiness(request: Request) -> Response:
    try:
        await shared(request, "readiness_look", answers)
    except DatabaseUnavailable:
        return json_answer(Readiness(ready=False), status=503)
    return json_answer(Readiness(ready=True))


async def answers(request: Request) -> None:
    """Raises DatabaseUnavailable if the database does not, or was never migrated."""
    async with limited(pool_of(request), wait_s=ANSWER_WITHIN_S) as conn:
        await conn.execute("SELECT FROM reflex.appended LIMIT 0")


async def look(request: Request) -> Health:
    try:
        overview, latency_s = await shared(request, "health_look", measure)
    except DatabaseUnavailable as error:
        return Health("down", [f"{error}; no event can be stored"], DatabaseHealth(None), None, [])
    return judge(overview, latency_s)


async def shared(request: Request, name: str, work: Callable[[Request], Coroutine[Any, Any, Result]]) -> Result:
    """What the database says within two seconds. Requests that come while one look is under way share it: on a dead
    network path a look lasts much longer than its answer, and must not pile up."""
    state = request.app.state
    under_way: asyncio.Task[Result] | None = getattr(state, name, None)
    if under_way is None or under_way.done():
        under_way = asyncio.create_task(work(request))
        setattr(state, name, under_way)
    return await finish_within(ANSWER_WITHIN_S, under_way)


async def measure(request: Request) -> tuple[Overview, float]:
    lease_timeout = timedelta(seconds=request.app.state.settings.lease_timeout_s)
    async with limited(pool_of(request), wait_s=ANSWER_WITHIN_S) as conn:
        began = time.perf_counter()
        overview = await read_overview(conn, lease_timeout=lease_timeout)
        return overview, time.perf_counter() - began


def judge(overview: Overview, latency_s: float) -> Health:
    """The verdict. Pure."""
    problems = describe_problems(overview)
    if latency_s > SLOW_S:
        problems.append(
            f"PostgreSQL took {latency_s * 1000:.0f} ms for a few small queries; it is overloaded or far away"
        )
    return Health(
        status="degraded" if problems else "ok",
        problems=problems,
        database=DatabaseHealth(round(latency_s * 1000, 2)),
        queue=overview.queue,
        workers=overview.workers,
    )


routes: list[Route] = [
    Route("/health", health, methods=["GET"]),
    Route("/health/ready", readiness, methods=["GET"]),
    Route("/health/detailed", detailed_health, methods=["GET"]),
]
