"""Who serves a request: the ranking of instances, a pure function of what the gateway knows.

Hard filters come first (chute, breaker, room, price), then expected time weighed by cost. Two
weighted draws decide the first place, so that many gateways with the same picture do not all rush to
the same instance; the rest follow by merit. All chance comes from the integer seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from penstock.spec.evidence import lower_median
from penstock.spec.pricing import charge_ceiling, is_within, prompt_units_max
from penstock.spec.units import PPM, Price

EXPLORE_ONE_IN = 8
"""One request in this many tries an instance whose speed is not known yet, if one is free."""

COST_FACTOR_MIN_PPM = 250_000
COST_FACTOR_MAX_PPM = 4_000_000
"""Cost counts against the median cost of the field, at most four times either way: a very cheap
offer cannot buy all the traffic of a slow instance."""

PROMPT_BYTES_PER_UNIT = 4
"""The usual size of a prompt unit. Only the expected time uses it, never a charge."""

_DRAW_SCALE = 1 << 20
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance as the gateway sees it.

    `room` is what its offer says, `inflight` what this gateway has there now. `ewma_us_per_unit` is
    0 until measured. `failures` are the latest ones in a row; until `broken_until_ms` (exclusive)
    the breaker keeps the instance out.
    """

    instance: str
    miner: str
    chute: str
    price: Price
    room: int
    inflight: int
    ewma_us_per_unit: int
    failures: int
    broken_until_ms: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks for: any of these chutes, no part dearer than `price_max` (None: any)."""

    chutes: tuple[str, ...]
    price_max: Price | None
    prompt_bytes: int
    completion_max: int


class Rejection(Enum):
    """Why an instance may not serve a request."""

    OTHER_CHUTE = "other_chute"
    BROKEN = "broken"
    NO_ROOM = "no_room"
    TOO_DEAR = "too_dear"


def why(candidates: Sequence[Candidate], need: Need, *, now_ms: int) -> dict[str, Rejection]:
    """The rejected instances and the first reason of each, in the order of `Rejection`."""
    reasons = ((one.instance, _rejection(one, need, now_ms)) for one in candidates)
    return {instance: reason for instance, reason in reasons if reason is not None}


def rank(candidates: Sequence[Candidate], need: Need, *, now_ms: int, seed: int) -> tuple[str, ...]:
    """Instances that may serve, best first. Empty when none may.

    Merit is expected time x cost factor, lower is better. Time is the measured time per unit times
    the units asked for, longer by the share of its room in use and by each failure in a row. Of two
    draws, weighted by merit, the better goes first; once in EXPLORE_ONE_IN a free unmeasured one
    does. Unmeasured ones count as fast as the lower median of the measured. The rest are in order
    of merit, ties to the lower name. The order of `candidates` does not matter.
    """
    fit = [one for one in candidates if _rejection(one, need, now_ms) is None]
    if not fit:
        return ()
    merits = _merits(fit, need)
    ranked = sorted(merits, key=lambda name: (merits[name], name))
    first = _explored(fit, seed)
    if first is None:
        first = _drawn(ranked, merits, seed)
    return (first, *(name for name in ranked if name != first))


def _rejection(one: Candidate, need: Need, now_ms: int) -> Rejection | None:
    if one.chute not in need.chutes:
        return Rejection.OTHER_CHUTE
    if now_ms < one.broken_until_ms:
        return Rejection.BROKEN
    if one.inflight >= one.room:
        return Rejection.NO_ROOM
    if need.price_max is not None and not is_within(one.price, need.price_max):
        return Rejection.TOO_DEAR
    return None


def _merits(fit: list[Candidate], need: Need) -> dict[str, int]:
    """Expected time x cost factor by instance: always above 0, lower is better."""
    measured = [one.ewma_us_per_unit for one in fit if one.ewma_us_per_unit > 0]
    usual = lower_median(measured) if measured else 1
    prompt_max = prompt_units_max(need.prompt_bytes)
    costs = {
        one.instance: charge_ceiling(
            one.price, prompt_max=prompt_max, completion_max=need.completion_max
        )
        for one in fit
    }
    cost = lower_median(list(costs.values()))
    units = max(1, need.prompt_bytes // PROMPT_BYTES_PER_UNIT + need.completion_max)
    merits = {}
    for one in fit:
        pace = one.ewma_us_per_unit if one.ewma_us_per_unit > 0 else usual
        time_us = pace * units * (one.room + one.inflight) * (1 + one.failures) // one.room
        factor = costs[one.instance] * PPM // cost if cost else PPM
        factor = min(max(factor, COST_FACTOR_MIN_PPM), COST_FACTOR_MAX_PPM)
        merits[one.instance] = max(1, time_us) * factor
    return merits


def _explored(fit: list[Candidate], seed: int) -> str | None:
    """The unmeasured, unused instance to try now, if it is time to try one."""
    unknown = sorted(one.instance for one in fit if one.ewma_us_per_unit <= 0 and not one.inflight)
    if not unknown or _mix(seed, 0) % EXPLORE_ONE_IN:
        return None
    return unknown[_mix(seed, 1) % len(unknown)]


def _drawn(ranked: list[str], merits: dict[str, int], seed: int) -> str:
    """The better of two draws with replacement, each as likely as it is quick and cheap.

    Equally good draws go to the first one, so equals share evenly whatever their names are.
    """
    best = merits[ranked[0]]
    weights = [max(1, best * _DRAW_SCALE // merits[name]) for name in ranked]
    total = sum(weights)
    one, other = (ranked[_place(weights, _mix(seed, draw) % total)] for draw in (2, 3))
    return one if merits[one] <= merits[other] else other


def _place(weights: list[int], point: int) -> int:
    """The index whose part of the line 0..sum(weights) holds this point."""
    place = 0
    while point >= weights[place]:
        point -= weights[place]
        place += 1
    return place


def _mix(seed: int, salt: int) -> int:
    """SplitMix64 (Steele, Lea, Flood 2014): a well-mixed 64-bit number from a seed and a salt."""
    word = (seed + (salt + 1) * 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
