"""Who may have a WebSocket: the one place where a connection is admitted, by its origin and by how many there are."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from reflex.core.settings import Settings
from reflex.gateway.live.closing import CloseCode
from reflex.gateway.origins import allowed_origins, split_origin

__all__ = ["Admission", "ConnectionRefused", "OriginRefused"]


class OriginRefused(Exception):
    """A browser connects for a page of another site. It is told before there is a WebSocket, with a 403."""

    status: Final = HTTPStatus.FORBIDDEN


class ConnectionRefused(Exception):
    """No WebSocket for this client, or none now. Said with a closing code: a browser shows no HTTP status to a page."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Admission:
    """Counts the connections of one gateway."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = allowed_origins(settings)
        self._most = settings.ws_max_connections
        self._most_per_address = settings.ws_max_per_address
        self._by_address: Counter[str] = Counter()
        self._connections = 0
        self.by_kind: Counter[str] = Counter(websocket=0, sse=0)

    @property
    def connections(self) -> int:
        return self._connections

    def check_origin(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Browsers let a page of any site open a WebSocket to any address, so it is for the server to refuse.

        Raises:
            OriginRefused: There is an Origin, and it is neither the host that was asked for nor allowed.
        """
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if not origins or self._allowed is None:
            return
        hosts = [value.decode("latin-1") for name, value in headers if name in (b"host", b":authority")]
        origin = split_origin(origins[0]) if len(origins) == 1 else None
        if origin is not None:
            # Read with the origin's scheme: the gateway does not know whether a proxy in front of it speaks TLS.
            own = len(hosts) == 1 and split_origin(f"{origin.scheme}://{hosts[0]}") == origin
            if own or origin in self._allowed:
                return
        raise OriginRefused(
            f"the page that connects is of {origins[0][:200]!r}, which is neither this host nor in "
            "REFLEX_ALLOWED_ORIGINS"
        )

    @contextmanager
    def place(self, address: str, kind: str = "websocket") -> Generator[None]:
        """One of the places for connections, for as long as the block lasts.

        Args:
            kind: `websocket` or `sse`.

        Raises:
            ConnectionRefused: There is none, or none for this address.
        """
        if self._connections >= self._most:
            raise ConnectionRefused(CloseCode.FULL, f"all {self._most} connections are taken; try again later")
        if self._by_address[address] >= self._most_per_address:
            raise ConnectionRefused(
                CloseCode.TOO_MANY_CONNECTIONS,
                f"this address has {self._most_per_address} connections already; use one with several subscriptions",
            )
        self._connections += 1
        self.by_kind[kind] += 1
        self._by_address[address] += 1
        try:
            yield
        finally:
            self._connections -= 1
            self.by_kind[kind] -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
