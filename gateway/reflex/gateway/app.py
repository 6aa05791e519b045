"""The gateway's composition root: the one place where its parts meet. Nothing imports this but the server and tests."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from reflex.core.database import open_pool
from reflex.core.settings import Settings
from reflex.gateway import (
    approval_routes,
    asyncapi,
    dead_letter_routes,
    delivery_routes,
    docs_page,
    effect_routes,
    health,
    metrics,
    openapi,
    reading,
    replay_routes,
)
from reflex.gateway.access import Access
from reflex.gateway.connections import read_places
from reflex.gateway.group_commit import EventStore, GroupCommit
from reflex.gateway.ingest import Ingest
from reflex.gateway.keyring import Keyring
from reflex.gateway.live import websocket
from reflex.gateway.live.admission import Admission
from reflex.gateway.live.event_source import EventSource
from reflex.gateway.live.hub import Hub
from reflex.gateway.live.progress_feed import ProgressFeed
from reflex.gateway.live.sessions import Sessions
from reflex.gateway.metrics import Figures, GatewayMetrics, pushing
from reflex.gateway.operations import OPERATIONS
from reflex.gateway.origins import for_browsers
from reflex.gateway.problems import CatchAll, exception_handlers
from reflex.gateway.publishing import Publisher
from reflex.gateway.schemas import PayloadSchemas
from reflex.gateway.webhooks import Webhooks

__all__ = ["create_app"]

# The first requests should find the schemas there; without a database the gateway starts all the same.
FIRST_LOAD_S: Final = 2.0


def create_app(
    settings: Settings, *, store: EventStore | None = None, stopping: asyncio.Event | None = None
) -> Starlette:
    """The gateway as an ASGI app, with a lifespan that has to run.

    Args:
        store: Where events go instead of the database; the benchmark gives one that keeps nothing. Schemas and reads
            still come from DATABASE_URL, if there is one.
        stopping: Set when the server stops: WebSockets and streams, which would stay open for ever, are then ended.

    Raises:
        ConfigurationError: There is neither a database nor a store; or API keys are wanted, which are in a database.
    """
    commits = None
    access = Access(settings)
    if access.wants_keys:
        settings.require_database_url()
    if store is None:
        url = settings.require_database_url()
        commits = store = GroupCommit(url, max_buffered_events=settings.max_buffered_events)
    listening_url = settings.direct_url or settings.database_url
    schemas = PayloadSchemas(listening_url, unknown_types=settings.unknown_types)
    admission = Admission(settings)
    counted = GatewayMetrics()
    counted.gauges["reflex_connections"] = lambda: {(kind,): n for kind, n in admission.by_kind.items()}
    if commits is not None:
        counted.gauges["reflex_buffered_events"] = lambda: {(): commits.buffered_events}
    publisher = Publisher(settings, schemas=schemas, store=store, metrics=counted)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            if settings.database_url is not None and listening_url is not None:
                pool = open_pool(settings.database_url, name="reflex gateway", size=settings.gateway_pool_size)
                app.state.pool = pool
                await pool.open(wait=False)
                stack.push_async_callback(pool.close)
                if access.wants_keys:
                    app.state.keyring = await stack.enter_async_context(Keyring(pool))
                places = app.state.read_places = read_places(pool)
                hub = await stack.enter_async_context(Hub(listening_url, pool, places, stopping=stopping))
                app.state.hub = hub
                counted.gauges["reflex_subscriptions"] = lambda: {(): hub.subscriptions}
                app.state.figures = Figures(pool, lease_timeout_s=settings.lease_timeout_s)
                app.state.progress = await stack.enter_async_context(ProgressFeed(listening_url))
                app.state.sessions = await stack.enter_async_context(Sessions(hub.read))
            await stack.enter_async_context(schemas)
            if commits is not None:
                await stack.enter_async_context(commits)  # left first: what is waiting is flushed
            await schemas.wait_for_first_load(FIRST_LOAD_S)
            await stack.enter_async_context(pushing(app))
            yield

    routes = [
        Route("/events", Ingest(settings, publisher), methods=["POST"], name="publish"),
        *websocket.routes(websocket.WebSocket(settings, access, admission, publisher)),
        Route("/events/stream", EventSource(settings, admission), methods=["GET"]),
        Route("/webhooks/{name}", Webhooks(settings, publisher), methods=["POST"]),
        *reading.routes,
        *dead_letter_routes.routes,
        *approval_routes.routes,
        *effect_routes.routes,
        *delivery_routes.routes,
        *replay_routes.routes,
        *health.routes,
        *metrics.routes,
        *openapi.routes,
        *asyncapi.routes,
        *docs_page.routes,
    ]
    app = Starlette(
        routes=access.guard(
            routes,
            {(operation.method, operation.path): operation.scopes for operation in OPERATIONS},
            {(operation.method, operation.path) for operation in OPERATIONS if operation.narrowed},
        ),
        middleware=[*for_browsers(settings), Middleware(CatchAll)],
        exception_handlers=exception_handlers(),
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.metrics = counted
    return app
