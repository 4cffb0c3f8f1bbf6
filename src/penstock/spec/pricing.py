"""What a request costs: the ceiling held before, the charge after, and who gets which part.

Rounding: a charge is rounded up to the next nano-USD once, on the sum of all parts, never per part.
The operator's and the pool's parts are rounded down; the miner gets the rest.
"""

from dataclasses import dataclass

from penstock.spec.params import FeeSplit
from penstock.spec.units import CHARGE_NANO_MAX, MILLION, PPM, Price, Units

PROMPT_OVERHEAD_UNITS = 64
"""Room for the chat template around a request's own bytes."""


def cost(price: Price, units: Units) -> int:
    """nano-USD for these units. Cached prompt units cost the cached price, the rest the full one."""
    micro = (
        price.prompt * (units.prompt - units.cached)
        + price.cached * units.cached
        + price.completion * units.completion
        + price.images * units.images
        + price.audio_ms * units.audio_ms
    )
    return price.request + -(-micro // MILLION)


def prompt_units_max(body_bytes: int) -> int:
    """No tokenizer makes more tokens than bytes, so the body's length bounds the prompt."""
    return body_bytes + PROMPT_OVERHEAD_UNITS


def charge_ceiling(
    price: Price,
    *,
    prompt_max: int,
    completion_max: int,
    images_max: int = 0,
    audio_ms_max: int = 0,
) -> int:
    """The most one order may cost: what is held before it is sent.

    A prompt unit may turn out cached or not, so the ceiling takes the dearer of the two prices. No
    ceiling is above CHARGE_NANO_MAX: an answer that would cost more costs that.
    """
    dearest = max(price.prompt, price.cached)
    micro = (
        dearest * prompt_max
        + price.completion * completion_max
        + price.images * images_max
        + price.audio_ms * audio_ms_max
    )
    return min(price.request + -(-micro // MILLION), CHARGE_NANO_MAX)


@dataclass(frozen=True, slots=True)
class Fees:
    """One charge in parts; they add up to it."""

    miner_nano: int
    operator_nano: int
    pool_nano: int


def split_charge(charge_nano: int, fees: FeeSplit) -> Fees:
    """Operator and pool rounded down, the miner takes the remainder."""
    operator = charge_nano * fees.operator_ppm // PPM
    pool = charge_nano * fees.pool_ppm // PPM
    return Fees(miner_nano=charge_nano - operator - pool, operator_nano=operator, pool_nano=pool)


def is_within(price: Price, ceiling: Price) -> bool:
    """No part of `price` is above the same part of `ceiling`."""
    return (
        price.request <= ceiling.request
        and price.prompt <= ceiling.prompt
        and price.cached <= ceiling.cached
        and price.completion <= ceiling.completion
        and price.images <= ceiling.images
        and price.audio_ms <= ceiling.audio_ms
    )
