"""The Network port on real sockets.

asyncio and uvloop set TCP_NODELAY by themselves; it is set here as well because a token that
waits for Nagle's algorithm costs 40 ms and no loop promises it.
"""

import asyncio
import errno
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import Callable

from penstock.kit.errors import PortTaken
from penstock.kit.ports import Listener

BACKLOG_MAX = 4_096
ACCEPT_REST_S = 0.005
TLS_DEADLINE_S = 10.0
"""For a handshake; who is not through holds a socket that no other bound counts."""


class Sockets:
    """Implements `ports.Network` on the running loop. `tls` verifies against the system's roots."""

    def __init__(self, *, tls_context: ssl.SSLContext | None = None) -> None:
        self._tls_context = tls_context

    async def connect(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        tls: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial. Raises OSError (name, refusal, certificate); the caller sets the deadline."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            factory, host, port, ssl=self._context() if tls else None
        )
        _set_nodelay(transport.get_extra_info("socket"))
        return transport, protocol

    async def listen(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections until closed. Port 0 picks one. Raises PortTaken and other OSErrors."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                factory,
                host,
                port,
                backlog=BACKLOG_MAX,
                reuse_port=reuse_port or None,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else TLS_DEADLINE_S,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(host, port) from error
            raise
        for sock in server.sockets:
            _set_nodelay(sock)  # accepted connections inherit it
        return SocketListener(server)

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
        return self._tls_context


class SocketListener:
    """An open listening socket."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self._port: int = server.sockets[0].getsockname()[1]

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return self._port

    async def close(self) -> None:
        """Stop accepting; open connections go on.

        The kernel resets connections that wait to be accepted when their socket closes, so take
        in first what waits: then a process that shares its port ends without losing anybody. The
        loop makes a connection a few turns after it accepted it, so rest once more behind the end.
        """
        try:
            await asyncio.sleep(ACCEPT_REST_S)
        finally:
            self._server.close()
        await asyncio.sleep(ACCEPT_REST_S)


def _set_nodelay(sock: socket.socket | TransportSocket) -> None:
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
