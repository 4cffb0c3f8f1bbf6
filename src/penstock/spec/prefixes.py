"""What a gateway may believe of the prefix caches of instances, from what it did and what they said.

Nobody tells a gateway what an engine holds. It knows what it sent where, and each receipt says how
much of a prompt came from the cache. From these two counts follow how far back an instance
remembers (`held`), and how soon prompts are continued (`return_rates`): what a cache should keep.
Counts are kept by bucket, so that a table of a few dozen numbers is all there is to remember.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.spec.units import PPM

DISTANCE_BUCKETS = 112
"""Quarters of an octave, up to 2**28 tokens."""

AGE_BUCKETS = 48
"""Halves of an octave, up to 2**24 requests."""

KINDS = 5
"""Prompts by how they were continued before: not yet, at once, soon, later, late (`kind_of`)."""

PRIOR = 2
"""As many observations the belief in an edge is worth against a bucket's own counts."""

RETURN_HORIZON = 4
"""Requests ahead for which a place in a cache is valued: what returns later can be had later."""


@dataclass(frozen=True, slots=True)
class Held:
    """`share_ppm[bucket]`: how likely a prefix of that distance is still cached; `edge` is the first
    bucket that is believed lost (DISTANCE_BUCKETS if none is).
    """

    share_ppm: tuple[int, ...]
    edge: int


def distance_bucket(tokens: int) -> int:
    """Quarter octaves: 0 for 0..7 tokens, then four buckets per doubling."""
    bits = tokens.bit_length()
    if bits < 4:
        return 0
    bucket = (bits - 4) * 4 + ((tokens >> (bits - 3)) & 3) + 1
    return bucket if bucket < DISTANCE_BUCKETS else DISTANCE_BUCKETS - 1


def bucket_floor(bucket: int) -> int:
    """The fewest tokens in a bucket of `distance_bucket`."""
    if bucket <= 0:
        return 0
    octave, quarter = divmod(bucket - 1, 4)
    return (4 + quarter) << (octave + 1)


def age_bucket(requests: int) -> int:
    """Half octaves: 1, then 2, 3, 4-5, 6-7, 8-11, 12-15, ..."""
    bits = requests.bit_length()
    if bits < 2:
        return 0
    bucket = (bits - 2) * 2 + ((requests >> (bits - 2)) & 1) + 1
    return bucket if bucket < AGE_BUCKETS else AGE_BUCKETS - 1


def kind_of(gap: int) -> int:
    """The kind of a prompt that was continued after so many requests: 1 up to 11, 2 up to 95, 3 up
    to 767, 4 beyond. Kind 0 is a prompt that has not been continued yet. Who came back soon does it
    again, who paused pauses again: that tells what a cache should keep.
    """
    return 1 + min(age_bucket(gap) // 6, KINDS - 2)


def held(hits: Sequence[int], misses: Sequence[int]) -> Held:
    """What is believed after these many hits and misses by distance bucket.

    The edge is where fewest of them are on the wrong side (ties: the farther one, as to look in vain
    costs less than not to look); a bucket's own counts then speak for it beyond PRIOR.
    """
    wrong = least = sum(hits)
    edge = 0
    seen = False
    for bucket in range(DISTANCE_BUCKETS):
        wrong += misses[bucket] - hits[bucket]
        seen = seen or misses[bucket] > 0
        if wrong <= least and (hits[bucket] or not misses[bucket]):
            least, edge = wrong, bucket + 1
    if not seen:
        edge = DISTANCE_BUCKETS
    return Held(
        share_ppm=tuple(
            (hits[bucket] + PRIOR * (bucket < edge))
            * PPM
            // (hits[bucket] + misses[bucket] + PRIOR)
            for bucket in range(DISTANCE_BUCKETS)
        ),
        edge=edge,
    )


def return_rates(returned: Sequence[int], gone: int) -> tuple[int, ...]:
    """By age bucket, in ppm: how likely a prompt of that age is continued within RETURN_HORIZON.

    `returned[bucket]` counts prompts that were continued at that age, `gone` those that never were.
    Edge: what was never seen at an age is worth nothing there.
    """
    rates = [0] * AGE_BUCKETS
    at_risk = gone
    for bucket in range(AGE_BUCKETS - 1, -1, -1):
        at_risk += returned[bucket]
        width = 1 if bucket < 3 else 1 << ((bucket - 1) // 2)
        if at_risk:
            rate_ppm = RETURN_HORIZON * returned[bucket] * PPM // (at_risk * width)
            rates[bucket] = min(PPM, rate_ppm)
    return tuple(rates)
