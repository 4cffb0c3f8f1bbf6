"""Where the wire's tests run: real loopback sockets on two loops, and memory in virtual time."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import uvloop

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Network
from penstock.kit.wire.exchange import HotHandler
from penstock.kit.wire.http import Handler, Request, Response, Stream
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.net import MemoryNetwork

Scenario = Callable[[Network], Awaitable[None]]
HOST = "127.0.0.1"
REAL_DEADLINE_S = 60


class RealWorld:
    """Sockets on the loop that `loop_factory` makes."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop_factory = loop_factory

    def run(self, scenario: Scenario) -> None:
        async def main() -> None:
            async with asyncio.timeout(REAL_DEADLINE_S):
                await scenario(Sockets())

        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            runner.run(main())


class MemoryWorld:
    """One host of a MemoryNetwork on virtual time; 127.0.0.1 is the host itself."""

    def __init__(self, seed: int = 1) -> None:
        self._seed = seed

    def run(self, scenario: Scenario) -> None:
        loop = VirtualLoop(horizon_ms=3_600_000)

        async def main() -> None:
            network = MemoryNetwork(random.Random(self._seed), loop)
            await scenario(network.at("station"))

        run(main(), loop)


World = RealWorld | MemoryWorld

WORLDS: dict[str, Callable[[], World]] = {
    "asyncio": lambda: RealWorld(asyncio.new_event_loop),
    "uvloop": lambda: RealWorld(
        cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)
    ),
    "memory": MemoryWorld,
}


class Raw(asyncio.Protocol):
    """A client that writes whatever bytes a test wants and collects what comes back."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.reads: list[bytes] = []  # in memory, one for each write of the other end
        self.lost = asyncio.Event()
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.reads.append(data)
        self._news.set()

    def eof_received(self) -> bool:
        self.ended.set()
        self._news.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._news.set()

    async def until(self, marker: bytes, *, times: int = 1) -> bytes:
        """Wait until `marker` was received `times` times; returns everything received."""
        seen, found = 0, 0  # each byte is looked at about once: bodies here have many megabytes
        while True:
            while found < times and (place := self.received.find(marker, seen)) >= 0:
                seen, found = place + len(marker), found + 1
            if found >= times:
                return bytes(self.received)
            seen = max(seen, len(self.received) - len(marker) + 1)
            assert not self.lost.is_set(), f"lost after {bytes(self.received)!r}"
            self._news.clear()
            await self._news.wait()

    async def until_closed(self) -> bytes:
        """Wait until the server has closed; returns everything received."""
        await self.lost.wait()
        return bytes(self.received)


async def dial(network: Network, port: int) -> Raw:
    _, raw = await network.connect(HOST, port, Raw)
    assert isinstance(raw, Raw)
    return raw


def server_of(
    network: Network,
    handler: Handler,
    *,
    limits: ServerLimits | None = None,
    metrics: Metrics | None = None,
    hot: Mapping[str, HotHandler] | None = None,
) -> Server:
    return Server(network, handler, entropy=os.urandom, limits=limits, metrics=metrics, hot=hot)


def small_limits(*, head: int = 65_536, body: int = 1 << 20, pipeline: int = 16) -> ServerLimits:
    return ServerLimits(
        intake=IntakeLimits(head_bytes_max=head, body_bytes_max=body), pipeline_max=pipeline
    )


async def echo(request: Request) -> Response | Stream:
    """Answers with the body it got, and the path in a header."""
    return Response(200, request.body, (("x-path", request.path), ("x-method", request.method)))


def get(path: str = "/", *extra: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *extra, "", ""]
    return "\r\n".join(lines).encode()


def post(body: bytes, path: str = "/", *extra: str) -> bytes:
    return get(path, f"Content-Length: {len(body)}", *extra, method="POST") + body
