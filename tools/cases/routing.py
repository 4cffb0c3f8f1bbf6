"""Routing: filters with their reasons, and rankings for some seeds."""

from dataclasses import replace
from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.routing import Candidate, Need, rank, why
from penstock.spec.units import FREE, Price

PRICE = Price(request=0, prompt=50, cached=10, completion=200_000_000, images=0, audio_ms=0)
ONE = Candidate("a", "toy:m", "c", PRICE, 4, 0, 1_000, 0, 0)
FIELD = [
    ONE,
    replace(ONE, instance="b", ewma_us_per_unit=2_000),
    replace(ONE, instance="c", inflight=3),
    replace(ONE, instance="d", ewma_us_per_unit=0),
    replace(ONE, instance="e", failures=2),
    replace(ONE, instance="f", price=FREE),
    replace(ONE, instance="g", inflight=4),
    replace(ONE, instance="h", broken_until_ms=1_001),
    replace(ONE, instance="i", broken_until_ms=1_000),
    replace(ONE, instance="j", chute="other"),
    replace(ONE, instance="k", price=replace(PRICE, prompt=51)),
]
NEED = Need(chutes=("c",), price_max=PRICE, prompt_bytes=400, completion_max=100)


def read(given: Any) -> tuple[list[Candidate], Need]:
    candidates = [from_plain(Candidate, one) for one in given["candidates"]]
    return candidates, from_plain(Need, given["need"])


def run_rank(given: Any) -> Any:
    candidates, need = read(given)
    return list(rank(candidates, need, now_ms=given["now_ms"], seed=given["seed"]))


def run_why(given: Any) -> Any:
    candidates, need = read(given)
    reasons = why(candidates, need, now_ms=given["now_ms"])
    return {instance: reason.value for instance, reason in reasons.items()}


def case(field: list[Candidate], need: Need = NEED) -> Any:
    return {
        "candidates": [to_plain(one) for one in field],
        "need": to_plain(need),
        "now_ms": 1_000,
    }


FUNCTIONS = {
    "why": (
        run_why,
        {"field": case(FIELD), "any_price": case(FIELD, replace(NEED, price_max=None))},
    ),
    "rank": (
        run_rank,
        {
            "nobody": {**case([]), "seed": 1},
            **{
                f"field_seed_{seed}": {**case(FIELD), "seed": seed}
                for seed in (0, 1, 2, 3, 2**53 - 1)
            },
        },
    ),
}
