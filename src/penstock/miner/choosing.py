"""Which plug-in decides what runs here, and what becomes of its errors: serving goes on.

A placement is a pure function: everything it may know is in a frozen Situation, all it may do is the
Plan that it returns. The one that comes with Penstock (`Rendezvous`) is in `placement.py`; an owner may
name another, by an entry point or a file:

    def choose(situation):                       # mine.py, then: penstock miner up --placement mine.py
        wanted = [one for one in situation.chutes if one.missing > 0 and situation.can_run(one)]
        dearest = sorted(wanted, key=lambda one: -one.price_ppm)
        return Plan(start=tuple((one.chute, True) for one in dearest[: situation.room]))
"""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Errands, crash_recorder
from penstock.miner.budget import Slot
from penstock.miner.placement import Abilities, ChuteView, Patience, Placed, Plan, can_run, plan

CHOOSE_MS_MAX = 2_000
"""A plug-in that takes longer is not waited for; it is not asked again until it has come back."""
ACTIONS_MAX = 1_024

_log = events("miner")


@dataclass(frozen=True, slots=True)
class Demand:
    """What the market said of a chute when its last epoch closed; 0 where it said nothing.

    `price_ppm` multiplies the manifest's price. `busy_us` is the time of all answers together.
    """

    price_ppm: int = 1_000_000
    bounty_points: int = 0
    requests: int = 0
    refused: int = 0
    busy_us: int = 0


NO_DEMAND = Demand()


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a placement may know. Times are milliseconds of the market's clock."""

    abilities: Abilities
    chutes: tuple[ChuteView, ...]
    placed: tuple[Placed, ...]
    miners: tuple[str, ...]
    patience: Patience
    now_ms: int
    beat_ms: int
    demand: Mapping[str, Demand] = field(default_factory=dict)
    """By chute."""
    slots: tuple[Slot, ...] = ()
    taken_bytes: Mapping[str, int] = field(default_factory=dict)
    """By slot."""

    @property
    def room(self) -> int:
        """How many more instances this miner may run."""
        return max(self.abilities.instances_max - len(self.placed), 0)

    def can_run(self, view: ChuteView) -> bool:
        """Is there an engine for it, and hardware of the class it asks for?"""
        return can_run(view.manifest, self.abilities)

    def demand_of(self, chute: str) -> Demand:
        return self.demand.get(chute, NO_DEMAND)


class Placement(Protocol):
    """A policy of what to run."""

    def choose(self, situation: Situation) -> Plan:
        """What to start and stop now. The same situation gives the same plan."""
        ...


class Rendezvous:
    """What the owner named, then what the market lacks, by rank and patience (`placement.py`)."""

    def choose(self, situation: Situation) -> Plan:
        return plan(
            situation.abilities,
            situation.chutes,
            placed=situation.placed,
            miners=situation.miners,
            patience=situation.patience,
            at=(situation.now_ms, situation.beat_ms),
        )


def rest(situation: Situation) -> Plan:
    """Nothing runs: a planned absence."""
    return Plan(start=(), stop=tuple(one.instance for one in situation.placed), patience=Patience())


@dataclass(slots=True)
class Chooser:
    """Asks the owner's placement, if there is one, and takes the default's plan when it fails."""

    metrics: Metrics
    owned: Placement | None = None
    default: Placement = field(default_factory=Rendezvous)
    deadline_ms: int = CHOOSE_MS_MAX
    why: str = ""
    """Why the owner's placement is not followed, "" when it is."""
    _is_out: bool = False
    """Whether a thread is still in the owner's code."""

    async def choose(self, situation: Situation) -> Plan:
        """Never raises; what makes no sense in a plan is left out."""
        if self.owned is None:
            return self.default.choose(situation)
        if self._is_out:
            self._say("it has not come back from an earlier look")
            return self.default.choose(situation)
        answer = await self._ask(self.owned, situation)
        if not isinstance(answer, Plan):
            self._say(answer if isinstance(answer, str) else "it returned no Plan")
            return self.default.choose(situation)
        self.why = ""
        return sensible(answer, situation)

    async def _ask(self, owned: Placement, situation: Situation) -> object:
        """What it returned, or in words why it returned nothing. In a thread: it may never end."""
        loop = asyncio.get_running_loop()
        said: asyncio.Future[object] = loop.create_future()
        errands = Errands(crash_recorder(self.metrics))

        def tell(answer: object) -> None:
            self._is_out = False
            if not said.done():
                said.set_result(answer)

        def hand_over(answer: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, answer)

        def call(known: Situation) -> None:
            hand_over(owned.choose(known))

        def work() -> None:
            errands.guard(
                "placement",
                call,
                situation,
                on_crash=lambda error: hand_over(f"{type(error).__name__}: {error}"),
            )

        self._is_out = True
        # A daemon: code that hangs must not keep the miner from ending.
        threading.Thread(target=work, name="placement", daemon=True).start()
        try:
            async with asyncio.timeout(self.deadline_ms / 1000):
                return await said
        except TimeoutError:
            return f"it took longer than {self.deadline_ms} ms"

    def _say(self, why: str) -> None:
        self.metrics.count("miner_placement_failed_total")
        if why != self.why:
            _log.warning("placement.not_followed", why=why, remedy="the default decides meanwhile")
        self.why = why


def sensible(answer: Plan, situation: Situation) -> Plan:
    """What of a stranger's plan can be done: known chutes that can run here, within `instances_max`."""
    placed = {one.instance for one in situation.placed}
    stop = tuple(dict.fromkeys(one for one in answer.stop[:ACTIONS_MAX] if one in placed))
    runnable = {view.chute: view for view in situation.chutes if situation.can_run(view)}
    named = set(situation.abilities.wanted)
    start: dict[str, bool] = {}
    for entry in answer.start[:ACTIONS_MAX]:
        chute = entry[0] if isinstance(entry, tuple) and entry else entry
        view = runnable.get(chute) if isinstance(chute, str) else None
        if view is not None:
            start[view.chute] = not named & {view.chute, view.manifest.name}
    room = situation.abilities.instances_max - len(placed) + len(stop)
    return Plan(start=tuple(start.items())[: max(room, 0)], stop=stop, patience=answer.patience)
