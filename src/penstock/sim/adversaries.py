"""What goes wrong, played out: each fault of the cast happens at its time and is over after a while."""

import asyncio
from typing import assert_never

from penstock.sim.cast import Fault, FaultPart
from penstock.sim.ground import FILES_BYTES_MAX, Ground
from penstock.sim.hosts import Host
from penstock.sim.miners import MinerHost

SLOWER = 10
WAIT_FOR_WORK_S = 3
TORN_BYTES_MAX = 20


class Adversary:
    """Plays faults on the hosts of a world."""

    def __init__(
        self, ground: Ground, hosts: dict[str, Host], miners: dict[str, MinerHost]
    ) -> None:
        self._ground = ground
        self._hosts = hosts
        self._miners = miners
        self._rng = ground.chance.stream("adversary")
        self.played = 0

    async def play(self, part: FaultPart) -> None:
        """Wait for its time, do it, and undo it."""
        await asyncio.sleep(part.at_ms / 1000 - self._ground.loop.time())
        victim = self._victim(part)
        self._ground.note("fault", f"{part.fault.value} {victim} {part.lasts_ms}")
        self.played += 1
        self._ground.witness.counts[f"fault {part.fault.value}"] += 1
        await self._do(part, victim)

    def _victim(self, part: FaultPart) -> str:
        cast = self._ground.cast
        match part.fault:
            case Fault.MINER_DIES | Fault.ENGINE_DIES | Fault.MINER_SLOWS:
                names = [one.name for one in cast.miners]
            case Fault.PARTITION | Fault.NAT_FORGETS:
                names = [one.name for one in cast.miners]
            case Fault.GATEWAY_DIES:
                names = list(cast.gateways)
            case Fault.VALIDATOR_DIES:
                names = list(cast.validators)
            case Fault.LEDGER_DIES:
                names = ["ledger"]
            case Fault.MARKET_DIES:
                names = ["market"]
            case Fault.BUS_DOWN | Fault.STORE_DOWN | Fault.DISK_FULL:
                names = ["operator"]
            case _:
                assert_never(part.fault)
        return names[part.aim % len(names)]

    async def _do(self, part: FaultPart, victim: str) -> None:
        lasts_s = part.lasts_ms / 1000
        match part.fault:
            case Fault.MINER_DIES:
                await self._kill_miner(victim, lasts_s)
            case Fault.GATEWAY_DIES:
                await self._wait_for_work()
                await self._kill(victim, lasts_s)
            case Fault.LEDGER_DIES | Fault.MARKET_DIES | Fault.VALIDATOR_DIES:
                await self._kill(victim, lasts_s)
            case Fault.NAT_FORGETS:
                self._ground.network.forget(victim)
            case Fault.ENGINE_DIES:
                for engine in list(self._miners[victim].engines):
                    await engine.crash()
            case Fault.MINER_SLOWS:
                habits = self._miners[victim].habits
                habits.token_us *= SLOWER
                await asyncio.sleep(lasts_s)
                habits.token_us //= SLOWER
            case Fault.BUS_DOWN | Fault.STORE_DOWN | Fault.DISK_FULL | Fault.PARTITION:
                self._outage(part.fault, victim, is_over=False)
                await asyncio.sleep(lasts_s)
                self._outage(part.fault, victim, is_over=True)
            case _:
                assert_never(part.fault)

    def _outage(self, fault: Fault, victim: str, *, is_over: bool) -> None:
        """Something that all share is away, or back."""
        ground = self._ground
        if fault is Fault.BUS_DOWN:
            ground.bus.down = not is_over
        elif fault is Fault.STORE_DOWN:
            ground.database.is_down = not is_over
        elif fault is Fault.DISK_FULL:
            ground.files.bytes_max = FILES_BYTES_MAX if is_over else 0
        elif is_over:
            ground.network.heal()
        else:
            for gateway in ground.cast.gateways:
                ground.network.partition(gateway, victim)

    async def _kill(self, name: str, lasts_s: float) -> bool:
        """Kill a host and start it again; False when it is down already."""
        host = self._hosts.get(name)
        if host is None or not host.is_up:
            return False
        await host.kill()
        self._ground.note(name, "killed")
        await asyncio.sleep(lasts_s)
        host.start()
        return True

    async def _kill_miner(self, name: str, lasts_s: float) -> None:
        """A miner may lose its power, too: then what it had not synced is gone, torn somewhere."""
        host = self._hosts[name]
        if not host.is_up:
            return
        has_power = self._rng.random() < 0.5
        await host.kill()
        if not has_power:
            self._miners[name].outbox.cut_power(torn_bytes=self._rng.randrange(TORN_BYTES_MAX))
        self._ground.note(name, f"killed {has_power}")
        await asyncio.sleep(lasts_s)
        host.start()

    async def _wait_for_work(self) -> None:
        """A gateway is most worth killing while it serves."""
        placed = self._ground.witness.placed
        placed.clear()
        try:
            async with asyncio.timeout(WAIT_FOR_WORK_S):
                await placed.wait()
        except TimeoutError:
            pass  # Nobody asks anything: an idle gateway dies as well.
        await asyncio.sleep(self._rng.random())
