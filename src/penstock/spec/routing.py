"""Who serves a request: what may rule an instance out, and what the others are compared by.

A gateway compares a few instances per request: those that are believed to hold the beginning of the
prompt in their cache, and some drawn by chance, so that many gateways with the same picture do not
all rush to the same one. Lower merit is better: the expected time of the whole answer (never of its
first byte alone, which picks wrongly in 44 of 100 cases), the time to compute again what this
request would push out of the cache, what the instance was given beyond its equals, weighed by cost.
All chance comes from the seed, and all of it stands in the `Decision` that is kept with the record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from penstock.spec.errors import BadMessage
from penstock.spec.units import PPM, Price

POLICY = "affinity1"
"""The name of these rules in every decision; other rules need another name. What the caller asked
for instead of the best instance stands behind it: `affinity1/price`."""

EXPLORING = POLICY + "/explore"
"""The policy of a decision that tries an instance which nobody has measured."""

EXPLORE_ONE_IN = 8
"""One request in this many tries an instance whose speed is not known yet, if one is free."""

COST_FACTOR_MIN_PPM = 250_000
COST_FACTOR_MAX_PPM = 4_000_000
"""Cost counts against the median cost of the field, at most four times either way: a very cheap
offer cannot buy all the traffic of a slow instance."""

ANSWER_WORK = 128
"""A token of the answer takes about as long as so many tokens of the prompt: prompts are read in
parallel, answers are written one token after the other. Work is counted in prompt tokens."""

PACE_NOISE_PPM = 300_000

FAIR_REQUESTS = 64
"""An instance that was given so many usual requests more than its equals looks twice as slow, as far
as AHEAD_MAX_PPM lets it."""

AHEAD_MAX_PPM = 500_000

DECISION_SHOWN_MAX = 8
"""Instances named in a decision; how many there were stands beside them."""

SEED_BITS = 48
"""Of a decision's seed: canonical JSON carries no more than 53."""

_WORD = (1 << 64) - 1


class Rejection(Enum):
    """Why an instance may not serve a request, in the order in which it is looked at."""

    OTHER_CHUTE = "other_chute"
    EXPIRED = "expired"
    LOW_TIER = "low_tier"
    NOT_IN_ONLY = "not_in_only"
    IGNORED = "ignored"
    NOT_IN_ORDER = "not_in_order"
    OTHER_QUANTIZATION = "other_quantization"
    PARAMETER_UNSUPPORTED = "parameter_unsupported"
    TOO_DEAR = "too_dear"
    BROKEN = "broken"
    NO_ROOM = "no_room"


PASSING = frozenset({Rejection.EXPIRED, Rejection.BROKEN, Rejection.NO_ROOM})
"""Reasons that waiting may mend. All others are between the caller's wish and the offer."""


