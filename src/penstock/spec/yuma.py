"""Yuma consensus, one epoch, as the Bittensor runtime computes it: bit for bit.

Validators weigh miners; what a validator gives beyond the stake-weighted median is cut off; what is
left pays miners (incentive) and, through bonds that grow slowly, the validators who saw their worth
early (dividends). The numbers are the runtime's I32F32: a count of 2**-32, multiplied and divided
with truncation. They are held as plain ints, so every machine gets the same bits. The order of
steps follows `run_epoch.rs` of subtensor (spec 143: no liquid alpha, no commit-reveal mask).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
U16_MAX = 65_535

Row = dict[int, int]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the chain holds before an epoch. Index = uid; weights and bonds are u16 by uid."""

    stakes: tuple[int, ...]
    permits: tuple[bool, ...]
    weights: tuple[Mapping[int, int], ...]
    bonds: tuple[Mapping[int, int], ...]
    updated_blocks: tuple[int, ...]
    registered_blocks: tuple[int, ...]
    kappa_u16: int
    bonds_average_ppm: int
    """How much of a bond is kept from one epoch to the next."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the chain stores after an epoch, as u16 shares of one whole."""

    consensus: tuple[int, ...]
    incentive: tuple[int, ...]
    dividends: tuple[int, ...]
    validator_trust: tuple[int, ...]
    bonds: tuple[Mapping[int, int], ...]


def run_epoch(before: Epoch) -> Outcome:
    """One epoch. All validators count as active: the activity cut-off is the caller's."""
    uids = range(len(before.stakes))
    stakes = _active_stakes(before)
    weights = [_row_shares(row) for row in _weights_that_count(before)]
    consensus = _consensus(stakes, weights, kappa=_divide(before.kappa_u16, U16_MAX))
    clipped = [{uid: min(x, consensus[uid]) for uid, x in row.items()} for row in weights]
    ranks = [
        sum(_multiply(row.get(uid, 0), stake) for row, stake in zip(clipped, stakes, strict=True))
        for uid in uids
    ]
    incentive = _shares(ranks)
    bonds = _next_bonds(before, clipped, stakes=stakes)
    dividends = _shares(
        [sum(_multiply(x, incentive[uid]) for uid, x in row.items()) for row in bonds]
    )
    return Outcome(
        consensus=_to_u16(consensus),
        incentive=_to_u16(incentive),
        dividends=_to_u16(dividends),
        validator_trust=_to_u16([sum(row.values()) for row in clipped]),
        bonds=_stored_bonds(bonds),
    )


def weighted_median(stakes: Sequence[int], scores: Sequence[int], *, minority: int) -> int:
    """The smallest score such that the stake at or below it is more than `minority`.

    The largest score if there is none such, and 0 without any scores. Stake and `minority` are in
    one unit, whichever; scores in another. The runtime finds the same by partition.
    """
    below = 0
    ranked = sorted(zip(scores, stakes, strict=True))
    for score, stake in ranked:
        below += stake
        if below > minority:
            return score
    return ranked[-1][0] if ranked else 0


def _active_stakes(before: Epoch) -> list[int]:
    """Stakes of validators with a permit, as shares (I32F32).

    Stakes are first made shares of all stake in I64F64, then cut to I32F32, as the runtime does.
    """
    total = sum(before.stakes)
    shares = [((stake << 64) // total) >> FRACTION_BITS if total else 0 for stake in before.stakes]
    permitted = zip(shares, before.permits, strict=True)
    return _shares([share if permit else 0 for share, permit in permitted])


def _weights_that_count(before: Epoch) -> list[Row]:
    """Weights of permitted validators, not for themselves, not for who registered since."""
    rows = []
    for own, row in enumerate(_without_newcomers(before, before.weights)):
        counts = before.permits[own]
        rows.append({uid: weight for uid, weight in row.items() if counts and uid != own})
    return rows


def _without_newcomers(before: Epoch, rows: Sequence[Mapping[int, int]]) -> list[Row]:
    """Drop what a validator said of a uid that has changed hands since."""
    return [
        {uid: x << FRACTION_BITS for uid, x in row.items() if before.registered_blocks[uid] < said}
        for row, said in zip(rows, before.updated_blocks, strict=True)
    ]


def _consensus(stakes: Sequence[int], weights: Sequence[Row], *, kappa: int) -> list[int]:
    """For each uid the weight that stake of at least kappa supports."""
    voters = [uid for uid, stake in enumerate(stakes) if stake]
    voting = _shares([stakes[uid] for uid in voters])
    minority = sum(voting) - kappa
    return [
        weighted_median(voting, [weights[voter].get(uid, 0) for voter in voters], minority=minority)
        for uid in range(len(stakes))
    ]


def _next_bonds(before: Epoch, clipped: Sequence[Row], *, stakes: Sequence[int]) -> list[Row]:
    """Bonds move towards what validators say now, weighted by stake; each column adds up to 1."""
    old = _column_shares(_without_newcomers(before, before.bonds))
    bought = _column_shares(
        [
            {uid: _multiply(x, stake) for uid, x in row.items()}
            for row, stake in zip(clipped, stakes, strict=True)
        ]
    )
    kept = (before.bonds_average_ppm << FRACTION_BITS) // 1_000_000
    moved = []
    for now, then in zip(bought, old, strict=True):
        row = {
            uid: _multiply(ONE - kept, now.get(uid, 0)) + _multiply(kept, then.get(uid, 0))
            for uid in sorted(now.keys() | then.keys())
        }
        moved.append({uid: bond for uid, bond in row.items() if bond})
    return _column_shares(moved)


def _stored_bonds(bonds: Sequence[Row]) -> tuple[Mapping[int, int], ...]:
    """Bonds as stored: the largest bond of each column is one whole."""
    rows = _columns(bonds, max)
    return tuple({uid: _u16(bond) for uid, bond in row.items()} for row in rows)


def _multiply(left: int, right: int) -> int:
    return (left * right) >> FRACTION_BITS


def _divide(left: int, right: int) -> int:
    return (left << FRACTION_BITS) // right


def _shares(values: Sequence[int]) -> list[int]:
    total = sum(values)
    return [_divide(value, total) for value in values] if total else list(values)


def _row_shares(row: Row) -> Row:
    return dict(zip(row, _shares(list(row.values())), strict=True))


def _column_shares(rows: Sequence[Row]) -> list[Row]:
    return _columns(rows, sum)


def _columns(rows: Sequence[Row], whole: Callable[[list[int]], int]) -> list[Row]:
    """Each value divided by its column's whole; a column of zeros stays as it is."""
    columns: dict[int, list[int]] = {}
    for row in rows:
        for uid, value in row.items():
            columns.setdefault(uid, []).append(value)
    wholes = {uid: whole(values) or ONE for uid, values in columns.items()}
    return [{uid: _divide(value, wholes[uid]) for uid, value in row.items()} for row in rows]


def _to_u16(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(_u16(value) for value in values)


def _u16(value: int) -> int:
    return (value * U16_MAX) >> FRACTION_BITS
