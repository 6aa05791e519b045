"""Who may have a WebSocket: the one place where a connection is admitted, by its origin and by how many there are."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from reflex.core.errors import ConfigurationError
from reflex.core.settings import Settings
from reflex.gateway.live.closing import CloseCode

__all__ = ["Admission", "ConnectionRefused", "OriginRefused"]

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
ANY: Final = "*"


class Origin(NamedTuple):
    """A site, as browsers tell them apart."""

    scheme: str
    host: str
    port: int


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
        self._all_allowed = settings.allowed_origins.strip() == ANY
        self._allowed = frozenset[Origin]() if self._all_allowed else allowed_origins(settings.allowed_origins)
        self._most = settings.ws_max_connections
        self._most_per_address = settings.ws_max_per_address
        self._by_address: Counter[str] = Counter()
        self._connections = 0

    @property
    def connections(self) -> int:
        return self._connections

    def check_origin(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Browsers let a page of any site open a WebSocket to any address, so it is for the server to refuse.

        Raises:
            OriginRefused: There is an Origin, and it is neither the host that was asked for nor allowed.
        """
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if not origins or self._all_allowed:
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
    def place(self, address: str) -> Generator[None]:
        """One of the places for connections, for as long as the block lasts.

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
        self._by_address[address] += 1
        try:
            yield
        finally:
            self._connections -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


def allowed_origins(setting: str) -> frozenset[Origin]:
    """The sites of REFLEX_ALLOWED_ORIGINS.

    Raises:
        ConfigurationError: One of them is no origin.
    """
    origins: set[Origin] = set()
    for text in filter(None, map(str.strip, setting.split(","))):
        origin = split_origin(text)
        if origin is None:
            raise ConfigurationError(
                f"REFLEX_ALLOWED_ORIGINS has {text!r}, which is no origin: one looks like https://shop.example or "
                "http://localhost:3000, without a path; several have commas between them; * alone allows all"
            )
        origins.add(origin)
    return frozenset(origins)


def split_origin(text: str) -> Origin | None:
    """None if it is no origin of a web page, as the `null` of a local file or a sandboxed frame is none."""
    try:
        parts = urlsplit(text.lower())
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        return None
    return Origin(parts.scheme, parts.hostname, port)
