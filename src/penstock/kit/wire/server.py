"""An HTTP/1.1 server on any asyncio transport: accepts, bounds, drains.

It never touches a socket, so the simulator runs the same bytes through memory. What happens on
one connection is in `connection.py`.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy, Listener, Network
from penstock.kit.tasks import Errands, crash_recorder
from penstock.kit.wire.connection import ServerProtocol
from penstock.kit.wire.deadlines import Deadlines
from penstock.kit.wire.exchange import Exchange, HotHandler
from penstock.kit.wire.heads import Heads
from penstock.kit.wire.http import Handler, Response
from penstock.kit.wire.limits import ServerLimits
from penstock.kit.wire.owner import Connection

Reword = Callable[[Response, str, str], Response]
"""(an answer of the server itself, the path, the request's id): the same in a caller's dialect.
The path is that of the last head that could be read, "" before the first. It must not raise.
"""


@runtime_checkable
class Worded(Protocol):
    """A handler that has words of its own for what the server refuses."""

    reword: Reword | None


@runtime_checkable
class Site(Protocol):
    """A handler that takes some requests as exchanges, before their bodies are here."""

    def claims(self, path: str) -> bool:
        """Does it take requests to this path so?"""
        ...

    def serve(self, exchange: Exchange) -> None:
        """Answer such a request; `exchange.upload` is its body if it has one."""
        ...


class Server:
    """Listens on one port and hands every request to a handler.

    A POST to a path in `hot` goes to that hot handler, by callbacks. Everything else goes to
    `handler`, which runs in a task of its own that is cancelled when the client goes away; if it
    is a `Site`, it may take a request as an exchange while its body still arrives. An
    exception in either becomes a 500 with the request's id (or a cut connection when the head was
    sent); a `Refusal` becomes its response. Each response carries `x-request-id`.
    """

    def __init__(
        self,
        network: Network,
        handler: Handler,
        *,
        entropy: Entropy,
        limits: ServerLimits | None = None,
        metrics: Metrics | None = None,
        hot: Mapping[str, HotHandler] | None = None,
    ) -> None:
        self.handler = handler
        self.hot: Mapping[str, HotHandler] = hot if hot is not None else {}
        self._site = handler if isinstance(handler, Site) else None
        self.limits = limits if limits is not None else ServerLimits()
        self.errands = Errands(crash_recorder(metrics))
        self.heads = Heads()
        self.deadlines = Deadlines()
        self.draining = False
        self.held_bytes = 0
        """Of bodies, over all connections; bounded by `limits.bodies_bytes_max`."""
        self._metrics = metrics
        self._reword = handler.reword if isinstance(handler, Worded) else None
        self._network = network
        self._listener: Listener | None = None
        self._connections: dict[Connection, None] = {}
        self._empty: asyncio.Event = asyncio.Event()
        self._id_prefix = entropy(6).hex()
        self._id_next = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        assert self._listener is not None, "it has not started"
        return self._listener.port

    async def start(
        self,
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> int:
        """Listen; returns the port in use (port 0 picks one). Raises PortTaken and other OSErrors.

        With `reuse_port` several processes may listen on one port and share its connections.
        `tls` comes from `wire.tls`.
        """
        assert self._listener is None, "a server starts once"
        self._listener = await self._network.listen(
            host, port, lambda: ServerProtocol(self), reuse_port=reuse_port, tls=tls
        )
        return self._listener.port

    async def drain(self) -> None:
        """Stop accepting, close what is idle, and wait until all that runs is answered.

        Running exchanges are answered with `connection: close`. There is no deadline: the caller
        sets one, or calls `close`.
        """
        await self._stop_accepting()
        await self._quiet()

    async def close(self, drain_ms: int) -> None:
        """Drain for at most `drain_ms`, then cut the rest."""
        await self._stop_accepting()
        try:
            async with asyncio.timeout(drain_ms / 1000):
                await self._quiet()
        except TimeoutError:
            for connection in list(self._connections):
                connection.cut()
        await self.errands.close(deadline_ms=self.limits.cancel_deadline_ms)

    async def _stop_accepting(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        self.draining = True  # not before: who was accepted until now is still served

    async def _quiet(self) -> None:
        """Close what is idle and wait for the rest."""
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            self._empty.clear()
            await self._empty.wait()

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, if there is room."""
        self._connections[connection] = None
        return len(self._connections) <= self.limits.connections_max

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()

    def refused(self, response: Response, path: str, *, request_id: str) -> Response:
        """Count what never reached a handler: malformed, too large, too slow, too many. It is said in
        the handler's own words, where it has some.
        """
        if self._metrics is not None:
            self._metrics.count("http_refused_total", status=str(response.status))
        return response if self._reword is None else self._reword(response, path, request_id)

    def next_request_id(self) -> str:
        """Unique for this process's life; the random prefix tells processes apart."""
        self._id_next += 1
        return f"{self._id_prefix}-{self._id_next:x}"

    def is_streamed(self, method: str, path: str) -> bool:
        """Is the body of such a request handed on as it comes?"""
        if self._site is None or (method == "POST" and path in self.hot):
            return False
        return self._site.claims(path)

    def serve(self, exchange: Exchange) -> None:
        """Begin to answer: by a hot handler, by a site that claims the path, or in a task."""
        request = exchange.request
        hot = self.hot.get(request.path) if request.method == "POST" else None
        if hot is not None:
            self.errands.guard("hot", hot, exchange, on_crash=exchange.crashed)
        elif self._site is not None and self._site.claims(request.path):
            self.errands.guard("site", self._site.serve, exchange, on_crash=exchange.crashed)
        else:
            exchange.hand_to(self.handler)
