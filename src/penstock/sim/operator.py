"""The operator's stations as a world runs them: market, ledger, gateways, over memory.

Each function is what the station's `app.py` does with real adapters, on ports of one life.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from penstock.gateway.charter import Facts, read_facts
from penstock.gateway.config import Bounds, Deadlines
from penstock.gateway.routes import build_routes as gateway_routes
from penstock.gateway.service import Gateway
from penstock.kit.errors import WireError
from penstock.kit.metrics import Metrics
from penstock.kit.ports import BusDown, StoreDown
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.exchange import HotHandler
from penstock.kit.wire.http import Handler
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_pool import TunnelClient
from penstock.ledger.routes import routes as ledger_routes
from penstock.ledger.service import Ledger
from penstock.market.routes import build_routes as market_routes
from penstock.market.service import Market
from penstock.market.views import Info
from penstock.sim.ground import LEDGER_URL, MARKET_URL, PORT, SECRET_BYTES, Ground
from penstock.sim.lives import Life, LifeBus, LifeFiles, LifeMarketStore, LifeStore
from penstock.sim.tunnels import TUNNEL_PORT, make_tunnels
from penstock.sim.witness import WatchedOrders

RETRY_MS = 500
DRAIN_MS = 5_000
MARKET_DEADLINE_MS = 2_000
NOTHING_HOT: Mapping[str, HotHandler] = {}
LEASE_IDLE_MS = 10_000
"""A lease rests this long before it is given back; shorter than in production, so that a world
comes to rest within an epoch or two."""
GATEWAY_DEADLINES = Deadlines(head_ms=15_000, idle_ms=10_000)


class Operator:
    """The operator's three stations. What runs now is here for the checks to look into."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.market: Market | None = None
        self.ledger: Ledger | None = None
        self.gateways: dict[str, Gateway] = {}

    async def run_market(self, life: Life) -> None:
        """One life of the market."""
        ground = self.ground
        market = Market(
            clock=ground.clock,
            bus=LifeBus(ground.bus, life),
            store=LifeMarketStore(ground.market_store, ground.database, life),
            key=ground.key("market"),
            verify=ground.keyring.verify,
            params=ground.params,
        )
        info = Info(
            charter=ground.charter,
            delegations=(),
            ledger_url=LEDGER_URL,
            gateway_urls=tuple(f"http://{name}:{PORT}" for name in ground.cast.gateways),
        )
        await _when_up(market.open)
        self.market = market
        async with serving(ground, life, market_routes(market, info)) as server, Scope() as scope:
            scope.start("market", market.run())
            await life.stop.wait()
            await server.close(DRAIN_MS)
            scope.cancel()

    async def run_ledger(self, life: Life) -> None:
        """One life of the ledger."""
        ground = self.ground
        ledger = Ledger(
            charter=ground.charter,
            params=ground.params,
            store=LifeStore(ground.ledger_store, ground.database, life),
            bus=LifeBus(ground.bus, life),
            files=LifeFiles(ground.files, life),
            key=ground.keyring.log_key(),
            verify=ground.keyring.verify,
            clock=ground.clock,
            entropy=ground.chance.entropy(f"ledger/{life.number}"),
            metrics=Metrics(),
        )
        await _when_up(ledger.start)
        self.ledger = ledger
        async with serving(ground, life, ledger_routes(ledger)) as server, Scope() as scope:
            scope.start("ledger", ledger.run())
            await life.stop.wait()
            await server.close(DRAIN_MS)
            scope.cancel()

    async def run_gateway(self, life: Life) -> None:
        """One life of a gateway: an empty memory under the old name and key."""
        ground, name = self.ground, life.host
        network = ground.network.at(name)
        http = TunnelClient(network)
        facts = await _find_market(ground, name, http)
        gateway = Gateway(
            name=name,
            clock=ground.clock,
            bus=LifeBus(ground.bus, life),
            http=http,
            sign=ground.key(name),
            verify=ground.keyring.verify,
            entropy=ground.chance.entropy(f"{name}/{life.number}"),
            params=facts.params,
            tag_secret=ground.chance.entropy(f"{name}/tags")(SECRET_BYTES),
            ledger_url=facts.ledger_url,
            deadlines=GATEWAY_DEADLINES,
            bounds=Bounds(lease_idle_ms=LEASE_IDLE_MS),
        )
        plain = gateway.orders
        gateway.orders = WatchedOrders(
            clock=plain.clock,
            sign=plain.sign,
            entropy=plain.entropy,
            params=plain.params,
            tag_secret=plain.tag_secret,
            witness=ground.witness,
            life=life,
        )
        gateway.tunnels = tunnels = make_tunnels(ground, gateway, http)
        try:
            await tunnels.start(network, (name, TUNNEL_PORT), None)
            routes = gateway_routes(gateway)
            hot = gateway.hot_paths()
            async with serving(ground, life, routes, hot=hot) as server, Scope() as scope:
                gateway.start(scope)
                self.gateways[name] = gateway
                await life.stop.wait()
                await tunnels.stop()
                await server.close(DRAIN_MS)
                await gateway.stop()
                scope.cancel()
        finally:
            self.gateways.pop(name, None)
            await gateway.errands.close(deadline_ms=DRAIN_MS)
            await http.close()


@asynccontextmanager
async def serving(
    ground: Ground, life: Life, handler: Handler, *, hot: Mapping[str, HotHandler] = NOTHING_HOT
) -> AsyncIterator[Server]:
    """A server on the host of this life. A killed one leaves no handler behind."""
    server = Server(
        ground.network.at(life.host),
        handler,
        entropy=ground.chance.entropy(f"{life.host}/{life.number}/server"),
        hot=hot,
    )
    await server.start(life.host, PORT)
    life.ready.set()
    ground.note(life.host, f"ready {life.number}")
    try:
        yield server
    finally:
        await server.close(0)


async def _when_up(prepare: Callable[[], Awaitable[None]]) -> None:
    """Servers of one operator start in any order."""
    while True:
        try:
            await prepare()
        except (StoreDown, BusDown):
            await asyncio.sleep(RETRY_MS / 1000)
        else:
            return


async def _find_market(ground: Ground, name: str, http: HttpClient) -> Facts:
    """Ask the market until it answers. Raises StartRefused."""
    while True:
        try:
            reply = await http.call("GET", f"{MARKET_URL}/v1/info", deadline_ms=MARKET_DEADLINE_MS)
        except WireError:
            await asyncio.sleep(RETRY_MS / 1000)
            continue
        return read_facts(
            reply.body,
            identity=ground.key(name).identity,
            operator=ground.key("operator").identity,
            now_ms=ground.clock.now_ms(),
            verify=ground.keyring.verify,
        )
