"""The process that keeps a gateway's workers: it holds the port, starts and renews them, and adds up
what they export. Requests never pass through it.
"""

import asyncio
import signal
from collections.abc import Callable

from penstock.gateway.config import GatewayConfig
from penstock.gateway.meters import ABOUT
from penstock.gateway.workers import Launch, Workers
from penstock.kit.errors import WireError
from penstock.kit.log import events
from penstock.kit.metrics import Metrics, merged
from penstock.kit.ports import Entropy
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

LOOPBACK = "127.0.0.1"
METRICS_PATH = "/metrics"
METRICS_HEADERS = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)
ASK_MS = 1_000
EXPORT_BYTES_MAX = 4 << 20
MARGIN_MS = 5_000

LaunchFrom = Callable[[int], Launch]
"""How workers are started, given the port where the keeper adds their metrics up."""

_log = events("gateway")


class Gathering:
    """`GET /metrics` of all workers, as one text."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._http = HttpClient(Sockets())
        self.workers: Workers | None = None

    async def answer(self, _: Request) -> Response:
        """What the workers that answer in time export, and the keeper's own."""
        ports = [] if self.workers is None else self.workers.ports
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(port)) for port in ports]
        texts = [self._metrics.render(), *(task.result() for task in asked)]
        return Response(200, merged(texts), METRICS_HEADERS)

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.close()

    async def _ask(self, port: int) -> bytes:
        return await exported(self._http, port, deadline_ms=ASK_MS)


async def exported(http: HttpClient, port: int, *, deadline_ms: int) -> bytes:
    """What a process on this machine exports; b"" when it does not answer."""
    try:
        reply = await http.call(
            "GET",
            f"http://{LOOPBACK}:{port}{METRICS_PATH}",
            deadline_ms=deadline_ms,
            body_bytes_max=EXPORT_BYTES_MAX,
        )
    except WireError:
        return b""
    return reply.body if reply.status == 200 else b""


async def keep(config: GatewayConfig, *, launch: LaunchFrom, entropy: Entropy) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP renews the workers. Raises WorkerLost, OSError."""
    stopped, asked = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    metrics = Metrics(about=ABOUT)
    gathering = Gathering(metrics)
    routes = Routes()
    routes.add("GET", METRICS_PATH, gathering.answer)
    server = Server(Sockets(), routes, entropy=entropy)
    port = await server.start(LOOPBACK, 0)
    workers = gathering.workers = Workers(
        count=config.workers,
        launch=launch(port),
        metrics=metrics,
        drain_ms=stop_ms(config),
    )
    try:
        async with Scope() as scope:
            stopping = scope.start("stop", stopped.wait())
            coming = scope.start("come up", workers.start(scope))
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.is_set():
                _log.info("gateway.workers_ready", workers=config.workers)
                scope.start("renewals", _renew_when_asked(workers, scope, asked))
            await stopping
            workers.is_stopping = True
            scope.cancel()
    finally:
        await workers.stop()
        await server.close(0)
        await gathering.close()


def stop_ms(config: GatewayConfig) -> int:
    """The longest that a worker may take to end in order."""
    deadlines = config.deadlines
    return (
        deadlines.drain_ms
        + 2 * deadlines.cancel_wait_ms
        + deadlines.seal_stop_ms
        + deadlines.flush_ms
        + MARGIN_MS
    )


async def _renew_when_asked(workers: Workers, scope: Scope, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        _log.info("gateway.renewing", workers=workers.count)
        await workers.renew(scope)
