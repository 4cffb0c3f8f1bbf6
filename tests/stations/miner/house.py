"""Engines that outlive agents, in memory: a runtime's tasks with engines in front of them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.makers import MANIFEST

from penstock.kit.engine import (
    AlwaysOn,
    Capability,
    EngineExit,
    EngineFailed,
    EngineStats,
    Sleep,
)
from penstock.kit.metrics import Metrics
from penstock.kit.runtime import Ending, Running, Task
from penstock.kit.tasks import Scope
from penstock.miner.budget import Memory, Slot
from penstock.miner.config import Deadlines
from penstock.miner.fleet import Fleet
from penstock.miner.instance import Instance, Launch
from penstock.miner.inventory import Inventory
from penstock.miner.launcher import Launcher
from penstock.miner.weights import Say
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.life import State
from penstock.spec.messages import Manifest, chute_id

GIB = 1 << 30
CARD = Slot("GPU-1", "nvidia-l4", "card-1", 24 * GIB, frozenset({"", "any", "gpu", "nvidia-l4"}))
START_MS = 1_000


@dataclass
class Tenant:
    """A task that runs, whoever looks."""

    launch: Launch
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_asleep: bool = False


@dataclass
class House:
    """Where engines run. Implements kit.runtime.Runtime as far as a caretaker needs it."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    capabilities: frozenset[Capability] = frozenset({Capability.CHAT, Capability.SUSPEND})
    beats: int = 0
    fails: str = ""
    """Why nothing starts now."""
    insomnia: bool = False
    """Nothing falls asleep, and says so."""
    used_bytes: dict[str, int] = field(default_factory=dict)
    is_deaf: bool = False
    """The agent is dead: whatever it still asks for is never done."""

    async def hear(self) -> None:
        """Every word to an engine comes through here."""
        if self.is_deaf:
            await asyncio.Event().wait()

    @property
    def kind(self) -> str:
        return "house"

    def engine(self, launch: Launch) -> "HouseEngine":
        return HouseEngine(self, launch)

    def kill(self, name: str) -> None:
        self.tenants.pop(name).ended.set()

    async def readings(self) -> dict[str, int]:
        return dict(self.used_bytes)

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        raise AssertionError((task.name, deadline_ms))

    async def list(self) -> tuple[Running, ...]:
        return tuple(Running(name, "c", "", 0) for name in self.tenants)

    async def beat(self) -> None:
        self.beats += 1

    async def wait(self, name: str) -> Ending:
        await self.tenants[name].ended.wait()
        return Ending(0, "it ended", "")

    async def logs(self, name: str, *, bytes_max: int) -> str:
        return name[:bytes_max]

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        assert deadline_ms > 0
        if name in self.tenants:
            self.kill(name)


class HouseEngine(AlwaysOn):
    """Implements kit.engine.Engine over a house."""

    def __init__(self, house: House, launch: Launch) -> None:
        self.house = house
        self.name = launch.instance
        self._launch = launch
        self._tenant: Tenant | None = None

    @property
    def address(self) -> str:
        return "http://127.0.0.1:1"

    @property
    def model(self) -> str:
        return "m"

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.house.capabilities

    async def start(self, *, deadline_ms: int) -> None:
        assert deadline_ms > START_MS
        await self.house.hear()
        if self.house.fails:
            raise EngineFailed(reason=self.house.fails, log_tail="", remedy="")
        found = self.house.tenants.get(self.name)
        if found is not None and not found.is_asleep:
            self.house.adopted.append(self.name)
            self._tenant = found
            return
        self._tenant = self.house.tenants[self.name] = Tenant(self._launch)
        await asyncio.sleep(START_MS / 1000)
        await self.house.hear()
        for card in self._launch.cards:
            self.house.used_bytes[card] = self.house.used_bytes.get(card, 0) + 5 * GIB
        self.house.loads.append(self.name)

    async def stats(self) -> EngineStats:
        tenant = self._tenant
        return EngineStats(0, 0, ready=tenant is not None and not tenant.ended.is_set())

    async def wait_exit(self) -> EngineExit:
        assert self._tenant is not None
        await self._tenant.ended.wait()
        return EngineExit(wanted=False, reason="it was killed", log_tail="", remedy="")

    async def suspend(self, level: Sleep) -> None:
        assert level is Sleep.LIGHT
        await self.house.hear()
        assert self._tenant is not None
        if self.house.insomnia:
            raise EngineFailed(reason="it cannot sleep", log_tail="", remedy="")
        self._tenant.is_asleep = True

    async def resume(self) -> None:
        assert self._tenant is not None
        await self.house.hear()
        if self.house.fails:
            raise EngineFailed(reason=self.house.fails, log_tail="", remedy="")
        self._tenant.is_asleep = False

    async def stop(self, *, deadline_ms: int) -> None:
        await self.house.hear()
        await self.house.stop(self.name, deadline_ms=deadline_ms)


@dataclass
class Agent:
    """One life of an agent: a fleet over what outlives it. `withdrawn` are the offers taken back."""

    fleet: Fleet
    scope: Scope
    withdrawn: list[str] = field(default_factory=list)

    def states(self) -> dict[str, State]:
        return {name: one.state for name, one in self.fleet.instances.items()}

    async def until(self, condition: Callable[[], object], *, within_ms: int = 60_000) -> None:
        async with asyncio.timeout(within_ms / 1000):
            while not condition():
                await asyncio.sleep(0.01)

    async def serving(self, count: int = 1) -> list[Instance]:
        """That many instances are open; here they are."""
        found = self.fleet.instances
        await self.until(lambda: sum(one.is_open for one in found.values()) == count)
        return [one for one in found.values() if one.is_open]


def agent(
    house: House, journal: MemoryOutbox, scope: Scope, *, slots: tuple[Slot, ...] = (CARD,)
) -> Agent:
    """A life of the agent that has not read its journal yet."""
    withdrawn: list[str] = []

    async def withdraw(instance: Instance) -> None:
        withdrawn.append(instance.name)

    deadlines = Deadlines(drain_ms=5_000)
    fleet = Fleet(
        miner_name="m",
        suffix="0a",
        launcher=Launcher(house.engine, OneSize(), deadlines, house.readings),
        inventory=Inventory(journal),
        memory=Memory(slots),
        deadlines=deadlines,
        metrics=Metrics(),
        withdraw=withdraw,
    )
    return Agent(fleet, scope, withdrawn)


class DeadlyDisk(MemoryOutbox):
    """The disk of an agent that is killed right after its `writes`-th line."""

    def __init__(self, house: House, writes: int) -> None:
        super().__init__()
        self.killed = asyncio.Event()
        self._house = house
        self._left = writes

    def append(self, line: bytes) -> None:
        if self._left:
            super().append(line)
            self._left -= 1
        if not self._left:
            self._house.is_deaf = True
            self.killed.set()


class OneSize:
    """Implements miner.weights.Weights: every model has the same size. 4 GiB: two fit on the card."""

    def __init__(self, gib: int = 4) -> None:
        self.gib = gib
        self.dropped: list[str] = []

    async def pull(self, manifest: Manifest, *, instance: str, say: Say) -> None:
        assert manifest.name
        say(f"fetching for {instance}")

    def size_bytes(self, manifest: Manifest) -> int:
        assert manifest.name
        return self.gib * GIB

    def drop(self, manifest: Manifest, *, instance: str) -> None:
        assert manifest.name
        self.dropped.append(instance)


def chute(name: str, *, hardware: str = "gpu") -> tuple[str, Manifest]:
    manifest = replace(MANIFEST, name=name, hardware=hardware)
    return chute_id(manifest), manifest
