"""Both ends of reverse connections for tests: a door that lets in who it is told to, and a miner."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop
from tests.kit.world import HOST, MemoryWorld, Raw, echo
from tests.makers import GATEWAY, MINER, ToyKey, toy_verify

from penstock.adapters.tunnel_certificate import tunnel_certificate
from penstock.kit.clock import SystemClock
from penstock.kit.ports import Clock, Listener, Network, Verify
from penstock.kit.tasks import Scope
from penstock.kit.wire.http import Handler
from penstock.kit.wire.limits import IntakeLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tunnel_greeting import (
    Caller,
    Doorman,
    Opening,
    Party,
    TunnelRefused,
    Turn,
    write_ok,
)
from penstock.kit.wire.tunnel_keeper import HOT, Keeper, KeeperLimits, turned_limits
from penstock.kit.wire.tunnel_pool import TunnelClient, TunnelLimits, node_host
from penstock.kit.wire.tunnel_road import Road, dialling_context, shown_channel
from penstock.sim.tunnels import channel_at
from penstock.sim.tunnels import shown_channel as memory_channel
from penstock.spec.keys import sign
from penstock.spec.tunnels import HELLO_KIND, TunnelGreeting, TunnelHello

NODE = "gpu-1"
HOST_OF_NODE = node_host(MINER.identity, NODE)
URL = f"http://{HOST_OF_NODE}"
KEY = (HOST_OF_NODE, 80, False)
SKEW_MS = 1_000


@dataclass
class OpenDoor:
    """Implements `Door`: lets in every node that is `known`."""

    client: TunnelClient
    clock: Clock
    channel: str
    key: ToyKey = GATEWAY
    known: set[str] = field(default_factory=lambda: {MINER.identity})
    greeting: int = 0
    greeting_max: int = 8
    seen: list[str] = field(default_factory=list)
    challenges: list[str] = field(default_factory=list)

    @property
    def verify(self) -> Verify:
        return toy_verify

    def open(self) -> Opening:
        if self.greeting >= self.greeting_max:
            raise TunnelRefused("busy", "Too many.")
        self.greeting += 1
        now_ms = self.clock.now_ms()
        hello = TunnelHello(self.key.identity, self.channel, now_ms, now_ms + 60_000)
        self.challenges.append(os.urandom(32).hex())
        return Opening(hello, sign(HELLO_KIND, hello, self.key), self.challenges[-1])

    def left(self) -> None:
        self.greeting -= 1

    def check(self, plain: dict[str, Any]) -> None:
        if plain.get("miner") not in self.known:
            raise TunnelRefused("miner_unknown", "Nobody knows it.")

    def turn(self, greeting: TunnelGreeting, transport: asyncio.Transport) -> None:
        self.seen.append(greeting.node)
        write_ok(transport)
        self.client.adopt(node_host(greeting.miner, greeting.node), transport)


@dataclass
class Both:
    """What a scenario is given."""

    network: Network
    road: Road
    tls: ssl.SSLContext | None
    door: OpenDoor
    client: TunnelClient
    clock: Clock
    listener: Listener
    scope: Scope
    changes: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.listener.port

    def party(self, key: ToyKey = MINER, **changes: Any) -> Party:
        fields: dict[str, Any] = {
            "key": key,
            "verify": toy_verify,
            "clock": self.clock,
            "is_gateway": lambda identity: identity == GATEWAY.identity,
            "node": NODE,
            "skew_max_ms": SKEW_MS,
            "channel_of": self.road.channel_of,
        }
        return Party(**{**fields, **changes})

    def miner(
        self,
        handler: Handler = echo,
        *,
        limits: KeeperLimits | None = None,
        party: Party | None = None,
        server: Server | None = None,
    ) -> Keeper:
        """A keeper of connections to the door."""
        return Keeper(
            self.road,
            (HOST, self.port),
            party=party or self.party(),
            server=server or self.server(handler),
            limits=limits or KeeperLimits(retry_ms_min=10),
            entropy=os.urandom,
        )

    def server(self, handler: Handler = echo) -> Server:
        limits = turned_limits(IntakeLimits(), 1_000)
        return Server(self.network, handler, entropy=os.urandom, limits=limits, hot=HOT)

    async def call(self, party: Party, turn: Turn) -> None:
        """One greeting. Raises TunnelRefused."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.road.network.connect(
            HOST, self.port, lambda: Caller(party, turn, done), tls=True
        )
        await done

    async def raw(self) -> Raw:
        """Somebody at the door who says what a test wants."""
        _, raw = await self.road.network.connect(HOST, self.port, Raw, tls=True)
        assert isinstance(raw, Raw)
        return raw

    async def reopen(self) -> None:
        """The door's port again, after it was closed."""
        self.listener = await self.network.listen(
            HOST, self.listener.port, lambda: Doorman(self.door), tls=self.tls
        )


Story = Callable[[Both], Awaitable[None]]


@asynccontextmanager
async def both_ends(
    network: Network, *, is_real: bool, tunnels: TunnelLimits | None
) -> AsyncIterator[Both]:
    client = TunnelClient(network, tunnels=tunnels)
    tls: ssl.SSLContext | None = None
    clock: Clock = SystemClock()
    channel, road = "", Road(network, memory_channel)
    if is_real:
        tls, channel = tunnel_certificate()
        road = Road(Sockets(tls_context=dialling_context()), shown_channel)
    door = OpenDoor(client, clock, channel)
    listener = await network.listen(HOST, 0, lambda: Doorman(door), tls=tls)
    if not is_real:
        door.channel = channel_at("station", listener.port)
    async with Scope() as scope:
        both = Both(network, road, tls, door, client, clock, listener, scope)
        client.on_change = lambda host, is_here: both.changes.append((host, is_here))
        scope.start("watch", client.watch())
        try:
            yield both
        finally:
            scope.cancel()
            await both.listener.close()
            await client.close()


def play(world: Any, story: Story, *, tunnels: TunnelLimits | None = None) -> None:
    """Run a story with real TLS on sockets, or in memory."""

    async def scenario(network: Network) -> None:
        is_real = not isinstance(world, MemoryWorld)
        async with both_ends(network, is_real=is_real, tunnels=tunnels) as both:
            await story(both)

    world.run(scenario)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that will be true."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)
