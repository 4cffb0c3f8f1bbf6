"""Demand: targets, prices and bounties follow from usage by a sum anyone can do by hand."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST

from penstock.spec.demand import Standing, Usage, asked, target, utilisation_ppm
from penstock.spec.messages import Target, chute_id
from penstock.spec.params import LOCAL
from penstock.spec.units import PPM

EPOCH_US = LOCAL.epoch_ms * 1000
IDLE = Usage(requests=10, refused=0, busy_us=0, serving=2, parallel=4)
BUSY = replace(IDLE, busy_us=2 * 4 * EPOCH_US * 8 // 10)
STEADY = replace(IDLE, busy_us=2 * 4 * EPOCH_US // 2)


def before(**changes: Any) -> Target:
    """A target of the epoch before: two wanted, two serving, steady."""
    base = Target(
        chute=chute_id(MANIFEST),
        instances=2,
        serving=2,
        price_ppm=PPM,
        bounty_points=0,
        requests=10,
        refused=0,
        busy_us=STEADY.busy_us,
    )
    return replace(base, **changes)


def test_utilisation_is_busy_time_over_all_time_there_was() -> None:
    assert utilisation_ppm(busy_us=EPOCH_US, serving=2, parallel=2, epoch_ms=60_000) == 250_000
    assert utilisation_ppm(busy_us=5, serving=0, parallel=2, epoch_ms=60_000) == 0


def test_a_new_chute_starts_at_its_minimum_and_the_manifests_price() -> None:
    nothing = Usage(requests=0, refused=0, busy_us=0, serving=1, parallel=4)
    found = target(MANIFEST, replace(nothing, busy_us=2 * EPOCH_US), params=LOCAL, previous=None)
    assert (found.instances, found.price_ppm, found.bounty_points) == (1, PPM, 0)
    assert found.chute == chute_id(MANIFEST)


def test_a_busy_chute_wants_one_more_and_pays_a_step_more() -> None:
    found = target(MANIFEST, BUSY, params=LOCAL, previous=before())
    assert (found.instances, found.price_ppm) == (3, PPM + LOCAL.price_step_ppm)


def test_refusals_raise_the_target_in_their_proportion() -> None:
    refused = replace(STEADY, refused=5, serving=4)
    assert target(MANIFEST, refused, params=LOCAL, previous=before(instances=4)).instances == 6
    one = replace(STEADY, refused=1, serving=4)
    assert target(MANIFEST, one, params=LOCAL, previous=before(instances=4)).instances == 5


def test_a_target_that_is_not_met_is_not_raised_but_its_price_is() -> None:
    found = target(MANIFEST, BUSY, params=LOCAL, previous=before(instances=5))
    assert (found.instances, found.price_ppm) == (5, PPM + LOCAL.price_step_ppm)


def test_one_idle_epoch_lowers_the_price_and_a_second_one_the_target() -> None:
    first = target(MANIFEST, IDLE, params=LOCAL, previous=before())
    assert (first.instances, first.price_ppm) == (2, PPM - LOCAL.price_step_ppm)
    second = target(MANIFEST, IDLE, params=LOCAL, previous=first)
    assert (second.instances, second.price_ppm) == (1, PPM - 2 * LOCAL.price_step_ppm)


def test_a_steady_chute_changes_nothing() -> None:
    found = target(MANIFEST, STEADY, params=LOCAL, previous=before())
    assert (found.instances, found.price_ppm) == (2, PPM)


@pytest.mark.parametrize("level_ppm", [LOCAL.utilisation_low_ppm, LOCAL.utilisation_high_ppm])
def test_at_exactly_a_threshold_nothing_changes(level_ppm: int) -> None:
    usage = replace(STEADY, busy_us=2 * 4 * EPOCH_US * level_ppm // PPM)
    found = target(MANIFEST, usage, params=LOCAL, previous=before(busy_us=0))
    assert (found.instances, found.price_ppm) == (2, PPM)


def test_a_wanted_chute_that_nobody_serves_carries_a_bounty() -> None:
    nobody = Usage(requests=3, refused=3, busy_us=0, serving=0, parallel=4)
    found = target(MANIFEST, nobody, params=LOCAL, previous=None)
    assert (found.instances, found.bounty_points) == (1, LOCAL.bounty_points)


def test_a_chute_of_minimum_zero_is_woken_by_requests_and_rests_without() -> None:
    sleeping = replace(MANIFEST, instances_min=0)
    nobody = Usage(requests=0, refused=0, busy_us=0, serving=0, parallel=4)
    resting = target(sleeping, nobody, params=LOCAL, previous=None)
    assert (resting.instances, resting.bounty_points, resting.price_ppm) == (0, 0, PPM)
    woken = target(sleeping, replace(nobody, requests=1, refused=1), params=LOCAL, previous=resting)
    assert (woken.instances, woken.bounty_points) == (1, LOCAL.bounty_points)


counts = st.integers(0, 1000)


@given(counts, counts, st.integers(0, 10**12), st.integers(0, 20), counts, st.integers(0, 10**7))
def test_targets_and_prices_stay_within_their_bounds(
    requests: int, refused: int, busy_us: int, serving: int, instances: int, price_ppm: int
) -> None:
    usage = Usage(requests, refused, busy_us, serving, 4)
    earlier = before(instances=instances, price_ppm=price_ppm)
    found = target(MANIFEST, usage, params=LOCAL, previous=earlier)
    assert MANIFEST.instances_min <= found.instances <= MANIFEST.instances_max
    assert LOCAL.price_min_ppm <= found.price_ppm <= LOCAL.price_max_ppm
    assert (found.bounty_points > 0) == (serving == 0)


standings = st.lists(
    st.builds(Standing, st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 3)),
    unique_by=lambda one: one.instance,
)


@given(standings, st.integers(-1, 6), st.randoms(use_true_random=False))
def test_the_first_to_come_are_asked_whatever_order_they_are_told_in(
    some: list[Standing], instances: int, chance: random.Random
) -> None:
    chosen = asked(some, instances)
    assert chosen == asked(chance.sample(some, len(some)), instances)
    assert len(chosen) == min(max(instances, 0), len(some))
    left = [one for one in some if one.instance not in chosen]
    latest = max((one.since_ms for one in some if one.instance in chosen), default=-1)
    assert all(one.since_ms >= latest for one in left)


def test_equal_ages_go_by_name() -> None:
    assert asked([Standing("b", 1), Standing("a", 1), Standing("z", 0)], 2) == ("z", "a")
