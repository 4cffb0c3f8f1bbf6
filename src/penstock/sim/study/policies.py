"""The policies that are compared: four of the published study, and the gateway's own.

Each says where a request goes and is told what became of it. Only `cache_first` may look into the
caches, as in the study; ours knows what a gateway knows: marks of the prompt, its own past, and what
receipts say.
"""

from collections.abc import Sequence
from random import Random
from typing import Protocol

from penstock.gateway.anchors import BYTES_PER_TOKEN, LADDER, Threads
from penstock.gateway.choice import Asking, Choice, Chooser, Prompt
from penstock.gateway.field import Field
from penstock.gateway.instances import Expected, Instance
from penstock.sim.study.caches import Cache
from penstock.sim.study.traffic import Ask
from penstock.spec.messages import Offer, Tier
from penstock.spec.routing import SEED_BITS, Need, request_work
from penstock.spec.units import FREE

COOLEST = 3
"""The study's "least loaded" is one of the three with the fewest active tokens, by chance."""
ROOM = 64
CHUTE = "sha256:study"
COMPLETION_MAX = 4_096
THREADS_MAX = 65_536
LADDER_TOKENS = tuple(length // BYTES_PER_TOKEN for length in LADDER)


class Policy(Protocol):
    """Where requests go."""

    def choose(self, ask: Ask, active: Sequence[int], /) -> int:
        """The instance for this request; `active` is the tokens in work by instance."""
        ...

    def served(self, ask: Ask, place: int, *, cached: int) -> None:
        """The instance took it and found so much of the prompt in its cache."""
        ...

    def ended(self, ask: Ask, place: int, *, cached: int, took_us: int) -> None:
        """It has answered."""
        ...


def coolest(active: Sequence[int], chance: Random) -> int:
    """One of the three with the fewest active tokens."""
    ordered = sorted(range(len(active)), key=lambda place: (active[place], place))
    return chance.choice(ordered[:COOLEST])


class RoundRobin:
    """One after the other."""

    def __init__(self, caches: Sequence[Cache], seed: int) -> None:
        self._caches = caches
        self._chance = Random(seed)  # noqa: S311 -- reproducible on purpose
        self._turn = -1

    def choose(self, _ask: Ask, _active: Sequence[int], /) -> int:
        self._turn += 1
        return self._turn % len(self._caches)

    def served(self, ask: Ask, place: int, *, cached: int) -> None:
        pass

    def ended(self, ask: Ask, place: int, *, cached: int, took_us: int) -> None:
        pass


class LoadFirst(RoundRobin):
    """The least loaded."""

    def choose(self, _ask: Ask, active: Sequence[int], /) -> int:
        return coolest(active, self._chance)


class Sticky(LoadFirst):
    """Where the user's first request went."""

    def __init__(self, caches: Sequence[Cache], seed: int) -> None:
        super().__init__(caches, seed)
        self._places: dict[int, int] = {}

    def choose(self, ask: Ask, active: Sequence[int], /) -> int:
        place = self._places.get(ask.user)
        if place is None:
            place = self._places[ask.user] = super().choose(ask, active)
        return place


class CacheFirst(LoadFirst):
    """The cache that holds most of the prompt, asked directly; the least loaded if none does."""

    def choose(self, ask: Ask, active: Sequence[int], /) -> int:
        most, place = 0, -1
        for other, cache in enumerate(self._caches):
            reusable = cache.reusable(ask.session, ask.prompt)
            if reusable > most:
                most, place = reusable, other
        return place if most else super().choose(ask, active)


class Ours:
    """The gateway's chooser, on instances that offer the same at the same price."""

    def __init__(self, caches: Sequence[Cache], seed: int) -> None:
        self._chance = Random(seed)  # noqa: S311 -- reproducible on purpose
        self._chooser = Chooser(Threads(THREADS_MAX))
        self._field = Field()
        self._instances = [Instance(_offer(place)) for place in range(len(caches))]
        self._places = {one.name: place for place, one in enumerate(self._instances)}
        for one in self._instances:
            self._field.add(one)
        self._need = Need(chute=CHUTE, price_max=None)
        self._chosen: tuple[Prompt, Choice] | None = None

    def choose(self, ask: Ask, _active: Sequence[int], /) -> int:
        prompt = Prompt(marks=marks_of(ask), tokens=ask.prompt, completion_max=COMPLETION_MAX)
        seed = self._chance.getrandbits(SEED_BITS)
        asking = Asking(need=self._need, now_ms=ask.at_us // 1000, seed=seed)
        choice = self._chooser.choose(self._field, prompt, asking)
        assert choice is not None, "there is always room here"
        self._chosen = prompt, choice
        return self._places[choice.judged[0].instance.name]

    def served(self, ask: Ask, place: int, *, cached: int) -> None:
        assert self._chosen is not None, "chosen before served"
        prompt, choice = self._chosen
        expected: Expected = self._chooser.take(self._field, prompt, choice)
        instance = self._instances[place]
        instance.started()
        instance.expect("", expected)
        instance.told("", cached=cached, completion=ask.completion)

    def ended(self, ask: Ask, place: int, *, cached: int, took_us: int) -> None:
        work = request_work(fresh=ask.prompt - cached, completion=ask.completion)
        self._instances[place].succeeded(total_us=took_us, work=work)


def marks_of(ask: Ask) -> list[int]:
    """What the gateway's marks would be: equal up to where two prompts begin alike."""
    marks = []
    for place, length in enumerate(LADDER_TOKENS):
        if length > ask.prompt:
            break
        marks.append(ask.session << 8 | place)
    return marks


def _offer(place: int) -> Offer:
    return Offer(
        instance=f"instance-{place}",
        miner=f"toy:{place}",
        chute=CHUTE,
        endpoint="",
        price=FREE,
        room=ROOM,
        hardware="study",
        device="",
        tier=Tier.OPEN,
        issued_ms=0,
        valid_until_ms=1 << 50,
        seq=0,
    )


POLICIES: dict[str, type[RoundRobin | Ours]] = {
    "round_robin": RoundRobin,
    "load_first": LoadFirst,
    "sticky": Sticky,
    "cache_first": CacheFirst,
    "penstock": Ours,
}
