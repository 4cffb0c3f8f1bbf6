"""A port that several processes listen on, and that outlives each of them.

One process binds the port and gives each worker a socket of it. The kernel shares new connections
out among the sockets (SO_REUSEPORT). A worker that ends closes its copy only: the socket stays open,
so whoever has connected and was not accepted yet is served by the next worker instead of being reset.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

from penstock.kit.errors import PortTaken
from penstock.kit.ports import Listener
from penstock.kit.wire.sockets import BACKLOG_MAX, TLS_DEADLINE_S, SocketListener, Sockets


def bind_port(host: str, port: int, *, count: int) -> list[socket.socket]:
    """So many sockets at one port, bound and not yet listening, so that nobody can connect before a
    worker listens. Port 0 picks one. Raises PortTaken, OSError.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound: list[socket.socket] = []
    try:
        # Alone first: sockets that share a port would also share it with another program that listens.
        with _bound(family, address) as probe:
            address = (address[0], probe.getsockname()[1], *address[2:])
        bound += [_bound(family, address, shared=count > 1) for _ in range(count)]
    except OSError as error:
        for one in bound:
            one.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port) from error
        raise
    return bound


def _bound(family: int, address: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class GivenSocket(Sockets):
    """Implements `ports.Network`: dials like any other, and listens on a socket that was inherited."""

    def __init__(self, fd: int, *, tls_context: ssl.SSLContext | None = None) -> None:
        super().__init__(tls_context=tls_context)
        self._fd = fd

    async def listen(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept what comes to the given socket; host and port are the socket's own."""
        del host, port, reuse_port
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            factory,
            sock=socket.socket(fileno=self._fd),
            backlog=BACKLOG_MAX,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else TLS_DEADLINE_S,
        )
        return SocketListener(server)
