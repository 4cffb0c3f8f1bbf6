"""A gateway on real sockets in this process, with its ledger and a miner, and clients that misbehave.

Everything is at hand, so that a test can see that nothing is left over.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.makers import GATEWAY, MANIFEST, OWNER, ToyKey, toy_verify
from tests.stations.gateway.scripted_ledger import ScriptedLedger
from tests.stations.gateway.scripted_miner import ScriptedMiner
from tests.stations.gateway.world import ACCOUNT, CREDIT_NANO, SECRET, as_json

from penstock.gateway.config import AddressLimits, Bounds, KeyLimits
from penstock.gateway.routes import build_routes
from penstock.gateway.service import Gateway
from penstock.kit.clock import SystemClock
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.sim.bus import MemoryBus
from penstock.spec.keys import sign
from penstock.spec.messages import chute_id
from penstock.spec.params import LOCAL

HOST = "127.0.0.1"
DEADLINE_S = 60
BODY_BYTES_MAX = 1 << 20
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


@dataclass(frozen=True)
class Heard:
    """What a client read before the connection ended or the answer was complete."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class Line:
    """One client connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Write; a server that has hung up already is no news."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def hear(self) -> Heard:
        """One answer with a length."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (one.partition(": ") for one in lines)
            }
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Heard(int(first.split()[1]), headers, body)

    async def hear_end(self) -> bytes:
        """All that comes until the server hangs up."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):  # the other end was faster
            await self.writer.wait_closed()


def head_of(
    path: str, *, length: int | None = None, secret: str = SECRET, more: bytes = b""
) -> bytes:
    """A request's head; without a length its body is chunked."""
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return (
        b"POST %b HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\n%b%b\r\n\r\n"
        % (path.encode(), secret.encode("latin-1"), more, framing)
    )


@dataclass
class RealWorld:
    """What a test is given."""

    gateway: Gateway
    server: Server
    ledger: ScriptedLedger
    miner: ScriptedMiner
    port: int
    lines: list[Line] = field(default_factory=list)

    async def dial(self) -> Line:
        reader, writer = await asyncio.open_connection(HOST, self.port, limit=1 << 22)
        line = Line(reader, writer)
        self.lines.append(line)
        return line

    async def post(self, path: str, body: bytes, *, secret: str = SECRET) -> Heard:
        """One request on a connection of its own."""
        line = await self.dial()
        await line.send(head_of(path, length=len(body), secret=secret) + body)
        heard = await line.hear()
        await line.close()
        self.lines.remove(line)
        return heard

    async def hang_up(self) -> None:
        """All clients leave."""
        lines, self.lines = self.lines, []
        for line in lines:
            await line.close()

    def cut(self) -> None:
        """All clients are gone at once, whatever they still had to say."""
        lines, self.lines = self.lines, []
        for line in lines:
            line.writer.transport.abort()

    async def alone(self) -> None:
        """All clients leave, and the server has noticed."""
        await self.hang_up()
        async with asyncio.timeout(DEADLINE_S):
            while self.server.connections:
                await asyncio.sleep(0.01)

    async def at_rest(self) -> None:
        """Nothing is left over of any request. Raises TimeoutError with what is."""
        await self.hang_up()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while any(self.left_over().values()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"left over: {self.left_over()}") from None

    def left_over(self) -> dict[str, int]:
        """What must be zero when nobody asks."""
        gateway = self.gateway
        return {
            "connections": self.server.connections,
            "bytes of bodies": self.server.held_bytes,
            "tasks of the server": len(self.server.errands),
            "tasks of the gateway": len(gateway.errands),
            "passages": len(gateway.passages),
            "requests let in": gateway.admission.running,
            "nano-USD held": gateway.leases.held_nano,
            "orders seen off": len(gateway.closing.leaving),
            "orders without seals": gateway.sealer.waiting,
            "connections in their last words": len(gateway.line.trailing),
        }


@asynccontextmanager
async def real_world(**fields: Any) -> AsyncIterator[RealWorld]:
    """Started; at its end it must be at rest. It stops in order also when the test has failed."""
    clock, bus, metrics = SystemClock(), MemoryBus(), Metrics()
    ledger = ScriptedLedger(bus, clock, LOCAL, toy_verify)
    ledger.open_account(ACCOUNT, SECRET, credit_nano=CREDIT_NANO)
    miner = ScriptedMiner(
        HOST,
        network=Sockets(),
        clock=clock,
        key=ToyKey("real miner"),
        verify=toy_verify,
        manifest=MANIFEST,
    )
    miner.port, miner.room = 0, 1_000
    gateway = Gateway(
        name="gw",
        clock=clock,
        bus=bus,
        http=HttpClient(Sockets()),
        sign=GATEWAY,
        verify=toy_verify,
        entropy=os.urandom,
        params=LOCAL,
        tag_secret=b"secret",
        key_limits=KeyLimits(requests_per_s=10**6, burst_max=10**6, parallel_max=10**4),
        address_limits=AddressLimits(failures_max=10**6),
        bounds=fields.pop("bounds", Bounds(body_bytes_max=BODY_BYTES_MAX)),
        metrics=metrics,
    )
    intake = IntakeLimits(body_bytes_max=BODY_BYTES_MAX)
    limits = ServerLimits(intake=intake, **fields)
    server = Server(
        Sockets(),
        build_routes(gateway),
        entropy=os.urandom,
        limits=limits,
        metrics=metrics,
        hot=gateway.hot_paths(),
    )
    async with AsyncExitStack() as stack:
        await miner.start()
        stack.push_async_callback(miner.stop)
        await bus.put(
            f"chutes.{chute_id(MANIFEST).removeprefix('sha256:')}",
            as_json(sign("manifest", MANIFEST, OWNER)),
        )
        await bus.put(f"offers.{miner.instance}", as_json(miner.offer()))
        await stack.enter_async_context(ledger.serve())
        scope = await stack.enter_async_context(Scope())
        stack.callback(scope.cancel)
        gateway.start(scope)
        stack.push_async_callback(gateway.http.close)
        stack.push_async_callback(gateway.stop)
        world = RealWorld(gateway, server, ledger, miner, await server.start(HOST, 0))
        stack.push_async_callback(server.close, 5_000)
        stack.callback(world.cut)
        async with asyncio.timeout(DEADLINE_S):
            while not gateway.directory.instances_count:
                await asyncio.sleep(0.01)
        yield world
        await world.at_rest()
