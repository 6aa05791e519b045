"""Addresses that belong to the public internet, and those of a name: what a webhook may be sent to.

Else an author's address, or a customer's that an author passes on, would be a way into the network of the workers: the
cloud's metadata service, a database, another tenant.
"""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

__all__ = ["addresses_of", "is_public"]

# Translates to IPv4: what counts is the address inside.
NAT64: Final = IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, however it is wrapped."""
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = inside(address)
        if inner is not None:
            return is_public(str(inner))
    refused = (
        address.is_private, address.is_loopback, address.is_link_local, address.is_multicast, address.is_reserved,
        address.is_unspecified,
    )  # fmt: skip
    # Each is asked for: what is_global means differs between releases of Python.
    return address.is_global and not any(refused)


def inside(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end at, if they do."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """What the name stands for now, or the address that it is, in the order in which they should be tried.

    Raises:
        OSError: It has none, or nobody answers.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
