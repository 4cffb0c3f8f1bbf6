"""`python -m penstock.miner.app --config FILE`: a miner on real sockets, engines and files.

The only file of the miner that chooses adapters.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from penstock.adapters.engines.catalogue import EngineKind, EngineWorld, build_engine
from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.hardware import machine
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.outbox_file import OutboxFile, OutboxInUse
from penstock.kit.clock import SystemClock
from penstock.kit.engine import Engine, EngineLimits
from penstock.kit.errors import PortTaken
from penstock.kit.keys import verify
from penstock.kit.log import configure
from penstock.kit.ports import Entropy, Sign
from penstock.kit.process import CONFIG_UNUSABLE, config_parser, run_process, say, stop_asked
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tunnel_road import Road, dialling_context, shown_channel
from penstock.miner.config import MinerConfig, read_config
from penstock.miner.errors import ConfigInvalid
from penstock.miner.hardware import Hardware, detect
from penstock.miner.service import Ports
from penstock.miner.station import run_miner
from penstock.spec.messages import Manifest

OUTBOX_FILE = "outbox.jsonl"
ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
STOPPERS = (FileExposed, KeyFileInvalid, OutboxInUse, PortTaken)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""


def build(config: MinerConfig) -> Ports:
    """The ports of a miner on this machine. Call it inside the loop that will run it.

    Raises FileExposed, KeyFileInvalid, OutboxInUse, OSError.
    """
    home = Path(config.home)
    network = Sockets()
    world = EngineWorld(
        network=network, entropy=ENTROPY, home=home / "engines", env=config.engine_env
    )
    key: Sign = load_or_create_key(Path(config.key_file), ENTROPY)
    return Ports(
        clock=SystemClock(),
        network=network,
        client=HttpClient(network),
        key=key,
        verify=verify,
        entropy=ENTROPY,
        engines=engine_builder(world, threads=config.engine_threads),
        engine_kinds=frozenset(kind.value for kind in EngineKind),
        store=OutboxFile(home / OUTBOX_FILE),
        road=Road(Sockets(tls_context=dialling_context()), shown_channel),
    )


def engine_builder(world: EngineWorld, *, threads: int) -> Callable[[Manifest], Engine]:
    """Manifest -> the engine it names, within the manifest's limits."""

    def build_for(manifest: Manifest) -> Engine:
        limits = EngineLimits(
            slots_max=manifest.limits.parallel_max,
            context_tokens_max=manifest.limits.context_tokens_max,
            threads=threads,
        )
        return build_engine(
            manifest.engine, manifest.source, limits, world=world, digest=manifest.model_digest
        )

    return build_for


def this_machine() -> Hardware:
    """What this machine is, read from its kernel and its graphics driver."""
    return detect(*machine.this_machine().facts())


async def serve(config: MinerConfig) -> None:
    """Run a miner until SIGTERM or SIGINT, then drain."""
    stop = stop_asked()
    ports = build(config)
    try:
        await run_miner(ports, config, params=config.params, hardware=this_machine(), stop=stop)
    finally:
        await ports.client.close()


def main(arguments: list[str]) -> int:
    """The command line. Returns the exit status."""
    path: Path = config_parser("python -m penstock.miner.app", __doc__).parse_args(arguments).config
    try:
        config = read_config(path)
    except ConfigInvalid as error:
        say(str(error))
        return CONFIG_UNUSABLE
    configure(as_json=config.log_json)
    return run_process(serve(config), stoppers=STOPPERS, tell=say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
