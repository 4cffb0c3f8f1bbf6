"""The gateway as a process: `python -m penstock.gateway.app --config FILE`.

Reads its configuration, waits for the market, listens, and on SIGTERM stops accepting, finishes its
streams, gives its leases back and delivers its records.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.adapters.secret_file import load_or_create_secret
from penstock.gateway.charter import Facts, read_facts
from penstock.gateway.config import GatewayConfig, read_config
from penstock.gateway.errors import StartRefused
from penstock.gateway.routes import build_routes
from penstock.gateway.service import Gateway
from penstock.kit.clock import SystemClock
from penstock.kit.errors import PortTaken, WireError
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.log import configure, events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Bus, BusDown, Entropy
from penstock.kit.tasks import Backoff, Scope
from penstock.kit.wire.client import ClientLimits, HttpClient
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
STOPPERS = (StartRefused, BusDown, PortTaken, FileExposed, KeyFileInvalid, OSError)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""
SECRET_BYTES = 32
MARKET_DEADLINE_MS = 2_000
MARKET_RETRY = Backoff(delay_ms_min=200, delay_ms_max=2_000)
IDLE_PER_MINER_MAX = 256

_log = events("gateway")


def build(config: GatewayConfig, *, facts: Facts, key: Ed25519Key, bus: Bus) -> Gateway:
    """A gateway on this machine's clock, sockets and chance."""
    secret = load_or_create_secret(Path(config.tag_secret_file), ENTROPY(SECRET_BYTES))
    limits = ClientLimits(
        idle_max=IDLE_PER_MINER_MAX, body_bytes_max=config.bounds.response_bytes_max
    )
    return Gateway(
        name=config.name,
        clock=SystemClock(),
        bus=bus,
        http=HttpClient(Sockets(), limits),
        sign=key,
        verify=verify,
        entropy=ENTROPY,
        params=facts.params,
        tag_secret=secret,
        ledger_url=facts.ledger_url,
        key_limits=config.key_limits,
        deadlines=config.deadlines,
        bounds=config.bounds,
        metrics=Metrics(),
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


async def serve(config: GatewayConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises StartRefused, BusDown, PortTaken and the files' errors."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    key = load_or_create_key(Path(config.key_file), ENTROPY)
    async with Scope() as starting:
        finding = starting.start("market", find_market(config, key))
        waiting = starting.start("stop", stopped.wait())
        await asyncio.wait({finding, waiting}, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
    if finding.cancelled():
        return
    facts = finding.result()
    _warn_of_skew(facts)
    async with NatsBus(config.nats_url, name=config.name) as bus:
        gateway = build(config, facts=facts, key=key, bus=bus)
        await _serve_until(stopped, config, gateway)


async def _serve_until(stopped: asyncio.Event, config: GatewayConfig, gateway: Gateway) -> None:
    intake = IntakeLimits(body_bytes_max=config.bounds.body_bytes_max)
    server = Server(
        Sockets(),
        build_routes(gateway),
        entropy=ENTROPY,
        limits=ServerLimits(intake=intake),
        metrics=gateway.metrics,
    )
    async with Scope() as scope:
        gateway.start(scope)
        port = await server.start(config.host, config.port)
        _log.info("gateway.ready", host=config.host, port=port, identity=gateway.sign.identity)
        await stopped.wait()
        _log.info("gateway.draining", running=gateway.admission.running)
        await server.close(config.deadlines.drain_ms)
        await gateway.stop()
        scope.cancel()
    await gateway.http.close()
    _log.info("gateway.stopped")


def _warn_of_skew(facts: Facts) -> None:
    skew_ms = SystemClock().now_ms() - facts.market_now_ms
    if abs(skew_ms) > facts.params.clock_skew_max_ms:
        _log.warning("clock.off", skew_ms=skew_ms, remedy="set this machine's clock (NTP)")


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="penstock-gateway", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="the configuration, JSON")
    path: Path = parser.parse_args(arguments).config
    try:
        config = read_config(path)
    except (OSError, msgspec.DecodeError) as error:
        sys.stderr.write(f"The configuration {path} cannot be used: {error}. Correct it.\n")
        return 2
    configure(as_json=config.log_json)
    status = 0
    try:
        uvloop.run(serve(config))
    except* STOPPERS as group:
        status = 1
        for reason in _leaves(group):
            _log.error("gateway.ended", reason=reason)
    return status


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[str]:
    """What the errors of a group say, however deep the scopes were."""
    reasons: list[str] = []
    for error in group.exceptions:
        reasons += _leaves(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return reasons


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
