"""The gateway as a process: `python -m penstock.gateway.app --config FILE`.

Reads its configuration, waits for the market, listens, and on SIGTERM stops accepting, finishes its
streams, gives its leases back and delivers its records. With `workers` set it only keeps the processes
that do so (keeper.py), each of which is this same command with `--worker`.
"""

import argparse
import asyncio
import gc
import os
import random
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.adapters.nats_store import NatsStore
from penstock.adapters.secret_file import load_or_create_secret
from penstock.adapters.tunnel_certificate import tunnel_certificate
from penstock.adapters.worker_process import WorkerProcess, tell_ready
from penstock.gateway.charter import Facts, read_facts
from penstock.gateway.config import GatewayConfig, as_worker, read_config
from penstock.gateway.errors import StartRefused, WorkerLost
from penstock.gateway.files_pages import FORM_BYTES_MAX
from penstock.gateway.keeper import keep
from penstock.gateway.market_page import MarketPage
from penstock.gateway.meters import ABOUT, show_build
from penstock.gateway.posts import ALONE, Post, know_market, show_inside
from penstock.gateway.routes import build_site
from penstock.gateway.service import Gateway
from penstock.gateway.tunnels import Tunnels, client_of, open_port
from penstock.gateway.workers import Launch
from penstock.kit.clock import SystemClock
from penstock.kit.errors import PortTaken, WireError
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.log import configure, events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Bus, BusDown, Entropy, Stores
from penstock.kit.process import config_parser, refused_config, run_process, stop_asked
from penstock.kit.release import release
from penstock.kit.tasks import Backoff, Scope
from penstock.kit.telemetry import SpanSink, Tracer
from penstock.kit.wire.client import ClientLimits, HttpClient
from penstock.kit.wire.given import GivenSocket, bind_port
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tls import Certificate, CertificateUnusable
from penstock.kit.wire.tunnel_pool import TunnelClient

if TYPE_CHECKING:
    from penstock.adapters.otel import OtelSink

ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
STOPPERS = (
    StartRefused,
    WorkerLost,
    BusDown,
    PortTaken,
    CertificateUnusable,
    FileExposed,
    KeyFileInvalid,
    OSError,
)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""
SECRET_BYTES = 32
MARKET_DEADLINE_MS = 2_000
MARKET_RETRY = Backoff(delay_ms_min=200, delay_ms_max=2_000)
IDLE_PER_MINER_MAX = 256
COLLECT_AT = (50_000, 20, 50)
"""Objects that are born before the collector looks at the youngest, and so on."""

_log = events("gateway")


def build(
    config: GatewayConfig,
    *,
    facts: Facts,
    key: Ed25519Key,
    bus: Bus,
    store: Stores | None = None,
) -> Gateway:
    """A gateway on this machine's clock, sockets and chance."""
    metrics = Metrics(about=ABOUT, labels={"worker": config.name} if config.workers else None)
    show_build(metrics, release())
    secret = load_or_create_secret(Path(config.tag_secret_file), ENTROPY(SECRET_BYTES))
    limits = ClientLimits(
        idle_max=IDLE_PER_MINER_MAX, body_bytes_max=config.bounds.response_bytes_max
    )
    return Gateway(
        name=config.name,
        clock=SystemClock(),
        bus=bus,
        http=client_of(config, Sockets(), limits),
        sign=key,
        verify=verify,
        entropy=ENTROPY,
        params=facts.params,
        tag_secret=secret,
        ledger_url=facts.ledger_url,
        key_limits=config.key_limits,
        payer_limits=config.payer_limits,
        address_limits=config.address_limits,
        deadlines=config.deadlines,
        bounds=config.bounds,
        aliases=config.aliases,
        metrics=metrics,
        store=store,
        store_bounds=config.store,
        batch_bounds=config.batches,
    )


async def find_market(config: GatewayConfig, key: Ed25519Key) -> Facts:
    """Ask the market until it answers. Raises StartRefused for an answer that does not fit us."""
    client = HttpClient(Sockets())
    clock = SystemClock()
    tries = 0
    try:
        while True:
            tries += 1
            try:
                reply = await client.call(
                    "GET", f"{config.market_url}/v1/info", deadline_ms=MARKET_DEADLINE_MS
                )
            except WireError as error:
                reason = str(error)
            else:
                if reply.status == 200:
                    return read_facts(
                        reply.body,
                        identity=key.identity,
                        operator=config.operator,
                        now_ms=clock.now_ms(),
                        verify=verify,
                    )
                reason = f"it answered {reply.status}"
            if tries in {1, 10}:
                _log.warning("market.away", url=config.market_url, reason=reason)
            await asyncio.sleep(MARKET_RETRY.delay_ms(tries) / 1000)
    finally:
        await client.close()


