"""What a minority of validators can and cannot do to the weights, and to the money that follows."""

from collections.abc import Mapping
from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.spec.consensus import Consensus, Report, agree, cap_stakes
from penstock.spec.params import LOCAL, MAINNET
from penstock.spec.settlement import settle
from penstock.spec.units import PPM

HONEST = tuple(f"h{number}" for number in range(7))
EVIL = tuple(f"x{number}" for number in range(3))
MINERS = ("toy:a", "toy:b", "toy:c", "toy:d")
NOISE_PPM = 20_000


def agreed(reports: Mapping[str, Report], stakes: Mapping[str, int]) -> Consensus:
    return agree(
        reports,
        stakes,
        entity_stake_max_ppm=LOCAL.entity_stake_max_ppm,
        kappa_ppm=LOCAL.kappa_ppm,
    )


@st.composite
def reports(draw: st.DrawFn) -> dict[str, int]:
    """Shares that add up to at most one whole."""
    cuts = sorted(draw(st.lists(st.integers(0, PPM), min_size=4, max_size=4)))
    starts = [0, *cuts[:-1]]
    return dict(zip(MINERS, (b - a for a, b in zip(starts, cuts, strict=True)), strict=True))


@st.composite
def noisy(draw: st.DrawFn) -> tuple[dict[str, Report], dict[str, int]]:
    """Honest validators see nearly the same; each with a stake of its own, far from the cap."""
    base = {miner: draw(st.integers(NOISE_PPM, PPM // 4 - NOISE_PPM)) for miner in MINERS}
    said: dict[str, Report] = {
        who: {
            miner: ppm + draw(st.integers(-NOISE_PPM // 2, NOISE_PPM // 2))
            for miner, ppm in base.items()
        }
        for who in HONEST
    }
    return said, {who: draw(st.integers(90, 110)) for who in HONEST}


@given(noisy(), st.lists(reports(), min_size=3, max_size=3))
def test_a_minority_lifts_a_miner_no_further_than_its_own_lost_voice_allows(
    honest: tuple[dict[str, Report], dict[str, int]], evil: list[dict[str, int]]
) -> None:
    """What counts of anybody's word is at most the median M, which lies among the honest reports.
    The last sharing then fills up what was cut off, so with a minority of x the weight of a miner is
    at most M / (M + (1 - x) * rest), where rest is what all honest reports leave to the others. That
    is the price of Yuma's normalisation: at most 1 / (1 - x) of the honest share, never more.
    """
    said, stakes = honest
    all_said = {**said, **dict(zip(EVIL, evil, strict=True))}
    answer = agreed(all_said, {**stakes, **dict.fromkeys(EVIL, 100)})
    kept_ppm = PPM - sum(answer.counted_ppm[who] for who in EVIL)
    reserve = min(PPM - sum(report.values()) for report in said.values())
    for miner, ppm in answer.weights_ppm.items():
        most = max(report[miner] for report in said.values())
        others = [one for one in MINERS if one != miner]
        rest = reserve + sum(min(report[one] for report in said.values()) for one in others)
        # One millionth for the rounding of the weight, one for that of the voices.
        bound = most * PPM * PPM // (most * PPM + (kept_ppm - 1) * rest)
        assert ppm <= bound + 2


@given(noisy(), st.sampled_from(MINERS))
def test_a_minority_that_gives_all_to_its_own_gains_it_nothing_that_the_rest_does_not_lose(
    honest: tuple[dict[str, Report], dict[str, int]], own: str
) -> None:
    """What stands of a greedy report is its own miner's honest median, and nothing else."""
    said, stakes = honest
    greedy: dict[str, Report] = {who: {own: PPM} for who in EVIL}
    answer = agreed({**said, **greedy}, {**stakes, **dict.fromkeys(EVIL, 100)})
    highest = max(report[own] for report in said.values())
    for who in EVIL:
        assert answer.trust_ppm[who] <= highest


@given(st.lists(reports(), min_size=3, max_size=3), reports())
def test_a_stranger_to_the_majority_gets_nothing_whatever_a_minority_says(
    evil: list[dict[str, int]], honest: dict[str, int]
) -> None:
    """A miner that no honest validator has seen stays without weight."""
    ghosts: dict[str, Report] = {
        who: {"toy:ghost": PPM - sum(report.values()), **report}
        for who, report in zip(EVIL, evil, strict=True)
    }
    said = {**dict.fromkeys(HONEST, honest), **ghosts}
    answer = agreed(said, dict.fromkeys(said, 100))
    assert "toy:ghost" not in answer.weights_ppm


@given(noisy(), st.lists(reports(), min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_renaming_the_validators_changes_no_weight(
    honest: tuple[dict[str, Report], dict[str, int]], evil: list[dict[str, int]], chance: Random
) -> None:
    said, stakes = honest
    said = {**said, **dict(zip(EVIL, evil, strict=True))}
    stakes = {**stakes, **dict.fromkeys(EVIL, 100)}
    names = sorted(said)
    other = dict(zip(names, chance.sample(names, len(names)), strict=True))
    plain = agreed(said, stakes)
    turned = agreed(
        {other[who]: report for who, report in said.items()},
        {other[who]: stake for who, stake in stakes.items()},
    )
    assert turned.weights_ppm == plain.weights_ppm
    assert {other[who]: ppm for who, ppm in plain.trust_ppm.items()} == turned.trust_ppm


@given(noisy(), st.permutations(MINERS))
def test_renaming_the_miners_renames_their_weights_but_for_the_rounded_unit(
    honest: tuple[dict[str, Report], dict[str, int]], names: list[str]
) -> None:
    said, stakes = honest
    other = dict(zip(MINERS, names, strict=True))
    plain = agreed(said, stakes)
    turned = agreed(
        {who: {other[miner]: ppm for miner, ppm in one.items()} for who, one in said.items()},
        stakes,
    )
    for miner in MINERS:
        before = plain.weights_ppm.get(miner, 0)
        assert abs(before - turned.weights_ppm.get(other[miner], 0)) <= 1


@given(noisy(), st.integers(2, 10**9))
def test_only_the_proportions_of_stake_matter(
    honest: tuple[dict[str, Report], dict[str, int]], factor: int
) -> None:
    said, stakes = honest
    many = {who: stake * factor for who, stake in stakes.items()}
    assert agreed(said, many).weights_ppm == agreed(said, stakes).weights_ppm


@given(noisy(), st.sampled_from(HONEST), st.integers(10**3, 10**18))
def test_no_stake_however_large_decides_alone(
    honest: tuple[dict[str, Report], dict[str, int]], whale: str, stake: int
) -> None:
    said, stakes = honest
    greedy: dict[str, Report] = {**said, whale: {"toy:ghost": PPM}}
    answer = agreed(greedy, {**stakes, whale: stake})
    assert "toy:ghost" not in answer.weights_ppm
    assert answer.counted_ppm[whale] <= LOCAL.entity_stake_max_ppm + 1


@given(st.lists(st.integers(1, 10**12), min_size=4, max_size=12), st.integers(1, 10**6))
def test_splitting_a_stake_among_two_names_escapes_the_cap_and_is_why_seats_are_chartered(
    stakes: list[int], whole: int
) -> None:
    """The cap is by name: two halves count no less than the whole did. The charter names seats."""
    others = {f"v{number}": stake for number, stake in enumerate(stakes)}
    one = cap_stakes({**others, "w": 2 * whole}, max_ppm=MAINNET.entity_stake_max_ppm)
    two = cap_stakes({**others, "w0": whole, "w1": whole}, max_ppm=MAINNET.entity_stake_max_ppm)
    share_of_one = one["w"] * sum(two.values())
    share_of_two = (two["w0"] + two["w1"]) * sum(one.values())
    # The level is rounded down to millionths of the stakes' unit, once for each side.
    slack = 2 * (sum(one.values()) + sum(two.values()))
    assert share_of_two + slack >= share_of_one


@given(noisy(), st.lists(reports(), min_size=3, max_size=3), st.integers(0, 10**12))
def test_whatever_a_minority_says_the_pool_is_paid_out_to_the_last_unit(
    honest: tuple[dict[str, Report], dict[str, int]], evil: list[dict[str, int]], pool: int
) -> None:
    said, stakes = honest
    all_said = {**said, **dict(zip(EVIL, evil, strict=True))}
    answer = agreed(all_said, {**stakes, **dict.fromkeys(EVIL, 100)})
    done = settle(3, pool, weights=answer.weights_ppm, reports=())
    assert sum(one.amount_nano for one in done.payouts) + done.reserve_nano == pool
    by_miner = {one.identity: one.amount_nano for one in done.payouts}
    for miner, nano in by_miner.items():
        exact = pool * answer.weights_ppm[miner]
        assert exact // PPM <= nano <= exact // PPM + 1


@given(noisy(), st.sampled_from(HONEST))
def test_who_reports_nothing_withholds_only_its_own_voice(
    honest: tuple[dict[str, Report], dict[str, int]], silent: str
) -> None:
    """Not reporting is not a vote: the rest agree as if there were no such seat."""
    said, stakes = honest
    rest = {who: report for who, report in said.items() if who != silent}
    without = {who: stake for who, stake in stakes.items() if who != silent}
    assume(len(rest) >= 4)
    assert agreed(rest, stakes) == agreed(rest, without)
