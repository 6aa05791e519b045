"""A model provider on 127.0.0.1 that speaks as much of OpenAI's API as pydantic-ai needs: chat completions, streamed
to who asks for it, and responses. What it answers is a script; what it was asked is kept."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from hypercorn.asyncio import serve  # pyright: ignore[reportUnknownVariableType]
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
Answer = Callable[[], Awaitable[Response]]


def text(content: str) -> Answer:
    """A chat completion that says this."""
    return completion({"role": "assistant", "content": content}, "stop")


def tool_call(name: str, arguments: dict[str, Any] | str) -> Answer:
    """A chat completion that calls a tool; `arguments` as a text need not be JSON."""
    call = {
        "id": f"call-{name}",
        "type": "function",
        "function": {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)},
    }
    return completion({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")


def completion(message: dict[str, Any], finish_reason: str) -> Answer:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return raw(
        json.dumps(
            {
                "id": "c-1",
                "object": "chat.completion",
                "created": 1_767_225_600,
                "model": "stub",
                "choices": [choice],
                "usage": USAGE,
            }
        )
    )


def responses_text(content: str) -> Answer:
    """The same in the words of the responses API."""
    part = {"type": "output_text", "text": content, "annotations": []}
    message = {"type": "message", "id": "m-1", "role": "assistant", "status": "completed", "content": [part]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return raw(
        json.dumps(
            {
                "id": "r-1",
                "object": "response",
                "created_at": 1_767_225_600,
                "model": "stub",
                "status": "completed",
                "output": [message],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18, **details},
            }
        )
    )


def refusal(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's form; headers with dashes as underscores."""
    body = {"error": {"message": message, "type": "error", "code": code}}
    return raw(json.dumps(body), status=status, **headers)


def raw(body: str, *, status: int = 200, **headers: str) -> Answer:
    """Any body, for what no provider should send."""

    async def answer() -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Response(body, status, named, media_type="application/json")

    return answer


class BreaksOff(Exception):
    """The connection ends in the middle of an answer."""


def stream(*pieces: str | asyncio.Event | dict[str, Any] | type[BreaksOff]) -> Answer:
    """A streamed chat completion: texts are pieces of what it says, an event is waited for, anything else is sent as
    it is, and BreaksOff is the end of the connection. It is complete after the last piece."""

    async def lines() -> AsyncIterator[bytes]:
        for piece in pieces:
            match piece:
                case str():
                    yield line(chunk({"role": "assistant", "content": piece}))
                case asyncio.Event():
                    await piece.wait()
                case dict():
                    yield line(piece)
                case _:
                    raise piece
        for last in END:
            yield last

    async def answer() -> Response:
        return StreamingResponse(lines(), media_type="text/event-stream")

    return answer


def streamed(whole: dict[str, Any]) -> Response:
    """A chat completion in the form in which it is streamed, its text word by word."""
    choice = whole["choices"][0]
    message = choice["message"]
    words = re.split(r"(?<=\S)(?=\s)", message["content"] or "")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": word} for word in words]
    if calls := message.get("tool_calls"):
        deltas.append({"role": "assistant", "tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]})
    lines = [line(chunk(delta)) for delta in deltas]
    lines += [line(chunk({}, choice["finish_reason"])), *END[1:]]
    return Response(b"".join(lines), media_type="text/event-stream")


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1_767_225_600, "model": "stub",
            "choices": [choice]}  # fmt: skip


def line(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


END = (
    line(chunk({}, "stop")),
    line({**chunk({}), "choices": [], "usage": USAGE}),
    b"data: [DONE]\n\n",
)


def silence(until: asyncio.Event) -> Answer:
    """No answer before the event is set."""

    async def answer() -> Response:
        await until.wait()
        return JSONResponse({})

    return answer


@dataclass
class StubProvider:
    """The server: its address, its script, and the requests it has seen. The last answer of the script repeats."""

    base_url: str = ""
    script: list[Answer] = field(default_factory=list[Answer])
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    authorizations: list[str | None] = field(default_factory=list[str | None])

    async def answer(self, request: Request) -> Response:
        asked = await request.json()
        self.requests.append(asked)
        self.authorizations.append(request.headers.get("authorization"))
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        response = await answer()
        if asked.get("stream") and b'"chat.completion"' in getattr(response, "body", b""):
            return streamed(json.loads(bytes(response.body)))
        return response


@asynccontextmanager
async def stub_provider(*script: Answer) -> AsyncGenerator[StubProvider]:
    """Serve the script over real HTTP on a free port."""
    stub = StubProvider(script=list(script))
    paths = ("/v1/chat/completions", "/v1/responses")
    app = Starlette(routes=[Route(path, stub.answer, methods=["POST"]) for path in paths])
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.graceful_timeout = 0.1
    config.loglevel = "CRITICAL"
    stop = asyncio.Event()
    serving = cast("Any", serve)(app, config, shutdown_trigger=stop.wait)
    server = asyncio.ensure_future(serving)
    stub.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        yield stub
    finally:
        stop.set()
        await server
        listener.detach()
