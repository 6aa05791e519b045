"""What a gateway counts, and GET /metrics, which shows it together with what the database says."""

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.errors import DatabaseUnavailable
from reflex.core.events import NewEvent
from reflex.core.exposition import exposed
from reflex.core.figures import read_figures
from reflex.core.metric_push import Push, push_wanted
from reflex.core.series import OTHER, Counter, Histogram, Labels, Reading, gauges
from reflex.gateway.connections import Pool, finish_within, limited
from reflex.gateway.query import read_query

__all__ = ["Figures", "GatewayMetrics", "count_refusal", "pushing", "routes"]

# Types that no app registered are named by clients, who may invent any number of them.
MAX_UNKNOWN_TYPES: Final = 100
# How old what is known of the database may be: several who scrape cost no more than one.
FRESH_S: Final = 5.0
ANSWER_WITHIN_S: Final = 2.0


class GatewayMetrics:
    """The numbers of one gateway since it started. What it can be asked for anyway is in `gauges`."""

    def __init__(self) -> None:
        self.accepted = Counter("reflex_events_accepted_total")
        self.duplicates = Counter("reflex_events_duplicate_total", ())
        self.refused = Counter("reflex_publishes_refused_total")
        self.ingest = Histogram("reflex_ingest_duration_seconds", ())
        self.gauges: dict[str, Callable[[], Mapping[Labels, float]]] = {}
        self._unknown_types: set[str] = set()

    def stored(
        self,
        events: Sequence[NewEvent],
        stored: Mapping[UUID, UUID],
        *,
        took_s: float,
        knows: Callable[[str], bool],
        trace_context: str | None,
    ) -> None:
        """The events of one request or frame are in the log.

        Args:
            knows: Whether an app has registered a type.
            trace_context: Of the request, or of its span.
        """
        self.ingest.observe(took_s, (), trace_context)
        # The same object, as a rule: comparing two ids takes longer than all the rest.
        new = [e.type for e in events if (id := stored[e.event_id]) is e.event_id or id == e.event_id]
        if len(new) < len(events):
            self.duplicates.add((), len(events) - len(new))
        for type, count in collections.Counter(new).items() if len(new) > 1 else ((type, 1) for type in new):
            self.accepted.add((self._shown(type, knows),), count)

    def _shown(self, type: str, knows: Callable[[str], bool]) -> str:
        if type in self._unknown_types or knows(type):
            return type
        if len(self._unknown_types) >= MAX_UNKNOWN_TYPES:
            return OTHER
        self._unknown_types.add(type)
        return type

    def read(self) -> list[Reading]:
        return [
            *self.accepted.read(), *self.duplicates.read(), *self.refused.read(), *self.ingest.read(),
            *(reading for name, values in self.gauges.items() for reading in gauges(name, values())),
        ]  # fmt: skip


class Figures:
    """What the database says, looked up when it is asked for, and by one look for all who ask at the moment."""

    def __init__(self, pool: Pool, *, lease_timeout_s: float) -> None:
        self._pool = pool
        self._lease_timeout = timedelta(seconds=lease_timeout_s)
        self._look: asyncio.Task[list[Reading]] | None = None
        self._looked_at = 0.0
        self._known: list[Reading] = []

    async def read(self) -> list[Reading]:
        """Within two seconds. A database that does not answer is a reading, too."""
        now = asyncio.get_running_loop().time()
        if self._known and now - self._looked_at < FRESH_S:
            return self._known
        if self._look is None or self._look.done():
            self._looked_at = now
            self._look = asyncio.create_task(self._find())
        try:
            found = await finish_within(ANSWER_WITHIN_S, self._look)
        except DatabaseUnavailable:
            self._known = []
            return gauges("reflex_database_up", {(): 0})
        self._known = [*gauges("reflex_database_up", {(): 1}), *found]
        return self._known

    async def _find(self) -> list[Reading]:
        async with limited(self._pool, wait_s=ANSWER_WITHIN_S) as conn:
            return await read_figures(conn, lease_timeout=self._lease_timeout)


def count_refusal(request: HTTPConnection, code: str) -> None:
    """A request was answered with a problem document of this code; it counts if it was one to publish, also by webhook.
    A WebSocket that is refused is answered like this, too."""
    metrics: GatewayMetrics | None = getattr(request.app.state, "metrics", None)
    path: str = request.scope["path"]
    publishes = path == "/events" or path.startswith("/webhooks/")
    if metrics is not None and publishes and request.scope.get("method") == "POST":
        metrics.refused.add((code,))


async def all_readings(app: Starlette) -> list[Reading]:
    """What this gateway counted, and what the database says."""
    metrics: GatewayMetrics = app.state.metrics
    figures: Figures | None = getattr(app.state, "figures", None)
    return [*metrics.read(), *(await figures.read() if figures is not None else ())]


@asynccontextmanager
async def pushing(app: Starlette) -> AsyncGenerator[None]:
    """Meanwhile a collector gets the readings, if the environment names one."""
    if not push_wanted():
        yield
        return
    loop = asyncio.get_running_loop()

    def read() -> list[Reading]:
        return asyncio.run_coroutine_threadsafe(all_readings(app), loop).result(2 * ANSWER_WITHIN_S)

    push = Push("reflex-gateway", read)
    push.start()
    try:
        yield
    finally:
        await asyncio.to_thread(push.stop)


async def show(request: Request) -> Response:
    read_query(request, ())
    text, content_type = exposed(await all_readings(request.app), request.headers.get("accept"))
    return Response(text, headers={"cache-control": "no-store", "content-type": content_type})


routes: list[Route] = [Route("/metrics", show, methods=["GET"])]
