"""A whole market in one process on virtual time: `simulate(seed, hours=...)`.

The stations are the production classes; only their ports are memory. People ask, adversaries do
what the seed says, the rules are checked all the while, and when people have gone home the world
must come to rest.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.sim.adversaries import Adversary
from penstock.sim.cast import Cast, Trait, draw_cast
from penstock.sim.checks import BookChecks
from penstock.sim.endings import Endings
from penstock.sim.ground import Ground, make_ground
from penstock.sim.hosts import Host, Main
from penstock.sim.loop import Deadlock, HorizonPassed, VirtualLoop, run
from penstock.sim.miners import MinerHost
from penstock.sim.opening import Opening
from penstock.sim.operator import Operator
from penstock.sim.people import Person
from penstock.sim.rest import Rest
from penstock.sim.result import Result
from penstock.sim.seeds import Chance
from penstock.sim.validators import ValidatorHost
from penstock.sim.witness import Alarm

HOUR_MS = 3_600_000
CHECK_EVERY_S = 10
CHECKS_PER_COLLECTION = 6
OFFERS_S = 3
"""From the miners' start until their offers have reached every gateway."""
REST_S_MAX = 400
"""Longer than an order's life and the epoch in which the last claim is settled."""
PEOPLE_S_MAX = 200
LIARS = frozenset({Trait.REPLAYS, Trait.OVERCOUNTS})

Progress = Callable[[int, int], None]
"""(virtual ms, of): told at every check."""


class World:
    """One seed. Make it inside nothing, run `main` on its loop. A `cast` that is given takes the place
    of the one that is drawn.
    """

    def __init__(
        self, seed: int, *, length_ms: int, loop: VirtualLoop, cast: Cast | None = None
    ) -> None:
        chance = Chance(seed)
        self.seed = seed
        self.length_ms = length_ms
        self.ground: Ground = make_ground(
            cast or draw_cast(seed, length_ms=length_ms), chance, loop
        )
        self.operator = Operator(self.ground)
        self.hosts: dict[str, Host] = {}
        self.miners = {part.name: MinerHost(self.ground, part) for part in self.ground.cast.miners}
        liars = frozenset(one.identity for one in self.miners.values() if one.part.trait in LIARS)
        self.people = [Person(self.ground, part, liars=liars) for part in self.ground.cast.people]
        self.validators = {
            payer.account: ValidatorHost(self.ground, payer.account, api_key=payer.secret)
            for payer in self.ground.cast.payers
            if payer.account in self.ground.cast.validators
        }
        self._add("market", self.operator.run_market)
        self._add("ledger", self.operator.run_ledger)
        for name in self.ground.cast.gateways:
            self._add(name, self.operator.run_gateway)
        for name, miner in self.miners.items():
            self._add(name, miner.run)
        for name, validator in self.validators.items():
            self._add(name, validator.run)
        for part in self.ground.cast.miners:
            if part.is_hidden:
                self.ground.network.hide(part.name)
        self.adversary = Adversary(self.ground, self.hosts, self.miners)
        self.books = BookChecks(self.ground)
        self.rest = Rest(self.ground, self.operator, self.miners)
        self.endings = Endings(self.ground, self.books)
        self.checks = 0

    def _add(self, name: str, main: Main) -> None:
        host = Host(name, main, network=self.ground.network, errands=self.ground.errands)
        self.hosts[name] = host

    async def main(self, progress: Progress | None = None) -> None:
        """From the opening to the end."""
        ground = self.ground
        with listening(ground):
            await self._open()
            watch = ground.errands.start("checks", self._watch(progress))
            await self._play()
            await self._come_to_rest()
            watch.cancel()
            self.books.check()
            if not ground.witness.broken:
                await self.endings.check()
            await self._close()
        for one in sorted(ground.ledger_store.books.accounts.items()):
            ground.note("books", f"{one}")
        ground.note("log", f"{ground.ledger_store.frontier.root().hex()}")

    def result(self) -> Result:
        """What came of it."""
        ground = self.ground
        return Result(
            seed=self.seed,
            hours=self.length_ms / HOUR_MS,
            trace=ground.trace.digest,
            events=ground.trace.count,
            virtual_ms=ground.now_ms,
            counts=dict(sorted(ground.witness.counts.items())),
            outcomes=dict(sorted(self.endings.outcomes.items())),
            faults=self.adversary.played,
            epochs_settled=len(self.endings.epochs),
            epochs_audited=self.endings.audited,
            checks=self.checks,
            broken=tuple(ground.witness.broken),
        )

    async def _open(self) -> None:
        """Stations start in an order that nobody promises; here the miners come last."""
        opening = Opening(self.ground)
        for host in self.hosts.values():
            host.start()
        for host in self.hosts.values():
            await host.wait_ready()
        await opening.deploy()
        for payer in self.ground.cast.payers:
            await opening.open_account(payer)
        await opening.close()
        await asyncio.sleep(OFFERS_S)

    async def _play(self) -> None:
        """People and adversaries, until all of them are done."""
        ground = self.ground
        until_s = ground.loop.time() + self.length_ms / 1000
        tasks = [
            ground.errands.start(person.part.name, person.live(until_s)) for person in self.people
        ]
        tasks += [
            ground.errands.start(f"fault {number}", self.adversary.play(part))
            for number, part in enumerate(ground.cast.faults)
        ]
        _, late = await asyncio.wait(tasks, timeout=self.length_ms / 1000 + PEOPLE_S_MAX)
        for task in late:
            ground.witness.breaks("everybody gets an answer in the end", task.get_name())
            task.cancel()

    async def _come_to_rest(self) -> None:
        ground = self.ground
        await self._end_probing()
        deadline_s = ground.loop.time() + REST_S_MAX
        held = self.rest.held()
        while held and ground.loop.time() < deadline_s and not ground.witness.broken:
            await asyncio.sleep(1)
            held = self.rest.held()
        if held and not ground.witness.broken:
            ground.witness.breaks("at rest, nothing is held", "; ".join(held))

    async def _end_probing(self) -> None:
        """Validators go on to report, but ask no more questions."""
        for name, validator in self.validators.items():
            validator.probes_per_epoch = 0
            await self.hosts[name].stop()
            self.hosts[name].start()

    async def _close(self) -> None:
        """Every station ends in order when it is asked to, gateways and miners first."""
        for host in reversed(self.hosts.values()):
            if host.is_up and not await host.stop():
                self.ground.witness.breaks("every station stops when asked", host.name)

    async def _watch(self, progress: Progress | None) -> None:
        """The standing rules, every ten seconds. Garbage is collected at times of our choosing,
        because a collection may finish a forgotten generator, and that is an event.
        """
        while True:
            if progress is not None:
                progress(self.ground.now_ms, self.length_ms)
            self.books.check()
            self.checks += 1
            if self.checks % CHECKS_PER_COLLECTION == 0:
                gc.collect()
            await asyncio.sleep(CHECK_EVERY_S)


