"""The units of the market. Every quantity is an int; the name says which one it is.

Money is nano-USD (`_nano`), prices are nano-USD per million units, shares are parts per million
(`_ppm`), time is milliseconds or microseconds (`_ms`, `_us`).
"""

from dataclasses import dataclass

PPM = 1_000_000
"""One whole, in parts per million."""

MILLION = 1_000_000
"""Prices are per this many units."""

NANO_PER_USD = 1_000_000_000

CHARGE_NANO_MAX = 10_000 * NANO_PER_USD
"""No order costs more. It keeps the sums of an epoch far below what canonical JSON can hold."""


@dataclass(frozen=True, slots=True)
class Units:
    """What one answer consumed. `cached` is the part of `prompt` that came from a cache."""

    prompt: int
    cached: int
    completion: int
    images: int
    audio_ms: int


NO_UNITS = Units(prompt=0, cached=0, completion=0, images=0, audio_ms=0)


@dataclass(frozen=True, slots=True)
class Price:
    """nano-USD per million units of each kind; `request` is nano-USD per request."""

    request: int
    prompt: int
    cached: int
    completion: int
    images: int
    audio_ms: int


FREE = Price(request=0, prompt=0, cached=0, completion=0, images=0, audio_ms=0)