class Candidate(Protocol):
    """An instance as the gateway sees it.

    `room` is how many of our orders it takes at once, `running` how many are there; until
    `rests_until_ms` (exclusive) the breaker keeps it out.
    """

    @property
    def chute(self) -> str: ...
    @property
    def valid_until_ms(self) -> int: ...
    @property
    def room(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def rests_until_ms(self) -> int: ...
    def fits(self, price_max: Price) -> bool:
        """Is no part of its price above this? (`pricing.is_within`)"""
        ...


class Standing(Protocol):
    """What an instance is compared by.

    `paces_ns` are nanoseconds per unit of work by size bucket, 0 if unknown; `failures` the latest
    ones in a row; `given_us` what it was given lately, in usual time; `cost_ppm` its price against
    the usual price (`cost_factor_ppm`).
    """

    @property
    def room(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def paces_ns(self) -> Sequence[int]: ...
    @property
    def failures(self) -> int: ...
    @property
    def given_us(self) -> int: ...
    @property
    def cost_ppm(self) -> int: ...


@dataclass(slots=True)
class Usual:
    """The averages of a field: its pace for this size, what one request counts, and what each
    instance was given.
    """

    pace_ns: int
    given_us: int
    mean_us: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks for: this chute, no part dearer than `price_max` (None: any price)."""

    chute: str
    price_max: Price | None


@dataclass(frozen=True, slots=True)
class Considered:
    """One instance in a decision. `reason` is why it may not serve (a `Rejection`), or "" if it may;
    `merit` is what it was judged by, lower is better, 0 if it was rejected; `cached_ppm` the share of
    the prompt that the gateway believed to be in its cache.
    """

    instance: str
    reason: str
    merit: int
    cached_ppm: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a request went where it went. Its digest stands in the order, itself in the record.

    `present` instances offered the chute then; `considered` are those that were compared, best
    first, at most DECISION_SHOWN_MAX. `choice` is the one that was asked first.
    """

    policy: str
    seed: int
    present: int
    considered: tuple[Considered, ...]
    choice: str


def check_decision(decision: Decision) -> None:
    """A decision that follows its own policy. Raises BadMessage.

    The choice was considered and fit. By POLICY itself nobody considered had a lower merit; only at
    its turn does a request explore. What a caller asked for instead is between him and the gateway.
    """
    if len(decision.considered) > DECISION_SHOWN_MAX or not 0 <= decision.seed < 1 << SEED_BITS:
        raise BadMessage(kind="decision", reason="too many instances, or a seed too long")
    fit = {one.instance: one.merit for one in decision.considered if not one.reason}
    chosen = fit.get(decision.choice)
    if chosen is None:
        raise BadMessage(kind="decision", reason="the choice was not fit, or not considered")
    if decision.policy == POLICY and chosen > min(fit.values()):
        raise BadMessage(kind="decision", reason="a better instance was passed over")
    if decision.policy == EXPLORING and not is_exploring(decision.seed):
        raise BadMessage(kind="decision", reason="it was not time to explore")


def rejection(one: Candidate, need: Need, *, now_ms: int) -> Rejection | None:
    """The first reason, in the order of `Rejection`, why this instance may not serve; or None.

    Edges: an offer is good at exactly `valid_until_ms`, a rest is over at exactly `rests_until_ms`.
    """
    if one.chute != need.chute:
        return Rejection.OTHER_CHUTE
    if now_ms > one.valid_until_ms:
        return Rejection.EXPIRED
    if need.price_max is not None and not one.fits(need.price_max):
        return Rejection.TOO_DEAR
    if now_ms < one.rests_until_ms:
        return Rejection.BROKEN
    if one.running >= one.room:
        return Rejection.NO_ROOM
    return None


def request_work(*, fresh: int, completion: int) -> int:
    """Work of a request: prompt tokens that no cache has, and the answer."""
    return fresh + ANSWER_WORK * completion


def merit(one: Standing, work: int, *, bucket: int, usual: Usual) -> int:
    """What an instance is compared by for so much work of this size bucket; lower is better.

    Its pace times the work, longer by the share of its room in use and by each failure in a row;
    longer by the share it is ahead of its equals; weighed by its cost. A pace within PACE_NOISE_PPM
    of the usual one counts as that: answers differ in length, so small differences between equals
    are noise, and noise moves conversations away from their cache. Being ahead counts as a share and
    no sum, or else long prompts and short ones would gather on different instances.
    """
    room = one.room
    pace_ns = steady_pace_ns(one.paces_ns[bucket], usual.pace_ns)
    time_us = work * pace_ns * (room + one.running) * (1 + one.failures) // (room * 1000)
    ahead_us = one.given_us - usual.mean_us
    if ahead_us > 0 and usual.given_us > 0:
        ahead_ppm = ahead_us * PPM // (FAIR_REQUESTS * usual.given_us)
        time_us += time_us * (min(AHEAD_MAX_PPM, ahead_ppm)) // PPM
    return 1 + time_us * one.cost_ppm // PPM


def steady_pace_ns(own_ns: int, usual_ns: int) -> int:
    """An instance's pace, or the usual one if it has none or is within PACE_NOISE_PPM of it."""
    if not own_ns or abs(own_ns - usual_ns) * PPM <= usual_ns * PACE_NOISE_PPM:
        return usual_ns
    return own_ns


def cost_factor_ppm(cost_nano: int, usual_nano: int) -> int:
    """What an offer costs against the usual cost of the field, within four times either way."""
    if usual_nano <= 0:
        return PPM
    return min(max(cost_nano * PPM // usual_nano, COST_FACTOR_MIN_PPM), COST_FACTOR_MAX_PPM)


def is_exploring(seed: int) -> bool:
    """Is it this request's turn to try an instance that nobody has measured?"""
    return mix(seed, 0) % EXPLORE_ONE_IN == 0


def draws(seed: int, size: int, *, count: int) -> Sequence[int]:
    """`count` different places of 0..size-1 by chance; all of them, from a drawn start, if that is
    not more than `count`.
    """
    start = mix(seed, 1) % size
    if size <= count:
        return [*range(start, size), *range(start)]
    found = [start]
    salt = 2
    while len(found) < count:
        place = mix(seed, salt) % size
        salt += 1
        if place not in found:
            found.append(place)
    return found


def mix(seed: int, salt: int) -> int:
    """SplitMix64 (Steele, Lea, Flood 2014): a well-mixed 64-bit number from a seed and a salt."""
    word = (seed + (salt + 1) * 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
