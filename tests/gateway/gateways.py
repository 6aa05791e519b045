"""Gateways for tests: the app in this process on a database of its own, with or without a real server before it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from asgi_lifespan import LifespanManager
from starlette.applications import Starlette

from reflex.core.database import connect
from reflex.core.registration import EventType, Manifest, TriggerDefinition, register
from reflex.core.settings import Settings, load_settings
from reflex.gateway.app import create_app
from reflex.gateway.server import listen, serve_until

__all__ = ["in_process", "post", "problem_of", "register_app", "served", "settings_for"]


def settings_for(database_url: str, **overrides: object) -> Settings:
    return load_settings(database_url=database_url, **overrides)


@asynccontextmanager
async def in_process(app: Starlette) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client that calls the app directly, while its lifespan runs."""
    async with LifespanManager(app, startup_timeout=30, shutdown_timeout=30):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as client:
            yield client


@asynccontextmanager
async def served(settings: Settings, *, grace_s: float = 5) -> AsyncGenerator[tuple[str, int]]:
    """The app behind hypercorn on a port of the loopback address."""
    stop = asyncio.Event()
    sock = listen("127.0.0.1", 0)
    address: tuple[str, int] = sock.getsockname()[:2]
    app = create_app(settings, stopping=stop)
    server = asyncio.create_task(serve_until(stop, app, sock, settings, grace_s=grace_s))
    try:
        yield address
    finally:
        stop.set()
        await asyncio.wait_for(server, 60)


async def post(client: httpx2.AsyncClient, body: object, **headers: str) -> httpx2.Response:
    """POST /events with a JSON body, or with bytes as they are."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, bytes):
        return await client.post("/events", content=body, headers={"content-type": "application/json"} | named)
    return await client.post("/events", json=body, headers=named)


def problem_of(response: httpx2.Response) -> dict[str, Any]:
    """The problem document of an answer, after a look at its form."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert document["status"] == response.status_code
    assert document["type"] == f"urn:reflex:problem:{document['code']}"
    assert document["title"]
    assert document["detail"]
    return document


async def register_app(
    database_url: str,
    schemas: Mapping[str, Mapping[str, Any]],
    *,
    app: str = "shop",
    triggers: Mapping[str, str] | None = None,
) -> None:
    """Register types with the schemas of their payloads, and triggers by name with the pattern of each."""
    conn = await connect(database_url, name="test")
    async with conn:
        definitions = [TriggerDefinition(name, (pattern,), 5, {}) for name, pattern in (triggers or {}).items()]
        types = [EventType(type, schema) for type, schema in schemas.items()]
        await register(conn, Manifest(app, tuple(types), tuple(definitions)))
