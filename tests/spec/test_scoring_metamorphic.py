"""What must not change a score, and what may change it in one direction only."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.spec.entries import BUCKET_MAX, Row, size_bucket
from penstock.spec.evidence import Evidence, evidence_digest, gather
from penstock.spec.messages import Claimed, Presence, Roll, Score
from penstock.spec.params import LOCAL
from penstock.spec.scoring import availability, bounties, capacity, score, speed
from penstock.spec.units import PPM

MINERS = ("toy:a", "toy:b", "toy:c", "toy:d")
CHUTES = ("sha256:1", "sha256:2")
Rename = Callable[[str], str]

miners = st.sampled_from(MINERS)
chutes = st.sampled_from(CHUTES)


@st.composite
def rows(draw: st.DrawFn, number: int = 0) -> Row:
    """A judged record: complete and timed, or without any work."""
    miner, success = draw(miners), draw(st.booleans())
    work = draw(st.integers(1, 100_000)) if success else 0
    total_us = draw(st.integers(1, 10**7)) if success else 0
    return Row(
        order_id=f"o-{number:032x}",
        chute=draw(chutes),
        instance=f"{miner[-1]}-1",
        miner=miner,
        outcome="complete" if success else "miner_failed",
        prompt=work,
        cached=0,
        completion=0,
        charge_nano=work,
        earned_nano=work,
        work_units=work,
        bucket=size_bucket(work),
        ns_per_unit=total_us * 1_000 // work if work else 0,
        ttft_us=total_us // 2,
        total_us=total_us,
        counts=1,
        success=int(success),
    )


@st.composite
def rolls(draw: st.DrawFn) -> Roll:
    """One epoch's presences: each miner has at most one instance per chute, on its own device."""
    seen = draw(st.lists(st.tuples(miners, chutes), unique=True, max_size=6))
    presences = []
    for miner, chute in seen:
        due = draw(st.integers(0, 60))
        name = f"{miner[-1]}-{chute[-1]}"
        presences.append(
            Presence(
                instance=name,
                miner=miner,
                chute=chute,
                device=f"device-{name}",
                hardware=draw(st.sampled_from(["cpu", "nvidia-l4", "nvidia-h100"])),
                beats_seen=draw(st.integers(0, due)),
                beats_due=due,
                asked=draw(st.booleans()),
            )
        )
    claims = draw(st.lists(st.builds(Claimed, miners, chutes, st.integers(0, 300)), max_size=3))
    return Roll(epoch=7, presences=tuple(presences), bounties=tuple(claims))


windows = st.tuples(st.lists(rows(), max_size=20), st.lists(rolls(), max_size=3))
Window = tuple[list[Row], list[Roll]]


def evidence(window: Window, failed: Iterable[str] = ()) -> Evidence:
    return gather(window[0], window[1], failed=failed)


def scores(window: Window, failed: Iterable[str] = ()) -> dict[str, Score]:
    return {one.miner: one for one in score(evidence(window, failed), LOCAL)}


def renamed(window: Window, name: Rename) -> Window:
    """The same window with every miner under another name."""
    return (
        [replace(one, miner=name(one.miner)) for one in window[0]],
        [
            replace(
                roll,
                presences=tuple(replace(one, miner=name(one.miner)) for one in roll.presences),
                bounties=tuple(replace(one, miner=name(one.miner)) for one in roll.bounties),
            )
            for roll in window[1]
        ],
    )


def near(left: int, right: int, *, parts: int = 4) -> bool:
    """Equal but for who got the unit that rounding left over, in each part of a score."""
    return abs(left - right) <= parts


@given(windows, st.permutations(MINERS))
def test_renaming_miners_renames_their_scores(window: Window, names: list[str]) -> None:
    """But for ties in rounding, which go by name: at most a millionth in each part."""
    mapping = dict(zip(MINERS, names, strict=True))
    before, after = scores(window), scores(renamed(window, mapping.__getitem__))
    assert {mapping[miner] for miner in before} == set(after)
    for miner, one in before.items():
        assert near(one.total_ppm, after[mapping[miner]].total_ppm)


