"""An HTTP/1.1 server on any asyncio transport: accepts, bounds, drains.

It never touches a socket, so the simulator runs the same bytes through memory. What happens on
one connection is in `connection.py`.
"""

import asyncio

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy, Listener, Network
from penstock.kit.tasks import Errands, crash_recorder
from penstock.kit.wire.connection import ServerProtocol
from penstock.kit.wire.http import Handler
from penstock.kit.wire.limits import ServerLimits


class Server:
    """Listens on one port and hands every request to `handler`.

    The handler runs in its own task, which is cancelled when the client goes away. An exception
    in it becomes a 500 with the request's id (or a cut connection when the head was sent); a
    `Refusal` becomes its response. Each response carries `x-request-id`.
    """

    def __init__(
        self,
        network: Network,
        handler: Handler,
        *,
        entropy: Entropy,
        limits: ServerLimits | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits if limits is not None else ServerLimits()
        self.errands = Errands(crash_recorder(metrics))
        self._metrics = metrics
        self.draining = False
        self.held_bytes = 0
        """Of bodies, over all connections; bounded by `limits.bodies_bytes_max`."""
        self._network = network
        self._listener: Listener | None = None
        self._connections: dict[ServerProtocol, None] = {}
        self._empty: asyncio.Event = asyncio.Event()
        self._id_prefix = entropy(6).hex()
        self._id_next = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port in use (port 0 picks one). Raises PortTaken and other OSErrors."""
        assert self._listener is None, "a server starts once"
        self._listener = await self._network.listen(host, port, lambda: ServerProtocol(self))
        return self._listener.port

    async def close(self, drain_ms: int) -> None:
        """Stop accepting, let running exchanges finish for `drain_ms`, then cut the rest."""
        self.draining = True
        if self._listener is not None:
            await self._listener.close()
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(drain_ms / 1000):
                    await self._empty.wait()
            except TimeoutError:
                for connection in list(self._connections):
                    connection.cut()
        await self.errands.close(deadline_ms=self.limits.cancel_deadline_ms)

    def admit(self, connection: ServerProtocol) -> bool:
        """Take a new connection in, if there is room."""
        self._connections[connection] = None
        return len(self._connections) <= self.limits.connections_max and not self.draining

    def forget(self, connection: ServerProtocol) -> None:
        """The connection is gone."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()

    def refused(self, status: int) -> None:
        """Count what never reached a handler: malformed, too large, too slow, too many."""
        if self._metrics is not None:
            self._metrics.count("http_refused_total", status=str(status))

    def next_request_id(self) -> str:
        """Unique for this process's life; the random prefix tells processes apart."""
        self._id_next += 1
        return f"{self._id_prefix}-{self._id_next:x}"
