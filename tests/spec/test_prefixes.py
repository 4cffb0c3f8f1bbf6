"""Beliefs about caches: buckets without gaps, edges where the evidence puts them, rates that add up."""

import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.prefixes import (
    AGE_BUCKETS,
    DISTANCE_BUCKETS,
    KINDS,
    age_bucket,
    bucket_floor,
    distance_bucket,
    held,
    kind_of,
    return_rates,
)
from penstock.spec.units import PPM

NONE = [0] * DISTANCE_BUCKETS


def counts(**at: int) -> list[int]:
    """Counts by bucket: `b3=90` are 90 in bucket 3."""
    found = [0] * DISTANCE_BUCKETS
    for name, count in at.items():
        found[int(name[1:])] = count
    return found


@given(st.integers(0, 2**28 - 1))
def test_every_distance_is_in_the_bucket_that_begins_at_or_before_it(tokens: int) -> None:
    bucket = distance_bucket(tokens)
    assert 0 <= bucket < DISTANCE_BUCKETS
    assert bucket_floor(bucket) <= tokens
    if bucket < DISTANCE_BUCKETS - 1:
        assert tokens < bucket_floor(bucket + 1)


def test_distances_beyond_the_last_bucket_are_in_it() -> None:
    assert distance_bucket(2**40) == DISTANCE_BUCKETS - 1
    assert age_bucket(2**60) == AGE_BUCKETS - 1


@given(st.integers(0, 2**30), st.integers(0, 2**30))
def test_buckets_rise_with_what_they_hold(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert distance_bucket(low) <= distance_bucket(high)
    assert age_bucket(low) <= age_bucket(high)


def test_the_kinds_part_at_once_from_soon_from_later_from_late() -> None:
    assert [kind_of(gap) for gap in (0, 1, 11, 12, 95, 96, 767, 768, 10**9)] == [
        *(1, 1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert max(kind_of(1 << bits) for bits in range(60)) == KINDS - 1


def test_as_long_as_nobody_missed_everything_is_believed_held() -> None:
    for hits in (NONE, counts(b7=50)):
        belief = held(hits, NONE)
        assert belief.edge == DISTANCE_BUCKETS
        assert set(belief.share_ppm) == {PPM}


def test_if_all_missed_nothing_is() -> None:
    belief = held(NONE, counts(b2=50))
    assert belief.edge == 2
    assert belief.share_ppm[2] < PPM // 20
    assert belief.share_ppm[9] == 0


def test_the_edge_is_where_fewest_are_on_the_wrong_side() -> None:
    belief = held(counts(b3=90, b4=80, b5=10), counts(b4=5, b5=40, b6=70))
    assert belief.edge == 5
    assert belief.share_ppm[4] > PPM * 9 // 10
    assert PPM // 10 < belief.share_ppm[5] < PPM // 4
    assert belief.share_ppm[6] == 0


def test_the_edge_of_a_real_cache_is_found_whatever_is_asked() -> None:
    chance = random.Random(5)
    for capacity in (3_000, 40_000, 700_000, 9_000_000):
        hits, misses = list(NONE), list(NONE)
        for _ in range(500):
            tokens = int(capacity * 4 ** chance.uniform(-1, 1))
            (hits if tokens <= capacity else misses)[distance_bucket(tokens)] += 1
        edge = bucket_floor(held(hits, misses).edge)
        assert capacity * 3 // 4 <= edge <= capacity * 4 // 3


counted = st.lists(st.integers(0, 1_000), min_size=AGE_BUCKETS, max_size=AGE_BUCKETS)


@given(counted, st.integers(0, 10_000))
def test_rates_are_shares(returned: list[int], gone: int) -> None:
    rates = return_rates(returned, gone)
    assert len(rates) == AGE_BUCKETS
    assert all(0 <= rate <= PPM for rate in rates)


def test_with_no_counts_nothing_is_known_to_return() -> None:
    assert set(return_rates([0] * AGE_BUCKETS, 0)) == {0}


def test_what_never_returned_at_an_age_is_worth_nothing_there() -> None:
    rates = return_rates([10, 20, 30] + [0] * (AGE_BUCKETS - 3), 40)
    assert rates[0] == 400_000
    assert rates[2] == PPM
    assert set(rates[3:]) == {0}


def test_a_wide_bucket_counts_per_request_of_its_width() -> None:
    narrow = return_rates([0, 8] + [0] * (AGE_BUCKETS - 2), 992)[1]
    wide = return_rates([0] * 9 + [8] + [0] * (AGE_BUCKETS - 10), 992)[9]
    assert narrow == 16 * wide
