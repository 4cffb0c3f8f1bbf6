"""`python -m penstock.ledger.app --config FILE`: a ledger on real Postgres, NATS, files and sockets.

The only file of the ledger that chooses adapters.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.adapters.errors import (
    FileExposed,
    KeyFileInvalid,
    MigrationChanged,
    MigrationOrder,
)
from penstock.adapters.files import FolderFiles
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.adapters.postgres import Database, read_schema
from penstock.kit.clock import SystemClock
from penstock.kit.keys import verify
from penstock.kit.log import configure, events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy
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
from penstock.ledger.config import LedgerConfig, read_config
from penstock.ledger.routes import routes
from penstock.ledger.service import Ledger
from penstock.ledger.store import PostgresStore
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, parse_signed
from penstock.spec.params import NETWORKS

SCHEMA = "penstock.ledger.schema"
ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
STOPPERS = (
    FileExposed,
    KeyFileInvalid,
    MigrationChanged,
    MigrationOrder,
    SpecError,
    OSError,
    ValueError,
)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""

_log = events("ledger")


@dataclass(frozen=True, slots=True)
class Station:
    """A ledger with what has to be opened and closed around it."""

    ledger: Ledger
    database: Database
    bus: NatsBus
    server: Server


def build(config: LedgerConfig) -> Station:
    """A ledger on this machine; nothing is connected yet.

    Raises FileExposed, KeyFileInvalid, OSError, ValueError (the charter file), a SpecError (what
    the charter says).
    """
    database = Database(database_url(config))
    bus = NatsBus(config.nats_url, name="ledger")
    metrics = Metrics()
    ledger = Ledger(
        charter=read_charter(Path(config.charter_file)),
        params=NETWORKS[config.network],
        store=PostgresStore(database),
        bus=bus,
        files=FolderFiles(Path(config.public)),
        key=load_or_create_key(Path(config.key_file), ENTROPY),
        verify=verify,
        clock=SystemClock(),
        entropy=ENTROPY,
        metrics=metrics,
    )
    limits = ServerLimits(
        intake=IntakeLimits(body_bytes_max=config.bounds.body_bytes_max),
        connections_max=config.bounds.connections_max,
    )
    server = Server(Sockets(), routes(ledger), entropy=ENTROPY, limits=limits, metrics=metrics)
    return Station(ledger=ledger, database=database, bus=bus, server=server)


def database_url(config: LedgerConfig) -> str:
    """The URL, or what its file holds."""
    if config.database_url:
        return config.database_url
    return Path(config.database_url_file).read_text("utf-8").strip()


def read_charter(path: Path) -> Signed:
    """The signed charter of a charter file. Raises OSError, ValueError."""
    value = json.loads(path.read_bytes())
    try:
        return parse_signed(value["charter"] if isinstance(value, dict) else value)
    except (SpecError, KeyError) as error:
        raise ValueError(f"{path} holds no signed charter: {error}") from error


async def serve(config: LedgerConfig) -> None:
    """Run until SIGTERM or SIGINT: no new requests, the running ones end, then the loops.

    An event that was being taken in is not acknowledged, so it comes again after the next start.
    """
    stop = stop_asked()
    station = build(config)
    async with Scope() as scope:
        scope.start("ledger", _run(station, config))
        await stop.wait()
        await station.server.close(config.drain_ms)
        scope.cancel()


async def _run(station: Station, config: LedgerConfig) -> None:
    async with station.database:
        await when_up("store", lambda: _prepare(station))
        await when_up("bus", station.bus.open)
        try:
            port = await station.server.start(config.host, config.port)
            _log.info("ledger.serving", host=config.host, port=port)
            await station.ledger.run()
        finally:
            await station.bus.close()


async def _prepare(station: Station) -> None:
    await station.database.migrate("penstock.ledger", read_schema(SCHEMA))
    await station.ledger.start()


def main(arguments: list[str]) -> int:
    """The command line. Returns the exit status."""
    path: Path = (
        config_parser("python -m penstock.ledger.app", __doc__).parse_args(arguments).config
    )
    try:
        config = read_config(path)
    except (msgspec.DecodeError, OSError, ValueError) as error:
        return refused_config(path, error)
    configure(as_json=config.log_json)
    return run_process(serve(config), stoppers=STOPPERS, tell=_cannot_start)


def _cannot_start(reason: str) -> None:
    say(f"The ledger cannot start: {reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
