"""Evidence: what counts as work, as an attempt and as presence, and that order does not matter."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.entries import Row
from penstock.spec.evidence import (
    BountySum,
    Evidence,
    Median,
    PresenceSum,
    Served,
    Work,
    evidence_digest,
    gather,
    sum_rolls,
)
from penstock.spec.medians import lower_median
from penstock.spec.messages import Claimed, Presence, Roll

ROW = Row(
    order_id="o-1",
    chute="sha256:a",
    instance="m-1",
    miner="toy:m",
    outcome="complete",
    prompt=10,
    cached=0,
    completion=10,
    charge_nano=5,
    earned_nano=5,
    work_units=90,
    bucket=7,
    ns_per_unit=1000,
    ttft_us=1,
    total_us=90,
    counts=1,
    success=1,
)
FAILURE = replace(ROW, outcome="miner_failed", work_units=0, bucket=0, ns_per_unit=0, success=0)
CANCELLED = replace(FAILURE, outcome="client_cancelled", counts=0)
PRESENCE = Presence(
    instance="m-1",
    miner="toy:m",
    chute="sha256:a",
    device="d",
    hardware="cpu",
    beats_seen=8,
    beats_due=10,
    asked=True,
)

rows = st.builds(
    Row,
    order_id=st.just("o"),
    chute=st.sampled_from(["c1", "c2"]),
    instance=st.just("i"),
    miner=st.sampled_from(["m1", "m2", "m3"]),
    outcome=st.just("complete"),
    prompt=st.just(1),
    cached=st.just(0),
    completion=st.just(1),
    charge_nano=st.just(1),
    earned_nano=st.just(1),
    work_units=st.integers(0, 1000),
    bucket=st.integers(0, 3),
    ns_per_unit=st.integers(0, 5000),
    ttft_us=st.just(1),
    total_us=st.just(1),
    counts=st.integers(0, 1),
    success=st.integers(0, 1),
)


@pytest.mark.parametrize(
    ("values", "median"), [([7], 7), ([9, 1], 1), ([3, 1, 2], 2), ([4, 3, 2, 1], 2)]
)
def test_the_lower_median_is_always_one_that_was_measured(values: list[int], median: int) -> None:
    assert lower_median(values) == median


def test_no_rows_and_no_rolls_are_no_evidence() -> None:
    assert gather([], [], failed=[]) == Evidence((), (), (), (), (), ())


def test_work_is_summed_by_miner_chute_and_bucket() -> None:
    found = gather(
        [ROW, replace(ROW, ns_per_unit=3000), replace(ROW, bucket=8, work_units=200)],
        [],
        failed=[],
    )
    assert found.works == (
        Work("toy:m", "sha256:a", 7, 2, 180, 1000),
        Work("toy:m", "sha256:a", 8, 1, 200, 1000),
    )
    assert found.medians == (Median("sha256:a", 1000),)
    assert found.served == (Served("toy:m", 3, 3),)


def test_a_failure_is_an_attempt_but_no_work() -> None:
    found = gather([ROW, FAILURE], [], failed=[])
    assert found.served == (Served("toy:m", 2, 1),)
    assert found.works[0].requests == 1


def test_a_cancelled_order_says_nothing_about_the_miner() -> None:
    assert gather([CANCELLED], [], failed=[]) == Evidence((), (), (), (), (), ())


def test_an_answer_that_was_not_timed_is_work_without_a_median() -> None:
    found = gather([replace(ROW, ns_per_unit=0)], [], failed=[])
    assert found.works[0].median_ns_per_unit == 0
    assert found.medians == ()


def test_the_network_median_is_over_answers_and_not_over_miners() -> None:
    slow = replace(ROW, miner="toy:slow", ns_per_unit=9000)
    found = gather([ROW, slow, slow, slow], [], failed=[])
    assert found.medians == (Median("sha256:a", 9000),)


def test_presence_adds_up_over_rolls_and_knows_when_it_was_asked_for() -> None:
    rolls = [
        Roll(1, (PRESENCE,), (Claimed("toy:m", "sha256:a", 100),)),
        Roll(
            2, (replace(PRESENCE, asked=False, beats_seen=9),), (Claimed("toy:m", "sha256:b", 5),)
        ),
    ]
    found = gather([], rolls, failed=["toy:z", "toy:a", "toy:z"])
    assert found.presences == (PresenceSum("toy:m", "m-1", "sha256:a", "d", "cpu", 17, 20, 8),)
    assert found.bounties == (BountySum("toy:m", 105),)
    assert found.failed == ("toy:a", "toy:z")


def test_a_changed_device_is_another_presence() -> None:
    moved = replace(PRESENCE, device="e")
    presences, _ = sum_rolls([Roll(1, (PRESENCE, moved), ())])
    assert [one.device for one in presences] == ["d", "e"]


def test_a_faulty_roll_makes_nobody_more_than_present() -> None:
    wild = replace(PRESENCE, beats_seen=99)
    below = replace(PRESENCE, instance="m-2", beats_seen=-5, beats_due=-1)
    presences, bounties = sum_rolls([Roll(1, (wild, below), (Claimed("toy:m", "c", -7),))])
    assert [(one.beats_seen, one.beats_due, one.asked_beats) for one in presences] == [
        (10, 10, 10),
        (0, 0, 0),
    ]
    assert bounties == (BountySum("toy:m", 0),)


@given(st.lists(rows, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(some: list[Row], chance: random.Random) -> None:
    shuffled = list(some)
    chance.shuffle(shuffled)
    one, other = gather(some, [], failed=[]), gather(shuffled, [], failed=[])
    assert one == other
    assert evidence_digest(one) == evidence_digest(other)


@given(st.lists(rows, max_size=40))
def test_no_work_and_no_attempt_is_lost(some: list[Row]) -> None:
    found = gather(some, [], failed=[])
    assert sum(work.work_units for work in found.works) == sum(row.work_units for row in some)
    assert sum(one.attempts for one in found.served) == sum(row.counts for row in some)
    assert list(found.works) == sorted(
        found.works, key=lambda work: (work.miner, work.chute, work.bucket)
    )


def test_other_evidence_has_another_digest() -> None:
    one = gather([ROW], [], failed=[])
    assert evidence_digest(one) != evidence_digest(gather([ROW], [], failed=["toy:m"]))
