"""Whether a gateway that asks nobody for a key would be open to more than its own machine."""

import socket
from ipaddress import IPv6Address, ip_address

from reflex.core.errors import ConfigurationError
from reflex.core.settings import Settings

__all__ = ["check_exposure", "is_loopback"]


def check_exposure(settings: Settings) -> None:
    """Raises ConfigurationError if REFLEX_ACCESS=open would let in whoever reaches the machine over a network."""
    if settings.access == "open" and not is_loopback(settings.host):
        raise ConfigurationError(
            f"REFLEX_HOST is {settings.host!r}, which other machines reach, and no API keys are asked for: set "
            "REFLEX_ACCESS=keys (`reflex keys create` makes one), REFLEX_ACCESS=open-to-all to let in everybody who "
            "reaches it, or REFLEX_HOST=127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. A name counts as that if all its addresses do; one that
    has none is left to whoever listens, which says why it cannot."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return True
    return all(only_this_machine(str(address[0])) for *_, address in found)


def only_this_machine(address: str) -> bool:
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback
