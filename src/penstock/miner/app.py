"""`python -m penstock.miner.app --config FILE`: a miner on real sockets, engines and files.

The only file of the miner that chooses adapters.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec

from penstock.adapters.engines.catalogue import EngineKind, EngineWorld, build_engine
from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.files import FolderFiles
from penstock.adapters.hardware import machine
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.outbox_file import OutboxFile, OutboxInUse
from penstock.adapters.placement_plugin import OwnPlacement
from penstock.adapters.runtimes.errors import HomeTaken, LibraryMissing, NoCluster, NoContainers
from penstock.adapters.runtimes.imaged import Imaged
from penstock.adapters.runtimes.opening import (
    ClusterSettings,
    OpenRuntime,
    RuntimeSettings,
    open_runtime,
)
from penstock.adapters.weights.errors import ReferenceInvalid
from penstock.adapters.weights.fetch import Weights
from penstock.adapters.weights.of_manifest import ManifestWeights
from penstock.adapters.weights.opening import WeightsSettings, open_weights
from penstock.adapters.weights.peers import ListedMiners, signed_ask
from penstock.adapters.weights.share import ROUTE, Share
from penstock.kit.clock import SystemClock
from penstock.kit.engine import Engine, EngineLimits
from penstock.kit.errors import PortTaken
from penstock.kit.keys import verify
from penstock.kit.log import configure
from penstock.kit.ports import Entropy, Sign
from penstock.kit.process import CONFIG_UNUSABLE, config_parser, run_process, say, stop_asked
from penstock.kit.runtime import Runtime
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Handler
from penstock.kit.wire.local_sockets import LocalSockets
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tunnel_road import Road, dialling_context, shown_channel
from penstock.miner.config import MinerConfig, RuntimeKind, read_config
from penstock.miner.control import SOCKET_FILE, Control
from penstock.miner.earnings import Earnings
from penstock.miner.errors import ConfigInvalid
from penstock.miner.frames import Watch
from penstock.miner.hardware import Hardware, detect
from penstock.miner.instance import Launch
from penstock.miner.payouts import Payouts
from penstock.miner.ports import Ports
from penstock.miner.service import Miner
from penstock.miner.station import run_miner

OUTBOX_FILE = "outbox.jsonl"
JOURNAL_FILE = "instances.jsonl"
WHOLE_CARD_PPM = 900_000
ENGINE_KEY_DOMAIN = b"penstock/engine-key/v1"
COLLECT_AT = (50_000, 20, 50)
"""Objects that are born before the collector looks at the youngest, and so on."""
ENTROPY: Entropy = os.urandom  # tidy: ambient -- the one place where this station takes it
STOPPERS = (
    *(FileExposed, HomeTaken, KeyFileInvalid, LibraryMissing, NoCluster, NoContainers),
    *(OutboxInUse, PortTaken, ReferenceInvalid),
)
"""What a person has to act on. Anything else is a bug and ends with its traceback."""


def build(config: MinerConfig, runtime: Runtime | None = None) -> Ports:
    """The ports of a miner on this machine. Call it inside the loop that will run it.

    Without a runtime engines are children of this process.
    Raises FileExposed, KeyFileInvalid, OutboxInUse, ReferenceInvalid, OSError.
    """
    home = Path(config.home)
    network = Sockets()
    key: Sign = load_or_create_key(Path(config.key_file), ENTROPY)
    clock = SystemClock()
    client = HttpClient(network)
    weights = weights_of(config, key)
    world = EngineWorld(
        network=network,
        entropy=ENTROPY,
        home=home / "engines",
        env=config.engine_env,
        weights=weights.store,
        runtime=runtime,
        key=engine_key(key),
    )
    return Ports(
        clock=clock,
        network=network,
        client=client,
        key=key,
        verify=verify,
        entropy=ENTROPY,
        engines=engine_builder(world, threads=config.engine_threads, image_of=config.image),
        engine_kinds=frozenset(kind.value for kind in EngineKind),
        store=OutboxFile(home / OUTBOX_FILE),
        journal=OutboxFile(home / JOURNAL_FILE),
        runtime=runtime,
        weights=ManifestWeights(weights),
        pages=shared_pages(config, weights, client) if config.weights.share else {},
        readings=card_readings,
        placement=OwnPlacement(config.placement) if config.placement else None,
        files=FolderFiles(home),
        road=Road(Sockets(tls_context=dialling_context()), shown_channel),
    )


def weights_of(config: MinerConfig, key: Sign) -> Weights:
    """The cache of this miner's weights; what it asks of other miners is signed with its key.

    Raises ReferenceInvalid, FileExposed, OSError.
    """
    wanted = config.weights
    settings = WeightsSettings(
        quota_bytes=wanted.quota_bytes,
        reserve_bytes=wanted.reserve_bytes,
        hub_endpoint=wanted.hub_endpoint,
        hub_token_file=wanted.hub_token_file,
        mirrors=wanted.mirrors,
        peers=wanted.peers,
    )
    folder = Path(wanted.folder) if wanted.folder else Path(config.home) / "weights"
    clock = SystemClock()
    return open_weights(folder, settings, clock=clock, ask=signed_ask(key, clock))


def shared_pages(
    config: MinerConfig, weights: Weights, client: HttpClient
) -> Mapping[str, Handler]:
    """What miners on this market's board may fetch from here."""
    clock = SystemClock()
    members = ListedMiners(client, config.market_url, clock)
    share = Share(weights.store, is_member=members.is_member, verify=verify, clock=clock)
    return {ROUTE: share.serve}


