"""A miner on a port: what `app.py` runs on sockets and the simulator on its memory network."""

import asyncio

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_greeting import Party
from penstock.kit.wire.tunnel_keeper import HOT, KeeperLimits, turned_limits
from penstock.miner.config import MinerConfig, TunnelMode
from penstock.miner.hardware import Hardware
from penstock.miner.ports import Ports
from penstock.miner.routes import build_routes
from penstock.miner.service import Miner
from penstock.miner.tunnels import KEEPERS_MAX, Tunnels, offered_endpoint
from penstock.spec.params import Params

CLOSE_MS = 2_000
"""When the server closes, running orders have ended or were given up: only idle readers are left."""

_log = events("miner")


async def run_miner(
    ports: Ports,
    config: MinerConfig,
    *,
    params: Params,
    hardware: Hardware,
    stop: asyncio.Event,
    started: "asyncio.Future[Miner] | None" = None,
) -> None:
    """Serve until `stop` is set, then drain. `started` gets the Miner once its port is open.

    Raises OSError when the port is taken.
    """
    metrics = Metrics()
    limits = ServerLimits(intake=IntakeLimits(body_bytes_max=config.bounds.body_bytes_max))
    # Offers name the port, so it is opened first; until the miner stands there are no routes.
    server = Server(ports.network, Routes(), entropy=ports.entropy, limits=limits, metrics=metrics)
    port = await server.start(config.host, config.port)
    endpoint = offered_endpoint(config, config.endpoint or f"http://{config.host}:{port}")
    miner = Miner(
        ports, config, params=params, hardware=hardware, endpoint=endpoint, metrics=metrics
    )
    server.handler = routes = build_routes(miner)
    if config.tunnel.mode is not TunnelMode.OFF:
        miner.tunnels = build_tunnels(miner, routes)
    _log.info("miner.started", identity=ports.key.identity, endpoint=endpoint)
    if started is not None:
        started.set_result(miner)
    try:
        await miner.run(stop)
    finally:
        if miner.tunnels is not None:
            await miner.tunnels.server.close(CLOSE_MS)
        await server.close(CLOSE_MS)
    _log.info("miner.stopped", identity=ports.key.identity)


def build_tunnels(miner: Miner, routes: Routes) -> Tunnels:
    """Reverse connections that are answered by the same handlers as the port."""
    ports, config, parts = miner.ports, miner.config, miner.parts
    road, settings, trust = ports.road, config.tunnel, parts.deployment.trust
    assert road is not None, "a miner with reverse connections is given a road"
    intake = IntakeLimits(body_bytes_max=config.bounds.body_bytes_max)
    server = Server(
        ports.network,
        routes,
        entropy=ports.entropy,
        limits=turned_limits(intake, settings.links_max * KEEPERS_MAX),
        metrics=miner.metrics,
        hot=HOT,
    )
    party = Party(
        key=ports.key,
        verify=ports.verify,
        clock=parts.time,
        is_gateway=lambda identity: trust.is_gateway(identity, now_ms=parts.time.now_ms()),
        node=config.name,
        skew_max_ms=miner.params.clock_skew_max_ms,
        channel_of=road.channel_of,
    )
    return Tunnels(
        road=road,
        server=server,
        client=ports.client,
        party=party,
        urls=lambda: settings.gateways or parts.deployment.gateway_urls,
        limits=KeeperLimits(
            spare_min=settings.spare_min,
            links_max=settings.links_max,
            retry_ms_max=settings.retry_ms_max,
        ),
        entropy=ports.entropy,
        metrics=miner.metrics,
        look_ms=settings.look_ms,
        deadline_ms=config.deadlines.peer_ms,
    )
