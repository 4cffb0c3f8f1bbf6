"""Sharing out: the parts add up to the last unit, and ties have a rule."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.errors import BadShare
from penstock.spec.shares import normalise_ppm, split, split_ppm
from penstock.spec.units import PPM

weights = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 10**15), max_size=12)


@given(st.integers(0, 10**18), weights)
def test_the_parts_add_up_to_the_whole(whole: int, weights: Mapping[str, int]) -> None:
    parts = split(whole, weights)
    assert sum(parts.values()) == (whole if any(weights.values()) else 0)


@given(st.integers(0, 10**18), weights)
def test_nobody_is_a_whole_unit_away_from_the_exact_part(
    whole: int, weights: Mapping[str, int]
) -> None:
    total = sum(weights.values())
    for who, part in split(whole, weights).items():
        assert abs(part * total - whole * weights[who]) < total


@given(st.integers(0, 10**9), weights)
def test_more_weight_never_means_less(whole: int, weights: Mapping[str, int]) -> None:
    parts = split(whole, weights)
    ranked = sorted(parts, key=lambda who: weights[who])
    for lighter, heavier in pairwise(ranked):
        if weights[lighter] < weights[heavier]:
            assert parts[lighter] <= parts[heavier]


@given(st.integers(0, 10**9), weights)
def test_the_order_of_the_input_leaves_no_trace(whole: int, weights: dict[str, int]) -> None:
    turned = dict(reversed(weights.items()))
    assert list(split(whole, weights).items()) == list(split(whole, turned).items())


def test_the_units_left_over_go_to_the_largest_remainders() -> None:
    assert split(10, {"a": 1, "b": 2, "c": 4}) == {"a": 1, "b": 3, "c": 6}


def test_ties_go_to_the_smaller_identity_in_utf8_bytes() -> None:
    parts = split(2, {"\U0001f600": 1, "\ufb33": 1, "z": 1})
    assert parts == {"z": 1, "\ufb33": 1, "\U0001f600": 0}


def test_a_weight_of_zero_gets_zero() -> None:
    assert split(7, {"a": 0, "b": 3}) == {"a": 0, "b": 7}


@pytest.mark.parametrize("weights", [{}, {"a": 0, "b": 0}])
def test_without_a_claim_the_caller_keeps_the_whole(weights: dict[str, int]) -> None:
    assert split(7, weights) == {}


def test_a_negative_weight_is_refused_by_name() -> None:
    with pytest.raises(BadShare) as caught:
        split(7, {"a": 9, "b": -1})
    assert caught.value.who == "b"


def test_less_than_nothing_cannot_be_shared() -> None:
    with pytest.raises(AssertionError):
        split(-1, {"a": 1})


@given(st.integers(0, 10**18), st.lists(st.integers(0, PPM), max_size=8))
def test_shares_in_ppm_and_the_rest_add_up(amount: int, numbers: list[int]) -> None:
    total = max(sum(numbers), 1)
    shares = {f"m{place}": number * PPM // total for place, number in enumerate(numbers)}
    parts = split_ppm(amount, shares)
    assert set(parts) == set(shares)
    assert 0 <= amount - sum(parts.values()) <= amount


@given(st.integers(0, 10**18))
def test_a_full_set_of_shares_leaves_nothing(amount: int) -> None:
    parts = split_ppm(amount, {"miner": 700_000, "operator": 100_000, "pool": 200_000})
    assert sum(parts.values()) == amount


def test_a_share_in_ppm_is_the_exact_part_where_it_is_whole() -> None:
    assert split_ppm(1_000_000_000, {"a": 300_000}) == {"a": 300_000_000}


def test_the_rest_wins_ties() -> None:
    assert split_ppm(1, {"a": 500_000}) == {"a": 0}


def test_shares_above_one_whole_are_refused() -> None:
    with pytest.raises(BadShare):
        split_ppm(1, {"a": PPM, "b": 1})


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(BadShare):
        split_ppm(1, {"a": PPM, "b": -1})


@given(weights)
def test_normal_shares_add_up_to_one_whole(weights: Mapping[str, int]) -> None:
    assert sum(normalise_ppm(weights).values()) == (PPM if any(weights.values()) else 0)


def test_normal_shares_may_fill_a_part_of_the_whole() -> None:
    assert normalise_ppm({"a": 1, "b": 3}, 800_000) == {"a": 200_000, "b": 600_000}


def test_normal_shares_never_exceed_one_whole() -> None:
    with pytest.raises(AssertionError):
        normalise_ppm({"a": 1}, PPM + 1)
