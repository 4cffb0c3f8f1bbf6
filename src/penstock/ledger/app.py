"""`python -m penstock.ledger.app --config FILE`: a ledger on real Postgres, NATS, files and sockets.

The only file of the ledger that chooses adapters.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
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
from penstock.kit.ports import BusDown, Entropy, StoreDown
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
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
START_RETRY_MS = 1_000
ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it

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
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    station = build(config)
    async with Scope() as scope:
        scope.start("ledger", _run(station, config))
        await stop.wait()
        await station.server.close(config.drain_ms)
        scope.cancel()


async def _run(station: Station, config: LedgerConfig) -> None:
    async with station.database:
        await _when_up("store", lambda: _prepare(station))
        await _when_up("bus", station.bus.open)
        try:
            port = await station.server.start(config.host, config.port)
            _log.info("ledger.serving", host=config.host, port=port)
            await station.ledger.run()
        finally:
            await station.bus.close()


async def _prepare(station: Station) -> None:
    await station.database.migrate("penstock.ledger", read_schema(SCHEMA))
    await station.ledger.start()


async def _when_up(what: str, prepare: Callable[[], Awaitable[None]]) -> None:
    """Servers of one operator start in any order: try until this one answers."""
    while True:
        try:
            await prepare()
        except (StoreDown, BusDown) as error:
            _log.warning(f"{what}.awaited", why=str(error))
            await asyncio.sleep(START_RETRY_MS / 1000)
        else:
            return


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m penstock.ledger.app", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the ledger's configuration")
    path: Path = parser.parse_args().config
    try:
        config = read_config(path)
        configure(as_json=config.log_json)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve(config))
    except (msgspec.DecodeError, OSError, ValueError) as error:
        sys.stderr.write(f"The ledger cannot start with {path}: {error}\n")
        return 1
    except (FileExposed, KeyFileInvalid, MigrationChanged, MigrationOrder, SpecError) as error:
        sys.stderr.write(f"The ledger cannot start: {error}\n")
        return 1
    return 0


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's: it serves the same bytes for half the time of asyncio's own."""
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


if __name__ == "__main__":
    sys.exit(main())