def no_image(_engine: str) -> str:
    """Where engines run as processes of this machine."""
    return ""


def engine_builder(
    world: EngineWorld, *, threads: int, image_of: Callable[[str], str] = no_image
) -> Callable[[Launch], Engine]:
    """The engine that an instance's manifest names, within its limits, on its cards, in its image."""

    def build_for(launch: Launch) -> Engine:
        manifest = launch.manifest
        limits = EngineLimits(
            slots_max=manifest.limits.parallel_max,
            context_tokens_max=manifest.limits.context_tokens_max,
            threads=threads,
            gpu_uuids=launch.cards,
            gpu_share_ppm=launch.card_ppm or WHOLE_CARD_PPM,
        )
        return build_engine(
            manifest.engine,
            manifest.source,
            limits,
            world=in_image(world, image_of(manifest.engine)),
            digest=manifest.model_digest,
            name=launch.instance,
        )

    return build_for


def in_image(world: EngineWorld, image: str) -> EngineWorld:
    """The same, where engines run in this image; "" changes nothing."""
    if not image or world.runtime is None:
        return world
    return replace(world, runtime=Imaged(world.runtime, image))


async def runtime_of(config: MinerConfig) -> OpenRuntime | None:
    """Where this miner's engines run; None: as its children.

    Raises HomeTaken, LibraryMissing, NoContainers, NoCluster, OSError.
    """
    if config.runtime is RuntimeKind.CHILD:
        return None
    settings = RuntimeSettings(
        kind=config.runtime.value,
        path=config.engine_env.get("PATH", os.defpath),
        socket=config.containers.socket,
        ray_address=config.ray.address,
        ray_python=config.ray.python,
        cluster=ClusterSettings(**msgspec.structs.asdict(config.kubernetes)),
    )
    return await open_runtime(
        Path(config.home) / "runtime", settings, clock=SystemClock(), entropy=ENTROPY
    )


def engine_key(key: Sign) -> bytes:
    """What the keys of this miner's engines are made of: the same in every life, and known to nobody
    who cannot sign as this miner.
    """
    return sha256(key.sign(sha256(ENGINE_KEY_DOMAIN).digest()).encode()).digest()


async def card_readings() -> Mapping[str, int]:
    """How full each card is; those that do not tell are left out."""
    reading = await asyncio.to_thread(machine.this_machine().reading)
    return {
        gpu.uuid: gpu.memory_used_bytes for gpu in reading.gpus if gpu.memory_used_bytes is not None
    }


def this_machine() -> Hardware:
    """What this machine is, read from its kernel and its graphics driver."""
    return detect(*machine.this_machine().facts())


def settle_heap() -> None:
    """Orders make few cycles, and what the start has made stays: the collector need not walk it again
    and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


async def serve(config: MinerConfig) -> None:
    """Run a miner until SIGTERM or SIGINT, then drain."""
    stop = stop_asked()
    runtime = await runtime_of(config)
    ports = build(config, runtime)
    settle_heap()
    started: asyncio.Future[Miner] = asyncio.get_running_loop().create_future()
    try:
        async with Scope() as scope:
            scope.start("control", control(started, ports, stop=stop))
            await run_miner(
                ports,
                config,
                params=config.params,
                hardware=this_machine(),
                stop=stop,
                started=started,
            )
            scope.cancel()
    finally:
        await ports.client.close()
        if runtime is not None:
            runtime.close()


async def control(started: "asyncio.Future[Miner]", ports: Ports, *, stop: asyncio.Event) -> None:
    """Serve this machine's commands on HOME/agent.sock for as long as the miner runs.

    Raises PortTaken when another agent serves this home, OSError.
    """
    miner = await started
    config, parts = miner.config, miner.parts
    home = Path(config.home)
    assert ports.files is not None, "build gives them"
    earnings = Earnings(ports.files, miner.params.fees, config.costs)
    maintenance = parts.deployment.maintenance
    await Control(
        watch=Watch(
            miner=miner,
            read=lambda: asyncio.to_thread(machine.this_machine().reading),
            earnings=earnings,
            maintenance=maintenance,
            pid=os.getpid(),
        ),
        maintenance=maintenance,
        payouts=Payouts(
            client=ports.client,
            ledger_url=lambda: parts.deployment.ledger_url,
            identity=ports.key.identity,
            earnings=earnings,
            time=parts.time,
            deadline_ms=config.deadlines.ledger_ms,
        ),
        stop=stop,
        network=LocalSockets(home / SOCKET_FILE),
        entropy=ENTROPY,
    ).run()


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