@given(windows, st.sampled_from(["x", "/", "~"]))
def test_longer_names_in_the_same_order_change_nothing_at_all(window: Window, tail: str) -> None:
    before, after = scores(window), scores(renamed(window, lambda name: name + tail))
    assert [one.total_ppm for one in before.values()] == [one.total_ppm for one in after.values()]


@given(windows)
def test_everybodys_work_twice_is_twice_the_weight_but_for_rounding(window: Window) -> None:
    """Only work: idle time is what the asked time exceeds the work, so presence is left out. Each
    chute (for capacity) and each bucket of it (for speed) is rounded down once.
    """
    said, _ = window
    once, twice = evidence((said, [])), evidence(([*said, *said], []))
    places = len(once.works)
    for part in (capacity, speed):
        before, after = part(once, LOCAL), part(twice, LOCAL)
        assert set(before) == set(after)
        for miner, sum_us in before.items():
            assert 2 * sum_us <= after[miner] <= 2 * sum_us + places


@given(windows, st.integers(2, 5))
def test_every_window_repeated_scores_as_before(window: Window, times: int) -> None:
    """Records and rolls alike: all weights grow by the same factor, but for their own rounding."""
    said, told = window
    once, many = scores(window), scores((said * times, told * times))
    assert set(once) == set(many)
    assert bounties(evidence((said * times, told * times))) == {
        miner: points * times for miner, points in bounties(evidence(window)).items()
    }
    for miner, one in once.items():
        assert near(one.bounties_ppm, many[miner].bounties_ppm, parts=0)


@given(windows, st.randoms(use_true_random=False))
def test_the_order_of_records_and_rolls_leaves_no_trace_in_the_evidence(
    window: Window, chance: Random
) -> None:
    said, told = window
    mixed = (chance.sample(said, len(said)), chance.sample(told, len(told)))
    assert evidence_digest(evidence(mixed)) == evidence_digest(evidence(window))


@given(windows, st.sets(miners, max_size=3))
def test_a_failed_miner_loses_all_and_changes_nobody_else(window: Window, failed: set[str]) -> None:
    before, after = scores(window), scores(window, failed)
    for miner, one in after.items():
        if miner in failed:
            assert one.total_ppm == 0
        else:
            assert one == before[miner]


@given(windows, miners)
def test_taking_a_failed_miners_rolls_away_costs_nobody_else_presence(
    window: Window, failed: str
) -> None:
    """Availability's weight is one's own: a rival that is struck from the roll changes none of it."""
    said, told = window
    without = [
        replace(
            roll,
            presences=tuple(one for one in roll.presences if one.miner != failed),
            bounties=tuple(one for one in roll.bounties if one.miner != failed),
        )
        for roll in told
    ]
    before = availability(evidence((said, told)), LOCAL)
    after = availability(evidence((said, without)), LOCAL)
    assert {miner: sum_ for miner, sum_ in before.items() if miner != failed} == after


@given(windows, chutes, st.integers(1, 100_000), st.integers(1, 1_000))
def test_a_rival_slower_than_all_never_lowers_anothers_speed_ratio(
    window: Window, chute: str, work: int, slower: int
) -> None:
    said, _ = window
    slowest = max((one.ns_per_unit for one in said), default=0)
    before = ratios(evidence((said, [])))
    rival = Row(
        order_id="o-r",
        chute=chute,
        instance="r-1",
        miner="toy:slow",
        outcome="complete",
        prompt=work,
        cached=0,
        completion=0,
        charge_nano=1,
        earned_nano=1,
        work_units=work,
        bucket=size_bucket(work),
        ns_per_unit=slowest + slower,
        ttft_us=0,
        total_us=1,
        counts=1,
        success=1,
    )
    after = ratios(evidence(([*said, rival], [])))
    assert all(after[place] >= ratio for place, ratio in before.items())


