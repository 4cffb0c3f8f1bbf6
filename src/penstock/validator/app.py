"""The validator as a process: `python -m penstock.validator.app --config FILE`.

Reads its configuration, waits for the market, then probes, follows and reports until SIGTERM. The
only file of the validator that chooses adapters.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.files import FolderFiles
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.secret_file import read_secret
from penstock.client.sources import HttpSource
from penstock.kit.clock import SystemClock
from penstock.kit.errors import PortTaken
from penstock.kit.keys import Ed25519Key, verify, verify_raw
from penstock.kit.log import configure, events
from penstock.kit.ports import Entropy
from penstock.kit.process import CONFIG_UNUSABLE, config_parser, run_process, say, stop_asked
from penstock.kit.tasks import Backoff, Scope
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.validator.config import ValidatorConfig, read_config
from penstock.validator.errors import (
    ConfigInvalid,
    NotebookTorn,
    PeerDown,
    PeerRefused,
    StartRefused,
)
from penstock.validator.peers import Facts, Market
from penstock.validator.routes import build_routes
from penstock.validator.service import Urls, Validator

ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
STOPPERS = (StartRefused, NotebookTorn, PortTaken, FileExposed, KeyFileInvalid, OSError)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""
SEED_BYTES = 32
MARKET_RETRY = Backoff(delay_ms_min=200, delay_ms_max=2_000)

_log = events("validator")


def build(config: ValidatorConfig, *, facts: Facts, key: Ed25519Key, http: HttpClient) -> Validator:
    """A validator on this machine's clock, sockets, files and chance.

    Raises FileExposed, NotebookTorn, OSError.
    """
    return Validator(
        name=config.name,
        clock=SystemClock(),
        http=http,
        key=key,
        verify=verify,
        verify_raw=verify_raw,
        rng=random.Random(ENTROPY(SEED_BYTES)),  # noqa: S311 - picks questions, not secrets
        files=FolderFiles(Path(config.home)),
        source=HttpSource(http, config.ledger_url, config.bounds.segment_bytes_max),
        facts=facts,
        urls=Urls(config.gateway_url, config.market_url, config.ledger_url),
        api_key=read_secret(Path(config.api_key_file)).decode().strip(),
        deadlines=config.deadlines,
        bounds=config.bounds,
    )


async def find_market(config: ValidatorConfig, http: HttpClient) -> Facts:
    """Ask the market until it answers. Raises StartRefused for one that this code cannot judge."""
    market = Market(http, config.market_url, config.deadlines.peer_ms)
    tries = 0
    while True:
        tries += 1
        try:
            return await market.facts(operator=config.operator, verify=verify)
        except (PeerDown, PeerRefused) as error:
            if tries in {1, 10}:
                _log.warning("market.away", url=config.market_url, reason=str(error))
        await asyncio.sleep(MARKET_RETRY.delay_ms(tries) / 1000)


async def serve(config: ValidatorConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises STOPPERS, in groups."""
    stop = stop_asked()
    http = HttpClient(Sockets())
    try:
        async with Scope() as scope:
            scope.start("validator", _run(config, http))
            await stop.wait()
            scope.cancel()
    finally:
        await http.close()
    _log.info("validator.stopped")


async def _run(config: ValidatorConfig, http: HttpClient) -> None:
    key = load_or_create_key(Path(config.key_file), ENTROPY)
    facts = await find_market(config, http)
    validator = build(config, facts=facts, key=key, http=http)
    server = Server(Sockets(), build_routes(validator), entropy=ENTROPY, metrics=validator.metrics)
    port = await server.start(config.host, config.port)
    _log.info("validator.ready", host=config.host, port=port, identity=key.identity)
    try:
        async with Scope() as scope:
            validator.start(scope)
    finally:
        await server.close(config.deadlines.drain_ms)


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    path: Path = config_parser("penstock-validator", __doc__).parse_args(arguments).config
    try:
        config = read_config(path)
    except ConfigInvalid as error:
        say(str(error))
        return CONFIG_UNUSABLE
    configure(as_json=config.log_json)
    return run_process(serve(config), stoppers=STOPPERS, tell=_ended)


def _ended(reason: str) -> None:
    _log.error("validator.ended", reason=reason)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
