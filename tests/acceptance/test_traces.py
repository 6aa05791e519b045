"""Traces of real processes, received by a collector that speaks OTLP over HTTP."""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.processes import eventually, gateway, worker

APP = """
from pydantic_ai import Agent
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger

Trigger("greet", type_filter("http"), Agent(instructions="Greet."))
"""
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """What the processes sent: spans with the name of their service, and the paths and tokens they used."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.metrics: list[bytes] = []
        self.url = ""

    def named(self, start: str) -> list[tuple[str, Any]]:
        return [(service, span) for service, span in self.spans if span.name.startswith(start)]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                body = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
                path = lines[0].split()[1]
                self.requests.append((path, headers.get("authorization")))
                if path.endswith("/v1/traces"):
                    self.take(ExportTraceServiceRequest.FromString(body))
                elif path.endswith("/v1/metrics"):
                    self.metrics.append(body)
                # What Logfire asks for first; the OTLP exporters do not look.
                answer = b'{"project_name": "reflex", "project_url": "http://127.0.0.1/"}'
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(answer), answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            # Logfire announces each span when it begins; we want the finished ones.
            self.spans += [(names["service.name"], span) for span in spans if not announces(span)]


def announces(span: Any) -> bool:
    return any(a.key == "logfire.span_type" and a.value.string_value == "pending_span" for a in span.attributes)


@asynccontextmanager
async def collecting() -> AsyncGenerator[Collector]:
    collector = Collector()
    server = await asyncio.start_server(collector.answer, "127.0.0.1", 0)
    collector.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield collector
    finally:
        server.close()


@pytest.mark.parametrize("how", ["otlp", "logfire"])
async def test_gateway_and_worker_are_in_the_trace_that_the_client_began(
    how: str, database_url: str, tmp_path: Path
) -> None:
    """Fails if the trace context is not stored with the event, or either process sets up no tracing."""
    (tmp_path / "greeter.py").write_text(APP)
    async with collecting() as collector:
        env = {"DEFAULT_MODEL": "offline", "OTEL_BSP_SCHEDULE_DELAY": "200"}
        if how == "otlp":
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        else:
            env |= {"LOGFIRE_TOKEN": "a-token-that-is-none", "LOGFIRE_BASE_URL": collector.url}
        async with (
            gateway(database_url, tmp_path, env=env) as front,
            worker(database_url, tmp_path, app="greeter", env=env) as back,
            httpx2.AsyncClient() as client,
        ):
            headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
            answer = await client.post(f"{front.url}/events", json={"type": "http"}, headers=headers)
            assert answer.status_code == 202
            await eventually(lambda: collector.named("send http"), timeout_s=30)
            await eventually(lambda: collector.named("process greet"), timeout_s=30)
            await eventually(lambda: [s for _, s in collector.spans if "chat" in s.name or "agent" in s.name])
            log = back.log
    (sending,), (processing,) = collector.named("send http"), collector.named("process greet")
    assert (sending[0], processing[0]) == ("reflex-gateway", "reflex-worker")
    for _, span in (sending, processing):
        assert span.trace_id.hex() == TRACE_ID
    assert processing[1].parent_span_id == sending[1].span_id
    models = [span for _, span in collector.spans if any(a.key.startswith("gen_ai.") for a in span.attributes)]
    assert models
    assert {span.trace_id.hex() for span in models} == {TRACE_ID}
    assert TRACE_ID in log, "log lines lead to the trace"
    assert "a-token-that-is-none" not in log


async def test_without_an_endpoint_nothing_is_set_up(database_url: str, tmp_path: Path) -> None:
    """Near-zero cost: no SDK, no exporter, no logfire is even imported. Fails if telemetry is configured always."""
    (tmp_path / "plain.py").write_text(
        APP.replace("Agent(instructions=\"Greet.\")", "greet").replace(
            "from pydantic_ai import Agent\n", ""
        ).replace("Trigger(", "async def greet(ctx):\n"
        "    import sys\n"
        "    return [m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'logfire', 'pydantic_ai'))]\n\n"
        "Trigger(", 1)
    )  # fmt: skip
    async with (
        gateway(database_url, tmp_path) as front,
        worker(database_url, tmp_path, app="plain"),
        httpx2.AsyncClient() as client,
    ):
        id = (await client.post(f"{front.url}/events", json={"type": "http"})).json()["id"]

        async def output() -> Any:
            event = (await client.get(f"{front.url}/events/{id}")).json()
            return event["deliveries"] and event["deliveries"][0]["runs"]

        assert (await eventually(output))[0]["output"] == []
