"""An epoch's end: the pool is paid out by consensus weights, to the last nano-USD.

What the weights do not cover stays in the reserve. The reserve takes part in the rounding like
everybody else, so payouts and reserve add up to the pool exactly.
"""

from collections.abc import Iterable, Mapping

from penstock.spec.errors import BadShare
from penstock.spec.messages import Payout, Settlement, Weight
from penstock.spec.shares import split_ppm


def settle(
    epoch: int, pool_nano: int, *, weights: Mapping[str, int], reports: Iterable[str]
) -> Settlement:
    """Pay out `pool_nano` by `weights` (ppm by miner; they may add up to less than one whole).

    Nobody is listed with a payout or a weight of zero. Everything is sorted, so equal inputs give
    equal bytes; `reports` are signed digests, each named once. Ties in rounding: the reserve first,
    then the smaller identity. Raises BadShare on a negative weight, on weights above one whole, or
    on a negative pool.
    """
    if pool_nano < 0:
        raise BadShare(who="pool", reason="a negative pool")
    parts = split_ppm(pool_nano, weights)
    paid = sum(parts.values())
    return Settlement(
        epoch=epoch,
        reports=tuple(sorted(set(reports))),
        weights=tuple(
            Weight(miner=who, ppm=weights[who]) for who in sorted(weights) if weights[who]
        ),
        pool_nano=pool_nano,
        payouts=tuple(
            Payout(identity=who, amount_nano=parts[who]) for who in sorted(parts) if parts[who]
        ),
        reserve_nano=pool_nano - paid,
    )
