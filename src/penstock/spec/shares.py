"""Sharing out whole numbers so that the parts add up to the last unit.

Every division of money and of shares in the market goes through here. The method is the largest
remainder: each gets its exact part rounded down, and the units left over go, one each, to those
whose parts lost most by rounding. Ties go to the smaller identity, compared as UTF-8 bytes.
"""

from collections.abc import Mapping

from penstock.spec.errors import BadShare
from penstock.spec.units import PPM

_KEPT = ""
"""What is shared out to nobody. No identity is empty, and it comes first in a tie."""


def split(whole: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Share out `whole` in proportion to the weights. The parts add up to `whole` exactly.

    Everyone named is in the answer, in the order of their bytes; a weight of zero gets zero. If
    all weights are zero (or there are none) nobody has a claim: the answer is empty and the caller
    keeps the whole. Raises BadShare on a negative weight.
    """
    assert whole >= 0, "nothing less than nothing can be shared out"
    for who, weight in weights.items():
        if weight < 0:
            raise BadShare(who=who, reason="a negative weight")
    total = sum(weights.values())
    if not total:
        return {}
    names = sorted(weights, key=_identity_bytes)
    parts = {who: whole * weights[who] // total for who in names}
    left = whole - sum(parts.values())
    # The sort is stable, so equal remainders stay in the order of their bytes.
    by_remainder = sorted(names, key=lambda who: -(whole * weights[who] % total))
    for who in by_remainder[:left]:
        parts[who] += 1
    return parts


def split_ppm(amount: int, parts_ppm: Mapping[str, int]) -> dict[str, int]:
    """Share out an amount by shares in ppm, which may add up to less than one whole.

    The rest stays with the caller: it is `amount` less the sum of the answer. It takes part in the
    rounding like everyone else and wins ties, so a share never gets a unit more than it is due by
    rounding everybody up. Raises BadShare if the shares add up to more than one whole.
    """
    total = sum(parts_ppm.values())
    if total > PPM:
        raise BadShare(who=_KEPT, reason="the shares add up to more than one whole")
    parts = split(amount, {**parts_ppm, _KEPT: PPM - total})
    del parts[_KEPT]
    return parts


def normalise_ppm(weights: Mapping[str, int], whole_ppm: int = PPM) -> dict[str, int]:
    """Weights as shares in ppm that add up to `whole_ppm` exactly; empty if all are zero."""
    assert 0 <= whole_ppm <= PPM, "a share is between nothing and one whole"
    return split(whole_ppm, weights)


def _identity_bytes(identity: str) -> bytes:
    return identity.encode()