def ratios(found: Evidence) -> dict[tuple[str, str, int], int]:
    """Each miner's speed ratio by (miner, chute, bucket): its speed there over its work time."""
    result = {}
    for one in found.works:
        if not one.median_ns_per_unit:
            continue
        beside = sorted(
            other.median_ns_per_unit
            for other in found.works
            if (other.chute, other.bucket) == (one.chute, one.bucket) and other.median_ns_per_unit
        )
        network = beside[(len(beside) - 1) // 2]
        ratio = min(network * PPM // one.median_ns_per_unit, LOCAL.speed_ratio_max_ppm)
        result[one.miner, one.chute, one.bucket] = ratio
    return result


@given(windows)
def test_speed_is_the_work_time_weighted_by_the_ratio_of_each_place(window: Window) -> None:
    """The law next to a second reading of it, made of the ratios above."""
    found = evidence(window)
    medians = {one.chute: one.ns_per_unit for one in found.medians}
    expected: dict[str, int] = {}
    for one in found.works:
        ratio = ratios(found).get((one.miner, one.chute, one.bucket))
        if ratio is None or one.chute not in medians:
            continue
        time_ns = one.work_units * medians[one.chute]
        expected[one.miner] = expected.get(one.miner, 0) + time_ns * ratio // (PPM * 1_000)
    assert speed(found, LOCAL) == expected


@given(windows, rows())
def test_a_failure_more_never_raises_a_miners_availability(window: Window, one: Row) -> None:
    said, told = window
    failure = replace(one, success=0, work_units=0, ns_per_unit=0, bucket=0)
    before = availability(evidence((said, told)), LOCAL)
    after = availability(evidence(([*said, failure], told)), LOCAL)
    assert after.get(one.miner, 0) <= before.get(one.miner, 0)
    assert all(after[miner] == sum_ for miner, sum_ in before.items() if miner != one.miner)


@given(windows, rows())
def test_an_outcome_that_does_not_count_changes_no_availability(window: Window, one: Row) -> None:
    said, told = window
    cancelled = replace(one, counts=0, success=0, work_units=0, ns_per_unit=0, bucket=0)
    assert availability(evidence((said, told)), LOCAL) == availability(
        evidence(([*said, cancelled], told)), LOCAL
    )


@given(windows, miners, st.integers(1, 500))
def test_a_bounty_more_touches_the_bounty_part_alone(
    window: Window, miner: str, points: int
) -> None:
    said, told = window
    more = Roll(epoch=8, presences=(), bounties=(Claimed(miner, CHUTES[0], points),))
    before, after = scores(window), scores((said, [*told, more]))
    for name, one in before.items():
        same = replace(one, bounties_ppm=0, total_ppm=0)
        assert replace(after[name], bounties_ppm=0, total_ppm=0) == same
    assert after[miner].bounties_ppm > 0
    if miner in before:
        assert after[miner].bounties_ppm >= before[miner].bounties_ppm


@given(windows)
def test_unpaid_and_uncounted_records_are_no_evidence_of_anything(window: Window) -> None:
    silent = [replace(one, work_units=0, ns_per_unit=0, counts=0, bucket=0) for one in window[0]]
    assert gather(silent, (), failed=()) == gather((), (), failed=())


@given(windows, st.integers(2, 9))
def test_slower_is_not_more_work(window: Window, factor: int) -> None:
    """All of one chute slower by one factor: the shares of its work time stay as they were."""
    said = [one for one in window[0] if one.chute == CHUTES[0]]
    assume(said)
    slow = [replace(one, ns_per_unit=one.ns_per_unit * factor) for one in said]
    fast_share = capacity(evidence((said, [])), LOCAL)
    slow_share = capacity(evidence((slow, [])), LOCAL)
    assert set(fast_share) == set(slow_share)
    for miner, sum_us in fast_share.items():
        assert factor * sum_us <= slow_share[miner] < factor * (sum_us + 1)


@given(windows)
def test_no_part_is_ever_more_than_its_budget(window: Window) -> None:
    budgets = LOCAL.weights
    found = scores(window).values()
    assert sum(one.capacity_ppm for one in found) in {0, budgets.capacity_ppm}
    assert sum(one.speed_ppm for one in found) in {0, budgets.speed_ppm}
    assert sum(one.availability_ppm for one in found) in {0, budgets.availability_ppm}
    assert sum(one.bounties_ppm for one in found) in {0, budgets.bounties_ppm}


@given(st.integers(0, 2**70))
def test_buckets_are_bounded_and_never_fall_as_work_grows(work: int) -> None:
    assert 0 <= size_bucket(work) <= BUCKET_MAX
    assert size_bucket(work) <= size_bucket(work + 1) <= size_bucket(2 * work + 1)
