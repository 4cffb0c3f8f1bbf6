"""What a miner needs of the world, and its fleet over that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Entropy, Files, Network, Sign, Verify
from penstock.kit.runtime import Runtime
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Handler
from penstock.kit.wire.tunnel_road import Road
from penstock.miner.budget import Memory, slots_of
from penstock.miner.choosing import Placement
from penstock.miner.config import MinerConfig
from penstock.miner.fleet import Fleet
from penstock.miner.hardware import Hardware
from penstock.miner.inventory import Inventory
from penstock.miner.launcher import Engines, Launcher, Readings, no_readings
from penstock.miner.offers import Offers
from penstock.miner.store import OutboxStore
from penstock.miner.weights import OwnWeights, Weights


@dataclass(frozen=True, slots=True)
class Ports:
    """What a miner needs of the world. `engine_kinds` are the engines that `engines` can build.

    `store` keeps receipts, `journal` what runs here. `runtime` is where engines run as tasks, None
    where they do not. `readings` tell how full the cards are.
    """

    clock: Clock
    network: Network
    client: HttpClient
    key: Sign
    verify: Verify
    entropy: Entropy
    engines: Engines
    engine_kinds: frozenset[str]
    store: OutboxStore
    journal: OutboxStore
    runtime: Runtime | None = None
    weights: Weights = field(default_factory=OwnWeights)
    readings: Readings = no_readings
    placement: Placement | None = None
    """The owner's own choice of what runs; None: the one that comes with Penstock."""
    files: Files | None = None
    """Where small things of its own are kept over restarts."""
    pages: Mapping[str, Handler] = field(default_factory=dict)
    """What else is served with GET at its port: path pattern -> handler."""
    road: Road | None = None
    """How tunnel ports of gateways are dialled; only a miner that opens reverse connections needs it."""


def build_fleet(
    ports: Ports, config: MinerConfig, *, hardware: Hardware, metrics: Metrics, offers: Offers
) -> Fleet:
    """The instances, over the journal and the memory of this machine."""
    return Fleet(
        miner_name=config.name,
        suffix=ports.key.identity.rpartition(":")[2][:8],
        launcher=Launcher(
            engines=ports.engines,
            weights=ports.weights,
            deadlines=config.deadlines,
            readings=ports.readings,
        ),
        inventory=Inventory(ports.journal),
        memory=Memory(slots_of(hardware)),
        deadlines=config.deadlines,
        metrics=metrics,
        withdraw=offers.withdraw,
    )


def owner_of(delegation: dict[str, Any] | None, identity: str) -> str:
    """Who stands behind this node's key: whoever delegated to it, or the key itself."""
    body = (delegation or {}).get("body")
    owner = body.get("owner") if isinstance(body, dict) else None
    return owner if isinstance(owner, str) else identity
