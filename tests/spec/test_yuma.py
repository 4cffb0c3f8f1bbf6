"""Yuma: the epochs that the Bittensor runtime computed, bit for bit, and the rules one by one."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.yuma import ONE, Epoch, Outcome, run_epoch, weighted_median

MEASURED = Path(__file__).parents[2].parent / "shared" / "vectors" / "yuma_epochs.json"


def rows(plain: list[dict[str, int]]) -> tuple[Mapping[int, int], ...]:
    return tuple({int(uid): value for uid, value in row.items()} for row in plain)


def epoch_of(pre: dict[str, Any]) -> Epoch:
    return Epoch(
        stakes=tuple(pre["stake"]),
        permits=tuple(pre["permits"]),
        weights=rows(pre["W"]),
        bonds=rows(pre["B"]),
        updated_blocks=tuple(pre["lu"]),
        registered_blocks=tuple(pre["reg"]),
        kappa_u16=pre["kappa"],
        bonds_average_ppm=pre["bma"],
    )


def outcome_of(post: dict[str, Any]) -> Outcome:
    return Outcome(
        consensus=tuple(post["C"]),
        incentive=tuple(post["I"]),
        dividends=tuple(post["D"]),
        validator_trust=tuple(post["Tv"]),
        bonds=rows(post["B"]),
    )


def test_every_measured_epoch_of_the_chain_comes_out_bit_for_bit() -> None:
    """24 random epochs on the real runtime (spec 143): lazy validators, self-votes, zero weights."""
    if not MEASURED.exists():
        pytest.skip(f"the measured epochs are not here: {MEASURED.name} in ../shared/vectors")
    epochs = json.loads(MEASURED.read_text())
    assert len(epochs) == 24
    for epoch in epochs:
        assert run_epoch(epoch_of(epoch["pre"])) == outcome_of(epoch["post"])


CHAIN_NAMES = {
    "stakes": "stake",
    "weights": "W",
    "bonds": "B",
    "updated_blocks": "lu",
    "registered_blocks": "reg",
    "kappa_u16": "kappa",
    "bonds_average_ppm": "bma",
}
"""What the measured files call the fields of an epoch."""

CHAIN_EPOCH_6 = {
    "C": [3430, 0, 0, 19843, 5109, 0, 0, 10565],
    "I": [5475, 0, 0, 31670, 8155, 0, 0, 20234],
    "D": [1579, 22096, 29577, 12281, 0, 0, 0, 0],
    "Tv": [0, 38948, 28383, 10565, 0, 0, 0, 0],
    "B": [
        {"1": 16378, "4": 17886, "5": 6206, "6": 9505, "7": 5241},
        {"0": 43690, "3": 43689, "4": 48306, "5": 32553, "6": 38723, "7": 33800},
        {"0": 65535, "3": 65535, "4": 65535, "5": 43803, "6": 43885, "7": 29140},
        {"1": 65535, "4": 53810, "5": 65535, "6": 65535, "7": 65535},
        {},
        {},
        {},
        {},
    ],
}


def test_one_measured_epoch_that_travels_with_the_project_comes_out_bit_for_bit() -> None:
    file = Path(__file__).parents[2] / "vectors" / "yuma" / "run_epoch" / "chain_epoch_6.json"
    given = json.loads(file.read_text())["input"]
    pre = {CHAIN_NAMES.get(name, name): value for name, value in given.items()}
    assert run_epoch(epoch_of(pre)) == outcome_of(CHAIN_EPOCH_6)


SMALL = Epoch(
    stakes=(300, 300, 400, 0, 0),
    permits=(True, True, True, False, False),
    weights=({3: 10, 4: 30}, {3: 10, 4: 30}, {3: 20, 4: 20}, {}, {}),
    bonds=({}, {}, {}, {}, {}),
    updated_blocks=(9, 9, 9, 9, 9),
    registered_blocks=(1, 1, 1, 1, 1),
    kappa_u16=32_767,
    bonds_average_ppm=900_000,
)


def test_the_majority_decides_and_the_minority_is_cut() -> None:
    after = run_epoch(SMALL)
    assert after.consensus == (0, 0, 0, 16_383, 49_151)
    assert after.validator_trust[2] < after.validator_trust[0] == 65_535
    assert after.dividends[0] == after.dividends[1]


def test_a_validator_without_a_permit_has_no_say() -> None:
    after = run_epoch(replace(SMALL, permits=(False, False, True, False, False)))
    assert after.consensus == (0, 0, 0, 32_767, 32_767)
    assert after.validator_trust[:2] == (0, 0)


def test_a_vote_for_oneself_does_not_count() -> None:
    selfish = replace(SMALL, weights=({0: 50, 3: 10, 4: 30}, *SMALL.weights[1:]))
    assert run_epoch(selfish) == run_epoch(SMALL)


def test_what_was_said_of_an_earlier_owner_of_a_uid_does_not_count() -> None:
    after = run_epoch(replace(SMALL, registered_blocks=(1, 1, 1, 1, 9)))
    assert after.incentive == (0, 0, 0, 65_535, 0)


def test_bonds_keep_most_of_what_they_were() -> None:
    held = replace(SMALL, bonds=({4: 65_535}, {}, {}, {}, {}))
    assert run_epoch(held).dividends[0] > run_epoch(SMALL).dividends[0]
    assert run_epoch(held).bonds[0][4] == 65_535


def test_an_epoch_without_stake_or_weights_pays_nobody() -> None:
    for empty in (
        replace(SMALL, stakes=(0, 0, 0, 0, 0)),
        replace(SMALL, weights=({}, {}, {}, {}, {})),
    ):
        after = run_epoch(empty)
        assert after.incentive == after.dividends == (0, 0, 0, 0, 0)


votes = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=9)


def partition_median(votes: list[tuple[int, int]], minority: int, low: int, high: int) -> int:
    """The runtime's own way: pick the middle score, step to the side that holds the answer."""
    pivot = votes[len(votes) // 2][1]
    lower = [vote for vote in votes if vote[1] < pivot]
    upper = [vote for vote in votes if vote[1] > pivot]
    low_stake, high_stake = sum(s for s, _ in lower), sum(s for s, _ in upper)
    if minority < low + low_stake and lower:
        return partition_median(lower, minority, low, low + low_stake)
    if high - high_stake <= minority and upper:
        return partition_median(upper, minority, high - high_stake, high)
    return pivot


@given(votes, st.integers(0, ONE))
def test_the_median_is_the_one_the_runtime_finds(
    votes: list[tuple[int, int]], minority_share: int
) -> None:
    stakes, scores = [stake for stake, _ in votes], [score for _, score in votes]
    minority = sum(stakes) * minority_share // ONE
    found = weighted_median(stakes, scores, minority=minority)
    assert found == partition_median(votes, minority, 0, sum(stakes))


def test_a_median_of_nothing_is_nothing() -> None:
    assert weighted_median([], [], minority=0) == 0