def simulate(seed: int, *, hours: float, progress: Progress | None = None) -> Result:
    """Play one seed for so many virtual hours."""
    loop = VirtualLoop()
    world = World(seed, length_ms=round(hours * HOUR_MS), loop=loop)
    play(world, progress)
    return world.result()


def play(world: World, progress: Progress | None = None) -> None:
    """Run a world to its end; a world that hangs has broken a rule, too."""
    with collecting_by_hand():
        try:
            run(_contained(world, progress), world.ground.loop)
        except (Deadlock, HorizonPassed) as error:
            world.ground.witness.breaks("the world goes on", str(error))


async def _contained(world: World, progress: Progress | None) -> None:
    """A simulation that fails itself is a finding like any other, not the end of a soak."""
    await asyncio.wait([world.ground.errands.start("world", world.main(progress))])


@contextmanager
def collecting_by_hand() -> Iterator[None]:
    """No garbage collection in between."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def listening(ground: Ground) -> Iterator[None]:
    """Alarms of all stations reach the witness; nothing is printed."""
    root = logging.getLogger("penstock")
    alarm, before = Alarm(ground.witness), (root.level, root.propagate)
    root.addHandler(alarm)
    root.setLevel(logging.WARNING)
    root.propagate = False
    ground.loop.set_exception_handler(
        lambda _loop, context: ground.witness.breaks("no error is lost", f"{context}")
    )
    try:
        yield
    finally:
        root.removeHandler(alarm)
        root.setLevel(before[0])
        root.propagate = before[1]
