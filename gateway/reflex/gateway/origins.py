"""The sites whose pages may use this gateway from a browser, beside pages of its own address."""

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from reflex.core.errors import ConfigurationError
from reflex.core.settings import Settings

__all__ = ["Origin", "allowed_origins", "for_browsers", "split_origin"]

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
ANY: Final = "*"
# A cross-origin page may not read other headers of an answer, and needs these.
EXPOSED: Final = ("location", "retry-after")


class Origin(NamedTuple):
    """A site, as browsers tell them apart."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """As browsers write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if DEFAULT_PORTS[self.scheme] == self.port else f":{self.port}")


def for_browsers(settings: Settings) -> list[Middleware]:
    """What lets pages of allowed sites use EventSource and fetch; nothing, where no site is allowed.

    Requests that change what operators look after (DELETE) stay with pages of the gateway's own address.

    Raises:
        ConfigurationError: As `allowed_origins` does.
    """
    allowed = allowed_origins(settings)
    if allowed is not None and not allowed:
        return []
    origins = (ANY,) if allowed is None else tuple(map(str, allowed))
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=(ANY,),
            expose_headers=EXPOSED,
        )
    ]


def allowed_origins(settings: Settings) -> frozenset[Origin] | None:
    """The sites of REFLEX_ALLOWED_ORIGINS; None if all are allowed.

    Raises:
        ConfigurationError: One of them is no origin.
    """
    if settings.allowed_origins.strip() == ANY:
        return None
    origins: set[Origin] = set()
    for text in filter(None, map(str.strip, settings.allowed_origins.split(","))):
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
