"""From what many validators report to the one set of weights that pays.

The rule is Yuma's (see `yuma`): for each miner the stake-weighted median of the reports is the most
that counts, what a validator gives beyond it is cut off, and the stake-weighted sum of what is left
is the weight. Two things are ours. No validator counts for more than a cap, whatever its stake. And
what validators leave unassigned stays unassigned: a report may add up to less than one whole, and
the rest, the reserve, is weighed and clipped like one more miner.

Here the arithmetic is in whole numbers, not in the chain's fixed point: nothing is rounded before
the one split at the end, so validators who agree are followed exactly. There are no bonds: each
call stands alone, and anyone can repeat it from the reports of one epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.spec.errors import BadReport, BadShare
from penstock.spec.shares import normalise_ppm
from penstock.spec.units import PPM
from penstock.spec.yuma import weighted_median

Report = Mapping[str, int]
"""miner -> share in ppm; adds up to at most one whole."""

RESERVE = ""
"""The unassigned rest of a report. No identity is empty."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """One epoch's answer. All shares are in ppm; keys are in the order of their bytes."""

    weights_ppm: Mapping[str, int]
    """By miner, without the zeros. Adds up to at most one whole; the rest is the reserve."""
    trust_ppm: Mapping[str, int]
    """By validator: how much of its report stood after the clip."""
    counted_ppm: Mapping[str, int]
    """By validator: its share of the vote, under the cap. Adds up to one whole."""


def agree(
    reports: Mapping[str, Report],
    stakes: Mapping[str, int],
    *,
    entity_stake_max_ppm: int,
    kappa_ppm: int,
) -> Consensus:
    """The weights on which these validators agree.

    A validator counts if it has reported and has stake; the cap and kappa are taken of the stake
    that counts. A miner that a report does not name has share zero in it. If nobody counts, or no
    target has enough support for any share, no weights come out: all is reserve. Raises BadReport.
    """
    for validator, report in reports.items():
        check_report(validator, report)
    present = {who: stakes[who] for who in reports if stakes.get(who, 0) > 0}
    counted = cap_stakes(present, max_ppm=entity_stake_max_ppm)
    voters = list(counted)
    full = {who: {**reports[who], RESERVE: _reserve_of(reports[who])} for who in voters}
    medians = _medians(full, counted, kappa_ppm=kappa_ppm)
    ranks = dict.fromkeys(medians, 0)
    trust_ppm = {}
    for who in voters:
        clipped = {target: min(ppm, medians[target]) for target, ppm in full[who].items()}
        trust_ppm[who] = sum(clipped.values())
        for target, ppm in clipped.items():
            ranks[target] += counted[who] * ppm
    shares = normalise_ppm(ranks)
    return Consensus(
        weights_ppm={who: ppm for who, ppm in shares.items() if ppm and who != RESERVE},
        trust_ppm=trust_ppm,
        counted_ppm=normalise_ppm(counted),
    )


def check_report(validator: str, report: Report) -> None:
    """Every share is in 0..one whole, and so is their sum. Raises BadReport."""
    for miner, ppm in report.items():
        if miner == RESERVE or not 0 <= ppm <= PPM:
            raise BadReport(validator=validator, reason=f"a bad share for {miner[:80]!r}: {ppm}")
    if sum(report.values()) > PPM:
        raise BadReport(validator=validator, reason="adds up to more than one whole")


def cap_stakes(stakes: Mapping[str, int], *, max_ppm: int) -> dict[str, int]:
    """Stakes cut so that nobody holds more than `max_ppm` of what is left (water-filling).

    Stakes above one level are cut to it; the level is the highest at which the cap holds. The
    answer is in millionths of the stakes' unit, so the level is all but exact, and in the order of
    identity bytes. The edge: with so few stakes that the cap cannot hold (fewer than four at 30 %)
    all count the same. Stakes of zero are left out. Raises BadShare on a negative one.
    """
    assert 0 < max_ppm <= PPM, "a cap is above nothing and at most one whole"
    for who, stake in stakes.items():
        if stake < 0:
            raise BadShare(who=who, reason="a negative stake")
    names = sorted((who for who in stakes if stakes[who]), key=str.encode)
    if len(names) * max_ppm <= PPM:
        return dict.fromkeys(names, 1)
    level = _cap_level(sorted((stakes[who] * PPM for who in names), reverse=True), max_ppm)
    return {who: min(stakes[who] * PPM, level) for who in names}


def _cap_level(stakes: list[int], max_ppm: int) -> int:
    """With the `capped` largest cut to a level L, L = cap * (capped * L + rest): solve for L.

    The first such level that does not lie below the next stake is the one. One exists before the
    capped hold everything, since there are more stakes than the cap has room for.
    """
    capped, rest = 0, sum(stakes)
    level = max_ppm * rest // PPM
    while stakes[capped] > level:
        rest -= stakes[capped]
        capped += 1
        level = max_ppm * rest // (PPM - capped * max_ppm)
    return level


def _reserve_of(report: Report) -> int:
    return PPM - sum(report.values())


def _medians(
    reports: Mapping[str, Report], counted: Mapping[str, int], *, kappa_ppm: int
) -> dict[str, int]:
    """For each target the largest share that at least kappa of the stake supports.

    At exactly kappa the support is enough. Stake is scaled by a million so that kappa of it is a
    whole number.
    """
    targets = sorted({target for report in reports.values() for target in report}, key=str.encode)
    stakes = [counted[who] * PPM for who in reports]
    minority = sum(counted.values()) * (PPM - kappa_ppm)
    return {
        target: weighted_median(
            stakes, [report.get(target, 0) for report in reports.values()], minority=minority
        )
        for target in targets
    }
