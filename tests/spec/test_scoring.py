"""Policy v1, part by part, and what holds for every evidence."""

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.evidence import (
    BountySum,
    Evidence,
    Median,
    PresenceSum,
    Served,
    Work,
)
from penstock.spec.params import LOCAL
from penstock.spec.scoring import (
    availability,
    bounties,
    capacity,
    hardware_ppm,
    score,
    speed,
)
from penstock.spec.units import PPM

NOTHING = Evidence((), (), (), (), (), ())
SECOND_NS = 1_000_000_000
SECOND_US = 1_000_000


def work(miner: str, units: int, *, chute: str = "c", bucket: int = 5, ns: int = 1000) -> Work:
    return Work(miner, chute, bucket, 1, units, ns)


def presence(miner: str, asked: int, *, device: str = "", hardware: str = "cpu") -> PresenceSum:
    return PresenceSum(miner, f"{miner}-1", "c", device or miner, hardware, asked, asked, asked)


def evidence(*works: Work, ns: int = 1000) -> Evidence:
    chutes = sorted({one.chute for one in works})
    return replace(
        NOTHING,
        works=tuple(sorted(works, key=lambda one: (one.miner, one.chute, one.bucket))),
        medians=tuple(Median(chute, ns) for chute in chutes),
    )


def test_capacity_is_work_at_the_networks_pace_so_slowness_is_not_more_work() -> None:
    found = evidence(work("a", 1_000_000, ns=500), work("b", 1_000_000, ns=9000))
    assert capacity(found, LOCAL) == {"a": SECOND_US, "b": SECOND_US}


def test_a_chute_that_was_never_timed_has_no_work_time() -> None:
    found = replace(evidence(work("a", 1_000_000)), medians=())
    assert capacity(found, LOCAL) == {}
    assert speed(found, LOCAL) == {}


def test_standby_that_was_asked_for_counts_at_thirty_percent() -> None:
    found = replace(NOTHING, presences=(presence("a", 10),))
    assert capacity(found, LOCAL) == {"a": 3 * SECOND_US}


def test_presence_that_nobody_asked_for_is_no_capacity() -> None:
    found = replace(NOTHING, presences=(replace(presence("a", 10), asked_beats=0),))
    assert capacity(found, LOCAL) == {"a": 0}


def test_busy_time_is_not_paid_again_as_standby() -> None:
    busy = evidence(work("a", 4_000_000))
    found = replace(busy, presences=(presence("a", 10),))
    assert capacity(found, LOCAL) == {"a": 4 * SECOND_US + 1_800_000}
    overfull = replace(evidence(work("a", 40_000_000)), presences=(presence("a", 10),))
    assert capacity(overfull, LOCAL) == {"a": 40 * SECOND_US}


def test_one_device_stands_by_once_for_the_one_asked_longest() -> None:
    found = replace(
        NOTHING, presences=(presence("a", 2, device="gpu"), presence("b", 10, device="gpu"))
    )
    assert capacity(found, LOCAL) == {"b": 3 * SECOND_US}


def test_a_device_claimed_equally_goes_to_the_lowest_miner_then_instance() -> None:
    tied = (presence("b", 10, device="gpu"), presence("a", 10, device="gpu"))
    assert capacity(replace(NOTHING, presences=tied), LOCAL) == {"a": 3 * SECOND_US}
    twice = (presence("a", 10), replace(presence("a", 10), instance="a-0", chute="d"))
    assert sum(capacity(replace(NOTHING, presences=twice), LOCAL).values()) == 3 * SECOND_US


def test_hardware_weighs_work_and_standby_and_an_unknown_name_is_the_reference() -> None:
    assert hardware_ppm("nvidia-h100") == 20 * hardware_ppm("cpu")
    assert hardware_ppm("quantum") == PPM
    found = replace(NOTHING, presences=(presence("a", 10, hardware="nvidia-h100"),))
    assert capacity(found, LOCAL) == {"a": 60 * SECOND_US}


def test_mixed_hardware_weighs_by_its_beats() -> None:
    mixed = (
        presence("a", 5, device="x", hardware="nvidia-t4"),
        replace(presence("a", 5, device="y"), instance="a-2"),
    )
    found = replace(evidence(work("a", 40_000_000)), presences=mixed)
    assert capacity(found, LOCAL) == {"a": 60 * SECOND_US}


