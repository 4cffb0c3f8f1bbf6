"""Routing: what is filtered, what ranks first, and that chance comes from the seed alone."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.routing import (
    EXPLORE_ONE_IN,
    Candidate,
    Need,
    Rejection,
    rank,
    why,
)
from penstock.spec.units import FREE, Price

PRICE = Price(
    request=0, prompt=50_000_000, cached=10_000_000, completion=200_000_000, images=0, audio_ms=0
)
DEAR = replace(PRICE, completion=400_000_000)
ONE = Candidate(
    instance="a",
    miner="toy:m",
    chute="sha256:c",
    price=PRICE,
    room=4,
    inflight=0,
    ewma_us_per_unit=1000,
    failures=0,
    broken_until_ms=0,
)
NEED = Need(chutes=("sha256:c",), price_max=None, prompt_bytes=400, completion_max=100)
SEEDS = range(2000)


def firsts(*candidates: Candidate, need: Need = NEED) -> Counter[str]:
    """How often each instance comes first over many seeds."""
    return Counter(rank(candidates, need, now_ms=1000, seed=seed)[0] for seed in SEEDS)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (replace(ONE, chute="sha256:d"), Rejection.OTHER_CHUTE),
        (replace(ONE, broken_until_ms=1001), Rejection.BROKEN),
        (replace(ONE, inflight=4), Rejection.NO_ROOM),
        (replace(ONE, room=0), Rejection.NO_ROOM),
        (replace(ONE, price=DEAR), Rejection.TOO_DEAR),
    ],
)
def test_what_may_not_serve_is_left_out_and_said_why(
    candidate: Candidate, reason: Rejection
) -> None:
    need = replace(NEED, price_max=PRICE)
    assert rank([candidate], need, now_ms=1000, seed=1) == ()
    assert why([candidate], need, now_ms=1000) == {"a": reason}


def test_at_its_last_millisecond_a_breaker_lets_one_in_again() -> None:
    healed = replace(ONE, broken_until_ms=1000)
    assert rank([healed], NEED, now_ms=1000, seed=1) == ("a",)
    assert why([healed], NEED, now_ms=1000) == {}


def test_nobody_is_ranked_when_nobody_is_there() -> None:
    assert rank([], NEED, now_ms=1000, seed=1) == ()


def test_the_faster_instance_comes_first_mostly_but_not_only() -> None:
    found = firsts(ONE, replace(ONE, instance="b", ewma_us_per_unit=3000))
    assert found["a"] > 4 * found["b"] > 0


def test_load_failures_and_cost_push_an_instance_back() -> None:
    for worse in (
        replace(ONE, instance="b", inflight=3),
        replace(ONE, instance="b", failures=2),
        replace(ONE, instance="b", price=DEAR),
    ):
        found = firsts(ONE, worse)
        assert found["a"] > found["b"]


def test_equals_share_evenly_whatever_their_names_are() -> None:
    found = firsts(*(replace(ONE, instance=name) for name in "abcd"))
    assert all(400 < count < 600 for count in found.values())


def test_a_free_unmeasured_instance_is_tried_now_and_then() -> None:
    quick = replace(ONE, ewma_us_per_unit=1)
    unknown = [replace(ONE, instance=name, ewma_us_per_unit=0) for name in ("u", "v")]
    slow = [replace(ONE, instance=name, ewma_us_per_unit=10**6) for name in ("x", "y")]
    found = firsts(quick, *slow, *unknown)
    expected = len(SEEDS) // EXPLORE_ONE_IN
    assert expected // 2 < found["u"] + found["v"] < expected * 2
    assert min(found["u"], found["v"]) > 0


def test_an_unmeasured_instance_in_use_is_not_tried_again() -> None:
    quick = replace(ONE, ewma_us_per_unit=1)
    usual = replace(ONE, instance="s", ewma_us_per_unit=10**6)
    more = replace(ONE, instance="t", ewma_us_per_unit=10**6)
    found = firsts(quick, usual, more, replace(ONE, instance="u", ewma_us_per_unit=0, inflight=1))
    assert found["u"] == 0


def test_a_market_where_nobody_is_measured_still_serves() -> None:
    found = firsts(*(replace(ONE, instance=name, ewma_us_per_unit=0) for name in "ab"))
    assert min(found.values()) > 700


def test_free_offers_are_ranked_by_time_alone() -> None:
    found = firsts(
        replace(ONE, price=FREE), replace(ONE, instance="b", price=FREE, ewma_us_per_unit=9000)
    )
    assert found["a"] > 10 * found["b"]


def test_a_free_offer_cannot_buy_the_traffic_of_a_very_slow_instance() -> None:
    slow = replace(ONE, instance="b", price=FREE, ewma_us_per_unit=100_000)
    assert rank([slow, ONE, replace(ONE, instance="c")], NEED, now_ms=1, seed=3)[-1] == "b"


def test_after_the_first_the_rest_follow_by_merit() -> None:
    some = [
        replace(ONE, instance=name, ewma_us_per_unit=n * 1000) for n, name in enumerate("abcd", 1)
    ]
    for seed in range(50):
        first, *rest = rank(some, NEED, now_ms=1, seed=seed)
        assert rest == [name for name in "abcd" if name != first]


prices = st.sampled_from([PRICE, DEAR, FREE])
candidates = st.lists(
    st.builds(
        Candidate,
        instance=st.sampled_from(["a", "b", "c", "d", "e", "f"]),
        miner=st.just("toy:m"),
        chute=st.sampled_from(["sha256:c", "sha256:d"]),
        price=prices,
        room=st.integers(0, 8),
        inflight=st.integers(0, 8),
        ewma_us_per_unit=st.integers(0, 10**6),
        failures=st.integers(0, 20),
        broken_until_ms=st.integers(0, 2000),
    ),
    unique_by=lambda one: one.instance,
)
needs = st.builds(
    Need,
    chutes=st.just(("sha256:c",)),
    price_max=st.one_of(st.none(), prices),
    prompt_bytes=st.integers(0, 10**6),
    completion_max=st.integers(0, 10**5),
)
seeds = st.integers(0, 2**64 - 1)


@given(candidates, needs, seeds)
def test_everyone_is_either_ranked_once_or_rejected(
    some: list[Candidate], need: Need, seed: int
) -> None:
    ranked = rank(some, need, now_ms=1000, seed=seed)
    rejected = why(some, need, now_ms=1000)
    assert not set(ranked) & set(rejected)
    assert sorted([*ranked, *rejected]) == sorted(one.instance for one in some)


@given(candidates, needs, seeds, st.randoms(use_true_random=False))
def test_the_same_seed_ranks_alike_in_whatever_order_candidates_come(
    some: list[Candidate], need: Need, seed: int, chance: random.Random
) -> None:
    mixed = chance.sample(some, len(some))
    one = rank(some, need, now_ms=1000, seed=seed)
    assert one == rank(mixed, need, now_ms=1000, seed=seed)
