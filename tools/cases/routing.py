"""Routing: reasons, merits, draws, decisions, and what is believed of caches."""

from dataclasses import dataclass
from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.prefixes import DISTANCE_BUCKETS, held, return_rates
from penstock.spec.pricing import is_within
from penstock.spec.routing import (
    EXPLORING,
    POLICY,
    Considered,
    Decision,
    Need,
    Usual,
    check_decision,
    cost_factor_ppm,
    draws,
    merit,
    rejection,
)
from penstock.spec.units import Price

PRICE = Price(request=0, prompt=50, cached=10, completion=200_000_000, images=0, audio_ms=0)


@dataclass(frozen=True)
class Seen:
    """A candidate and its standing, as plain numbers."""

    chute: str
    price: Price
    valid_until_ms: int
    room: int
    running: int
    rests_until_ms: int
    paces_ns: tuple[int, ...]
    failures: int
    given_us: int
    cost_ppm: int

    def fits(self, price_max: Price) -> bool:
        return is_within(self.price, price_max)


ONE = {
    "chute": "c",
    "price": to_plain(PRICE),
    "valid_until_ms": 2_000,
    "room": 4,
    "running": 1,
    "rests_until_ms": 0,
    "paces_ns": [0, 900],
    "failures": 0,
    "given_us": 5_000,
    "cost_ppm": 1_000_000,
}
NEED = {"chute": "c", "price_max": to_plain(PRICE)}
USUAL = {"pace_ns": 1_000, "given_us": 100, "mean_us": 5_000}
DEAR = {**to_plain(PRICE), "prompt": 51}


def run_rejection(given: Any) -> Any:
    one, need = from_plain(Seen, given["candidate"]), from_plain(Need, given["need"])
    reason = rejection(one, need, now_ms=given["now_ms"])
    return None if reason is None else reason.value


def run_merit(given: Any) -> Any:
    usual = Usual(**given["usual"])
    one = from_plain(Seen, given["candidate"])
    return merit(one, given["work"], bucket=given["bucket"], usual=usual)


def run_draws(given: Any) -> Any:
    return list(draws(given["seed"], given["size"], count=given["count"]))


def run_cost(given: Any) -> Any:
    return cost_factor_ppm(given["cost_nano"], given["usual_nano"])


def run_decision(given: Any) -> Any:
    check_decision(from_plain(Decision, given))
    return "ok"


def run_held(given: Any) -> Any:
    hits, misses = [0] * DISTANCE_BUCKETS, [0] * DISTANCE_BUCKETS
    for bucket, count in given["hits"]:
        hits[bucket] = count
    for bucket, count in given["misses"]:
        misses[bucket] = count
    belief = held(hits, misses)
    return {"edge": belief.edge, "share_ppm": list(belief.share_ppm[:16])}


def run_rates(given: Any) -> Any:
    counts = given["returned"] + [0] * (48 - len(given["returned"]))
    return list(return_rates(counts, given["gone"])[:16])


def seen(**changes: Any) -> Any:
    return {"candidate": {**ONE, **changes}, "need": NEED, "now_ms": 1_000}


def weighed(**changes: Any) -> Any:
    return {"candidate": {**ONE, **changes}, "work": 100, "bucket": 1, "usual": USUAL}


def decided(*merits: int, choice: str = "a", policy: str = POLICY, seed: int = 1) -> Any:
    considered = tuple(
        Considered(instance=name, reason="", merit=value, cached_ppm=0)
        for name, value in zip("abcdefghi", merits, strict=False)
    )
    refused = Considered(instance="z", reason="no_room", merit=0, cached_ppm=0)
    return to_plain(Decision(policy, seed, 9, (*considered, refused), choice))


FUNCTIONS = {
    "rejection": (
        run_rejection,
        {
            "fit": seen(),
            "other_chute": seen(chute="d"),
            "last_moment": seen(valid_until_ms=1_000),
            "expired": seen(valid_until_ms=999),
            "too_dear": seen(price=DEAR),
            "any_price": {**seen(price=DEAR), "need": {"chute": "c", "price_max": None}},
            "resting": seen(rests_until_ms=1_001),
            "rested": seen(rests_until_ms=1_000),
            "full": seen(running=4),
        },
    ),
    "merit": (
        run_merit,
        {
            "usual": weighed(),
            "noise": weighed(paces_ns=[0, 1_300]),
            "slow": weighed(paces_ns=[0, 1_301]),
            "unknown": weighed(paces_ns=[0, 0]),
            "busy": weighed(running=3),
            "failing": weighed(failures=2),
            "ahead": weighed(given_us=5_640),
            "far_ahead": weighed(given_us=80_000_000),
            "behind": weighed(given_us=0),
            "dear": weighed(cost_ppm=4_000_000),
        },
    ),
    "draws": (
        run_draws,
        {
            **{
                f"seed_{seed}": {"seed": seed, "size": 20, "count": 4} for seed in (0, 1, 2**48 - 1)
            },
            "all": {"seed": 5, "size": 3, "count": 4},
        },
    ),
    "cost_factor_ppm": (
        run_cost,
        {
            "half": {"cost_nano": 50, "usual_nano": 100},
            "free": {"cost_nano": 0, "usual_nano": 100},
            "ten_times": {"cost_nano": 1_000, "usual_nano": 100},
            "all_free": {"cost_nano": 0, "usual_nano": 0},
        },
    ),
    "check_decision": (
        run_decision,
        {
            "best": decided(5, 7),
            "passed_over": decided(7, 5),
            "refused": decided(5, choice="z"),
            "stranger": decided(5, choice="y"),
            "too_many": decided(1, 2, 3, 4, 5, 6, 7, 8),
            "exploring": decided(7, 5, policy=EXPLORING, seed=6),
            "not_its_turn": decided(7, 5, policy=EXPLORING, seed=1),
            "asked_for": decided(7, 5, policy=POLICY + "/price"),
        },
    ),
    "held": (
        run_held,
        {
            "nothing": {"hits": [], "misses": []},
            "edge": {"hits": [[3, 90], [4, 80], [5, 10]], "misses": [[4, 5], [5, 40], [6, 70]]},
            "hits_only": {"hits": [[3, 90]], "misses": []},
            "misses_only": {"hits": [], "misses": [[3, 90]]},
        },
    ),
    "return_rates": (
        run_rates,
        {
            "nothing": {"returned": [], "gone": 0},
            "soon": {"returned": [10, 20, 30, 40, 20, 5], "gone": 50},
            "never": {"returned": [], "gone": 9},
        },
    ),
}
