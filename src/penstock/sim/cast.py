"""Who and what is in a world, and what will go wrong in it: drawn from the seed before it begins.

A pure function of the seed and the length, so a story can be read before it is played.
"""

from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256
from random import Random

from penstock.sim.engine import Habits
from penstock.sim.seeds import Chance

CHAT, EMBEDDINGS = "sim/chat", "sim/embed"
HONEST_CHAT_MINERS_MIN = 2
FAULTS_EVERY_S = 18
FIRST_FAULT_S = 8
FLAPS_EVERY_S = 90
HIDDEN_SHARE = 0.4
GATEWAYS_MAX = 3
KEY_PREFIX = "sk-penstock-"
PLENTY_NANO = 10**12


class Trait(Enum):
    """What a miner is like."""

    HONEST = "honest"
    OVERCOUNTS = "overcounts"
    """Its engine claims more tokens than it made."""
    REPLAYS = "replays"
    """It hands out an old receipt instead of a new one."""
    REFUSES = "refuses"
    """It offers room and then has none."""
    SKEWED = "skewed"
    """Its clock is far off."""


class Habit(Enum):
    """What a person is like."""

    CHATTER = "chatter"
    BURSTY = "bursty"
    EMBEDDER = "embedder"
    LEAVER = "leaver"
    """Hangs up in mid-answer."""
    POOR = "poor"
    FORGER = "forger"
    """Wrong keys, broken JSON, unknown models."""


class Fault(Enum):
    """What goes wrong with the world itself."""

    MINER_DIES = "miner_dies"
    ENGINE_DIES = "engine_dies"
    MINER_SLOWS = "miner_slows"
    GATEWAY_DIES = "gateway_dies"
    LEDGER_DIES = "ledger_dies"
    MARKET_DIES = "market_dies"
    VALIDATOR_DIES = "validator_dies"
    BUS_DOWN = "bus_down"
    STORE_DOWN = "store_down"
    DISK_FULL = "disk_full"
    PARTITION = "partition"
    NAT_FORGETS = "nat_forgets"
    """The router of a miner behind NAT starts anew: what was open is dead, and nobody is told."""


LONGEST_MS = {
    Fault.MINER_SLOWS: 25_000,
    Fault.DISK_FULL: 25_000,
    # A validator may sleep over a whole epoch: then it is settled without its report.
    Fault.VALIDATOR_DIES: 90_000,
}


@dataclass(frozen=True, slots=True)
class MinerPart:
    """One miner: what it serves, how well, at what share of the price."""

    name: str
    chutes: tuple[str, ...]
    trait: Trait
    token_us: int
    first_us: int
    slots_max: int
    claimed_ppm: int
    price_share_ppm: int
    clock_skew_ms: int
    is_hidden: bool = False
    """Behind NAT: it reaches gateways, and nothing reaches it."""
    owner: str = ""
    """Whose node it is, by a delegation to its key; "": its own."""
    machine: str = ""
    """What its hardware calls itself; "": a machine of its own."""

    def habits(self) -> Habits:
        """How its engines begin."""
        return Habits(
            token_us=self.token_us,
            first_us=self.first_us,
            slots_max=self.slots_max,
            claimed_ppm=self.claimed_ppm,
            refuses=self.trait is Trait.REFUSES,
        )


@dataclass(frozen=True, slots=True)
class PersonPart:
    """One caller."""

    name: str
    habit: Habit
    credit_nano: int
    pause_ms: int


