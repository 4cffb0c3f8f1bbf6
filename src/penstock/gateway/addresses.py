"""Where a request comes from: the other end of its connection, or what a trusted proxy says of it.

An IPv6 caller has a whole /64 to himself, so its addresses are one caller. `X-Forwarded-For` is read
only behind the proxies that the operator names, and from its end, since anybody can write its start.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from penstock.kit.wire.http import Request

FORWARDED_HEADER = b"x-forwarded-for"
HOPS_MAX = 16
NAMES_MAX = 65_536
"""Addresses whose names are remembered, so that they are read once."""
PREFIX_BITS = 64


class Addresses:
    """Names callers by their addresses. `trusted` are networks of proxies, such as `10.0.0.0/8`.

    Raises ValueError for what is no network.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = tuple(ip_network(one) for one in trusted)
        self._is_trusted = lru_cache(maxsize=NAMES_MAX)(self._find_trusted)

    def of(self, request: Request) -> str:
        """The caller's name, "" when nothing is known (a request from inside, a Unix socket)."""
        peer = request.peer
        if self._trusted and peer and self._is_trusted(peer):
            forwarded = request.headers.get(FORWARDED_HEADER)
            if forwarded:
                peer = self._behind(peer, forwarded)
        return name_of(peer)

    def _behind(self, peer: str, forwarded: bytes) -> str:
        """The nearest hop that is none of our proxies; what is no address ends the chain."""
        for hop in reversed(forwarded.decode("latin-1").split(",")[-HOPS_MAX:]):
            address = _address_in(hop)
            if not name_of(address):
                return peer
            peer = address
            if not self._is_trusted(peer):
                return peer
        return peer

    def _find_trusted(self, peer: str) -> bool:
        address = _parsed(peer)
        return address is not None and any(address in network for network in self._trusted)


@lru_cache(maxsize=NAMES_MAX)
def name_of(peer: str) -> str:
    """An address as callers are counted by: an IPv6 one by its /64; "" for what is none."""
    address = _parsed(peer)
    if address is None:
        return ""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), PREFIX_BITS), strict=False))
    return str(address)


def _parsed(peer: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 address that is written as an IPv6 one is itself."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _address_in(hop: str) -> str:
    """The address of a hop; some proxies add the port."""
    hop = hop.strip()
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
