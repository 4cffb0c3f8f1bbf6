"""Miners as a world runs them: the production miner with simulated engines, and its adversaries."""

from typing import Any

from penstock.kit.engine import Engine
from penstock.kit.wire.client import HttpClient
from penstock.miner.config import Deadlines, MinerConfig, TunnelConfig, TunnelMode
from penstock.miner.hardware import Hardware
from penstock.miner.instance import Launch
from penstock.miner.ports import Ports
from penstock.miner.service import Miner
from penstock.miner.station import run_miner
from penstock.sim.cast import MinerPart, Trait
from penstock.sim.engine import KIND, SimEngine
from penstock.sim.ground import MARKET_URL, PORT, Ground
from penstock.sim.impostor import Impostor
from penstock.sim.lives import Life, LifeOutbox
from penstock.sim.operator import serving
from penstock.sim.stores_miner import MemoryOutbox
from penstock.sim.tunnels import road_of
from penstock.spec.canon import to_plain
from penstock.spec.keys import Delegation, Role, sign

INSIDE_PORT = 9_000
FOR_EVER_MS = 1 << 50
DEADLINES = Deadlines(engine_idle_ms=10_000, drain_ms=5_000, seal_ms=20_000)


class MinerHost:
    """One miner's machine: what survives its lives, and what runs now."""

    def __init__(self, ground: Ground, part: MinerPart) -> None:
        self.ground = ground
        self.part = part
        self.habits = part.habits()
        self.outbox = MemoryOutbox()
        self.journal = MemoryOutbox()
        self.engines: dict[SimEngine, None] = {}
        self.miner: Miner | None = None

    @property
    def identity(self) -> str:
        """Under which it earns."""
        return self.ground.key(self.part.name).identity

    async def run(self, life: Life) -> None:
        """One life of the miner."""
        ground, name = self.ground, self.part.name
        self.engines.clear()
        network = ground.network.at(name)
        client = HttpClient(network)
        started = ground.loop.create_future()
        started.add_done_callback(lambda done: self._started(done.result(), life))
        ports = Ports(
            clock=ground.clock,
            network=network,
            client=client,
            key=ground.key(name),
            verify=ground.keyring.verify,
            entropy=ground.chance.entropy(f"{name}/{life.number}"),
            engines=self._engine,
            engine_kinds=frozenset({KIND}),
            store=LifeOutbox(self.outbox, life),
            journal=LifeOutbox(self.journal, life),
            road=road_of(ground, name),
        )
        hardware = Hardware(
            kind="cpu",
            model="sim",
            cores=4,
            memory_bytes=1 << 33,
            gpus=(),
            device=f"device-{self.part.machine or name}",
        )
        serve = run_miner(
            ports,
            self._config(),
            params=ground.params,
            hardware=hardware,
            stop=life.stop,
            started=started,
        )
        try:
            if self.part.trait is Trait.REPLAYS:
                inside = f"http://{name}:{INSIDE_PORT}"
                async with serving(ground, life, Impostor(HttpClient(network), inside).serve):
                    await serve
            else:
                await serve
        finally:
            self.miner = None
            await client.close()
            for engine in list(self.engines):
                await engine.crash()

    def _config(self) -> MinerConfig:
        part = self.part
        return MinerConfig(
            name=part.name,
            network=self.ground.params.network,
            market_url=MARKET_URL,
            home="",
            key_file="",
            host=part.name,
            port=INSIDE_PORT,
            endpoint=f"http://{part.name}:{PORT}" if part.trait is Trait.REPLAYS else "",
            chutes=part.chutes,
            price_share_ppm=part.price_share_ppm,
            operator=self.ground.key("operator").identity,
            clock_skew_ms=part.clock_skew_ms,
            delegation=self._delegation(),
            tunnel=TunnelConfig(mode=TunnelMode.ONLY if part.is_hidden else TunnelMode.OFF),
            deadlines=DEADLINES,
        )

    def _delegation(self) -> dict[str, Any] | None:
        """The owner's word for this node's key."""
        if not self.part.owner:
            return None
        owner = self.ground.key(self.part.owner)
        word = Delegation(owner.identity, self.identity, Role.MINER, FOR_EVER_MS)
        plain: dict[str, Any] = to_plain(sign("delegation", word, owner))
        return plain

    def _started(self, miner: Miner, life: Life) -> None:
        if not life.is_over:
            self.miner = miner
            life.ready.set()
            self.ground.note(self.part.name, f"ready {life.number}")

    def _engine(self, launch: Launch) -> Engine:
        del launch
        ground, name = self.ground, self.part.name
        engine = SimEngine(
            self.habits,
            network=ground.network.at(name),
            entropy=ground.chance.entropy(f"{name}/engine"),
        )
        self.engines[engine] = None
        return engine
