"""A miner on a port: what `app.py` runs on sockets and the simulator on its memory network."""

import asyncio

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.miner.config import MinerConfig
from penstock.miner.hardware import Hardware
from penstock.miner.routes import build_routes
from penstock.miner.service import Miner, Ports
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
    endpoint = config.endpoint or f"http://{config.host}:{port}"
    miner = Miner(
        ports, config, params=params, hardware=hardware, endpoint=endpoint, metrics=metrics
    )
    server.handler = build_routes(miner)
    _log.info("miner.started", identity=ports.key.identity, endpoint=endpoint)
    if started is not None:
        started.set_result(miner)
    try:
        await miner.run(stop)
    finally:
        await server.close(CLOSE_MS)
    _log.info("miner.stopped", identity=ports.key.identity)
