"""Settlement: the pool is paid out to the last unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.errors import BadShare
from penstock.spec.messages import Payout, Weight
from penstock.spec.settlement import settle
from penstock.spec.units import PPM

weights = st.dictionaries(
    st.sampled_from(["toy:a", "toy:b", "toy:c", "toy:d"]), st.integers(0, PPM // 4), max_size=4
)


@given(st.integers(0, 10**15), weights)
def test_payouts_and_reserve_add_up_to_the_pool(pool: int, shares: dict[str, int]) -> None:
    done = settle(3, pool, weights=shares, reports=[])
    assert (
        sum(one.amount_nano for one in done.payouts) + done.reserve_nano == pool == done.pool_nano
    )
    assert done.reserve_nano >= 0
    assert all(one.amount_nano > 0 for one in done.payouts)
    assert all(one.ppm > 0 for one in done.weights)
    identities = [one.identity for one in done.payouts]
    assert identities == sorted(set(identities))


@given(st.integers(0, 10**15), weights)
def test_the_order_of_weights_does_not_matter(pool: int, shares: dict[str, int]) -> None:
    backwards = dict(reversed(shares.items()))
    assert settle(3, pool, weights=backwards, reports=["b", "a"]) == settle(
        3, pool, weights=shares, reports=["a", "b", "a"]
    )


def test_what_the_weights_do_not_cover_stays_in_the_reserve() -> None:
    done = settle(1, 1000, weights={"toy:a": 250_000, "toy:z": 0}, reports=["r2", "r1"])
    assert done.payouts == (Payout("toy:a", 250),)
    assert done.weights == (Weight("toy:a", 250_000),)
    assert done.reserve_nano == 750
    assert done.reports == ("r1", "r2")


def test_nobody_is_rounded_up_to_more_than_the_pool() -> None:
    done = settle(1, 1, weights={"toy:a": 500_000, "toy:b": 500_000}, reports=[])
    assert done.payouts == (Payout("toy:a", 1),)
    assert done.reserve_nano == 0


def test_no_weights_leave_the_whole_pool_in_the_reserve() -> None:
    assert settle(1, 77, weights={}, reports=[]).reserve_nano == 77


@pytest.mark.parametrize(
    ("pool", "shares"), [(-1, {}), (5, {"toy:a": -1}), (5, {"toy:a": PPM, "toy:b": 1})]
)
def test_impossible_settlements_are_refused(pool: int, shares: dict[str, int]) -> None:
    with pytest.raises(BadShare):
        settle(1, pool, weights=shares, reports=[])
