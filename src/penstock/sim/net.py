"""The network of the simulation: connections between named hosts, in memory and virtual time.

Every port number and host name is the simulation's own. Bytes of one connection arrive in order
after a delay drawn from the run's generator. Hosts die (`kill`), come back (`restart`), and lose
sight of each other (`partition`, `heal`); as in TCP, a partition delays bytes and a death resets.
"""

import asyncio
import random
import ssl
from collections.abc import Callable

from penstock.kit.errors import PortTaken
from penstock.kit.ports import Listener
from penstock.sim.pipe import PipeEnd, join

PPM = 1_000_000
OUTSIDE = "outside"
_FIRST_PORT = 40_000
_OWN_NAMES = frozenset(
    {"", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost"}  # noqa: S104 - nothing is bound
)

Factory = Callable[[], asyncio.Protocol]


class MemoryNetwork:
    """All hosts of a simulation. Implements `ports.Network` for somebody outside; see `at`."""

    def __init__(
        self,
        rng: random.Random,
        loop: asyncio.AbstractEventLoop,
        *,
        delay_us: tuple[int, int] = (500, 40_000),
        loss_ppm: int = 0,
    ) -> None:
        self.delay_us = delay_us
        self.loss_ppm = loss_ppm
        self._rng = rng
        self._loop = loop
        self._listeners: dict[tuple[str, int], MemoryListener] = {}
        self._ends: dict[PipeEnd, None] = {}
        self._down: dict[str, None] = {}
        self._cuts: dict[tuple[str, str], None] = {}
        self._hidden: dict[str, None] = {}
        self._healed = asyncio.Event()
        self._next_port = _FIRST_PORT

    @property
    def open_ends(self) -> int:
        """Ends of connections that are not over; 0 when all is quiet."""
        return sum(not end.lost for end in self._ends)

    def at(self, host: str) -> "HostNetwork":
        """The network as the station on `host` sees it: its own name, its own failures."""
        return HostNetwork(self, host)

    async def connect(
        self, host: str, port: int, factory: Factory, *, tls: bool = False
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial from outside. Raises ConnectionRefusedError."""
        del tls  # memory needs no secrecy
        return await self.connect_from(OUTSIDE, host, port, factory=factory)

    async def listen(
        self,
        host: str,
        port: int,
        factory: Factory,
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections to `host`. Port 0 picks one. Raises PortTaken."""
        del reuse_port, tls  # a simulated station is one process, and memory needs no secrecy
        if host in self._down:
            raise ConnectionAbortedError(f"{host} is down")
        if port == 0:
            port = self._pick_port()
        if (host, port) in self._listeners:
            raise PortTaken(host, port)
        listener = MemoryListener(port, factory, lambda: self._unlisten(host, port))
        self._listeners[host, port] = listener
        return listener

    async def connect_from(
        self, source: str, host: str, port: int, *, factory: Factory
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial from `source`. During a partition it waits, as a SYN is sent again and again."""
        await asyncio.sleep(self._delay())
        while self._is_cut(source, host):
            await self._healed.wait()
        lost = self._rng.randrange(PPM) < self.loss_ppm
        listener = self._listeners.get((host, port))
        hidden = host in self._hidden and source != host
        if lost or hidden or listener is None or source in self._down:
            raise ConnectionRefusedError(f"{source} cannot reach {host}:{port}")
        dialled = (source, self._pick_port())
        client = self._end(dialled, (host, port))
        server = self._end((host, port), dialled)
        join(client, server)
        server_protocol, client_protocol = listener.factory(), factory()
        server.set_protocol(server_protocol)
        client.set_protocol(client_protocol)
        server_protocol.connection_made(server)
        client_protocol.connection_made(client)
        return client, client_protocol

    def kill(self, host: str) -> None:
        """The host is gone: its connections are reset, its listeners closed, dials refused."""
        self._down[host] = None
        for name, port in [key for key in self._listeners if key[0] == host]:
            del self._listeners[name, port]
        for end in list(self._ends):
            if end.host == host:
                end.die()

    def restart(self, host: str) -> None:
        """The host may listen and dial again; what it had is lost."""
        self._down.pop(host, None)

    def hide(self, host: str) -> None:
        """The host is behind NAT: it dials, and nobody dials it."""
        self._hidden[host] = None

    def forget(self, host: str) -> None:
        """Its NAT has lost its table: no connection between this host and another carries anything any
        more, and neither end is told.
        """
        for end in list(self._ends):
            if end.host != end.other.host and host in {end.host, end.other.host}:
                end.vanish()

    def partition(self, one: str, other: str) -> None:
        """The two hosts lose sight of each other; nothing is lost, everything waits."""
        self._cuts[one, other] = None
        self._cuts[other, one] = None

    def heal(self) -> None:
        """End all partitions; what they held back is sent on."""
        self._cuts.clear()
        for end in list(self._ends):
            end.unstall()
        self._healed.set()
        self._healed = asyncio.Event()

    def _end(self, own: tuple[str, int], peer: tuple[str, int]) -> PipeEnd:
        self._sweep()
        end = PipeEnd(self._loop, own, peer, delay=self._delay, cut=self._is_cut)
        self._ends[end] = None
        return end

    def _sweep(self) -> None:
        """Forget connections that are over on both ends; one end may still have bytes to send."""
        for end in [end for end in self._ends if end.lost and end.other.lost]:
            del self._ends[end]

    def _unlisten(self, host: str, port: int) -> None:
        self._listeners.pop((host, port), None)

    def _pick_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def _delay(self) -> float:
        return self._rng.randint(*self.delay_us) / 1_000_000

    def _is_cut(self, one: str, other: str) -> bool:
        return (one, other) in self._cuts


class HostNetwork:
    """Implements `ports.Network` for the station on one host; 127.0.0.1 and 0.0.0.0 are itself."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self._network = network
        self._host = host

    async def connect(
        self, host: str, port: int, factory: Factory, *, tls: bool = False
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial from this host. Raises ConnectionRefusedError."""
        del tls  # memory needs no secrecy
        return await self._network.connect_from(
            self._host, self._named(host), port, factory=factory
        )

    async def listen(
        self,
        host: str,
        port: int,
        factory: Factory,
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections to this host. Raises PortTaken."""
        del reuse_port, tls
        return await self._network.listen(self._named(host), port, factory)

    def _named(self, host: str) -> str:
        return self._host if host in _OWN_NAMES else host


class MemoryListener:
    """An open listening port."""

    def __init__(self, port: int, factory: Factory, forget: Callable[[], None]) -> None:
        self.factory = factory
        self._port = port
        self._forget = forget

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return self._port

    async def close(self) -> None:
        """Stop accepting; open connections go on."""
        self._forget()
