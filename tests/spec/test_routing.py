"""Routing: what is ruled out, what counts how much, and that chance comes from the seed alone."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.spell import spell_digest
from penstock.spec.canon import digest, from_plain, to_plain
from penstock.spec.errors import BadMessage
from penstock.spec.pricing import is_within
from penstock.spec.routing import (
    COST_FACTOR_MAX_PPM,
    COST_FACTOR_MIN_PPM,
    EXPLORE_ONE_IN,
    EXPLORING,
    PASSING,
    POLICY,
    SEED_BITS,
    Considered,
    Decision,
    Need,
    Rejection,
    Usual,
    check_decision,
    cost_factor_ppm,
    draws,
    is_exploring,
    merit,
    rejection,
    request_work,
    steady_pace_ns,
)
from penstock.spec.units import PPM, Price

PRICE = Price(
    request=0, prompt=50_000_000, cached=10_000_000, completion=200_000_000, images=0, audio_ms=0
)
DEAR = replace(PRICE, completion=400_000_000)
NEED = Need(chute="sha256:c", price_max=PRICE)
USUAL = Usual(pace_ns=1_000, given_us=100, mean_us=5_000)


@dataclass(frozen=True)
class Seen:
    """An instance as plain numbers: a candidate and its standing."""

    chute: str = "sha256:c"
    price: Price = PRICE
    valid_until_ms: int = 2_000
    room: int = 4
    running: int = 0
    rests_until_ms: int = 0
    paces_ns: tuple[int, ...] = (0, 1_000)
    failures: int = 0
    given_us: int = 5_000
    cost_ppm: int = PPM

    def fits(self, price_max: Price) -> bool:
        return is_within(self.price, price_max)


ONE = Seen()


def weigh(one: Seen, work: int = 1_000, *, usual: Usual = USUAL) -> int:
    return merit(one, work, bucket=1, usual=usual)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (ONE, None),
        (replace(ONE, chute="sha256:d"), Rejection.OTHER_CHUTE),
        (replace(ONE, valid_until_ms=999), Rejection.EXPIRED),
        (replace(ONE, valid_until_ms=1_000), None),
        (replace(ONE, price=DEAR), Rejection.TOO_DEAR),
        (replace(ONE, rests_until_ms=1_001), Rejection.BROKEN),
        (replace(ONE, rests_until_ms=1_000), None),
        (replace(ONE, running=4), Rejection.NO_ROOM),
        (replace(ONE, room=0), Rejection.NO_ROOM),
    ],
)
def test_what_may_not_serve_is_said_why(candidate: Seen, reason: Rejection | None) -> None:
    assert rejection(candidate, NEED, now_ms=1_000) is reason


def test_without_a_bound_any_price_fits() -> None:
    assert rejection(replace(ONE, price=DEAR), replace(NEED, price_max=None), now_ms=1) is None


def test_the_first_reason_in_their_order_is_the_one_that_is_said() -> None:
    worst = Seen(
        chute="other", price=DEAR, valid_until_ms=0, room=0, rests_until_ms=9_999, running=1
    )
    mended = [
        worst,
        replace(worst, chute="sha256:c"),
        replace(worst, chute="sha256:c", valid_until_ms=9_999),
        replace(worst, chute="sha256:c", valid_until_ms=9_999, price=PRICE),
        replace(worst, chute="sha256:c", valid_until_ms=9_999, price=PRICE, rests_until_ms=0),
    ]
    said = [rejection(one, NEED, now_ms=1_000) for one in mended]
    assert said == [
        Rejection.OTHER_CHUTE,
        Rejection.EXPIRED,
        Rejection.TOO_DEAR,
        Rejection.BROKEN,
        Rejection.NO_ROOM,
    ]
    assert {one for one in said if one in PASSING} == PASSING


def test_load_failures_slowness_cost_and_more_work_make_an_instance_worse() -> None:
    usual = weigh(ONE)
    for worse in (
        replace(ONE, running=3),
        replace(ONE, failures=1),
        replace(ONE, paces_ns=(0, 2_000)),
        replace(ONE, cost_ppm=2 * PPM),
        replace(ONE, given_us=6_000),
    ):
        assert weigh(worse) > usual
    assert weigh(ONE, 2_000) > usual


def test_a_pace_is_taken_for_the_size() -> None:
    assert weigh(replace(ONE, paces_ns=(9_000, 1_000))) == weigh(ONE)
    assert weigh(replace(ONE, paces_ns=(1_000, 9_000))) > weigh(ONE)


def test_nobody_is_judged_by_what_is_noise_and_nobody_unmeasured_by_guesses() -> None:
    assert weigh(replace(ONE, paces_ns=(0, 1_300))) == weigh(ONE)
    assert weigh(replace(ONE, paces_ns=(0, 701))) == weigh(ONE)
    assert weigh(replace(ONE, paces_ns=(0, 0))) == weigh(ONE)
    assert steady_pace_ns(1_301, 1_000) == 1_301


def test_being_behind_earns_nothing_and_being_ahead_costs_at_most_half() -> None:
    assert weigh(replace(ONE, given_us=0)) == weigh(ONE)
    far, farther = replace(ONE, given_us=10**9), replace(ONE, given_us=10**12)
    assert weigh(far) == weigh(farther)
    assert weigh(far) - 1 == (weigh(ONE) - 1) * 3 // 2


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_being_ahead_weighs_alike_on_long_and_on_short_prompts(
    short: int, factor: int, given_us: int
) -> None:
    """Otherwise long prompts gather on some instances and short ones on others."""
    ahead = replace(ONE, given_us=given_us)
    long = short * factor
    assert abs((weigh(ahead, long) - 1) - (weigh(ahead, short) - 1) * factor) <= 2 * factor


def test_an_answer_weighs_more_than_a_prompt_of_the_same_length() -> None:
    assert request_work(fresh=0, completion=10) > 10 * request_work(fresh=10, completion=0)
    assert request_work(fresh=7, completion=0) == 7


def test_cost_counts_against_the_field_within_four_times() -> None:
    assert cost_factor_ppm(100, 100) == PPM
    assert cost_factor_ppm(50, 100) == PPM // 2
    assert cost_factor_ppm(0, 100) == COST_FACTOR_MIN_PPM
    assert cost_factor_ppm(10**9, 100) == COST_FACTOR_MAX_PPM
    assert cost_factor_ppm(0, 0) == PPM


def test_draws_are_even_over_many_seeds() -> None:
    found = Counter(place for seed in range(4_000) for place in draws(seed, 20, count=4))
    assert set(found) == set(range(20))
    assert all(650 < count < 950 for count in found.values())


@given(st.integers(0, 2**48 - 1), st.integers(1, 1_000), st.integers(1, 6))
def test_draws_are_different_places_and_the_same_for_the_same_seed(
    seed: int, size: int, count: int
) -> None:
    found = draws(seed, size, count=count)
    assert len(set(found)) == len(found) == min(size, count)
    assert all(0 <= place < size for place in found)
    assert list(found) == list(draws(seed, size, count=count))


def test_all_places_come_in_a_row_from_a_drawn_start() -> None:
    for seed in range(30):
        found = draws(seed, 5, count=5)
        assert all((after - before) % 5 == 1 for before, after in pairwise(found))
    assert len({draws(seed, 5, count=5)[0] for seed in range(30)}) == 5


def test_one_request_in_so_many_explores() -> None:
    turns = sum(is_exploring(seed) for seed in range(8_000))
    assert 0.85 < turns * EXPLORE_ONE_IN / 8_000 < 1.15


def decided(
    *merits: int, choice: str = "a", policy: str = POLICY, seed: int = 1, refused: int = 0
) -> Decision:
    fit = [Considered(name, "", value, 0) for name, value in zip("abcdefgh", merits, strict=False)]
    others = [Considered(f"r-{number}", "no_room", 0, 0) for number in range(refused)]
    return Decision(policy, seed, 9, (*fit, *others), choice)


@pytest.mark.parametrize(
    "decision",
    [
        decided(5),
        decided(5, 5, choice="b"),
        decided(5, 7, refused=6),
        decided(7, 5, policy=EXPLORING, seed=next(s for s in range(99) if is_exploring(s))),
        decided(7, 5, policy=POLICY + "/order"),
    ],
)
def test_a_decision_that_follows_its_policy_holds(decision: Decision) -> None:
    check_decision(decision)


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (decided(7, 5), "better instance"),
        (decided(5, choice="x"), "not fit"),
        (decided(5, choice="r-0", refused=1), "not fit"),
        (decided(5, refused=8), "too many"),
        (decided(5, seed=1 << SEED_BITS), "seed too long"),
        (decided(5, seed=-1), "seed too long"),
        (
            decided(7, 5, policy=EXPLORING, seed=next(s for s in range(99) if not is_exploring(s))),
            "not time",
        ),
    ],
)
def test_a_decision_that_does_not_is_refused(decision: Decision, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason):
        check_decision(decision)


def test_a_decision_has_one_digest_by_both_spellings() -> None:
    decision = decided(5, 7, refused=3)
    assert spell_digest("decision", decision) == digest("decision", to_plain(decision))
    assert from_plain(Decision, to_plain(decision)) == decision