async def serve(config: GatewayConfig, post: Post = ALONE) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the certificate again. Raises what STOPPERS names."""
    stopped = stop_asked()
    tls = _listen_for_renewals(config)
    sink = await asyncio.to_thread(open_sink, config)  # an import of a hundred modules
    key = load_or_create_key(Path(config.key_file), ENTROPY)
    facts = await _facts_unless(stopped, config, key)
    if facts is None:
        return
    _warn_of_skew(facts)
    async with (
        NatsBus(config.nats_url, name=config.name) as bus,
        NatsStore(config.nats_url, entropy=ENTROPY, name=f"{config.name}-store") as store,
    ):
        gateway = build(config, facts=facts, key=key, bus=bus, store=store)
        gateway.tracer = None if sink is None else _tracer(config, sink)
        tls_of_tunnels = make_tunnels(config, gateway, post)
        gateway.market_page = market_page(config, facts)
        server = _server(config, gateway, post)
        await open_port(gateway.tunnels, config, number=post.number, tls=tls_of_tunnels)
        async with Scope() as scope:
            gateway.start(scope)
            await know_market(gateway.directory, post)
            inside = await show_inside(gateway, post)
            port = await server.start(config.host, config.port, tls=tls)
            _spare_collections()
            _log.info("gateway.ready", host=config.host, port=port, identity=gateway.sign.identity)
            if inside is not None:
                tell_ready(inside.port)
            await stopped.wait()
            _log.info("gateway.draining", running=gateway.admission.running)
            gateway.halt()
            if gateway.tunnels is not None:
                await gateway.tunnels.stop()
            await server.close(config.deadlines.drain_ms)
            await gateway.stop()
            if inside is not None:
                await inside.close(0)
            scope.cancel()
        await gateway.http.close()
    if sink is not None:
        await sink.close()
    _log.info("gateway.stopped")


def market_page(config: GatewayConfig, facts: Facts) -> MarketPage:
    """What a miner is told that knows this gateway only."""
    return MarketPage(
        market_url=config.market_public_url or config.market_url,
        operator=facts.charter.operator,
        network=facts.params.network,
        clock=SystemClock(),
    )


def make_tunnels(config: GatewayConfig, gateway: Gateway, post: Post) -> ssl.SSLContext | None:
    """Give the gateway its tunnels, if it is to have any; what their port serves with."""
    if not isinstance(gateway.http, TunnelClient):
        return None
    context, channel = tunnel_certificate()
    gateway.tunnels = Tunnels(
        http=gateway.http,
        reachable=gateway.directory.reachable,
        clock=gateway.clock,
        sign=gateway.sign,
        verify=gateway.verify,
        entropy=gateway.entropy,
        metrics=gateway.metrics,
        channel=channel,
        config=config.tunnel,
        count=config.workers + 1 if post.number else 1,
    )
    return context


async def _facts_unless(
    stopped: asyncio.Event, config: GatewayConfig, key: Ed25519Key
) -> Facts | None:
    """What the market says; None when we are told to stop before."""
    async with Scope() as starting:
        finding = starting.start("market", find_market(config, key))
        waiting = starting.start("stop", stopped.wait())
        await asyncio.wait({finding, waiting}, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
    return None if finding.cancelled() else finding.result()


async def serve_by_workers(config: GatewayConfig, path: Path) -> None:
    """Hold the port and keep the processes that serve it. Raises what STOPPERS names."""
    sockets = bind_port(config.host, config.port, count=config.workers)

    def launch_from(keeper_port: int) -> Launch:
        async def launch(number: int, index: int, is_warm: bool) -> WorkerProcess:  # noqa: FBT001 -- a Launch
            fd = sockets[index].fileno()
            words = ["--config", str(path), "--worker", str(number), "--fd", str(fd)]
            words += ["--keeper", str(keeper_port), *(["--warm"] if is_warm else [])]
            argv = (sys.executable, "-m", "penstock.gateway.app", *words)
            return await WorkerProcess.start(argv, fd=fd)

        return launch

    try:
        await keep(config, launch=launch_from, entropy=ENTROPY)
    finally:
        for one in sockets:
            one.close()


def open_sink(config: GatewayConfig) -> "OtelSink | None":
    """Where spans go, if anywhere. Raises StartRefused without the extra that sends them."""
    telemetry = config.telemetry
    if not telemetry.endpoint:
        return None
    try:
        from penstock.adapters.otel import Source, otlp_sink
    except ImportError as error:
        raise StartRefused(
            reason=f"`telemetry` is set and {error.name} is not installed",
            remedy="Install penstock[otel], or leave `telemetry` out.",
        ) from error
    return otlp_sink(
        telemetry.endpoint,
        Source(telemetry.service_name, config.name, release().version),
        queue_max=telemetry.queue_max,
        export_ms=telemetry.export_ms,
    )


def _tracer(config: GatewayConfig, sink: SpanSink) -> Tracer:
    chance = random.Random(ENTROPY(SECRET_BYTES))  # noqa: S311 -- ids of spans, not secrets
    return Tracer(sink, chance, sample_ppm=config.telemetry.sample_ppm)


def _server(config: GatewayConfig, gateway: Gateway, post: Post) -> Server:
    bounds, deadlines = config.bounds, config.deadlines
    intake = IntakeLimits(
        head_bytes_max=bounds.head_bytes_max,
        body_bytes_max=bounds.body_bytes_max,
        upload_bytes_max=config.store.file_bytes_max + FORM_BYTES_MAX,
    )
    limits = ServerLimits(
        intake=intake,
        connections_max=bounds.connections_max,
        bodies_bytes_max=bounds.bodies_bytes_max,
        head_deadline_ms=deadlines.client_head_ms,
        body_deadline_ms=deadlines.client_body_ms,
        idle_deadline_ms=deadlines.client_idle_ms,
        stall_deadline_ms=deadlines.reader_ms,
        drain_idle_ms=deadlines.drain_idle_ms,
    )
    return Server(
        GivenSocket(post.fd) if post.number else Sockets(),
        build_site(gateway),
        entropy=ENTROPY,
        limits=limits,
        metrics=gateway.metrics,
        hot=gateway.hot_paths(),
    )


def _listen_for_renewals(config: GatewayConfig) -> ssl.SSLContext | None:
    """The certificate to serve with, if there is one; SIGHUP reads it again. CertificateUnusable."""
    certificate = None
    context = None
    if config.tls_certificate_file:
        certificate = Certificate(Path(config.tls_certificate_file), Path(config.tls_key_file))
        context = certificate.context()

    def renew() -> None:
        if certificate is None or context is None:
            return
        try:
            certificate.renew(context)
        except CertificateUnusable as error:
            _log.error("certificate.kept", reason=str(error))
        else:
            _log.info("certificate.renewed")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)
    return context


def _spare_collections() -> None:
    """What is here at the start stays for good, and requests leave no cycles behind: looking for some
    among everything every 700 objects would cost as much as a tenth of the work.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


def _warn_of_skew(facts: Facts) -> None:
    skew_ms = SystemClock().now_ms() - facts.market_now_ms
    if abs(skew_ms) > facts.params.clock_skew_max_ms:
        _log.warning("clock.off", skew_ms=skew_ms, remedy="set this machine's clock (NTP)")


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    parser = config_parser("penstock-gateway", __doc__)
    for option in ("--worker", "--fd", "--keeper"):
        parser.add_argument(option, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    path: Path = given.config
    try:
        config = read_config(path)
    except (OSError, msgspec.DecodeError) as error:
        return refused_config(path, error)
    post = Post(given.worker, given.fd, given.keeper, given.warm)
    if post.number:
        config = as_worker(config, post.number)
    configure(as_json=config.log_json, worker=config.name if post.number else "")
    is_keeper = config.workers > 0 and not post.number
    work = serve_by_workers(config, path) if is_keeper else serve(config, post)
    return run_process(work, stoppers=STOPPERS, tell=_ended)


def _ended(reason: str) -> None:
    _log.error("gateway.ended", reason=reason)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
