"""`python -m penstock.market.app --config FILE`: a market on real Postgres, NATS and sockets.

The only file of the market that chooses adapters.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from penstock.adapters.errors import (
    FileExposed,
    KeyFileInvalid,
    MigrationChanged,
    MigrationOrder,
)
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.adapters.postgres import Database, read_schema
from penstock.kit.clock import SystemClock
from penstock.kit.errors import PortTaken
from penstock.kit.keys import verify
from penstock.kit.log import configure, events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy, Sign
from penstock.kit.process import (
    config_parser,
    refused_config,
    run_process,
    say,
    stop_asked,
    when_up,
)
from penstock.kit.tasks import Scope
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.market.config import MarketConfig, read_config
from penstock.market.errors import WrongCharter
from penstock.market.routes import build_routes
from penstock.market.service import Market, Rules
from penstock.market.store import PostgresMarketStore
from penstock.market.views import Info
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, open_signed, parse_signed
from penstock.spec.messages import Charter
from penstock.spec.params import NETWORKS, Params, params_digest

ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
PACKAGE = "penstock.market"
SCHEMA = "penstock.market.schema"
STOPPERS = (
    WrongCharter,
    FileExposed,
    KeyFileInvalid,
    MigrationChanged,
    MigrationOrder,
    PortTaken,
    OSError,
    ValueError,
)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""

_log = events("market")


@dataclass(frozen=True, slots=True)
class Station:
    """A market with what has to be opened and closed around it."""

    market: Market
    database: Database
    bus: NatsBus
    server: Server


class CharterFile(msgspec.Struct, forbid_unknown_fields=True):
    """What `charter_file` holds."""

    charter: dict[str, Any]
    delegations: tuple[dict[str, Any], ...] = ()


def build(config: MarketConfig) -> Station:
    """A market on this machine; nothing is connected yet.

    Raises WrongCharter, FileExposed, KeyFileInvalid, OSError, ValueError (a file's content).
    """
    if config.network not in NETWORKS:
        raise WrongCharter(reason=f"there is no network {config.network!r}")
    params = NETWORKS[config.network]
    key = load_or_create_key(Path(config.key_file), ENTROPY)
    file = msgspec.json.decode(Path(config.charter_file).read_bytes(), type=CharterFile)
    database = Database(_database_url(config))
    bus = NatsBus(config.nats_url, name="market")
    metrics = Metrics()
    market = Market(
        clock=SystemClock(),
        bus=bus,
        store=PostgresMarketStore(database),
        key=key,
        verify=verify,
        params=params,
        rules=Rules(
            bounds=config.bounds,
            proven={(one.miner, one.device): one.hardware for one in config.proven},
            sponsors=None if config.sponsors is None else frozenset(config.sponsors),
        ),
        metrics=metrics,
    )
    info = Info(
        charter=_checked_charter(file.charter, key, params),
        delegations=tuple(parse_signed(one) for one in file.delegations),
        ledger_url=config.ledger_url,
        gateway_urls=config.gateway_urls,
    )
    limits = ServerLimits(
        intake=IntakeLimits(body_bytes_max=config.bounds.body_bytes_max),
        connections_max=config.bounds.connections_max,
    )
    server = Server(
        Sockets(), build_routes(market, info), entropy=ENTROPY, limits=limits, metrics=metrics
    )
    return Station(market=market, database=database, bus=bus, server=server)


def _database_url(config: MarketConfig) -> str:
    if config.database_url:
        return config.database_url
    return Path(config.database_url_file).read_text("utf-8").strip()


def _checked_charter(value: dict[str, Any], key: Sign, params: Params) -> Signed:
    """The charter, if its operator signed it and it names this key and these numbers."""
    try:
        signed = parse_signed(value)
        charter = open_signed(Charter, signed, kind="charter", verify=verify)
    except SpecError as error:
        raise WrongCharter(reason=f"the charter does not hold ({error})") from error
    if signed.signer != charter.operator:
        raise WrongCharter(reason="the charter is not signed by the operator it names")
    if charter.market != key.identity:
        raise WrongCharter(
            reason=f"the charter names the market {charter.market}, this key is {key.identity}"
        )
    if (charter.network, charter.params_digest) != (params.network, params_digest(params)):
        raise WrongCharter(
            reason=f"the charter is for other numbers than those of {params.network!r}"
        )
    return signed


async def serve(config: MarketConfig) -> None:
    """Run until SIGTERM or SIGINT: no new requests, the running ones end, then the loops."""
    stop = stop_asked()
    station = build(config)
    async with Scope() as scope:
        scope.start("market", _run(station, config))
        await stop.wait()
        await station.server.close(config.drain_ms)
        scope.cancel()
    _log.info("market.stopped")


async def _run(station: Station, config: MarketConfig) -> None:
    async with station.database:
        await when_up("store", lambda: _migrate(station))
        await when_up("bus", station.bus.open)
        try:
            await when_up("market", station.market.open)
            port = await station.server.start(config.host, config.port)
            _log.info("market.ready", host=config.host, port=port)
            await station.market.run()
        finally:
            await station.bus.close()


async def _migrate(station: Station) -> None:
    await station.database.migrate(PACKAGE, read_schema(SCHEMA))


def main(arguments: list[str]) -> int:
    """The command line. Returns the exit status."""
    path: Path = (
        config_parser("python -m penstock.market.app", __doc__).parse_args(arguments).config
    )
    try:
        config = read_config(path)
    except (OSError, msgspec.DecodeError) as error:
        return refused_config(path, error)
    configure(as_json=config.log_json)
    return run_process(serve(config), stoppers=STOPPERS, tell=say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