@dataclass(frozen=True, slots=True)
class Payer:
    """An account, its key, and what it begins with."""

    account: str
    secret: str
    credit_nano: int

    @property
    def key_hash(self) -> str:
        """By which the ledger knows the key."""
        return sha256(self.secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FaultPart:
    """Something that happens at a time, for a while. `aim` picks its victim."""

    fault: Fault
    at_ms: int
    lasts_ms: int
    aim: int


@dataclass(frozen=True, slots=True)
class Cast:
    """Everything that is drawn beforehand."""

    gateways: tuple[str, ...]
    validators: tuple[str, ...]
    miners: tuple[MinerPart, ...]
    people: tuple[PersonPart, ...]
    faults: tuple[FaultPart, ...]
    duplicate_ppm: int
    loss_ppm: int

    @property
    def payers(self) -> tuple[Payer, ...]:
        """Who has an account: people, and validators, who probe as people do."""
        funds = {one.name: one.credit_nano for one in self.people}
        funds |= dict.fromkeys(self.validators, PLENTY_NANO)
        return tuple(
            Payer(account=name, secret=KEY_PREFIX + name, credit_nano=credit)
            for name, credit in funds.items()
        )


def draw_cast(seed: int, *, length_ms: int) -> Cast:
    """The cast of the world with this seed, for so long."""
    chance = Chance(seed)
    rng = chance.stream("cast")
    gateways = tuple(f"gateway-{letter}" for letter in "abc"[: rng.randint(1, GATEWAYS_MAX)])
    miners = _hidden(chance.stream("cast/hidden"), _miners(chance.stream("cast/miners")))
    return Cast(
        gateways=gateways,
        validators=("validator-1", "validator-2"),
        miners=miners,
        people=_people(chance.stream("cast/people")),
        faults=_faults(chance.stream("cast/faults"), length_ms=length_ms)
        + _flaps(chance.stream("cast/flaps"), miners, length_ms=length_ms),
        duplicate_ppm=rng.choice([0, 10_000, 200_000]),
        loss_ppm=rng.choice([0, 0, 2_000]),
    )


def _miners(rng: Random) -> tuple[MinerPart, ...]:
    count = rng.randint(5, 7)
    traits = [Trait.HONEST] * HONEST_CHAT_MINERS_MIN
    traits += rng.choices(
        [Trait.HONEST, Trait.OVERCOUNTS, Trait.REPLAYS, Trait.REFUSES, Trait.SKEWED],
        weights=[4, 2, 2, 1, 2],
        k=count - len(traits),
    )
    parts = []
    for index, trait in enumerate(traits):
        embeds = index == 1 or (index > 1 and rng.random() < 0.3)
        serves_chat = index != 1 and (not embeds or rng.random() < 0.5)
        chutes = ((CHAT,) if serves_chat or not embeds else ()) + ((EMBEDDINGS,) if embeds else ())
        parts.append(
            MinerPart(
                name=f"miner-{index + 1}",
                chutes=chutes if index else (CHAT,),
                trait=trait,
                token_us=rng.choice([5_000, 20_000, 60_000]),
                first_us=rng.randint(10_000, 200_000),
                slots_max=rng.randint(2, 5),
                claimed_ppm=rng.choice([3_000_000, 12_000_000])
                if trait is Trait.OVERCOUNTS
                else 1_000_000,
                price_share_ppm=rng.choice([1_000_000, 900_000, 600_000]),
                clock_skew_ms=rng.choice([-90_000, -5_000, 5_000, 90_000])
                if trait is Trait.SKEWED
                else rng.randint(-300, 300),
            )
        )
    return tuple(parts)


def _hidden(rng: Random, miners: tuple[MinerPart, ...]) -> tuple[MinerPart, ...]:
    """Some of them are behind NAT. One who replays stands in front of a miner that must be dialled."""
    chosen = [rng.random() < HIDDEN_SHARE for _ in miners]
    return tuple(
        replace(one, is_hidden=is_hidden and one.trait is not Trait.REPLAYS)
        for one, is_hidden in zip(miners, chosen, strict=True)
    )


def _flaps(rng: Random, miners: tuple[MinerPart, ...], *, length_ms: int) -> tuple[FaultPart, ...]:
    """Routers that start anew, for every miner that is behind one."""
    faults = []
    for index, one in enumerate(miners):
        at_ms = FIRST_FAULT_S * 1000 + rng.randrange(FLAPS_EVERY_S * 1000)
        while one.is_hidden and at_ms < length_ms:
            faults.append(FaultPart(fault=Fault.NAT_FORGETS, at_ms=at_ms, lasts_ms=0, aim=index))
            at_ms += round(rng.expovariate(1 / (FLAPS_EVERY_S * 1000)))
    return tuple(faults)


def _people(rng: Random) -> tuple[PersonPart, ...]:
    habits = [Habit.CHATTER] * 4 + [Habit.BURSTY, Habit.EMBEDDER, Habit.LEAVER, Habit.POOR]
    habits += [Habit.FORGER]
    habits += rng.choices(list(Habit)[:4], weights=[4, 1, 2, 2], k=rng.randint(3, 6))
    return tuple(
        PersonPart(
            name=f"person-{index + 1}",
            habit=habit,
            # A few cents in the end; a poor one can pay for some answers and then for none.
            credit_nano=rng.randint(15_000, 400_000) if habit is Habit.POOR else PLENTY_NANO,
            pause_ms=rng.choice([3_000, 5_000, 9_000]),
        )
        for index, habit in enumerate(habits)
    )


def _faults(rng: Random, *, length_ms: int) -> tuple[FaultPart, ...]:
    weights = {
        Fault.MINER_DIES: 5,
        Fault.ENGINE_DIES: 3,
        Fault.MINER_SLOWS: 2,
        Fault.GATEWAY_DIES: 4,
        Fault.LEDGER_DIES: 3,
        Fault.MARKET_DIES: 2,
        Fault.VALIDATOR_DIES: 2,
        Fault.BUS_DOWN: 3,
        Fault.STORE_DOWN: 2,
        Fault.DISK_FULL: 1,
        Fault.PARTITION: 2,
    }
    faults = []
    at_ms = FIRST_FAULT_S * 1000
    while at_ms < length_ms:
        (fault,) = rng.choices(list(weights), weights=list(weights.values()))
        longest_ms = LONGEST_MS.get(fault, 9_000)
        faults.append(
            FaultPart(
                fault=fault,
                at_ms=at_ms,
                lasts_ms=rng.randint(300, longest_ms),
                aim=rng.getrandbits(16),
            )
        )
        at_ms += round(rng.expovariate(1 / (FAULTS_EVERY_S * 1000)))
    return tuple(faults)
