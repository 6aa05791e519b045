"""Request bodies: which media types are taken, how large a body may be, and how long it may take to arrive."""

import asyncio
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Receive

from reflex.core import cloud_events
from reflex.core.errors import Saturated
from reflex.gateway.problems import RequestRefused

__all__ = ["Bodies", "MediaType", "discard", "media_type"]

# Room for bodies that are still arriving, all requests together.
BODIES_AT_ONCE: Final = 16
UTF_8: Final = {"utf-8", "utf8", "us-ascii"}
CLOSE: Final = {"connection": "close"}


class MediaType(Enum):
    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    CLOUD_EVENT = cloud_events.CONTENT_TYPE
    CLOUD_EVENTS = cloud_events.BATCH_TYPE
    # Not the body but the headers say that it is one; the body is its data, of any type.
    BINARY_CLOUD_EVENT = ""


COMMON: Final = {kind.value.encode(): kind for kind in MediaType if kind.value}
BINARY_MODE: Final = (b"ce-specversion", b"ce-id", b"ce-type")


def media_type(headers: Mapping[bytes, bytes]) -> MediaType:
    """What the body is.

    A request without a content type is not taken for JSON: a web page can make a visitor's browser send one to
    another site, or to a gateway on the visitor's own machine, without asking first.

    Raises:
        RequestRefused: It is neither JSON nor NDJSON, not UTF-8, or compressed.
    """
    header = headers.get(b"content-type", b"")
    if not headers.keys().isdisjoint(BINARY_MODE) and not header.lower().startswith(b"application/cloudevents"):
        kind = MediaType.BINARY_CLOUD_EVENT
    else:
        kind = COMMON.get(header) or _parse(header.decode("latin-1"))
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise _unsupported(f"Content-Encoding {encoding[:40].decode('latin-1')!r} is not taken; send it uncompressed")
    return kind


class Bodies:
    """Reads bodies, each within its limits, and all that are arriving within a common one."""

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._arriving_bytes = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None if the client went away.

        Raises:
            RequestRefused: It is too large, which a Content-Length says at once, or too slow.
            Saturated: Too many large bodies are arriving.
        """
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._max_bytes:
            raise self._too_large()
        size = 0
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    if chunk := message.get("body"):
                        size += len(chunk)
                        self._arriving_bytes += len(chunk)
                        if size > self._max_bytes:
                            raise self._too_large()
                        if self._arriving_bytes > self._max_bytes * BODIES_AT_ONCE:
                            raise Saturated("the memory for bodies that are still arriving")
                        chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks) if len(chunks) != 1 else chunks[0]
        except TimeoutError:
            detail = f"the body did not arrive within {self._timeout_s:g} s; nothing was stored"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "body_timeout", detail, headers=CLOSE) from None
        finally:
            self._arriving_bytes -= size

    def _too_large(self) -> RequestRefused:
        detail = f"the body is larger than {self._max_bytes} bytes (REFLEX_MAX_BODY_BYTES); nothing was stored"
        return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail, headers=CLOSE)


def _parse(header: str) -> MediaType:
    essence, *parameters = [part.strip() for part in header.lower().split(";")]
    if essence == MediaType.CLOUD_EVENT.value:
        kind = MediaType.CLOUD_EVENT
    elif essence == MediaType.CLOUD_EVENTS.value:
        kind = MediaType.CLOUD_EVENTS
    elif essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json")):
        kind = MediaType.JSON
    elif essence in ("application/x-ndjson", "application/ndjson"):
        kind = MediaType.NDJSON
    else:
        given = f"is {essence[:80]!r}" if essence else "is missing"
        raise _unsupported(
            f"Content-Type {given}; send application/json (an event or an array), application/x-ndjson or a CloudEvent"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in UTF_8:
            raise _unsupported(f"charset {value[:40]!r} is not taken; send UTF-8")
    return kind


def _unsupported(detail: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)


async def discard(receive: Receive) -> None:
    """Throw away what a client still sends, until it has ended or the client is gone."""
    while True:
        message: dict[str, Any] = dict(await receive())
        if message["type"].endswith(".disconnect") or (
            message["type"] == "http.request" and not message.get("more_body")
        ):
            return
