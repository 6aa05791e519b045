"""Who gets a WebSocket: the origin of a page, and how many there are."""

import pytest

from reflex.core.errors import ConfigurationError
from reflex.gateway.live.admission import Admission, ConnectionRefused, OriginRefused
from reflex.gateway.live.closing import CloseCode
from tests.gateway.gateways import settings_for


def admission(**settings: object) -> Admission:
    return Admission(settings_for("postgresql://nowhere", **settings))


def admits(allowed: str, origin: str | None, host: str = "reflex.example") -> bool:
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin is not None else [])
    try:
        admission(allowed_origins=allowed).check_origin(headers)
    except OriginRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "admitted"),
    [
        ("", None, "reflex.example", True),
        ("", "https://reflex.example", "reflex.example", True),
        ("", "http://reflex.example", "reflex.example", True),
        ("", "http://Reflex.Example:8000", "reflex.example:8000", True),
        ("", "https://reflex.example:443", "reflex.example", True),
        ("", "http://[::1]:8000", "[::1]:8000", True),
        ("", "https://reflex.example", "reflex.example:8000", False),
        ("", "http://reflex.example:8001", "reflex.example:8000", False),
        ("", "https://evil.example", "reflex.example", False),
        ("", "https://reflex.example.evil.example", "reflex.example", False),
        ("", "https://evil.example/reflex.example", "reflex.example", False),
        ("", "null", "reflex.example", False),
        ("", "", "reflex.example", False),
        ("", "file://", "reflex.example", False),
        ("", "chrome-extension://reflex.example", "reflex.example", False),
        ("", "http://reflex.example:99999", "reflex.example", False),
        ("https://shop.example, http://localhost:3000", "https://shop.example", "reflex.example", True),
        ("https://shop.example, http://localhost:3000", "http://localhost:3000", "reflex.example", True),
        ("https://shop.example, http://localhost:3000", "http://shop.example", "reflex.example", False),
        ("https://shop.example, http://localhost:3000", "https://a.shop.example", "reflex.example", False),
        ("https://shop.example:8443", "http://shop.example:8443", "reflex.example", False),
        ("https://shop.example/", "https://reflex.example", "reflex.example", True),
        ("*", "https://evil.example", "reflex.example", True),
        ("*", "null", "reflex.example", True),
    ],
)
def test_a_page_is_admitted_from_the_same_host_or_an_allowed_site(
    allowed: str, origin: str | None, host: str, admitted: bool
) -> None:
    """Fails when ports are not compared, hosts are compared by their beginning, or a scheme is not looked at."""
    assert admits(allowed, origin, host) is admitted


def test_two_origins_are_none() -> None:
    """Fails when the first of several headers counts."""
    headers = [(b"host", b"a"), (b"origin", b"http://a"), (b"origin", b"http://evil")]
    with pytest.raises(OriginRefused):
        admission().check_origin(headers)


@pytest.mark.parametrize("setting", ["shop.example", "https://shop.example/path", "https://a;https://b", "*,https://a"])
def test_a_wrong_setting_is_said_at_the_start(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="REFLEX_ALLOWED_ORIGINS"):
        admission(allowed_origins=setting)


def test_places_are_counted_by_gateway_and_by_address_and_given_back() -> None:
    """Fails when a refused connection takes a place, or one that ended keeps it."""
    places = admission(ws_max_connections=3, ws_max_per_address=2)
    with places.place("a"), places.place("a"):
        with pytest.raises(ConnectionRefused, match="this address has 2") as caught, places.place("a"):
            pass
        assert caught.value.code is CloseCode.TOO_MANY_CONNECTIONS
        with places.place("b"):
            with pytest.raises(ConnectionRefused, match="all 3") as caught, places.place("c"):
                pass
            assert caught.value.code is CloseCode.FULL
        assert places.connections == 2
    with places.place("a"), places.place("a"), places.place("b"):
        assert places.connections == 3
    assert places.connections == 0
