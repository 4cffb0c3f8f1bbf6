"""The arithmetic of limits: buckets, work, addresses, spans of time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.addresses import HOPS_MAX, Addresses, name_of
from penstock.gateway.buckets import MICRO, WAIT_US_MAX, Bucket, Rate
from penstock.gateway.config import AddressLimits, CallerLimits
from penstock.gateway.limits import (
    COMPLETION_WORK,
    IMAGE_WORK,
    REQUEST_WORK,
    Meters,
    duration,
    work_asked,
    work_done,
)
from penstock.gateway.orders import Ceilings
from penstock.kit.wire.http import Request
from penstock.spec.params import NETWORKS
from penstock.spec.units import NO_UNITS, Units

FAR = "203.0.113.7"


# Buckets.

RATES = st.builds(Rate, per_s=st.integers(1, 10**7), full=st.integers(1, 10**9))
STEPS = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**9)), max_size=40)


@given(rate=RATES, steps=STEPS)
def test_no_more_passes_than_a_full_bucket_and_what_time_brings(
    rate: Rate, steps: list[tuple[int, int]]
) -> None:
    bucket, now_us, passed, largest = Bucket(rate), 0, 0, 0
    for later_us, amount in steps:
        now_us += later_us
        if not bucket.take(amount, now_us):
            passed += amount
            largest = max(largest, amount)
    over = max(0, largest - rate.full)  # one that is larger than the bucket goes when it is full
    assert passed * MICRO <= rate.full * MICRO + now_us * rate.per_s + over * MICRO


@given(rate=RATES, amounts=st.lists(st.integers(1, 10**9), min_size=1, max_size=9))
def test_the_wait_that_is_named_is_the_wait_that_is_needed(rate: Rate, amounts: list[int]) -> None:
    bucket, now_us = Bucket(rate), 0
    for amount in amounts:
        wait_us = bucket.take(amount, now_us)
        if not wait_us:
            continue
        before = bucket.missing(now_us)
        if 1 < wait_us < WAIT_US_MAX:
            assert bucket.take(amount, now_us + wait_us - 1) > 0
        assert bucket.missing(now_us) == before, "what is refused takes nothing"
        if wait_us < WAIT_US_MAX:
            now_us += wait_us
            assert bucket.take(amount, now_us) == 0


@given(rate=RATES, amount=st.integers(0, 10**9), used=st.integers(0, 10**9), gap=st.integers(0, 10))
def test_what_is_given_back_is_as_if_it_had_never_been_taken(
    rate: Rate, amount: int, used: int, gap: int
) -> None:
    corrected, exact = Bucket(rate), Bucket(rate)
    assert corrected.take(amount, 0) == 0
    assert exact.take(used, 0) == 0
    corrected.give_back(amount - used)
    now_us = gap * MICRO
    assert corrected.left(now_us) == exact.left(now_us)
    assert corrected.full_in_ms(now_us) == exact.full_in_ms(now_us)


def test_a_bucket_never_holds_more_than_full() -> None:
    bucket = Bucket(Rate(per_s=10, full=100))
    bucket.give_back(50)
    assert bucket.left(0) == 100
    assert bucket.left(3_600 * MICRO) == 100


def test_what_is_larger_than_the_bucket_waits_until_it_is_full_and_leaves_a_debt() -> None:
    bucket = Bucket(Rate(per_s=10, full=100))
    assert bucket.take(1, 0) == 0
    assert bucket.take(500, 0) == 100_000
    assert bucket.take(500, 100_000) == 0
    assert bucket.left(100_000) == 0
    assert bucket.take(1, 100_000) == 40_100_000


def test_a_bucket_that_gains_nothing_is_used_up_once() -> None:
    bucket = Bucket(Rate(per_s=0, full=2))
    assert [bucket.take(1, now_us) for now_us in (0, 10, 20, 10**12)] == [0, 0] + [WAIT_US_MAX] * 2
    assert bucket.full_in_ms(5) == WAIT_US_MAX // 1000


# Work.


def test_work_is_counted_as_the_market_counts_capacity() -> None:
    for params in NETWORKS.values():
        weights = (params.work_prompt, params.work_cached, params.work_completion)
        assert weights == (1, 0, COMPLETION_WORK)
    assert work_done(NO_UNITS) == REQUEST_WORK
    units = Units(prompt=100, cached=40, completion=5, images=0, audio_ms=0)
    assert work_done(units) == REQUEST_WORK + 60 + 8 * 5
    media = Units(prompt=0, cached=0, completion=0, images=2, audio_ms=4_000)
    assert work_done(media) == REQUEST_WORK + 2 * IMAGE_WORK + 1_000


@given(
    prompt=st.integers(0, 10**6),
    completion=st.integers(0, 10**6),
    images=st.integers(0, 100),
    audio_ms=st.integers(0, 10**6),
)
def test_what_is_asked_for_covers_what_is_done(
    prompt: int, completion: int, images: int, audio_ms: int
) -> None:
    asked = work_asked(prompt, Ceilings(prompt, completion, images, audio_ms))
    assert asked == work_done(Units(prompt, 0, completion, images, audio_ms))


# Addresses.


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("client", ""),
    ],
)
def test_a_caller_is_named_by_its_address(peer: str, name: str) -> None:
    assert name_of(peer) == name


@pytest.mark.parametrize(
    ("forwarded", "name"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("1.1.1.1, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.9", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::1]:4711", "2001:db8::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("not an address", "10.0.0.1"),
        ("203.0.113.7, unknown, 10.0.0.9", "10.0.0.9"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (", ".join(["1.2.3.4"] + ["10.0.0.2"] * HOPS_MAX), "10.0.0.2"),
        ("", "10.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy_the_nearest_hop_that_is_none_is_the_caller(
    forwarded: str, name: str
) -> None:
    addresses = Addresses(["10.0.0.0/8", "fd00::/8"])
    headers = {b"x-forwarded-for": forwarded.encode()}
    assert addresses.of(Request("POST", "/", headers=headers, peer="10.0.0.1")) == name


def test_whom_nobody_trusts_speaks_for_himself_only() -> None:
    headers = {b"x-forwarded-for": b"10.0.0.5"}
    for addresses in (Addresses(), Addresses(["10.0.0.0/8"])):
        assert addresses.of(Request("POST", "/", headers=headers, peer=FAR)) == FAR


def test_a_proxy_that_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Addresses(["nonsense"])


def test_addresses_are_bounded_and_the_one_used_longest_ago_goes() -> None:
    meters = Meters(CallerLimits(address=AddressLimits(addresses_max=2)))
    first, second = meters.address("1.1.1.1"), meters.address("2.2.2.2")
    assert meters.address("1.1.1.1") is first
    meters.address("3.3.3.3")
    assert meters.address("1.1.1.1") is first
    assert meters.address("2.2.2.2") is not second
    assert meters.address("") is None


def test_an_accounts_meter_is_one_as_long_as_a_key_of_it_is_known() -> None:
    meters = Meters(CallerLimits())
    meter = meters.account("a")
    meter.work.take(5, 0)
    assert meters.account("a") is meter
    assert meters.account("b") is not meter


# What is told.


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [
        (0, "0ms"),
        (6, "6ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (8_640, "8.64s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (61_500, "1m1.5s"),
        (3_600_000, "1h0m0s"),
    ],
)
def test_spans_are_written_as_openai_writes_them(span_ms: int, text: str) -> None:
    assert duration(span_ms) == text