def test_hardware_that_was_never_seen_weighs_as_the_reference() -> None:
    unseen = replace(presence("a", 0, hardware="nvidia-b200"), beats_due=10)
    found = replace(evidence(work("a", 1_000_000)), presences=(unseen,))
    assert capacity(found, LOCAL) == {"a": SECOND_US}


def test_a_miner_alone_in_a_bucket_has_a_speed_ratio_of_exactly_one() -> None:
    assert speed(evidence(work("a", 1_000_000, ns=777), ns=1000), LOCAL) == {"a": SECOND_US}


def test_speed_is_the_networks_median_over_the_miners_and_never_above_two() -> None:
    found = evidence(
        work("a", 1_000_000, ns=100), work("b", 1_000_000, ns=1000), work("c", 1_000_000, ns=4000)
    )
    assert speed(found, LOCAL) == {"a": 2 * SECOND_US, "b": SECOND_US, "c": SECOND_US // 4}


def test_buckets_are_compared_apart_and_added_up() -> None:
    found = evidence(
        work("a", 1_000_000, bucket=1, ns=100),
        work("b", 1_000_000, bucket=1, ns=50),
        work("a", 1_000_000, bucket=2, ns=9000),
    )
    assert speed(found, LOCAL) == {"a": SECOND_US // 2 + SECOND_US, "b": SECOND_US}


def test_work_that_was_never_measured_has_no_speed() -> None:
    found = evidence(work("a", 1_000_000, ns=0), work("b", 1_000_000))
    assert speed(found, LOCAL) == {"b": SECOND_US}


def test_availability_is_success_times_presence_times_capacity() -> None:
    present = replace(presence("a", 8), beats_due=10, asked_beats=0)
    found = replace(
        evidence(work("a", 1_000_000)), served=(Served("a", 4, 3),), presences=(present,)
    )
    assert availability(found, LOCAL) == {"a": SECOND_US * 3 * 8 // (4 * 10)}


def test_a_missing_measurement_is_never_neutral() -> None:
    worked = evidence(work("a", 1_000_000))
    assert availability(replace(worked, served=(Served("a", 4, 4),)), LOCAL) == {}
    assert availability(replace(worked, presences=(presence("a", 5),)), LOCAL) == {}
    idle = replace(NOTHING, served=(Served("a", 4, 4),), presences=(presence("a", 0),))
    assert availability(idle, LOCAL) == {}


def test_bounties_are_the_points_claimed() -> None:
    assert bounties(replace(NOTHING, bounties=(BountySum("a", 7),))) == {"a": 7}


def full(*miners: str) -> Evidence:
    return replace(
        evidence(*(work(miner, 1_000_000) for miner in miners)),
        served=tuple(Served(miner, 10, 10) for miner in miners),
        presences=tuple(presence(miner, 10) for miner in miners),
        bounties=tuple(BountySum(miner, 100) for miner in miners),
    )


def test_a_miner_alone_gets_every_budget() -> None:
    (only,) = score(full("a"), LOCAL)
    assert (only.capacity_ppm, only.speed_ppm, only.availability_ppm, only.bounties_ppm) == (
        550_000,
        200_000,
        200_000,
        50_000,
    )
    assert only.total_ppm == PPM


def test_a_part_without_evidence_stays_unassigned() -> None:
    (only,) = score(replace(full("a"), bounties=()), LOCAL)
    assert only.total_ppm == PPM - LOCAL.weights.bounties_ppm
    assert score(NOTHING, LOCAL) == ()


def test_a_failed_miner_gets_zero_and_nobody_inherits_its_weight() -> None:
    before = {one.miner: one for one in score(full("a", "b"), LOCAL)}
    after = {one.miner: one for one in score(replace(full("a", "b"), failed=("b",)), LOCAL)}
    assert after["a"] == before["a"]
    assert after["b"].total_ppm == 0
    assert after["b"] == replace(
        before["b"], total_ppm=0, capacity_ppm=0, speed_ppm=0, availability_ppm=0, bounties_ppm=0
    )


def test_a_failed_miner_without_other_evidence_is_listed_with_zero() -> None:
    (only,) = score(replace(NOTHING, failed=("z",)), LOCAL)
    assert (only.miner, only.total_ppm) == ("z", 0)


names = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    works = draw(
        st.lists(
            st.builds(
                Work,
                names,
                st.sampled_from(["c", "d"]),
                st.integers(0, 2),
                st.integers(1, 9),
                st.integers(1, 10**9),
                st.integers(0, 10**6),
            ),
            max_size=12,
            unique_by=lambda one: (one.miner, one.chute, one.bucket),
        )
    )
    presences = draw(
        st.lists(
            st.builds(
                lambda miner, device, due, seen, asked: PresenceSum(
                    miner,
                    f"{miner}-{device}",
                    "c",
                    device,
                    "cpu",
                    min(seen, due),
                    due,
                    min(asked, seen, due),
                ),
                names,
                st.sampled_from(["x", "y", "z"]),
                st.integers(0, 1000),
                st.integers(0, 1000),
                st.integers(0, 1000),
            ),
            max_size=8,
            unique_by=lambda one: one.instance,
        )
    )
    served = draw(
        st.dictionaries(names, st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=4)
    )
    points = draw(st.dictionaries(names, st.integers(0, 500), max_size=4))
    return Evidence(
        works=tuple(sorted(works, key=lambda one: (one.miner, one.chute, one.bucket))),
        medians=tuple(
            Median(chute, draw(st.integers(1, 10**6)))
            for chute in sorted({one.chute for one in works})
        ),
        served=tuple(Served(miner, n, min(n, k)) for miner, (n, k) in sorted(served.items())),
        presences=tuple(presences),
        bounties=tuple(BountySum(miner, n) for miner, n in sorted(points.items())),
        failed=tuple(sorted(draw(st.sets(names, max_size=2)))),
    )


@given(evidences())
def test_parts_add_up_to_totals_and_totals_to_at_most_one_whole(found: Evidence) -> None:
    scores = score(found, LOCAL)
    for one in scores:
        parts = (one.capacity_ppm, one.speed_ppm, one.availability_ppm, one.bounties_ppm)
        assert min(parts) >= 0
        assert sum(parts) == one.total_ppm
        assert one.total_ppm == 0 or one.miner not in found.failed
    assert sum(one.total_ppm for one in scores) <= PPM
    assert [one.miner for one in scores] == sorted({one.miner for one in scores})


@given(evidences(), st.randoms(use_true_random=False))
def test_the_order_of_evidence_does_not_matter(found: Evidence, chance: random.Random) -> None:
    def shuffled(items: tuple[PresenceSum, ...]) -> tuple[PresenceSum, ...]:
        return tuple(chance.sample(items, len(items)))

    mixed = replace(
        found,
        works=tuple(reversed(found.works)),
        served=tuple(reversed(found.served)),
        presences=shuffled(found.presences),
        bounties=tuple(reversed(found.bounties)),
    )
    assert score(mixed, LOCAL) == score(found, LOCAL)


@given(evidences(), st.integers(0, 10**9), st.data())
def test_more_work_never_lowers_a_miners_capacity_share(
    found: Evidence, more: int, data: st.DataObject
) -> None:
    if not found.works:
        return
    place = data.draw(st.integers(0, len(found.works) - 1))
    one = found.works[place]
    grown = replace(one, work_units=one.work_units + more)
    after = replace(found, works=(*found.works[:place], grown, *found.works[place + 1 :]))

    def share(evidence_: Evidence) -> int:
        scores = {score_.miner: score_.capacity_ppm for score_ in score(evidence_, LOCAL)}
        return scores[one.miner]

    assert share(after) >= share(found)


@given(evidences())
def test_splitting_work_between_two_names_gains_no_capacity(found: Evidence) -> None:
    idle = replace(found, presences=())
    renamed = replace(
        idle,
        works=tuple(
            replace(one, miner=f"{one.miner}-{one.bucket}-{one.chute}") for one in idle.works
        ),
    )
    together, apart = capacity(idle, LOCAL), capacity(renamed, LOCAL)
    assert sum(apart.values()) <= sum(together.values())
