"""Consensus: who agrees is followed, who stands alone is cut, what is unassigned stays so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.consensus import Consensus, agree, cap_stakes
from penstock.spec.errors import BadReport, BadShare
from penstock.spec.units import PPM

CAP_PPM = 300_000
KAPPA_PPM = 500_000
NAMES = [f"v{number}" for number in range(8)]
MINERS = ["a", "b", "c", "d"]


@st.composite
def reports(draw: st.DrawFn) -> dict[str, int]:
    """A report that may leave a part unassigned."""
    cuts = sorted(draw(st.lists(st.integers(0, PPM), min_size=4, max_size=4)))
    starts = [0, *cuts[:-1]]
    return dict(zip(MINERS, (b - a for a, b in zip(starts, cuts, strict=True)), strict=True))


stakes_by_name = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**15), min_size=1)


def agreed(reports: dict[str, dict[str, int]], stakes: dict[str, int]) -> Consensus:
    return agree(reports, stakes, entity_stake_max_ppm=CAP_PPM, kappa_ppm=KAPPA_PPM)


@given(reports(), stakes_by_name)
def test_validators_who_agree_are_followed_exactly(
    report: dict[str, int], stakes: dict[str, int]
) -> None:
    answer = agreed(dict.fromkeys(stakes, report), stakes)
    assert answer.weights_ppm == {miner: ppm for miner, ppm in report.items() if ppm}
    assert set(answer.trust_ppm.values()) == {PPM}


@given(st.dictionaries(st.sampled_from(NAMES), reports(), min_size=1), stakes_by_name)
def test_weights_never_add_up_to_more_than_one_whole(
    said: dict[str, dict[str, int]], stakes: dict[str, int]
) -> None:
    answer = agreed(said, stakes)
    assert 0 <= sum(answer.weights_ppm.values()) <= PPM
    assert sum(answer.counted_ppm.values()) == (PPM if answer.counted_ppm else 0)
    assert all(0 <= trust <= PPM for trust in answer.trust_ppm.values())


@given(st.dictionaries(st.sampled_from(NAMES), reports(), min_size=1), stakes_by_name)
def test_the_order_of_reports_leaves_no_trace(
    said: dict[str, dict[str, int]], stakes: dict[str, int]
) -> None:
    turned = agreed(dict(reversed(said.items())), dict(reversed(stakes.items())))
    answer = agreed(said, stakes)
    assert answer == turned
    assert list(answer.weights_ppm) == list(turned.weights_ppm)


@given(reports(), reports())
def test_a_quarter_of_the_stake_cannot_raise_any_miner(
    honest: dict[str, int], evil: dict[str, int]
) -> None:
    """Before the last normalisation: no share counts beyond what the majority gives."""
    said = dict.fromkeys(NAMES[:6], honest) | dict.fromkeys(NAMES[6:], evil)
    answer = agreed(said, dict.fromkeys(NAMES, 5))
    for name in NAMES[6:]:
        overlap = sum(min(honest[miner], evil[miner]) for miner in MINERS)
        rest = min(PPM - sum(honest.values()), PPM - sum(evil.values()))
        assert answer.trust_ppm[name] == overlap + rest


def test_a_lone_favourite_gets_nothing() -> None:
    said = {name: {"a": 500_000, "b": 500_000} for name in NAMES[:5]} | {"v5": {"c": PPM}}
    answer = agreed(said, dict.fromkeys(NAMES[:6], 1))
    assert answer.weights_ppm == {"a": 500_000, "b": 500_000}
    assert answer.trust_ppm["v5"] == 0


def test_what_is_left_unassigned_stays_unassigned() -> None:
    said = {name: {"a": 250_000} for name in NAMES[:4]}
    assert agreed(said, dict.fromkeys(NAMES[:4], 1)).weights_ppm == {"a": 250_000}


def test_a_report_of_nothing_is_a_vote_for_the_reserve() -> None:
    said: dict[str, dict[str, int]] = {name: {} for name in NAMES[:3]}
    said["v3"] = {"a": PPM}
    assert agreed(said, dict.fromkeys(NAMES[:4], 1)).weights_ppm == {}


def test_support_of_exactly_kappa_is_enough() -> None:
    said = {"v0": {"a": PPM}, "v1": {"a": PPM}, "v2": {"b": PPM}, "v3": {"b": PPM}}
    answer = agreed(said, dict.fromkeys(NAMES[:4], 1))
    assert answer.weights_ppm == {"a": 500_000, "b": 500_000}


def test_reports_with_nothing_in_common_leave_all_in_reserve() -> None:
    said = {name: {miner: PPM} for name, miner in zip(NAMES[:4], MINERS, strict=True)}
    answer = agreed(said, dict.fromkeys(NAMES[:4], 1))
    assert answer.weights_ppm == {}
    assert set(answer.trust_ppm.values()) == {0}


def test_a_whale_is_heard_as_much_as_the_cap_allows() -> None:
    said = {"v0": {"a": PPM}} | {name: {"b": PPM} for name in NAMES[1:5]}
    answer = agreed(said, {"v0": 10**15, "v1": 1, "v2": 1, "v3": 1, "v4": 1})
    assert answer.weights_ppm == {"b": PPM}
    assert answer.counted_ppm["v0"] == CAP_PPM


def test_who_has_no_stake_or_did_not_report_does_not_count() -> None:
    said = {"v0": {"a": PPM}, "v1": {"b": PPM}}
    answer = agreed(said, {"v0": 1, "v1": 0, "v2": 99})
    assert answer.weights_ppm == {"a": PPM}
    assert answer.counted_ppm == {"v0": PPM}


def test_without_anyone_who_counts_all_is_reserve() -> None:
    assert agreed({}, {"v0": 1}) == Consensus(weights_ppm={}, trust_ppm={}, counted_ppm={})


@pytest.mark.parametrize(
    "report", [{"a": -1}, {"a": PPM + 1}, {"a": PPM, "b": 1}, {"": 5}], ids=range(4)
)
def test_a_report_out_of_range_is_refused_by_name(report: dict[str, int]) -> None:
    with pytest.raises(BadReport) as caught:
        agreed({"v0": report}, {"v0": 1})
    assert caught.value.validator == "v0"


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**18), min_size=4),
    st.integers(PPM // 4 + 1, PPM),
)
def test_nobody_exceeds_the_cap_where_it_can_hold(stakes: dict[str, int], max_ppm: int) -> None:
    counted = cap_stakes(stakes, max_ppm=max_ppm)
    assert max(counted.values()) * PPM <= max_ppm * sum(counted.values())


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**18), min_size=4))
def test_the_cap_is_not_lower_than_it_must_be(stakes: dict[str, int]) -> None:
    """Some stake is cut only if the cap is reached, but for the rounding of the level."""
    counted = cap_stakes(stakes, max_ppm=CAP_PPM)
    if any(counted[who] < stakes[who] * PPM for who in stakes):
        level = max(counted.values()) + 1
        total = sum(min(stakes[who] * PPM, level) for who in stakes)
        assert level * PPM > CAP_PPM * total


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**18), min_size=4))
def test_a_cut_stake_still_counts_at_least_as_much_as_a_smaller_one(
    stakes: dict[str, int],
) -> None:
    counted = cap_stakes(stakes, max_ppm=CAP_PPM)
    ranked = sorted(stakes, key=lambda who: stakes[who])
    cut = [counted[who] for who in ranked]
    assert cut == sorted(cut)


def test_stakes_below_the_cap_are_not_touched() -> None:
    counted = cap_stakes({"a": 1, "b": 1, "c": 1, "d": 1}, max_ppm=CAP_PPM)
    assert counted == dict.fromkeys("abcd", PPM)


@pytest.mark.parametrize("stakes", [{"a": 1}, {"a": 1, "b": 9}, {"a": 1, "b": 9, "c": 90}])
def test_too_few_for_the_cap_count_the_same(stakes: dict[str, int]) -> None:
    assert set(cap_stakes(stakes, max_ppm=CAP_PPM).values()) == {1}


def test_a_stake_of_zero_is_left_out_and_a_negative_one_refused() -> None:
    assert cap_stakes({"a": 0}, max_ppm=CAP_PPM) == {}
    with pytest.raises(BadShare):
        cap_stakes({"a": -1}, max_ppm=CAP_PPM)
