"""Connections for weights: a stranger's manifest names the host, so private addresses are refused.

The address is looked at after the name is resolved and is the one that is dialled: a name that
answers differently the second time gains nothing. The operator's own mirrors may be anywhere.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from penstock.adapters.weights.errors import AddressRefused
from penstock.kit.wire.sockets import Sockets

NAT64 = ipaddress.ip_network("64:ff9b::/96")
PORTS = {"http": 80, "https": 443}


class PublicSockets(Sockets):
    """Implements `ports.Network`; dials the authorities it is told, and addresses that `allowed` lets
    through: public ones.
    """

    def __init__(
        self,
        trusted: frozenset[str],
        *,
        tls_context: ssl.SSLContext | None = None,
        allowed: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(tls_context=tls_context)
        self._trusted = trusted
        self._allowed = allowed if allowed is not None else is_public

    async def connect(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        tls: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial. Raises AddressRefused and other OSErrors; the caller sets the deadline."""
        if f"{host}:{port}" in self._trusted:
            return await super().connect(host, port, factory, tls=tls)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if not self._allowed(address):
                raise AddressRefused(host, address)
        return await loop.create_connection(
            factory,
            addresses[0],
            port,
            ssl=self._context() if tls else None,
            server_hostname=host if tls else None,
        )


def is_public(address: str) -> bool:
    """An address of the open internet; an IPv4 address inside an IPv6 one is looked at as such."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.sixtofour is not None:
            ip = ip.sixtofour
        elif ip in NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast


def authority_of(url: str) -> str:
    """`host:port` of a URL that was checked before."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
