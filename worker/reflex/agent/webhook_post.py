"""One POST to an address that has been looked at, and the beginning of what is answered."""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult

from reflex.agent.public_addresses import addresses_of, is_public
from reflex.agent.signals import Reject
from reflex.core.errors import ReflexError

if TYPE_CHECKING:
    import httpx2

__all__ = ["WebhookFailed", "beginning", "posted"]

CONNECT_S: Final = 5.0
# Of the answer, no more is read than may be shown.
MAX_ANSWER_BYTES: Final = 16 * 1024


class WebhookFailed(ReflexError):
    """The webhook was not taken this time. It may have arrived: it is sent again under the same id."""

    code = "webhook"


@asynccontextmanager
async def posted(
    address: SplitResult, body: bytes, headers: Mapping[str, str], *, allow_private: bool
) -> AsyncGenerator["httpx2.Response"]:
    """The answer of the first address of the host that can be connected to. Only looked-at addresses are: the name is
    not resolved a second time, when it could say something else."""
    import httpx2

    host, where = address.hostname or "", f"{address.scheme}://{address.netloc}"
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        found = await addresses_of(host, port)
    except (OSError, UnicodeError) as error:  # the latter of a label that is too long
        raise WebhookFailed(f"the name of {where} has no address: {error}") from error
    if not allow_private and (private := [each for each in found if not is_public(each)]):
        raise Reject(
            f"{where} is {private[0]}, which is no public address: webhooks do not go there. "
            "REFLEX_WEBHOOK_PRIVATE=true allows it, if whoever names addresses is trusted with the workers' network"
        )
    timeout = httpx2.Timeout(None, connect=CONNECT_S)
    async with httpx2.AsyncClient(verify=tls(), trust_env=False, follow_redirects=False, timeout=timeout) as client:
        for last, each in ((each == found[-1], each) for each in found):
            request = client.build_request(
                "POST",
                httpx2.URL(address.geturl()).copy_with(host=each, fragment=None),
                content=body,
                headers={**headers, "host": address.netloc},
                extensions={"sni_hostname": host},  # else the certificate would have to name the address
            )
            try:
                response = await client.send(request, stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if not last:
                    continue
                raise WebhookFailed(f"{where} cannot be reached: {error or 'no connection in time'}") from error
            except httpx2.TransportError as error:
                raise WebhookFailed(f"{where} broke off: {type(error).__name__}: {error}") from error
            try:
                yield response
            except httpx2.TransportError as error:
                raise WebhookFailed(f"{where} broke off: {type(error).__name__}: {error}") from error
            finally:
                await response.aclose()
            return


async def beginning(response: "httpx2.Response") -> bytes:
    """As much of the answer as may be shown; the rest is not read."""
    read = b""
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) >= MAX_ANSWER_BYTES:
            break
    return read[:MAX_ANSWER_BYTES]


@lru_cache(1)
def tls() -> ssl.SSLContext:
    """Reading the certificates takes longer than sending; they stay the same while the process lives."""
    import httpx2

    return httpx2.create_ssl_context()
