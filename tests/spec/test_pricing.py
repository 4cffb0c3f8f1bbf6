"""What a request costs, and that the parts of a charge add up to it."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.params import LOCAL, FeeSplit
from penstock.spec.pricing import (
    PROMPT_OVERHEAD_UNITS,
    charge_ceiling,
    cost,
    is_within,
    prompt_units_max,
    split_charge,
)
from penstock.spec.units import CHARGE_NANO_MAX, FREE, MILLION, NO_UNITS, PPM, Price, Units

counts = st.integers(0, 10**6)
prices = st.builds(
    Price,
    request=counts,
    prompt=counts,
    cached=counts,
    completion=counts,
    images=counts,
    audio_ms=counts,
)


def units(prompt: int = 0, cached: int = 0, completion: int = 0) -> Units:
    return Units(prompt=prompt, cached=cached, completion=completion, images=0, audio_ms=0)


def test_nothing_used_costs_only_the_request_price() -> None:
    assert cost(Price(5, 1, 1, 1, 1, 1), NO_UNITS) == 5
    assert cost(FREE, units(10, 5, 10)) == 0


def test_a_charge_is_rounded_up_once_on_the_sum_and_not_per_part() -> None:
    price = Price(request=0, prompt=1, cached=1, completion=1, images=1, audio_ms=1)
    assert cost(price, units(prompt=1)) == 1
    assert cost(price, units(prompt=MILLION - 1, completion=1)) == 1
    assert cost(price, units(prompt=MILLION, completion=1)) == 2


def test_cached_prompt_units_cost_the_cached_price() -> None:
    price = Price(request=0, prompt=MILLION, cached=0, completion=0, images=0, audio_ms=0)
    assert cost(price, units(prompt=10, cached=4)) == 6


def test_every_kind_of_unit_is_priced() -> None:
    price = Price(
        request=1,
        prompt=MILLION,
        cached=MILLION,
        completion=MILLION,
        images=MILLION,
        audio_ms=MILLION,
    )
    assert (
        cost(price, Units(prompt=3, cached=1, completion=2, images=4, audio_ms=5))
        == 1 + 3 + 2 + 4 + 5
    )


def test_the_prompt_ceiling_is_the_body_plus_the_template() -> None:
    assert prompt_units_max(10) == 10 + PROMPT_OVERHEAD_UNITS


@given(prices, st.tuples(counts, counts), st.tuples(counts, counts), st.data())
def test_no_answer_within_its_ceilings_costs_more_than_was_held(
    price: Price, texts: tuple[int, int], media: tuple[int, int], data: st.DataObject
) -> None:
    prompt_max, completion_max = texts
    images_max, audio_ms_max = media
    prompt = data.draw(st.integers(0, prompt_max))
    used = Units(
        prompt=prompt,
        cached=data.draw(st.integers(0, prompt)),
        completion=data.draw(st.integers(0, completion_max)),
        images=data.draw(st.integers(0, images_max)),
        audio_ms=data.draw(st.integers(0, audio_ms_max)),
    )
    ceiling = charge_ceiling(
        price,
        prompt_max=prompt_max,
        completion_max=completion_max,
        images_max=images_max,
        audio_ms_max=audio_ms_max,
    )
    assert cost(price, used) <= ceiling


def test_an_order_without_images_or_audio_holds_nothing_for_them() -> None:
    price = Price(request=1, prompt=0, cached=0, completion=0, images=MILLION, audio_ms=MILLION)
    assert charge_ceiling(price, prompt_max=9, completion_max=9) == 1
    media = charge_ceiling(price, prompt_max=9, completion_max=9, images_max=2, audio_ms_max=5)
    assert media == 1 + 2 + 5


@given(st.integers(0, 10**15), st.integers(0, PPM), st.data())
def test_the_parts_of_a_charge_add_up_to_it(
    charge: int, operator_ppm: int, data: st.DataObject
) -> None:
    pool_ppm = data.draw(st.integers(0, PPM - operator_ppm))
    split = FeeSplit(PPM - operator_ppm - pool_ppm, operator_ppm, pool_ppm)
    fees = split_charge(charge, split)
    assert fees.miner_nano + fees.operator_nano + fees.pool_nano == charge
    assert min(fees.miner_nano, fees.operator_nano, fees.pool_nano) >= 0


def test_the_miner_gets_what_rounding_leaves() -> None:
    fees = split_charge(9, LOCAL.fees)
    assert (fees.miner_nano, fees.operator_nano, fees.pool_nano) == (8, 0, 1)


@given(prices)
def test_a_price_is_within_itself_and_not_within_one_that_is_lower_anywhere(price: Price) -> None:
    assert is_within(price, price)
    for name in ("request", "prompt", "cached", "completion", "images", "audio_ms"):
        values = {field: getattr(price, field) for field in Price.__slots__}
        values[name] += 1
        assert not is_within(Price(**values), price)


def test_no_ceiling_is_above_what_an_order_may_cost() -> None:
    dear = Price(request=0, prompt=10**12, cached=0, completion=10**12, images=0, audio_ms=0)
    assert charge_ceiling(dear, prompt_max=10**7, completion_max=10**7) == CHARGE_NANO_MAX
