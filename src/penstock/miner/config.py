"""The miner's configuration: one file, read once at start. Protocol numbers are not in it."""

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from penstock.miner.earnings import Costs
from penstock.miner.errors import ConfigInvalid
from penstock.miner.policy import PricePolicy
from penstock.spec.messages import Tier
from penstock.spec.params import NETWORKS, Params
from penstock.spec.units import PPM

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""An instance adds a number and 8 hex digits, and a bus key takes no dots."""


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the miner waits, in ms. The whole of an order is bound by its own deadline."""

    engine_start_ms: int = 600_000
    """Weights may have to be read, and fetched before that."""
    engine_idle_ms: int = 120_000
    """From sending a request to the engine's first byte, and between two of its chunks."""
    engine_stop_ms: int = 10_000
    peer_ms: int = 2_000
    """One question to the market."""
    ledger_ms: int = 10_000
    drain_ms: int = 30_000
    seal_ms: int = 60_000
    """After its deadline, how long an order that was vouched for may wait for its gateway's seal."""


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of everything that grows."""

    body_bytes_max: int = 8 << 20
    answer_bytes_max: int = 64 << 20
    orders_max: int = 200_000
    """Order ids that are remembered until their deadline, so that none is served twice."""
    claims_max: int = 50_000
    sessions_max: int = 4_096
    gateway_sessions_max: int = 64
    """Of one gateway: each of its processes has one."""
    taken_max: int = 50_000
    """Orders under sessions that are kept for seals to come, or to be asked for again."""
    unsealed_max: int = 4_096
    """Orders of one gateway that wait for its seal; beyond these it is refused."""


class TunnelMode(Enum):
    """How gateways reach this miner."""

    OFF = "off"
    """They dial `endpoint`."""
    ONLY = "only"
    """By reverse connections, which this miner opens: nothing has to be open to it (docs/nat.md)."""
    BOTH = "both"
    """They dial `endpoint`, and take reverse connections when it does not answer."""


class TunnelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reverse connections to gateways."""

    mode: TunnelMode = TunnelMode.OFF
    gateways: tuple[str, ...] = ()
    """URLs of gateways; empty: those that the market names."""
    spare_min: int = 4
    """Connections to each process of a gateway that rest and wait; as many as are busy, if more are."""
    links_max: int = 256
    """Connections to each process of a gateway; a busy one carries one request."""
    look_ms: int = 15_000
    """How often gateways are asked where their tunnel ports are."""
    retry_ms_max: int = 3_000
    """The longest pause between two tries to reach a gateway."""


class RuntimeKind(Enum):
    """Where engines run."""

    PROCESS = "process"
    """As processes of this machine, each in a sandbox; they outlive a killed agent by two minutes."""
    CHILD = "child"
    """As children of the agent, without a sandbox: they end with it."""
    DOCKER = "docker"
    """In containers, each of an image of `images`."""
    PODMAN = "podman"
    KUBERNETES = "kubernetes"
    """As Jobs of a cluster, each of an image of `images`."""
    RAY = "ray"
    """As placement groups of a Ray cluster: for engines that need several nodes."""


IMAGED = frozenset({RuntimeKind.DOCKER, RuntimeKind.PODMAN, RuntimeKind.KUBERNETES})
DEFAULT_IMAGE = "default"


class ContainersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtimes `docker` and `podman` (docs/runtimes.md)."""

    socket: str = ""
    """The service's Unix socket; empty: the usual one of the system's service."""


class KubernetesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtime `kubernetes` (docs/runtimes.md)."""

    namespace: str = "default"
    """Of the engines."""
    kubeconfig: str = ""
    """A file; empty: what a pod of the cluster is given."""
    context: str = ""
    """Of that file; empty: its current one."""
    user: int = 65_532
    """The number that engines run as, never 0."""
    runtime_class: str = ""
    """`gvisor`, `kata` or what the cluster has; empty: its default."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    claims: dict[str, str] = {}
    """Where volumes are mounted -> PersistentVolumeClaim: models, and what engines write."""
    callers: dict[str, str] = {}
    """Labels of the pods that may call an engine; empty: any pod may."""


class RayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtime `ray` (docs/runtimes.md)."""

    address: str = "auto"
    """Of a cluster that this machine is a node of, as `ray.init` takes it."""
    python: str = ""
    """The interpreter that has Ray and penstock; empty: this one."""


class WeightsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cache of model weights (docs/weights.md). What is named here may be a private address."""

    folder: str = ""
    """Empty: `weights` in the miner's home. Several miners of one machine may name the same."""
    quota_bytes: int = 200 << 30
    reserve_bytes: int = 2 << 30
    """So much of the disk is left free."""
    hub_endpoint: str = "https://huggingface.co"
    hub_token_file: str = ""
    """For gated models: a file with mode 0600 that holds the hub's token."""
    mirrors: tuple[str, ...] = ()
    """URLs that keep files as `URL/sha256/HEX`."""
    peers: tuple[str, ...] = ()
    """URLs of miners to ask when all else fails."""
    share: bool = False
    """Let miners of this market fetch from here what came from public sources."""


class MinerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file given to `--config`. The key stands in a file that only the miner can read.

    `endpoint` is where gateways reach this miner, "" to make it of host and port. `chutes` are the
    names (or ids) to serve; with `auto` the miner also picks what the market lacks. `delegation`
    is the signed word of the key's owner, as JSON; null when the working key owns itself.
    """

    name: str
    network: str
    market_url: str
    home: str
    key_file: str
    endpoint: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    chutes: tuple[str, ...] = ()
    auto: bool = False
    instances_max: int = 4
    price_share_ppm: int = PPM
    follow_target: bool = True
    operator: str = ""
    """The operator's identity; empty trusts the market's word on first contact."""
    tier: Tier = Tier.OPEN
    delegation: dict[str, Any] | None = None
    engine_env: dict[str, str] = {}
    """The whole environment of engine processes, for example `CUDA_VISIBLE_DEVICES`."""
    engine_threads: int = 1
    clock_skew_ms: int = 0
    """Sets this miner's clock off the machine's, to drill what a wrong clock does."""
    log_json: bool = True
    placement: str = ""
    """The owner's own choice of what runs: the name of an entry point, or a file `mine.py` that has
    `choose(situation)`; "": the one that comes with Penstock.
    """
    costs: Costs = Costs()
    tunnel: TunnelConfig = TunnelConfig()
    weights: WeightsConfig = WeightsConfig()
    runtime: RuntimeKind = RuntimeKind.PROCESS
    images: dict[str, str] = {}
    """For engines in containers: kind of engine -> image, best by digest; `default` is for all others.
    Images of our own workers have this release in `/opt/penstock` (docs/packages.md).
    """
    containers: ContainersConfig = ContainersConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    ray: RayConfig = RayConfig()
    deadlines: Deadlines = Deadlines()
    bounds: Bounds = Bounds()

    @property
    def params(self) -> Params:
        """The numbers of the network that is named."""
        return NETWORKS[self.network]

    def image(self, engine: str) -> str:
        """The image of that kind of engine, "" where engines need none."""
        if self.runtime not in IMAGED:
            return ""
        return self.images.get(engine, self.images.get(DEFAULT_IMAGE, ""))

    @property
    def prices(self) -> PricePolicy:
        """What is asked of the market's reference price."""
        return PricePolicy(share_ppm=self.price_share_ppm, follow_target=self.follow_target)


def read_config(path: Path) -> MinerConfig:
    """The configuration in this file. Raises ConfigInvalid."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(place=str(path), reason=str(error)) from error
    return parse_config(data, place=str(path))


def parse_config(data: bytes, *, place: str) -> MinerConfig:
    """The configuration that these bytes spell: JSON, or TOML if the place says so.

    Raises ConfigInvalid.
    """
    try:
        decode = msgspec.toml.decode if place.endswith(".toml") else msgspec.json.decode
        config = decode(data, type=MinerConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(place=place, reason=str(error)) from error
    return check_config(config, place=place)


def check_config(config: MinerConfig, *, place: str) -> MinerConfig:
    """The same, when its values make sense together. Raises ConfigInvalid."""
    for holds, reason in (*_own_rules(config), *_engine_rules(config)):
        if not holds:
            raise ConfigInvalid(place=place, reason=reason)
    return config


def _own_rules(config: MinerConfig) -> Iterator[tuple[bool, str]]:
    """(does it hold, what is wrong when it does not)"""
    yield (
        NAME.fullmatch(config.name) is not None,
        "`name` takes 1 to 32 lower-case letters, digits and hyphens",
    )
    yield config.network in NETWORKS, f"`network` is one of {', '.join(sorted(NETWORKS))}"
    yield (
        config.market_url.startswith(("http://", "https://")),
        "`market_url` starts with http:// or https://",
    )
    yield 0 <= config.price_share_ppm <= PPM, f"`price_share_ppm` is from 0 to {PPM}"
    yield (
        1 <= config.tunnel.spare_min <= config.tunnel.links_max,
        "`tunnel.spare_min` is at least 1 and at most `tunnel.links_max`",
    )
    yield (
        config.weights.quota_bytes > 0 and config.weights.reserve_bytes >= 0,
        "`weights.quota_bytes` is above 0 and `weights.reserve_bytes` is not below it",
    )


def _engine_rules(config: MinerConfig) -> Iterator[tuple[bool, str]]:
    """(does it hold, what is wrong when it does not)"""
    yield config.engine_threads >= 1, "`engine_threads` is at least 1"
    yield config.instances_max >= 1, "`instances_max` is at least 1"
    yield (
        config.runtime not in IMAGED or bool(config.images),
        (
            f"with the runtime {config.runtime.value}, `images` names the image of each kind of engine, "
            f"or a `{DEFAULT_IMAGE}`"
        ),
    )
    yield config.kubernetes.user > 0, "`kubernetes.user` is above 0: engines never run as root"
    yield (
        bool(config.chutes) or config.auto,
        "name a chute in `chutes`, or set `auto` to serve what the market lacks",
    )
